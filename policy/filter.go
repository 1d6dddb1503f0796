package policy

import (
	"cmp"
	"net/netip"
	"slices"

	"tailscale.com/tailcfg"

	"heddle/policy/prefixes"
	"heddle/policy/syntax"
)

// FilterGroup is a part of a node's packet filter that is replaced as a whole:
// one entry of MapResponse.PacketFilters. There is one per distinct list of
// sources; Key is made from the text of that list, so it stays when other
// rules come and go. The rules of a group differ in protocols, or in SrcIPs:
// large groups of users are SrcIPs of their own, the same slice in all rules of
// all nodes. Everything in it is shared with other callers; read only.
type FilterGroup struct {
	Key   string
	Rules []tailcfg.FilterRule
}

// addrs are the addresses of a node. The filters name the IPv4 address of a
// node with disable-ipv4 too, as the hosted service does.
func (n *node) addrs() []netip.Addr {
	out := make([]netip.Addr, 0, 2)
	for _, a := range []netip.Addr{n.IPv4, n.IPv6} {
		if a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}

// hit is a rule that has something for a node's filter.
type hit struct {
	rule int32
	mode int8
}

const (
	hitTarget   int8 = iota // the node is among the destinations
	hitSelf                 // by autogroup:self
	hitBack                 // the node is a source, the rule has a companion
	hitSelfBack             // both
)

// from is where a group of a filter comes from: the nodes of a set, or those of the node's own user.
type from struct {
	set  int32
	self bool
}

func (d *Doc) from(h hit) from {
	r := &d.rules[h.rule]
	switch h.mode {
	case hitSelf:
		return from{r.src, true}
	case hitBack:
		return from{r.dst, false}
	case hitSelfBack:
		return from{r.base, true}
	}
	return from{r.src, false}
}

// source returns the addresses that a group comes from. As long as they stay it is the
// same one in each compilation.
func (c *Compiled) source(n *node, f from) *source {
	if f.self {
		return &c.holding(n.ident.user).self[c.doc.sets[f.set].check]
	}
	return c.sources[f.set]
}

// groups returns what the groups of a node's filter come from, in their order. That depends on
// the policy and the node alone, so it is kept with the node.
func (c *Compiled) groups(n *node) []from {
	if p := n.from.Load(); p != nil {
		return *p
	}
	var out []from
	seen := map[from]bool{}
	for _, h := range c.hits(n) {
		if f := c.doc.from(h); !seen[f] {
			seen[f] = true
			out = append(out, f)
		}
	}
	n.from.Store(&out) // a race stores equal values
	return out
}

func (c *Compiled) hits(n *node) []hit {
	d := c.doc
	var out []hit
	own := n.ident.terms
	if len(n.addr) > 0 {
		own = slices.Concat(own, n.addr)
	}
	for _, s := range d.targetSets(own, n.behind, n.via, n.exit) {
		for _, r := range d.incoming[s] {
			out = append(out, hit{r, hitTarget})
		}
	}
	for _, s := range d.setsWith(own, func(id int32, s *set) bool {
		return (len(d.backOf[id]) > 0 || n.ident.user != nil && len(d.selfOf[id]) > 0) && slices.Contains(n.sat, s.check)
	}) {
		for _, r := range d.backOf[s] {
			out = append(out, hit{r, hitBack})
			if d.rules[r].Self && n.ident.user != nil {
				out = append(out, hit{r, hitSelfBack})
			}
		}
		if n.ident.user != nil {
			for _, r := range d.selfOf[s] {
				out = append(out, hit{r, hitSelf})
			}
		}
	}
	slices.SortFunc(out, func(a, b hit) int { return cmp.Or(cmp.Compare(a.rule, b.rule), cmp.Compare(a.mode, b.mode)) })
	return out
}

// Filter returns the inbound packet filter of a node, reduced to the rules
// with a destination at it or behind it. Nil: nothing may come in. Read only.
func (c *Compiled) Filter(id NodeID) []FilterGroup {
	n := c.node(id)
	if n == nil {
		return nil
	}
	at := map[from]*groupBuilder{}
	var order []*groupBuilder
	for _, h := range c.hits(n) {
		f := c.doc.from(h)
		g := at[f]
		if g == nil {
			g = &groupBuilder{key: c.doc.sets[f.set].hash}
			if f.self {
				g.key, g.src = "self-"+g.key, c.selfIPs(n, f)
			} else {
				g.src = c.sourceParts(f.set)
			}
			at[f] = g
			order = append(order, g)
		}
		switch r := &c.doc.rules[h.rule]; h.mode {
		case hitTarget:
			g.add(c.targetsAt(n, r.dst), r.Flows, r.App)
		case hitSelf:
			g.add(n.self(), r.Flows, r.App)
		default:
			g.add(n.self(), nil, r.Companion)
		}
	}
	var out []FilterGroup
	for _, g := range order {
		if rules := g.rules(); len(rules) > 0 {
			out = append(out, FilterGroup{g.key, rules})
		}
	}
	return out
}

// Uniform reports whether all nodes of the node's class certainly have the same filter: whoever may come in
// may go anywhere.
func (c *Compiled) Uniform(id NodeID) bool {
	n := c.node(id)
	return n != nil && !slices.ContainsFunc(c.hits(n), func(h hit) bool {
		r := &c.doc.rules[h.rule]
		return h.mode != hitTarget || len(r.App) > 0 || !slices.Contains(c.doc.sets[r.dst].terms, c.doc.any)
	})
}

// selfIPs are the addresses of the nodes of n's user that satisfy the set's check, as
// sourceParts returns them.
func (c *Compiled) selfIPs(n *node, f from) [][]string {
	return c.source(n, f).get(func() [][]string {
		nodes := c.having(c.holding(n.ident.user).nodes, c.doc.sets[f.set].check)
		if len(nodes) == 0 {
			return nil
		}
		return [][]string{addressTexts(nodes)}
	})
}

// targets is what a destination list is at one node.
type targets struct {
	texts    []string       // for DstPorts
	prefixes []netip.Prefix // for CapGrant
}

// self are the node's own addresses as targets.
func (n *node) self() targets {
	t := targets{texts: n.texts}
	for _, a := range n.addrs() {
		t.prefixes = append(t.prefixes, prefixes.Host(a))
	}
	return t
}

func (c *Compiled) targetsAt(n *node, set int32) targets {
	d, s := c.doc, &c.doc.sets[set]
	if slices.Contains(s.terms, d.any) {
		t := n.self()
		t.texts = []string{"*"}
		return t
	}
	var out targets
	own := false
	for _, t := range s.terms {
		tm := &d.terms[t]
		switch {
		case t == d.internet:
			if n.exit {
				out.texts = append(slices.Clip(out.texts), internetRanges...)
			}
		case tm.Prefixes != nil:
			for i, p := range tm.Prefixes {
				if n.touches(p, len(s.via) == 0) {
					out.texts, out.prefixes = append(out.texts, tm.texts[i]), append(out.prefixes, p)
				}
			}
		case !own && len(s.via) == 0 && slices.Contains(n.ident.terms, t):
			own = true
			self := n.self()
			out.texts, out.prefixes = append(out.texts, self.texts...), append(out.prefixes, self.prefixes...)
		}
	}
	return out
}

// touches reports whether a destination is at the node or behind it.
func (n *node) touches(p netip.Prefix, addrs bool) bool {
	if addrs && (p.Contains(n.IPv4) || p.Contains(n.IPv6)) {
		return true
	}
	return slices.ContainsFunc(n.subnet, p.Overlaps)
}

// groupBuilder collects the rules of one FilterGroup.
type groupBuilder struct {
	key   string
	src   [][]string           // parts of the sources
	ports []tailcfg.FilterRule // one per protocol list
	caps  []tailcfg.CapGrant
}

func (g *groupBuilder) add(t targets, fs []syntax.Flows, app tailcfg.PeerCapMap) {
	if len(g.src) == 0 {
		return
	}
	for _, f := range fs {
		i := slices.IndexFunc(g.ports, func(r tailcfg.FilterRule) bool { return slices.Equal(r.IPProto, f.Protos) })
		if i < 0 {
			i = len(g.ports)
			g.ports = append(g.ports, tailcfg.FilterRule{IPProto: f.Protos})
		}
		for _, ip := range t.texts {
			for _, pr := range f.Ports {
				g.ports[i].DstPorts = append(g.ports[i].DstPorts, tailcfg.NetPortRange{IP: ip, Ports: pr})
			}
		}
	}
	if len(app) > 0 && len(t.prefixes) > 0 {
		g.caps = append(g.caps, tailcfg.CapGrant{Dsts: t.prefixes, CapMap: app})
	}
}

// rules returns the rules for every part of the sources.
func (g *groupBuilder) rules() []tailcfg.FilterRule {
	var out []tailcfg.FilterRule
	for _, src := range g.src {
		for _, r := range g.ports {
			if len(r.DstPorts) > 0 {
				r.SrcIPs = src
				out = append(out, r)
			}
		}
		if len(g.caps) > 0 {
			out = append(out, tailcfg.FilterRule{SrcIPs: src, CapGrant: g.caps})
		}
	}
	return out
}
