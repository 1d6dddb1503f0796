package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"go4.org/netipx"

	"heddle/policy/prefixes"
)

// apply brings what is derived from several nodes in line with the changes.
func (b *builder) apply() {
	if len(b.fresh)+len(b.gone) > 0 {
		b.applyHoldings()
		b.applyMembers()
	}
	if b.routesChanged {
		b.routing = b.doc.newRouting(b.nodes, b.routing.prefixes)
	}
	if !slices.Equal(b.routing.wildcard, b.old.routing.wildcard) {
		b.sources = slices.Clone(b.sources)
		for id := range b.doc.sets {
			if b.doc.sets[id].wild {
				b.sources[id] = new(source)
			}
		}
	}
	b.applySSH()
}

// applySSH forgets the wire form of ssh rules that may be another one.
func (b *builder) applySSH() {
	b.ssh = make([]*sshExpansion, len(b.doc.ssh))
	actions := true // of all rules are as they were
	for i := range b.ssh {
		r := &b.doc.ssh[i]
		same := len(b.old.ssh) > 0 && b.settings.SSHCheckURL == b.old.settings.SSHCheckURL && b.sameMembers(b.old, r.recorder)
		actions = actions && same
		if b.ssh[i] = new(sshExpansion); same && b.sameMembers(b.old, r.src) {
			b.ssh[i] = b.old.ssh[i]
		}
	}
	if !actions {
		b.holdings = slices.Clone(b.holdings)
		for i, h := range b.holdings {
			b.holdings[i] = &holding{h.nodes, h.self, make([]sshExpansion, b.doc.sshSlots)}
		}
	}
}

func byNodeID(a, b *node) int { return cmp.Compare(a.ID, b.ID) }

// applyHoldings updates what users have. Users that are new, or not what they were,
// come here with nothing and with all their nodes fresh.
func (b *builder) applyHoldings() {
	gone, fresh := byUser(b.gone), byUser(b.fresh)
	b.holdings = slices.Clone(b.holdings)
	changed := maps.Clone(gone)
	maps.Copy(changed, fresh)
	for u := range changed {
		if i, ok := b.userAt(u.ID); ok && b.users[i] == u {
			b.holdings[i] = &holding{
				replaced(b.holdings[i].nodes, gone[u], fresh[u], byNodeID),
				make([]source, len(b.doc.checks)), make([]sshExpansion, b.doc.sshSlots),
			}
		}
	}
}

func byUser(nodes []*node) map[*user][]*node {
	out := map[*user][]*node{}
	for _, n := range nodes {
		if u := n.ident.user; u != nil {
			out[u] = append(out[u], n)
		}
	}
	return out
}

// applyMembers updates the members of terms, and forgets the addresses of the
// sets that have such a term.
func (b *builder) applyMembers() {
	d := b.doc
	gone, fresh := map[int32][]*node{}, map[int32][]*node{}
	for _, n := range b.gone {
		for _, t := range n.ident.terms {
			gone[t] = append(gone[t], n)
		}
	}
	for _, n := range b.fresh {
		for _, t := range n.ident.terms {
			fresh[t] = append(fresh[t], n)
		}
	}
	b.members, b.sources, b.parts = slices.Clone(b.members), slices.Clone(b.sources), slices.Clone(b.parts)
	changed := maps.Clone(gone)
	maps.Copy(changed, fresh)
	for t := range changed {
		b.members[t] = replaced(b.members[t], gone[t], fresh[t], byNodeID)
		for _, s := range d.termSets[t] {
			if !d.sets[s].wild {
				b.sources[s] = new(source)
			}
		}
		for _, p := range d.termParts[t] {
			b.parts[p] = new(source)
		}
	}
	for id, s := range d.sets {
		if s.check != 0 { // depends on attributes and addresses of nodes
			b.sources[id] = new(source)
			for _, p := range s.parts {
				b.parts[p] = new(source)
			}
		}
	}
}

// replaced returns list without the elements of gone and with those of fresh.
// All are in order; list remains as it is.
func replaced(list, gone, fresh []*node, order func(a, b *node) int) []*node {
	out := make([]*node, 0, len(list)-len(gone)+len(fresh))
	for _, n := range list {
		if len(gone) > 0 && gone[0] == n {
			gone = gone[1:]
			continue
		}
		for len(fresh) > 0 && order(fresh[0], n) < 0 {
			out, fresh = append(out, fresh[0]), fresh[1:]
		}
		out = append(out, n)
	}
	return append(out, fresh...)
}

// routing is what the approved subnet routes of all nodes amount to.
type routing struct {
	prefixes map[netip.Prefix]*routed
	subnets  []netip.Prefix // all, in order
	wildcard []string       // the addresses of "*" as a source
}

// routed is an approved subnet prefix.
type routed struct {
	terms   []int32 // that reach into it or come from it
	vias    []int32 // via sets whose destinations reach into it
	routers []*node // by ID
}

// newRouting makes the routing of nodes. What the policy says about the
// prefixes in known is taken from there.
func (d *Doc) newRouting(nodes []*node, known map[netip.Prefix]*routed) *routing {
	r := &routing{prefixes: map[netip.Prefix]*routed{}}
	for _, n := range nodes {
		for _, p := range n.subnet {
			one := r.prefixes[p]
			if one == nil {
				if old := known[p]; old != nil {
					one = &routed{terms: old.terms, vias: old.vias}
				} else {
					one = d.newRouted(p)
				}
				r.prefixes[p] = one
				r.subnets = append(r.subnets, p)
			}
			one.routers = append(one.routers, n)
		}
	}
	slices.SortFunc(r.subnets, prefixes.Compare)
	var all netipx.IPSetBuilder
	for _, one := range tailnetRanges {
		all.AddRange(one)
	}
	for _, p := range r.subnets {
		all.AddPrefix(p)
	}
	r.wildcard, _ = prefixes.Texts(&all)
	return r
}

// newRouted tells what the policy says about a prefix.
func (d *Doc) newRouted(p netip.Prefix) *routed {
	terms := d.prefixes.Overlapping(nil, p)
	for _, t := range []int32{d.any, d.danger} {
		if t >= 0 {
			terms = append(terms, t)
		}
	}
	one := &routed{terms: sorted(terms)}
	for _, s := range d.viaSets {
		if hasAny(d.sets[s].terms, one.terms) {
			one.vias = append(one.vias, s)
		}
	}
	return one
}
