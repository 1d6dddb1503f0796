package syntax

import (
	"net/netip"
	"strings"

	"github.com/tailscale/hujson"
	"tailscale.com/net/tsaddr"
	"tailscale.com/tailcfg"
)

var attrFields = newSchema("nodeAttrs entry", "target", "attr", "app", "ipPool")

func (p *parser) nodeAttrs(v *hujson.Value) {
	kept := 0
	p.entries(v, "nodeAttrs", func(v *hujson.Value) {
		kept = len(p.d.Attrs)
		r := Attr{Caps: tailcfg.NodeCapMap{}}
		p.fields(v, attrFields, func(name string, v *hujson.Value) {
			switch name {
			case "target":
				r.Target, _ = p.selectors("target", p.strs(v, "target"), attrTargets)
			case "attr":
				for _, a := range p.strs(v, "attr") {
					if strings.TrimSpace(a.s) == "" {
						p.fail(a.off, "attr: an empty string is not valid")
					}
					if a.s == string(tailcfg.NodeAttrFunnel) {
						p.feature(FeatureFunnel, a.off)
					}
					r.Caps[tailcfg.NodeCapability(a.s)] = nil
				}
			case "app":
				p.attrApp(v, r.Caps)
			case "ipPool":
				p.feature(FeatureIPPool, v.StartOffset)
				r.Pool = p.ipPool(v)
			}
		})
		p.d.Attrs = append(p.d.Attrs, r)
	}, func() { p.d.Attrs = p.d.Attrs[:kept] })
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
		ps, err := ParsePrefixes(strings.TrimSpace(t.s))
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
