// Package posture owns when the attributes of a device satisfy a condition. It
// refuses to know where attributes come from, and which rules ask for what.
package posture

import (
	"slices"
	"strconv"
	"strings"

	"heddle/policy/syntax"
)

// Holds reports whether attributes satisfy a condition. An attribute that is
// not set satisfies nothing but NOT SET: what is not known is not trusted.
func Holds(c syntax.Condition, attrs map[string]any) bool {
	v, set := attrs[c.Attr]
	switch c.Op {
	case "IS SET":
		return set
	case "NOT SET":
		return !set
	}
	if !set {
		return false
	}
	in := slices.ContainsFunc(c.Values, func(w any) bool { return v == w })
	switch c.Op {
	case "==", "IN":
		return in
	case "!=", "NOT IN":
		return !in
	}
	order, ok := compareValues(v, c.Values[0])
	if !ok {
		return false
	}
	switch c.Op {
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
