package policy

import (
	"maps"
	"reflect"
	"slices"

	"tailscale.com/tailcfg"
)

// Change is what one node is sent differently.
type Change struct {
	Node NodeID
	// Allows and Forbids are the rules of its packet filter that are new, and
	// those that are gone.
	Allows, Forbids []tailcfg.FilterRule
	SSH             bool // its SSH policy differs
	Caps            bool // its own capabilities differ
}

// Changes compares two policies, or two states of a tailnet, and returns the
// nodes of either that would notice, by ID. It compares every node's filter, so
// it is for people who want to see before they decide, not for the writer.
func Changes(before, after *Compiled) []Change {
	ids := map[NodeID]bool{}
	for _, c := range []*Compiled{before, after} {
		for _, n := range c.nodes {
			ids[n.ID] = true
		}
	}
	var out []Change
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		ch := Change{Node: id, SSH: !reflect.DeepEqual(before.SSH(id), after.SSH(id)), Caps: !reflect.DeepEqual(before.Caps(id), after.Caps(id))}
		old, now := groupsByKey(before.Filter(id)), groupsByKey(after.Filter(id))
		for _, key := range slices.Sorted(maps.Keys(now)) {
			ch.Allows = append(ch.Allows, without(now[key], old[key])...)
		}
		for _, key := range slices.Sorted(maps.Keys(old)) {
			ch.Forbids = append(ch.Forbids, without(old[key], now[key])...)
		}
		if ch.SSH || ch.Caps || len(ch.Allows)+len(ch.Forbids) > 0 {
			out = append(out, ch)
		}
	}
	return out
}

func groupsByKey(groups []FilterGroup) map[string][]tailcfg.FilterRule {
	out := make(map[string][]tailcfg.FilterRule, len(groups))
	for _, g := range groups {
		out[g.Key] = g.Rules
	}
	return out
}

// without returns what is in a and not in b: whole rules, or of rules that
// differ in their targets only, these targets.
func without(a, b []tailcfg.FilterRule) []tailcfg.FilterRule {
	var out []tailcfg.FilterRule
	for _, r := range a {
		for _, other := range b {
			if !slices.Equal(r.SrcIPs, other.SrcIPs) || !slices.Equal(r.IPProto, other.IPProto) {
				continue
			}
			r.DstPorts = slices.DeleteFunc(slices.Clone(r.DstPorts), func(p tailcfg.NetPortRange) bool {
				return slices.ContainsFunc(other.DstPorts, func(q tailcfg.NetPortRange) bool { return p.IP == q.IP && p.Ports == q.Ports })
			})
			r.CapGrant = slices.DeleteFunc(slices.Clone(r.CapGrant), func(g tailcfg.CapGrant) bool {
				return slices.ContainsFunc(other.CapGrant, func(h tailcfg.CapGrant) bool { return reflect.DeepEqual(g, h) })
			})
		}
		if len(r.DstPorts)+len(r.CapGrant) > 0 {
			out = append(out, r)
		}
	}
	return out
}
