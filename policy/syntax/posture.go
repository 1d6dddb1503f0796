package syntax

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/tailscale/hujson"
)

// Condition is one line of a posture: an attribute compared with a value.
type Condition struct {
	Attr string
	Op   string // == != >= <= > < IN, NOT IN, IS SET, NOT SET
	// Values are strings, float64s or bools: one, or the list of IN; none for
	// the operators with SET.
	Values []any
}

var postureAttrs = map[string]bool{
	"node:os": true, "node:osVersion": true, "node:tsVersion": true, "node:tsReleaseTrack": true,
	"node:tsAutoUpdate": true, "node:tsStateEncrypted": true,
}

func (p *parser) postures(v *hujson.Value) {
	p.members(v, "postures", func(key text, v *hujson.Value) {
		before := p.noted
		if !strings.HasPrefix(key.s, "posture:") || len(key.s) == len("posture:") {
			p.fail(key.off, "postures[%q]: names start with 'posture:'", key.s)
		}
		conds := []Condition{}
		list := p.strs(v, "postures["+key.s+"]")
		empty := len(list) == 0
		for _, t := range list {
			c, err := parseCondition(t.s)
			if err != nil {
				p.fail(t.off, "postures[%q]: %v", key.s, err)
				continue
			}
			p.feature(FeaturePosture, t.off)
			if strings.HasPrefix(c.Attr, "custom:") {
				p.feature(FeatureCustomPosture, t.off)
			}
			conds = append(conds, c)
		}
		if empty {
			p.fail(key.off, "postures[%q] has no condition", key.s)
		}
		if p.noted > before { // a part of it would be satisfied too easily
			conds = []Condition{{Op: "IS SET"}}
		}
		p.d.Postures[key.s] = conds
	})
}

// customName is what an attribute can be called that is set here; see tailnet.Tx.SetAttribute.
var customName = regexp.MustCompile(`^custom:[A-Za-z][A-Za-z0-9_]{0,49}$`)

var customFields = newSchema("attrConfig entry", "type", "allowSetByNode", "broadcastToPeers")

// attrConfig reads what custom attributes are like, and which of them devices may set of themselves.
func (p *parser) attrConfig(v *hujson.Value) {
	p.members(v, "attrConfig", func(key text, v *hujson.Value) {
		var c Custom
		before := p.noted
		if !customName.MatchString(key.s) {
			p.fail(key.off, "attrConfig[%q]: attributes are called custom:NAME, with a letter and then up to 49 letters, digits and _", key.s)
		}
		p.fields(v, customFields, func(name string, v *hujson.Value) {
			field := "attrConfig[" + key.s + "]." + name
			switch name {
			case "type":
				t, ok := p.str(v, field)
				if c.Type = t.s; ok && t.s != "string" && t.s != "bool" && t.s != "number" {
					p.fail(t.off, `%s: %q is not "string", "bool" or "number"`, field, t.s)
				}
			case "allowSetByNode":
				c.SetByNode = p.boolean(v, field)
			case "broadcastToPeers":
				if len(p.strs(v, field)) > 0 {
					p.feature(FeatureBroadcast, v.StartOffset)
				}
			}
		})
		if p.noted == before {
			p.d.Customs[key.s] = c
		}
	})
}

// check reads a list of postures of which any one will do.
func (p *parser) check(field string, v *hujson.Value) []string {
	var names []string
	for _, t := range p.strs(v, field) {
		name := strings.TrimSpace(t.s)
		if _, ok := p.d.Postures[name]; !ok {
			p.fail(t.off, "%s: posture not found: %q; define it in postures", field, name)
			continue
		}
		names = append(names, name)
	}
	return names
}

// parseCondition reads "ATTR OP VALUE", "ATTR IN [VALUE, ...]", "ATTR NOT IN
// [...]", "ATTR IS SET" and "ATTR NOT SET".
func parseCondition(s string) (Condition, error) {
	var c Condition
	s = strings.TrimSpace(s)
	i := strings.IndexAny(s, " \t=!<>")
	if i <= 0 {
		return c, fmt.Errorf("%q is not of the form ATTRIBUTE OPERATOR VALUE", s)
	}
	c.Attr, s = s[:i], strings.TrimSpace(s[i:])
	if !postureAttrs[c.Attr] && (!strings.HasPrefix(c.Attr, "custom:") || c.Attr == "custom:") {
		return c, fmt.Errorf("the attribute %q is not supported by this server; it knows node:os, node:osVersion, node:tsVersion, "+
			"node:tsReleaseTrack, node:tsAutoUpdate, node:tsStateEncrypted and custom:NAME", c.Attr)
	}
	rest := ""
	for _, op := range []string{"==", "!=", ">=", "<=", ">", "<", "NOT IN", "NOT SET", "IS SET", "IN"} {
		if after, ok := cutFold(s, op); ok {
			c.Op, rest = op, strings.TrimSpace(after)
			break
		}
	}
	var err error
	switch c.Op {
	case "":
		return c, fmt.Errorf("no operator after %q; there are == != >= <= > < IN, NOT IN, IS SET, NOT SET", c.Attr)
	case "IS SET", "NOT SET":
		if rest != "" {
			return c, fmt.Errorf("%q after %s", rest, c.Op)
		}
		return c, nil
	case "IN", "NOT IN":
		inner, ok := strings.CutPrefix(rest, "[")
		if inner, ok2 := strings.CutSuffix(inner, "]"); ok && ok2 {
			c.Values, err = parseValues(inner)
		} else {
			err = fmt.Errorf("%s needs a list in brackets", c.Op)
		}
	default:
		if c.Values, err = parseValues(rest); err == nil && len(c.Values) != 1 {
			err = fmt.Errorf("%s needs one value", c.Op)
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
