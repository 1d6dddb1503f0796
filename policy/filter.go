package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"sync/atomic"

	"go4.org/netipx"
	"tailscale.com/net/tsaddr"
	"tailscale.com/tailcfg"

	"heddle/policy/syntax"
)

// FilterGroup is a part of a node's packet filter that is replaced as a whole:
// one entry of MapResponse.PacketFilters. There is one per distinct list of
// sources; Key is made from the text of that list, so it stays when other
// rules come and go. Rules and their SrcIPs are shared with other callers; read
// only. Equal SrcIPs of different nodes are the same slice.
type FilterGroup struct {
	Key   string
	Rules []tailcfg.FilterRule
}

// source holds the addresses of a set as a source, computed when first asked.
type source struct{ ips atomic.Pointer[[]string] }

// tailnetRanges are the addresses that nodes can have: CGNAT without the part
// that ChromeOS uses for itself, and the ULA range.
var tailnetRanges = []netipx.IPRange{
	netipx.MustParseIPRange("100.64.0.0-100.115.91.255"),
	netipx.MustParseIPRange("100.115.94.0-100.127.255.255"),
	netipx.RangeOfPrefix(tsaddr.TailscaleULARange()),
}

// internetRanges is what autogroup:internet stands for as a destination.
var internetRanges, internetSet = func() ([]string, *netipx.IPSet) {
	var b netipx.IPSetBuilder
	b.AddPrefix(netip.MustParsePrefix("0.0.0.0/0"))
	for _, p := range []string{"10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"} {
		b.RemovePrefix(netip.MustParsePrefix(p))
	}
	b.AddPrefix(netip.MustParsePrefix("2000::/3"))
	s, err := b.IPSet()
	if err != nil {
		panic(err) // constants
	}
	return rangeTexts(s), s
}()

func rangeTexts(s *netipx.IPSet) []string {
	ranges := s.Ranges()
	out := make([]string, len(ranges))
	for i, r := range ranges {
		if r.From() == r.To() {
			out[i] = r.From().String()
		} else if p, ok := r.Prefix(); ok {
			out[i] = p.String()
		} else {
			out[i] = r.String()
		}
	}
	return out
}

// wildcard reports whether a set is "*" whatever else it has: then its
// addresses do not depend on single nodes.
func (d *Doc) wildcard(set int32) bool {
	s := &d.sets[set]
	return s.check == 0 && (slices.Contains(s.terms, d.any) || slices.Contains(s.terms, d.danger))
}

// sourceIPs returns the addresses of a set as a source.
func (c *Compiled) sourceIPs(set int32) []string {
	cell := c.sources[set]
	if p := cell.ips.Load(); p != nil {
		return *p
	}
	out := c.buildSource(&c.doc.sets[set])
	cell.ips.Store(&out) // a race stores equal values
	return out
}

func (c *Compiled) buildSource(s *set) []string {
	d := c.doc
	if s.check == 0 && slices.Contains(s.terms, d.danger) {
		return []string{"*"}
	}
	if !slices.ContainsFunc(s.terms, func(t int32) bool { return t == d.any || d.terms[t].Prefixes != nil }) {
		return addressTexts(c.membersOf(s))
	}
	var b netipx.IPSetBuilder
	for _, t := range s.terms {
		switch tm := &d.terms[t]; {
		case t == d.any && s.check == 0:
			for _, r := range tailnetRanges {
				b.AddRange(r)
			}
			for _, p := range c.routing.subnets {
				b.AddPrefix(p)
			}
		case tm.Prefixes == nil:
			c.addMembers(&b, t, s.check)
		case s.check == 0:
			for _, p := range tm.Prefixes {
				b.AddPrefix(p)
			}
		default:
			c.addNodesIn(&b, t, s.check)
		}
	}
	out, err := b.IPSet()
	if err != nil {
		return nil // invalid addresses only, which nodes cannot have
	}
	return rangeTexts(out)
}

// membersOf returns the nodes that a set of identities has.
func (c *Compiled) membersOf(s *set) []*node {
	var out []*node
	for _, t := range s.terms {
		for _, n := range c.members[t] {
			if s.check == 0 || slices.Contains(n.sat, s.check) {
				out = append(out, n)
			}
		}
	}
	return out
}

// addressTexts are the addresses of nodes, neighbours joined to ranges. It does
// what an IPSetBuilder would, for the case that matters most: large groups.
func addressTexts(nodes []*node) []string {
	type address struct {
		netip.Addr
		text string
	}
	all := make([]address, 0, 2*len(nodes))
	for _, n := range nodes {
		for i, a := range n.addrs() {
			all = append(all, address{a, n.texts[i]})
		}
	}
	slices.SortFunc(all, func(a, b address) int { return a.Compare(b.Addr) })
	var out []string
	for len(all) > 0 {
		first, last := all[0], all[0]
		for all = all[1:]; len(all) > 0 && (all[0].Addr == last.Addr || all[0].Addr == last.Next()); all = all[1:] {
			last = all[0]
		}
		switch r := netipx.IPRangeFrom(first.Addr, last.Addr); {
		case first.Addr == last.Addr:
			out = append(out, first.text)
		default:
			if p, ok := r.Prefix(); ok {
				out = append(out, p.String())
			} else {
				out = append(out, r.String())
			}
		}
	}
	return out
}

// addMembers adds the addresses of the nodes that a term names.
func (c *Compiled) addMembers(b *netipx.IPSetBuilder, term, check int32) {
	for _, n := range c.members[term] {
		if check == 0 || slices.Contains(n.sat, check) {
			for _, a := range n.addrs() {
				b.Add(a)
			}
		}
	}
}

// addNodesIn adds the addresses inside a prefix term of the nodes that satisfy
// a check. What is not a node's address has no attributes to check.
func (c *Compiled) addNodesIn(b *netipx.IPSetBuilder, term, check int32) {
	for _, n := range c.nodes {
		if !slices.Contains(n.addr, term) || !slices.Contains(n.sat, check) {
			continue
		}
		for _, a := range n.addrs() {
			if slices.ContainsFunc(c.doc.terms[term].Prefixes, func(p netip.Prefix) bool { return p.Contains(a) }) {
				b.Add(a)
			}
		}
	}
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
	type from struct {
		set  int32
		self bool
	}
	at := map[from]*groupBuilder{}
	var order []*groupBuilder
	group := func(f from) *groupBuilder {
		g := at[f]
		if g == nil {
			g = &groupBuilder{key: c.doc.sets[f.set].hash, src: nil}
			if f.self {
				g.key, g.src = "self-"+g.key, c.selfIPs(n, f.set)
			} else {
				g.src = c.sourceIPs(f.set)
			}
			at[f] = g
			order = append(order, g)
		}
		return g
	}
	for _, h := range c.hits(n) {
		r := &c.doc.rules[h.rule]
		switch h.mode {
		case hitTarget:
			group(from{r.src, false}).add(c.targetsAt(n, r.dst), r.Flows, r.App)
		case hitSelf:
			group(from{r.src, true}).add(n.self(), r.Flows, r.App)
		case hitBack:
			group(from{r.dst, false}).add(n.self(), nil, r.Companion)
		case hitSelfBack:
			group(from{r.base, true}).add(n.self(), nil, r.Companion)
		}
	}
	var out []FilterGroup
	for _, g := range order {
		if rules := g.rules(); len(g.src) > 0 && len(rules) > 0 {
			out = append(out, FilterGroup{g.key, rules})
		}
	}
	return out
}

// selfIPs are the addresses of the nodes of n's user that the set has.
func (c *Compiled) selfIPs(n *node, set int32) []string {
	var out []*node
	for _, other := range c.nodesOf(n.User) {
		if slices.Contains(other.sat, c.doc.sets[set].check) {
			out = append(out, other)
		}
	}
	return addressTexts(out)
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
		t.prefixes = append(t.prefixes, host(a))
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
	src   []string
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
			g.ports = append(g.ports, tailcfg.FilterRule{SrcIPs: g.src, IPProto: f.Protos})
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

func (g *groupBuilder) rules() []tailcfg.FilterRule {
	out := slices.DeleteFunc(g.ports, func(r tailcfg.FilterRule) bool { return len(r.DstPorts) == 0 })
	if len(g.caps) > 0 {
		out = append(out, tailcfg.FilterRule{SrcIPs: g.src, CapGrant: g.caps})
	}
	return out
}
