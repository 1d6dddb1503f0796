package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tailscale/hujson"
)

// condition is one line of a posture: an attribute compared with a value.
type condition struct {
	attr   string
	op     string
	values []any // string, float64 or bool; one, or the list of IN
}

var postureAttrs = map[string]bool{
	"node:os": true, "node:osVersion": true, "node:tsVersion": true, "node:tsReleaseTrack": true,
	"node:tsAutoUpdate": true, "node:tsStateEncrypted": true,
}

func (p *parser) postures(v *hujson.Value) {
	p.members(v, "postures", func(key text, v *hujson.Value) {
		if !strings.HasPrefix(key.s, "posture:") || len(key.s) == len("posture:") {
			p.fail(key.off, "postures[%q]: names start with 'posture:'", key.s)
		}
		conds := []condition{}
		for _, t := range p.strs(v, "postures["+key.s+"]") {
			c, err := parseCondition(t.s)
			if err != nil {
				p.fail(t.off, "postures[%q]: %v", key.s, err)
				continue
			}
			conds = append(conds, c)
		}
		if len(conds) == 0 {
			p.fail(key.off, "postures[%q] has no condition", key.s)
		}
		p.d.definitions.postures[key.s] = conds
	})
}

// check reads a list of postures of which any one will do.
func (p *parser) check(field string, v *hujson.Value) int32 {
	var names []string
	for _, t := range p.strs(v, field) {
		name := strings.TrimSpace(t.s)
		if _, ok := p.d.definitions.postures[name]; !ok {
			p.fail(t.off, "%s: posture not found: %q; define it in postures", field, name)
			continue
		}
		names = append(names, name)
	}
	return p.d.checkID(names)
}

// parseCondition reads "ATTR OP VALUE", "ATTR IN [VALUE, ...]", "ATTR NOT IN
// [...]", "ATTR IS SET" and "ATTR NOT SET".
func parseCondition(s string) (condition, error) {
	var c condition
	s = strings.TrimSpace(s)
	i := strings.IndexAny(s, " \t=!<>")
	if i <= 0 {
		return c, fmt.Errorf("%q is not of the form ATTRIBUTE OPERATOR VALUE", s)
	}
	c.attr, s = s[:i], strings.TrimSpace(s[i:])
	if !postureAttrs[c.attr] && (!strings.HasPrefix(c.attr, "custom:") || c.attr == "custom:") {
		return c, fmt.Errorf("the attribute %q is not supported by this server; it knows node:os, node:osVersion, node:tsVersion, "+
			"node:tsReleaseTrack, node:tsAutoUpdate, node:tsStateEncrypted and custom:NAME", c.attr)
	}
	rest := ""
	for _, op := range []string{"==", "!=", ">=", "<=", ">", "<", "NOT IN", "NOT SET", "IS SET", "IN"} {
		if after, ok := cutFold(s, op); ok {
			c.op, rest = op, strings.TrimSpace(after)
			break
		}
	}
	var err error
	switch c.op {
	case "":
		return c, fmt.Errorf("no operator after %q; there are == != >= <= > < IN, NOT IN, IS SET, NOT SET", c.attr)
	case "IS SET", "NOT SET":
		if rest != "" {
			return c, fmt.Errorf("%q after %s", rest, c.op)
		}
		return c, nil
	case "IN", "NOT IN":
		inner, ok := strings.CutPrefix(rest, "[")
		if inner, ok2 := strings.CutSuffix(inner, "]"); ok && ok2 {
			c.values, err = parseValues(inner)
		} else {
			err = fmt.Errorf("%s needs a list in brackets", c.op)
		}
	default:
		if c.values, err = parseValues(rest); err == nil && len(c.values) != 1 {
			err = fmt.Errorf("%s needs one value", c.op)
		}
	}
	return c, err
}

// cutFold cuts a prefix without regard to case; any blanks in s count as one.
func cutFold(s, prefix string) (string, bool) {
	first, second, two := strings.Cut(prefix, " ")
	if len(s) < len(first) || !strings.EqualFold(s[:len(first)], first) {
		return s, false
	}
	s = s[len(first):]
	if two {
		trimmed := strings.TrimLeft(s, " \t")
		if trimmed == s {
			return s, false
		}
		return cutFold(trimmed, second)
	}
	return s, true
}

// parseValues reads comma separated values: quoted strings, numbers, booleans.
func parseValues(s string) ([]any, error) {
	var out []any
	for s = strings.TrimSpace(s); s != ""; {
		var v any
		if q := s[0]; q == '\'' || q == '"' {
			end := strings.IndexByte(s[1:], q)
			if end < 0 {
				return nil, fmt.Errorf("the string %s does not end", s)
			}
			v, s = s[1:1+end], s[end+2:]
		} else {
			word := s
			if i := strings.IndexByte(s, ','); i >= 0 {
				word = s[:i]
			}
			s = s[len(word):]
			switch word = strings.TrimSpace(word); word {
			case "true", "false":
				v = word == "true"
			default:
				f, err := strconv.ParseFloat(word, 64)
				if err != nil {
					return nil, fmt.Errorf("%q is not a quoted string, a number or a boolean", word)
				}
				v = f
			}
		}
		out = append(out, v)
		s = strings.TrimSpace(s)
		if s == "" {
			break
		}
		if s[0] != ',' {
			return nil, fmt.Errorf("unexpected %q after a value", s)
		}
		s = strings.TrimSpace(s[1:])
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("a value is missing")
	}
	return out, nil
}

// holds reports whether attributes satisfy the condition. An attribute that is
// not set satisfies nothing but NOT SET: what is not known is not trusted.
func (c condition) holds(attrs map[string]any) bool {
	v, set := attrs[c.attr]
	switch c.op {
	case "IS SET":
		return set
	case "NOT SET":
		return !set
	}
	if !set {
		return false
	}
	in := slices.ContainsFunc(c.values, func(w any) bool { return v == w })
	switch c.op {
	case "==", "IN":
		return in
	case "!=", "NOT IN":
		return !in
	}
	order, ok := compareValues(v, c.values[0])
	if !ok {
		return false
	}
	switch c.op {
	case ">=":
		return order >= 0
	case "<=":
		return order <= 0
	case ">":
		return order > 0
	default:
		return order < 0
	}
}

// compareValues orders numbers by value and strings as versions: their dotted
// parts by number as far as they are numbers.
func compareValues(a, b any) (int, bool) {
	switch a := a.(type) {
	case float64:
		if b, ok := b.(float64); ok {
			switch {
			case a < b:
				return -1, true
			case a > b:
				return 1, true
			}
			return 0, true
		}
	case string:
		if b, ok := b.(string); ok {
			return compareVersions(a, b), true
		}
	}
	return 0, false
}

func compareVersions(a, b string) int {
	split := func(s string) []string {
		return strings.FieldsFunc(s, func(r rune) bool { return r == '.' || r == '-' || r == '+' })
	}
	as, bs := split(a), split(b)
	for i := range max(len(as), len(bs)) {
		x, y := "0", "0" // 1.40 is 1.40.0
		if i < len(as) {
			x = as[i]
		}
		if i < len(bs) {
			y = bs[i]
		}
		n, err1 := strconv.ParseUint(x, 10, 64)
		m, err2 := strconv.ParseUint(y, 10, 64)
		switch {
		case err1 == nil && err2 == nil && n != m:
			if n < m {
				return -1
			}
			return 1
		case (err1 != nil || err2 != nil) && x != y:
			return strings.Compare(x, y)
		}
	}
	return 0
}

// satisfied returns which of the distinct checks attributes satisfy, sorted.
// Check 0, no condition, is always there.
func (d *Doc) satisfied(attrs map[string]any) []int32 {
	out := []int32{0}
	for id := 1; id < len(d.checks); id++ {
		if d.satisfies(int32(id), attrs) {
			out = append(out, int32(id))
		}
	}
	return out
}

func (d *Doc) satisfies(check int32, attrs map[string]any) bool {
	return check == 0 || slices.ContainsFunc(d.checks[check], func(name string) bool {
		return !slices.ContainsFunc(d.definitions.postures[name], func(c condition) bool { return !c.holds(attrs) })
	})
}
