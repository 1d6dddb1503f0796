package policy

import (
	"net/netip"
	"slices"
	"sync/atomic"

	"go4.org/netipx"
	"tailscale.com/net/tsaddr"

	"heddle/policy/prefixes"
)

// source holds the addresses of a set or a part as a source, as lists that are
// shared by whoever needs them, computed when first asked.
type source struct {
	lists atomic.Pointer[[][]string]
}

func (s *source) get(build func() [][]string) [][]string {
	if p := s.lists.Load(); p != nil {
		return *p
	}
	out := build()
	s.lists.Store(&out) // a race stores equal values
	return out
}

// part is a term of sets that have one check. Its addresses are computed once
// for all these sets.
type part struct{ term, check int32 }

// smallPart is up to how many nodes a part is joined with others in one list.
// Below it joining saves rules on the wire; above it sharing saves memory: a
// group of thousands may be a source of thousands of rules.
const smallPart = 32

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
	return prefixes.Texts(&b)
}()

// sourceParts returns the addresses of a set as a source, in lists of which
// none is empty.
func (c *Compiled) sourceParts(set int32) [][]string {
	return c.sources[set].get(func() [][]string { return c.buildSource(set) })
}

func (c *Compiled) buildSource(set int32) [][]string {
	d, s := c.doc, &c.doc.sets[set]
	if s.check == 0 && slices.Contains(s.terms, d.danger) {
		return [][]string{{"*"}}
	}
	var out [][]string
	if s.wild {
		out = append(out, c.routing.wildcard)
	}
	var rest netipx.IPSetBuilder
	var nodes []*node
	for i, t := range s.terms {
		tm := &d.terms[t]
		switch {
		case s.check == 0 && tm.Prefixes != nil:
			for _, p := range tm.Prefixes {
				rest.AddPrefix(p)
			}
		case s.wild: // has all nodes
		case tm.Prefixes != nil || len(c.members[t]) > smallPart:
			out = append(out, c.partIPs(s.parts[i])...)
		default:
			nodes = append(nodes, c.having(c.members[t], s.check)...)
		}
	}
	texts := addressTexts(nodes)
	if more, set := prefixes.Texts(&rest); len(more) > 0 {
		for _, n := range nodes {
			for _, a := range n.addrs() {
				rest.Add(a)
			}
		}
		if texts = more; len(nodes) > 0 && set != nil {
			texts, _ = prefixes.Texts(&rest)
		}
	}
	if len(texts) > 0 {
		out = append(out, texts)
	}
	return out
}

// having keeps the nodes that satisfy a check.
func (c *Compiled) having(nodes []*node, check int32) []*node {
	if check == 0 {
		return nodes
	}
	var out []*node
	for _, n := range nodes {
		if slices.Contains(n.sat, check) {
			out = append(out, n)
		}
	}
	return out
}

// partIPs returns the addresses of a part: one list, or none if it is empty.
func (c *Compiled) partIPs(id int32) [][]string {
	return c.parts[id].get(func() [][]string {
		p := c.doc.parts[id]
		tm := &c.doc.terms[p.term]
		var texts []string
		if tm.Prefixes == nil {
			texts = addressTexts(c.having(c.members[p.term], p.check))
		} else {
			texts = c.nodesIn(tm, p)
		}
		if len(texts) == 0 {
			return nil
		}
		return [][]string{texts}
	})
}

// nodesIn returns the addresses inside a prefix term of the nodes that satisfy
// a check. What is not a node's address has no attributes to check.
func (c *Compiled) nodesIn(tm *term, p part) []string {
	var b netipx.IPSetBuilder
	for _, n := range c.nodes {
		if !slices.Contains(n.addr, p.term) || !slices.Contains(n.sat, p.check) {
			continue
		}
		for _, a := range n.addrs() {
			if slices.ContainsFunc(tm.Prefixes, func(p netip.Prefix) bool { return p.Contains(a) }) {
				b.Add(a)
			}
		}
	}
	texts, _ := prefixes.Texts(&b)
	return texts
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
		if first.Addr == last.Addr {
			out = append(out, first.text)
		} else {
			out = append(out, prefixes.RangeText(netipx.IPRangeFrom(first.Addr, last.Addr)))
		}
	}
	return out
}
