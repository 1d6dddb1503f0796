package netmap

import (
	"bytes"
	"slices"

	"heddle/policy"

	"tailscale.com/tailcfg"
)

// A ruleText is an encoded filter rule: who may come, which many rules of many
// nodes share, and the rest of the JSON object, which is short.
type ruleText struct {
	sources *piece
	rest    []byte
}

// sourcesKey names a list of sources by where it is: the policy shares them.
type sourcesKey struct {
	first *string
	len   int
}

func (e *Encoder) sources(ips []string) *piece {
	encode := func() []byte { return appendStrings(nil, ips) }
	if len(ips) == 0 {
		return e.intern(encode())
	}
	return e.once(sourcesKey{&ips[0], len(ips)}, encode)
}

func (e *Encoder) ruleText(r tailcfg.FilterRule) ruleText {
	out := ruleText{sources: e.sources(r.SrcIPs)}
	r.SrcIPs = nil
	out.rest = bytes.TrimPrefix(appendValue(nil, r, "}"), []byte(`{"SrcIPs":null`))
	return out
}

// filterChange is one entry of PacketFilters.
type filterChange struct {
	key    string
	delete bool
	rules  []ruleText
}

// filterKey keeps names of groups apart from the one that means "all".
func filterKey(key string) string {
	if key == "*" {
		return "base"
	}
	return key
}

func (e *Encoder) filterGroup(g policy.FilterGroup) filterChange {
	out := filterChange{key: filterKey(g.Key)}
	for _, r := range g.Rules {
		out.rules = append(out.rules, e.ruleText(r))
	}
	return out
}

// allFilters returns the entries of a whole filter. An empty one blocks
// everything, but has to be said: absent would mean unchanged.
func (e *Encoder) allFilters(groups []policy.FilterGroup) []filterChange {
	out := []filterChange{{key: "*", delete: true}}
	for _, g := range groups {
		out = append(out, e.filterGroup(g))
	}
	if len(groups) == 0 {
		out = append(out, filterChange{key: "base"})
	}
	return out
}

// filterChanges returns what turns one filter into another.
func (e *Encoder) filterChanges(old, new []policy.FilterGroup) []filterChange {
	if slices.EqualFunc(old, new, e.sameGroup) {
		return nil
	}
	was := make(map[string]policy.FilterGroup, len(old))
	for _, g := range old {
		was[g.Key] = g
	}
	var out []filterChange
	for _, g := range new {
		before, ok := was[g.Key]
		delete(was, g.Key)
		if !ok || !e.sameGroup(before, g) {
			out = append(out, e.filterGroup(g))
		}
	}
	if len(was) > len(new) { // shorter
		return e.allFilters(new)
	}
	for _, g := range old {
		if _, gone := was[g.Key]; gone {
			out = append(out, filterChange{key: filterKey(g.Key), delete: true})
		}
	}
	return out
}

// sameGroup reports whether two groups say the same. Each compilation makes new rules, but mostly
// of the same parts.
func (e *Encoder) sameGroup(a, b policy.FilterGroup) bool {
	return a.Key == b.Key && slices.EqualFunc(a.Rules, b.Rules, e.sameRule)
}

func (e *Encoder) sameRule(a, b tailcfg.FilterRule) bool {
	if !e.sameSources(a.SrcIPs, b.SrcIPs) || !slices.EqualFunc(a.DstPorts, b.DstPorts, samePorts) ||
		!slices.Equal(a.IPProto, b.IPProto) || len(a.CapGrant) != len(b.CapGrant) {
		return false
	}
	return len(a.CapGrant) == 0 || bytes.Equal(e.ruleText(a).rest, e.ruleText(b).rest)
}

// sameSources compares lists by where they are, and long ones by their
// pieces, since all nodes of the tailnet may come with the same question.
func (e *Encoder) sameSources(a, b []string) bool {
	const long = 16
	switch {
	case len(a) != len(b):
		return false
	case len(a) == 0 || &a[0] == &b[0]:
		return true
	case len(a) <= long:
		return slices.Equal(a, b)
	}
	return changedPiece(e.sources(a), e.sources(b)) == nil
}

func samePorts(a, b tailcfg.NetPortRange) bool {
	return a.IP == b.IP && a.Ports == b.Ports && a.Bits == b.Bits // the pointers are nil: clients refuse Bits
}

func (b *builder) filters(changes []filterChange) {
	b.field("PacketFilters")
	b.string("{")
	for i, c := range changes {
		if i > 0 {
			b.string(",")
		}
		b.text = appendString(b.text, c.key)
		if c.delete {
			b.string(":null")
			continue
		}
		b.string(":[")
		for j, r := range c.rules {
			if j > 0 {
				b.string(",")
			}
			b.string(`{"SrcIPs":`)
			b.add(r.sources)
			b.text = append(b.text, r.rest...)
		}
		b.string("]")
	}
	b.string("}")
}
