package policy

import (
	"net/netip"
	"slices"

	"tailscale.com/tailcfg"

	"heddle/policy/syntax"
)

// Caps returns the capabilities that a node itself gets by nodeAttrs, the
// top-level settings of the policy and the settings of the tailnet; nil if
// there are none. The caller may keep and change the map, not the values.
func (c *Compiled) Caps(id NodeID) tailcfg.NodeCapMap {
	n := c.node(id)
	if n == nil {
		return nil
	}
	out := tailcfg.NodeCapMap{}
	for i := range c.doc.attrs {
		r := &c.doc.attrs[i]
		if !n.within(c.doc, r.target) {
			continue
		}
		for name, values := range r.Caps {
			have := out[name]
			for _, v := range values {
				if !slices.Contains(have, v) {
					have = append(slices.Clip(have), v)
				}
			}
			out[name] = have
		}
	}
	if c.doc.text.RandomizeClientPort {
		out[tailcfg.NodeAttrRandomizeClientPort] = nil
	}
	if c.doc.text.DisableIPv4 {
		out[disableIPv4] = nil
	}
	if c.doc.text.OneCGNAT != "" && n.Attrs["node:os"] == "macos" {
		if c.doc.text.OneCGNAT == "mac-always" {
			out[tailcfg.NodeAttrOneCGNATEnable] = nil
		} else {
			out[tailcfg.NodeAttrOneCGNATDisable] = nil
		}
	}
	if a := c.settings.AutoUpdates; a != nil {
		v := tailcfg.RawMessage("false")
		if *a {
			v = "true"
		}
		out[tailcfg.NodeAttrDefaultAutoUpdate] = []tailcfg.RawMessage{v}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// disableIPv4 is not among the constants of tailcfg: it is an instruction to
// the control server.
const disableIPv4 tailcfg.NodeCapability = "disable-ipv4"

// IPv4Off reports whether the node is to have no IPv4 address: neither it nor
// its peers are told of one, and it is told of no IPv4 address of its peers.
// IPv4 subnet routes stay.
func (c *Compiled) IPv4Off(id NodeID) bool {
	n := c.node(id)
	return n != nil && n.v4off
}

// IPPool returns the ranges that an IPv4 address for a new node is to come from:
// of the user u, or with tags if u is nil. Nil if the policy does not care.
// Read only.
func (d *Doc) IPPool(u *User, tags []string) []netip.Prefix {
	names := tagNames(tags)
	if u != nil {
		names = d.userNames(u)
	}
	i := d.newIdentity(names)
	for _, r := range d.attrs {
		if len(r.Pool) > 0 && hasAny(i.terms, d.sets[r.target].terms) {
			return r.Pool
		}
	}
	return nil
}

// IPPool is Doc.IPPool for a node that there is, and counts its addresses too.
// Read only.
func (c *Compiled) IPPool(id NodeID) []netip.Prefix {
	n := c.node(id)
	if n == nil {
		return nil
	}
	for _, r := range c.doc.attrs {
		if len(r.Pool) > 0 && n.within(c.doc, r.target) {
			return r.Pool
		}
	}
	return nil
}

// PeerCaps returns the capabilities that viewer is shown on peer, nil if none.
func (c *Compiled) PeerCaps(viewer, peer NodeID) tailcfg.NodeCapMap {
	if n := c.node(peer); n != nil && n.exit {
		return tailcfg.NodeCapMap{tailcfg.NodeAttrSuggestExitNode: nil}
	}
	return nil
}

// AutoApproves reports whether the policy approves a route that the node
// advertises. Exit routes are a matter of exitNode only, however wide an entry
// of routes is.
func (c *Compiled) AutoApproves(id NodeID, route netip.Prefix) bool {
	n := c.node(id)
	if n == nil || !route.IsValid() {
		return false
	}
	route = route.Masked()
	if route.Bits() == 0 {
		return hasAny(n.ident.terms, c.doc.exit)
	}
	return slices.ContainsFunc(c.doc.routes, func(a routeApprover) bool {
		return a.prefix.Bits() <= route.Bits() && a.prefix.Contains(route.Addr()) && hasAny(n.ident.terms, a.terms)
	})
}

// AutoApprovesService reports whether the policy approves that the node hosts
// a service ("svc:name").
func (c *Compiled) AutoApprovesService(id NodeID, service string) bool {
	n := c.node(id)
	return n != nil && slices.ContainsFunc(c.doc.text.Services[service], func(s syntax.Selector) bool { return c.doc.named(&n.Node, n.ident.user, s) })
}
