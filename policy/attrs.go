package policy

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/tailscale/hujson"
	"tailscale.com/net/tsaddr"
	"tailscale.com/tailcfg"
)

var attrFields = newSchema("nodeAttrs entry", "target", "attr", "app", "ipPool")

func (p *parser) nodeAttrs(v *hujson.Value) {
	p.elements(v, "nodeAttrs", func(v *hujson.Value) {
		r := attrRule{caps: tailcfg.NodeCapMap{}}
		p.fields(v, attrFields, func(name string, v *hujson.Value) {
			switch name {
			case "target":
				terms, _ := p.terms("target", p.strs(v, "target"), attrTargets)
				r.target = p.d.set(terms, 0, nil)
			case "attr":
				for _, a := range p.strs(v, "attr") {
					if strings.TrimSpace(a.s) == "" {
						p.fail(a.off, "attr: an empty string is not valid")
					}
					r.caps[tailcfg.NodeCapability(a.s)] = nil
				}
			case "app":
				p.attrApp(v, r.caps)
			case "ipPool":
				r.pool = p.ipPool(v)
			}
		})
		p.d.attrs = append(p.d.attrs, r)
	})
}

// attrApp reads app values of a node: capability name to a list of values.
func (p *parser) attrApp(v *hujson.Value, caps tailcfg.NodeCapMap) {
	p.members(v, "app", func(key text, v *hujson.Value) {
		domain, path, ok := strings.Cut(key.s, "/")
		if !ok || domain == "" || path == "" || strings.Contains(domain, ":") {
			p.fail(key.off, "app: %q: capability name must have the form {domain}/{path}", key.s)
		}
		name := tailcfg.NodeCapability(key.s)
		p.elements(v, "app["+key.s+"]", func(v *hujson.Value) {
			caps[name] = append(caps[name], tailcfg.RawMessage(p.raw(v)))
		})
		if _, ok := caps[name]; !ok {
			caps[name] = nil
		}
	})
}

func (p *parser) ipPool(v *hujson.Value) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range p.strs(v, "ipPool") {
		ps, err := parsePrefixes(strings.TrimSpace(t.s))
		if err != nil {
			p.fail(t.off, "ipPool: %v", err)
			continue
		}
		for _, one := range ps {
			if !one.Addr().Is4() || one.Bits() < tsaddr.CGNATRange().Bits() || !tsaddr.CGNATRange().Contains(one.Addr()) {
				p.fail(t.off, "ipPool: %q is not inside %v", t.s, tsaddr.CGNATRange())
				break
			}
		}
		out = append(out, ps...)
	}
	return out
}

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
		for name, values := range r.caps {
			have := out[name]
			for _, v := range values {
				if !slices.Contains(have, v) {
					have = append(slices.Clip(have), v)
				}
			}
			out[name] = have
		}
	}
	if c.doc.randomizeClientPort {
		out[tailcfg.NodeAttrRandomizeClientPort] = nil
	}
	if c.doc.disableIPv4 {
		out[disableIPv4] = nil
	}
	if c.doc.oneCGNAT != "" && n.Attrs["node:os"] == "macos" {
		if c.doc.oneCGNAT == "mac-always" {
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

// IPv4Off reports whether the node is to have no IPv4 address.
func (c *Compiled) IPv4Off(id NodeID) bool {
	n := c.node(id)
	return n != nil && n.v4off
}

// IPPool returns the ranges that an IPv4 address for the node is to come from,
// nil if the policy does not care.
func (c *Compiled) IPPool(id NodeID) []netip.Prefix {
	n := c.node(id)
	if n == nil {
		return nil
	}
	for i := range c.doc.attrs {
		if r := &c.doc.attrs[i]; len(r.pool) > 0 && n.within(c.doc, r.target) {
			return slices.Clone(r.pool)
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
		return hasAny(n.ident.terms, c.doc.exitNode)
	}
	return slices.ContainsFunc(c.doc.approvers.routes, func(a routeApprover) bool {
		return a.prefix.Bits() <= route.Bits() && a.prefix.Contains(route.Addr()) && hasAny(n.ident.terms, a.terms)
	})
}

// AutoApprovesService reports whether the policy approves that the node hosts
// a service ("svc:name").
func (c *Compiled) AutoApprovesService(id NodeID, service string) bool {
	n := c.node(id)
	return n != nil && hasAny(n.ident.terms, c.doc.services[service])
}
