package policy

import (
	"slices"

	"heddle/policy/posture"
	"heddle/policy/syntax"
)

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
		return !slices.ContainsFunc(d.text.Postures[name], func(c syntax.Condition) bool { return !posture.Holds(c, attrs) })
	})
}
