package netmap

import (
	"bytes"

	"heddle/policy"

	"tailscale.com/tailcfg"
)

// rulesKey names a list of rules by where it is: the policy shares them.
type rulesKey struct {
	first *tailcfg.FilterRule
	len   int
}

func (e *Encoder) rules(rules []tailcfg.FilterRule) *piece {
	if len(rules) == 0 {
		return e.intern([]byte("[]"))
	}
	return e.once(rulesKey{&rules[0], len(rules)}, func() []byte { return appendValue(nil, rules, "[]") })
}

// filterChange is one entry of PacketFilters; a nil piece deletes it.
type filterChange struct {
	key   string
	rules *piece
}

// filterKey keeps names of groups apart from the one that means "all".
func filterKey(key string) string {
	if key == "*" {
		return "base"
	}
	return key
}

// allFilters returns the entries of a whole filter. An empty one blocks
// everything, but has to be said: absent would mean unchanged.
func (e *Encoder) allFilters(groups []policy.FilterGroup) []filterChange {
	out := []filterChange{{key: "*"}}
	for _, g := range groups {
		out = append(out, filterChange{filterKey(g.Key), e.rules(g.Rules)})
	}
	if len(groups) == 0 {
		out = append(out, filterChange{"base", e.rules(nil)})
	}
	return out
}

// filterChanges returns what turns one filter into another.
func (e *Encoder) filterChanges(old, new []policy.FilterGroup) []filterChange {
	was := make(map[string][]tailcfg.FilterRule, len(old))
	for _, g := range old {
		was[g.Key] = g.Rules
	}
	var out []filterChange
	for _, g := range new {
		before, ok := was[g.Key]
		delete(was, g.Key)
		if ok && sameRules(before, g.Rules) {
			continue
		}
		is := e.rules(g.Rules)
		if ok && bytes.Equal(e.rules(before).plain, is.plain) {
			continue
		}
		out = append(out, filterChange{filterKey(g.Key), is})
	}
	if len(was) > len(new) { // shorter
		return e.allFilters(new)
	}
	for _, g := range old {
		if _, gone := was[g.Key]; gone {
			out = append(out, filterChange{key: filterKey(g.Key)})
		}
	}
	return out
}

func sameRules(a, b []tailcfg.FilterRule) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

func (b *builder) filters(changes []filterChange) {
	b.field("PacketFilters")
	b.string("{")
	for i, c := range changes {
		if i > 0 {
			b.string(",")
		}
		b.text = appendString(b.text, c.key)
		b.string(":")
		if c.rules == nil {
			b.string("null")
		} else {
			b.add(c.rules)
		}
	}
	b.string("}")
}
