// Package explain owns the answers to questions about a policy, for people: who
// reaches whom and why, what a node is sent, and what another policy would change.
//
// It refuses to know who asks, and which policy they mean.
package explain

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"heddle/control/tailnet"
	"heddle/policy"
	v1 "heddle/proto/heddle/v1"

	"github.com/tailscale/hujson"
	"tailscale.com/tailcfg"
	"tailscale.com/types/ipproto"
)

// Bounds of an explanation: each pair costs a look at every rule.
const (
	maxPairs    = 2000
	maxFlows    = 50
	maxRuleText = 300
)

// maxTexts bounds the addresses, routes and the like in one answer, some 10 MB.
const maxTexts = 200_000

// ration is how many texts an answer may still hold.
type ration int

// take returns how many of n texts may be listed, at most maxListed, and takes
// them off.
func (r *ration) take(n int) int {
	n = min(n, maxListed, int(*r))
	*r -= ration(n)
	return n
}

// subject is one end of a flow.
type subject struct {
	name   string
	node   tailnet.NodeID // zero: not a node
	v4, v6 netip.Addr
}

// Flows answers whether somebody can reach something: with the rules of compiled,
// which was compiled with the users and nodes of the snapshot and of which source is the text.
func Flows(ctx context.Context, snap *tailnet.Snapshot, compiled *policy.Compiled, source string, req *v1.ExplainPolicyRequest) (*v1.ExplainPolicyResponse, error) {
	from, err := subjects(snap, compiled, req.GetSource())
	if err != nil {
		return nil, err
	}
	to, err := subjects(snap, compiled, req.GetDestination())
	if err != nil {
		return nil, err
	}
	if len(from)*len(to) > maxPairs {
		return nil, tailnet.Errorf(tailnet.Invalid, "these are %d pairs of nodes, more than %d; name a node", len(from)*len(to), maxPairs)
	}
	proto, err := protocolOf(req.GetProtocol(), req.GetPort())
	if err != nil {
		return nil, err
	}
	out := &v1.ExplainPolicyResponse{Allowed: true}
	rules := ruleTexts(source)
	pairs, left := 0, ration(maxTexts)
	for _, a := range from {
		for _, b := range to {
			if a.node != 0 && a.node == b.node {
				continue
			}
			pairs++
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			src, dst, ok := inOneFamily(a, b)
			if !ok {
				return nil, tailnet.Errorf(tailnet.Invalid, "%s and %s have no address of the same family", a.name, b.name)
			}
			e := compiled.Explain(src, dst, proto.number(dst), uint16(req.GetPort()))
			out.Allowed = out.Allowed && e.Allowed
			if len(out.Flows) == maxFlows || left == 0 {
				out.Omitted++
				continue
			}
			out.Flows = append(out.Flows, protoFlow(snap, rules, e, a, b, src, dst, &left))
		}
	}
	if pairs == 0 {
		return nil, tailnet.Errorf(tailnet.Invalid, "source and destination are the same node: it always reaches itself")
	}
	return out, nil
}

// subjects understands how people name ends of a flow.
func subjects(snap *tailnet.Snapshot, compiled *policy.Compiled, ref string) ([]subject, error) {
	ref = strings.TrimSpace(ref)
	if ip, err := netip.ParseAddr(ref); err == nil {
		out := subject{name: ref}
		if n := snap.NodeByIP(ip); n != nil {
			out.name, out.node = n.Name, n.ID
		}
		if ip = ip.Unmap(); ip.Is4() {
			out.v4 = ip
		} else {
			out.v6 = ip.WithZone("")
		}
		return []subject{out}, nil
	}
	var has func(*tailnet.Node) bool
	if strings.HasPrefix(ref, "tag:") {
		has = func(n *tailnet.Node) bool { return slices.Contains(n.Tags, ref) }
	} else if n, err := snap.ParseNodeRef(ref); err == nil {
		has = func(other *tailnet.Node) bool { return other == n }
	} else if u, err := snap.ParseUserRef(ref); err == nil {
		has = func(n *tailnet.Node) bool { return n.Owner == u.ID }
	} else {
		return nil, tailnet.Errorf(tailnet.NotFound, "no node, user or tag %q (give a node's ID, name or address, a user, a tag, or any IP address)", ref)
	}
	var out []subject
	for n := range snap.Nodes() {
		if has(n) {
			one := subject{n.Name, n.ID, n.Addrs.V4, n.Addrs.V6}
			if compiled.IPv4Off(policy.NodeID(n.ID)) {
				one.v4 = netip.Addr{}
			}
			out = append(out, one)
		}
	}
	if len(out) == 0 {
		return nil, tailnet.Errorf(tailnet.NotFound, "no node belongs to %s; ask about a node or an address", ref)
	}
	return out, nil
}

func inOneFamily(a, b subject) (src, dst netip.Addr, ok bool) {
	switch {
	case a.v4.IsValid() && b.v4.IsValid():
		return a.v4, b.v4, true
	case a.v6.IsValid() && b.v6.IsValid():
		return a.v6, b.v6, true
	}
	return src, dst, false
}

// protocol is an IP protocol; zero is any.
type protocol int

// protocolOf reads a protocol and whether it fits the port.
func protocolOf(name string, port uint32) (protocol, error) {
	var p ipproto.Proto
	if err := p.UnmarshalText([]byte(strings.ToLower(name))); err != nil {
		return 0, tailnet.Errorf(tailnet.Invalid, "protocol %q is not known; give tcp, udp, sctp, icmp or another, or a number", name)
	}
	if name == "" && port > 0 {
		p = ipproto.TCP
	}
	if port > 1<<16-1 {
		return 0, tailnet.Errorf(tailnet.Invalid, "there is no port %d", port)
	}
	hasPorts := p == ipproto.TCP || p == ipproto.UDP || p == ipproto.SCTP
	if hasPorts && port == 0 {
		return 0, tailnet.Errorf(tailnet.Invalid, "%v needs a port: DESTINATION:PORT", p)
	}
	if !hasPorts && port > 0 {
		return 0, tailnet.Errorf(tailnet.Invalid, "%v has no ports", p)
	}
	return protocol(p), nil
}

// number is the protocol for an address. Any is ICMP: clients let that pass
// wherever something is allowed.
func (p protocol) number(dst netip.Addr) int {
	if p != 0 && p != protocol(ipproto.ICMPv4) && p != protocol(ipproto.ICMPv6) {
		return int(p)
	}
	if dst.Is4() {
		return int(ipproto.ICMPv4)
	}
	return int(ipproto.ICMPv6)
}

func protoFlow(snap *tailnet.Snapshot, rules map[int]string, e policy.Explanation, a, b subject, src, dst netip.Addr, left *ration) *v1.PolicyFlow {
	out := &v1.PolicyFlow{
		Source: a.name, SourceIp: src.String(), Destination: b.name, DestinationIp: dst.String(), Allowed: e.Allowed,
	}
	for _, line := range e.Lines[:left.take(len(e.Lines))] {
		out.Rules = append(out.Rules, &v1.PolicyRule{Line: uint32(line), Text: rules[line]})
	}
	for _, id := range e.At[:left.take(len(e.At))] {
		out.Via = append(out.Via, nodeName(snap, id))
	}
	for _, r := range e.Entries[:min(len(e.Entries), maxFlows)] {
		out.Entries = append(out.Entries, protoFilterRule(r, left))
	}
	return out
}

// ruleTexts returns the acls and grants of a policy by the line on which they
// start, as compact JSON.
func ruleTexts(source string) map[int]string {
	out := map[int]string{}
	root, err := hujson.Parse([]byte(source))
	if err != nil {
		return out
	}
	top, ok := root.Value.(*hujson.Object)
	if !ok {
		return out
	}
	line, from := 1, 0
	for i := range top.Members {
		name := top.Members[i].Name.Value.(hujson.Literal).String()
		list, ok := top.Members[i].Value.Value.(*hujson.Array)
		if !ok || !strings.EqualFold(name, "acls") && !strings.EqualFold(name, "grants") {
			continue
		}
		for j := range list.Elements {
			e := &list.Elements[j]
			line += strings.Count(source[from:e.StartOffset], "\n")
			from = e.StartOffset
			c := e.Clone()
			c.Minimize()
			text := string(c.Pack())
			if len(text) > maxRuleText {
				text = strings.ToValidUTF8(text[:maxRuleText], "") + "…"
			}
			if out[line] != "" {
				text = out[line] + ", " + text
			}
			out[line] = text
		}
	}
	return out
}

// maxListed bounds every list of a preview.
const maxListed = 1000

// protoFilterRule lists as much of r as is left to list; the counts are of all.
func protoFilterRule(r tailcfg.FilterRule, left *ration) *v1.PolicyFilterRule {
	out := &v1.PolicyFilterRule{
		Sources: r.SrcIPs[:left.take(len(r.SrcIPs))], SourceCount: uint32(len(r.SrcIPs)), DestinationCount: uint32(len(r.DstPorts)),
	}
	for _, d := range r.DstPorts[:left.take(len(r.DstPorts))] {
		ip := d.IP
		if strings.Contains(ip, ":") {
			ip = "[" + ip + "]"
		}
		out.Destinations = append(out.Destinations, ip+":"+d.Ports.String())
	}
	for _, p := range r.IPProto {
		out.Protocols = append(out.Protocols, uint32(p))
	}
	for _, g := range r.CapGrant {
		for _, dst := range g.Dsts[:left.take(min(len(g.Dsts), max(0, maxListed-len(out.Destinations))))] {
			out.Destinations = append(out.Destinations, dst.String())
		}
		out.DestinationCount += uint32(len(g.Dsts))
		for name := range g.CapMap {
			out.Capabilities = append(out.Capabilities, string(name))
		}
		for _, name := range g.Caps {
			out.Capabilities = append(out.Capabilities, string(name))
		}
	}
	slices.Sort(out.Capabilities)
	out.Capabilities = slices.Compact(out.Capabilities)
	return out
}
