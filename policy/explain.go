package policy

import (
	"net/netip"
	"slices"

	"go4.org/netipx"
	"tailscale.com/tailcfg"

	"heddle/policy/packet"
	"heddle/policy/prefixes"
	"heddle/policy/syntax"
)

// Explanation tells why a flow is allowed or not.
type Explanation struct {
	Allowed bool
	// Lines are those of the acls and grants that allow it, in order.
	Lines []int
	// At are the nodes whose packet filter decides: the destination itself, or
	// the routers or exit nodes that have an approved route to it. Empty: the
	// address is nowhere.
	At []NodeID
	// Entries are the parts of the filters of these nodes that allow the flow.
	Entries []tailcfg.FilterRule
}

// Explain evaluates the rules for a flow between two addresses as the packet
// filter of clients does. proto is an IP protocol number; port counts for TCP,
// UDP and SCTP only. Clients let ICMP pass to any address that something is
// allowed to, and other protocols without ports only under rules of all ports.
// If several routers serve the destination, one that allows the flow is enough.
func (c *Compiled) Explain(src, dst netip.Addr, proto int, port uint16) Explanation {
	var out Explanation
	s := c.at(src)
	for _, t := range c.serving(dst) {
		out.At = append(out.At, t.ID)
		own := t.IPv4 == dst || t.IPv6 == dst
		for i := range c.doc.rules {
			rl := &c.doc.rules[i]
			if c.from(rl, s) && rl.passes(dst, proto, port) && (own && c.toSelf(rl, s, t) || c.toAt(rl, t, dst)) && !slices.Contains(out.Lines, rl.Line) {
				out.Lines = append(out.Lines, rl.Line)
			}
		}
		for _, g := range c.Filter(t.ID) {
			for _, r := range g.Rules {
				if one, ok := packet.Allowing(r, src, dst, proto, port); ok {
					out.Entries = append(out.Entries, one)
				}
			}
		}
	}
	slices.Sort(out.Lines)
	out.Allowed = len(out.Lines) > 0
	return out
}

// RulesFrom returns the acls and grants that devices of a user are a source of, whatever
// their attributes satisfy, in the order of the text. Read only.
func (c *Compiled) RulesFrom(id UserID) []*syntax.Rule {
	i, ok := c.userAt(id)
	if !ok {
		return nil
	}
	own := append([]*node{{ident: c.users[i].ident}}, c.holdings[i].nodes...)
	return c.rulesWith(func(rl *rule) bool {
		return slices.ContainsFunc(own, func(n *node) bool { return n.within(c.doc, rl.src) })
	})
}

// RulesTo returns those that have a port of an address as a destination, whichever nodes route there.
func (c *Compiled) RulesTo(to netip.AddrPort) []*syntax.Rule {
	t := c.at(to.Addr())
	return c.rulesWith(func(rl *rule) bool {
		return (c.to(rl, t) || rl.Self && t.ident.user != nil) &&
			slices.ContainsFunc(syntax.PortProtos, func(proto int) bool { return rl.allows(proto, to.Port()) })
	})
}

func (c *Compiled) rulesWith(has func(*rule) bool) []*syntax.Rule {
	var out []*syntax.Rule
	for i := range c.doc.rules {
		if rl := &c.doc.rules[i]; has(rl) {
			out = append(out, rl.Rule)
		}
	}
	return out
}

// serving returns the nodes that packets to an address come out at.
func (c *Compiled) serving(dst netip.Addr) []*node {
	var routers, exits []*node
	for _, n := range c.nodes {
		switch {
		case n.IPv4 == dst || n.IPv6 == dst:
			return []*node{n}
		case slices.ContainsFunc(n.subnet, func(p netip.Prefix) bool { return p.Contains(dst) }):
			routers = append(routers, n)
		case slices.ContainsFunc(n.Approved, func(p netip.Prefix) bool { return p.Contains(dst) }):
			exits = append(exits, n)
		}
	}
	if len(routers) > 0 {
		return routers
	}
	return exits
}

// at is the node with an address, seen by this one of its addresses only, or a
// host that is not a node.
func (c *Compiled) at(a netip.Addr) *node {
	d := c.doc
	addr := sorted(d.prefixes.Containing(nil, prefixes.Host(a)))
	for _, n := range c.nodes {
		if n.IPv4 == a || n.IPv6 == a {
			same := n.copy()
			same.IPv4, same.IPv6, same.addr = a, netip.Addr{}, addr
			return same
		}
	}
	n := &node{Node: Node{IPv4: a}, ident: &identity{}, addr: addr, sat: []int32{0}}
	if d.danger >= 0 {
		n.ident.terms = append(n.ident.terms, d.danger)
	}
	inTailnet := slices.ContainsFunc(tailnetRanges, func(r netipx.IPRange) bool { return r.Contains(a) })
	if d.any >= 0 && (inTailnet || slices.ContainsFunc(c.routing.subnets, func(p netip.Prefix) bool { return p.Contains(a) })) {
		n.ident.terms = sorted(append(n.ident.terms, d.any))
	}
	return n
}

// from reports whether s is a source of the rule.
func (c *Compiled) from(rl *rule, s *node) bool {
	src := &c.doc.sets[rl.src]
	return s.within(c.doc, rl.src) && slices.Contains(s.sat, src.check)
}

// toSelf reports whether t is a destination of the rule as a device of the
// same user as s.
func (c *Compiled) toSelf(rl *rule, s, t *node) bool {
	return rl.Self && s.ident.user != nil && s.ident.user == t.ident.user
}

// to reports whether t is a destination of the rule, whichever nodes route
// there.
func (c *Compiled) to(rl *rule, t *node) bool {
	terms := c.doc.sets[rl.dst].terms
	return t.within(c.doc, rl.dst) || slices.Contains(terms, c.doc.any) ||
		slices.Contains(terms, c.doc.internet) && internetSet.Contains(t.IPv4)
}

// toAt reports whether the address dst at node t is a destination of the rule.
func (c *Compiled) toAt(rl *rule, t *node, dst netip.Addr) bool {
	d, s := c.doc, &c.doc.sets[rl.dst]
	if len(s.via) > 0 && !slices.Contains(t.via, rl.dst) {
		return false
	}
	own := t.IPv4 == dst || t.IPv6 == dst
	return slices.ContainsFunc(s.terms, func(id int32) bool {
		tm := &d.terms[id]
		switch {
		case id == d.any:
			return true
		case id == d.internet:
			return t.exit && internetSet.Contains(dst)
		case tm.Prefixes != nil:
			return slices.ContainsFunc(tm.Prefixes, func(p netip.Prefix) bool { return p.Contains(dst) && t.touches(p, len(s.via) == 0) })
		}
		return own && len(s.via) == 0 && slices.Contains(t.ident.terms, id)
	})
}

// allows reports whether the rule names a protocol and a port.
func (rl *rule) allows(proto int, port uint16) bool {
	return slices.ContainsFunc(rl.Flows, func(f syntax.Flows) bool {
		protos := f.Protos
		if protos == nil {
			protos = syntax.DefaultProtos
		}
		return slices.Contains(protos, proto) &&
			(!syntax.HasPorts([]int{proto}) || slices.ContainsFunc(f.Ports, func(pr tailcfg.PortRange) bool { return pr.Contains(port) }))
	})
}

// passes is allows as clients see it.
func (rl *rule) passes(dst netip.Addr, proto int, port uint16) bool {
	return slices.ContainsFunc(rl.Flows, func(f syntax.Flows) bool {
		return slices.ContainsFunc(f.Ports, func(pr tailcfg.PortRange) bool { return packet.Passes(f.Protos, pr, dst, proto, port) })
	})
}
