package policy

import (
	"net/netip"
	"slices"

	"tailscale.com/net/tsaddr"
	"tailscale.com/tailcfg"
)

// Class stands for nodes that the policy treats alike: two nodes of a class
// get equal answers about any third node. Classes of different Compiled
// values are not comparable.
type Class int32

// FilterGroup is a part of a node's packet filter that is replaced as a whole:
// one entry of MapResponse.PacketFilters. Key is made from the policy's text,
// so it stays when other rules come and go. The rules are shared; read only.
type FilterGroup struct {
	Key   string
	Rules []tailcfg.FilterRule
}

// Compiled is a policy joined with the users and nodes of a tailnet. It is
// immutable and safe for concurrent use. Queries about a node that it does not
// know answer like a node that nothing is granted to.
type Compiled struct {
	doc   *Doc
	nodes map[NodeID]*Node
	t     Tailnet
}

// Doc is a parsed policy.
type Doc struct{}

// AllowAll returns the policy of a tailnet that has none: every node may reach
// every other, no tag has an owner.
func AllowAll() *Doc { return &Doc{} }

// Compile joins a policy with a tailnet. It is total: what it cannot resolve
// grants nothing.
func Compile(doc *Doc, t Tailnet) *Compiled {
	c := &Compiled{doc: doc, t: t, nodes: map[NodeID]*Node{}}
	for i := range t.Nodes {
		c.nodes[t.Nodes[i].ID] = &t.Nodes[i]
	}
	return c
}

// Class returns the class of a node.
func (c *Compiled) Class(id NodeID) Class {
	if c.nodes[id] == nil {
		return 0
	}
	return 1
}

// Visible reports whether a node of class viewer is to know a node of class
// peer. It is symmetric. If the classes are equal the question is about two
// different nodes of it.
func (c *Compiled) Visible(viewer, peer Class) bool { return viewer == 1 && peer == 1 }

// Filter returns the inbound packet filter of a node. Shared; read only.
func (c *Compiled) Filter(id NodeID) []FilterGroup {
	if c.nodes[id] == nil {
		return nil
	}
	src := []string{"100.64.0.0-100.115.91.255", "100.115.94.0-100.127.255.255", tsaddr.TailscaleULARange().String()}
	for _, n := range c.t.Nodes {
		for _, p := range n.Approved {
			if p.Bits() != 0 && !slices.Contains(src, p.String()) {
				src = append(src, p.String())
			}
		}
	}
	return []FilterGroup{{Key: "all", Rules: []tailcfg.FilterRule{{
		SrcIPs:   src,
		DstPorts: []tailcfg.NetPortRange{{IP: "*", Ports: tailcfg.PortRangeAny}},
	}}}}
}

// SSH returns the SSH policy of a node, nil if there is none.
func (c *Compiled) SSH(NodeID) *tailcfg.SSHPolicy { return nil }

// Caps returns the capabilities that a node itself gets by the policy and the
// settings of the tailnet. Nil if there are none.
func (c *Compiled) Caps(id NodeID) tailcfg.NodeCapMap { return nil }

// PeerCaps returns the capabilities that viewer is shown on peer.
func (c *Compiled) PeerCaps(viewer, peer NodeID) tailcfg.NodeCapMap {
	if p := c.nodes[peer]; p != nil && slices.ContainsFunc(p.Approved, func(r netip.Prefix) bool { return r.Bits() == 0 }) {
		return tailcfg.NodeCapMap{tailcfg.NodeAttrSuggestExitNode: nil}
	}
	return nil
}

// Routes returns the prefixes beyond its own addresses that viewer sends to
// peer. primary names the router that carries a subnet prefix at the moment;
// it is not asked about exit routes.
func (c *Compiled) Routes(viewer, peer NodeID, primary func(netip.Prefix) NodeID) []netip.Prefix {
	v, p := c.nodes[viewer], c.nodes[peer]
	if v == nil || p == nil || viewer == peer {
		return nil
	}
	var out []netip.Prefix
	for _, r := range p.Approved {
		if r.Bits() == 0 || primary(r) == peer {
			out = append(out, r)
		}
	}
	return out
}

// IPv4Off reports whether the node is to have no IPv4 address.
func (c *Compiled) IPv4Off(NodeID) bool { return false }

// AutoApproves reports whether the policy approves a route that the node
// advertises.
func (c *Compiled) AutoApproves(NodeID, netip.Prefix) bool { return false }

// RunTests runs the policy's own tests and sshTests. The error is an Errors.
func (c *Compiled) RunTests() error { return nil }
