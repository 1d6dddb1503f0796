package policy

import (
	"net/netip"
	"slices"

	"heddle/policy/prefixes"
)

// reach is what a class can get at, and what can get at it.
type reach struct {
	to   bitset  // terms of destinations without via
	vias []int32 // via sets that it is a source of
	// from has, per check, the terms that are sources to it; nil: none.
	from []bitset
}

func (d *Doc) reachOf(c *class) *reach {
	r := &reach{to: newBitset(len(d.terms)), from: make([]bitset, len(d.checks))}
	seen := newBitset(len(d.sets))
	visit := func(list []int32, fn func(set int32)) {
		for _, s := range list {
			if !seen.has(s) {
				seen.add(s)
				fn(s)
			}
		}
	}
	out := d.setsWith(c.own, func(id int32, s *set) bool { return len(d.outgoing[id]) > 0 && slices.Contains(c.sat, s.check) })
	out = append(out, d.setsWith(c.behind, func(id int32, s *set) bool { return len(d.outgoing[id]) > 0 && s.check == 0 })...)
	for _, s := range out {
		for _, i := range d.outgoing[s] {
			visit([]int32{d.rules[i].dst}, func(dst int32) {
				if len(d.sets[dst].via) > 0 {
					r.vias = append(r.vias, dst)
					return
				}
				for _, t := range d.sets[dst].terms {
					r.to.add(t)
				}
			})
		}
	}
	slices.Sort(r.vias)
	clear(seen)
	for _, s := range d.targetSets(c.own, c.behind, c.via, c.exit) {
		for _, i := range d.incoming[s] {
			visit([]int32{d.rules[i].src}, func(src int32) {
				check := d.sets[src].check
				if r.from[check] == nil {
					r.from[check] = newBitset(len(d.terms))
				}
				for _, t := range d.sets[src].terms {
					r.from[check].add(t)
				}
			})
		}
	}
	return r
}

// targetSets returns the sets through which a node is a destination of rules.
func (d *Doc) targetSets(own, behind, via []int32, exit bool) []int32 {
	terms := slices.Concat(own, behind)
	if exit && d.internet >= 0 {
		terms = append(terms, d.internet)
	}
	out := d.setsWith(terms, func(id int32, s *set) bool { return len(s.via) == 0 && len(d.incoming[id]) > 0 })
	return append(out, via...)
}

func (c *Compiled) reachOf(k *class) *reach {
	r := k.reach.Load()
	if r == nil {
		r = c.doc.reachOf(k)
		k.reach.Store(r) // a race stores equal values
	}
	return r
}

// Class returns the class of a node.
func (c *Compiled) Class(id NodeID) Class {
	if n := c.node(id); n != nil {
		return n.class
	}
	return 0
}

// Visible reports whether a node of class viewer is to know a node of class
// peer: whether a rule lets either reach the other, or what is behind the
// other. It is symmetric. If the classes are equal the question is about two
// different nodes of the class.
func (c *Compiled) Visible(viewer, peer Class) bool {
	if viewer <= 0 || peer <= 0 || int(viewer) >= len(c.classes) || int(peer) >= len(c.classes) {
		return false
	}
	v, p := c.classes[viewer], c.classes[peer]
	r := c.reachOf(v)
	if r.to.hasAny(p.own) || r.to.hasAny(p.behind) || p.exit && c.doc.internet >= 0 && r.to.has(c.doc.internet) || hasAny(r.vias, p.via) {
		return true
	}
	for _, check := range p.sat {
		from := r.from[check]
		if from != nil && (from.hasAny(p.own) || check == 0 && from.hasAny(p.behind)) {
			return true
		}
	}
	// One user's nodes are equal but for what their attributes satisfy.
	return v.user != 0 && v.user == p.user && (hasAny(v.self, v.sat) || hasAny(v.self, p.sat))
}

// Routes returns the prefixes beyond its own addresses that viewer sends to
// peer, in order. primary names the router that carries a subnet prefix at the
// moment; it is not asked about exit routes.
func (c *Compiled) Routes(viewer, peer NodeID, primary func(netip.Prefix) NodeID) []netip.Prefix {
	return c.RoutesAmong(viewer, peer, primary, nil)
}

// RoutesAmong is Routes, with the routers of a via grant elected among the
// nodes for which usable is true; if there is none, or usable is nil, among
// all.
func (c *Compiled) RoutesAmong(viewer, peer NodeID, primary func(netip.Prefix) NodeID, usable func(NodeID) bool) []netip.Prefix {
	v, p := c.node(viewer), c.node(peer)
	if v == nil || p == nil || v == p || len(p.subnet) == 0 && !p.exit {
		return nil
	}
	r := c.reachOf(c.classes[v.class])
	var out []netip.Prefix
	if p.exit && c.exitFor(r, p) {
		for _, a := range p.Approved {
			if a.IsValid() && a.Bits() == 0 && !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	for _, prefix := range p.subnet {
		if c.carrier(v, r, prefix, primary, usable) == p.ID {
			out = append(out, prefix)
		}
	}
	slices.SortFunc(out, prefixes.Compare)
	return out
}

// exitFor reports whether the exit node p serves a viewer.
func (c *Compiled) exitFor(r *reach, p *node) bool {
	d := c.doc
	wide := func(has func(int32) bool) bool { return d.any >= 0 && has(d.any) || d.internet >= 0 && has(d.internet) }
	return wide(r.to.has) || slices.ContainsFunc(p.via, func(s int32) bool {
		return slices.Contains(r.vias, s) && wide(func(t int32) bool { return slices.Contains(d.sets[s].terms, t) })
	})
}

// carrier returns the router that viewer sends a subnet prefix to, 0 if none.
func (c *Compiled) carrier(v *node, r *reach, prefix netip.Prefix, primary func(netip.Prefix) NodeID, usable func(NodeID) bool) NodeID {
	one := c.routing.prefixes[prefix]
	if one == nil {
		return 0
	}
	if r.to.hasAny(one.terms) {
		return primary(prefix)
	}
	// Only via grants lead there: they choose among their own routers.
	if hasAny(one.vias, r.vias) {
		var first NodeID
		for _, n := range one.routers {
			if !slices.ContainsFunc(one.vias, func(s int32) bool { return slices.Contains(r.vias, s) && slices.Contains(n.via, s) }) {
				continue
			}
			if usable == nil || usable(n.ID) {
				return n.ID
			}
			if first == 0 {
				first = n.ID
			}
		}
		if first != 0 {
			return first
		}
	}
	if from := r.from[0]; from != nil && from.hasAny(one.terms) || slices.Contains(v.subnet, prefix) {
		return primary(prefix)
	}
	return 0
}
