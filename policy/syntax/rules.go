package syntax

import (
	"net/netip"
	"strings"

	"github.com/tailscale/hujson"
	"tailscale.com/tailcfg"
)

var (
	// Users and Ports are the names of src and dst in old policies.
	aclFields   = newSchema("acl", "action", "src|users", "dst|ports", "proto", "srcPosture")
	grantFields = newSchema("grant", "src", "dst", "ip", "app", "via", "srcPosture")
)

func (p *parser) acls(v *hujson.Value) {
	kept := 0
	p.entries(v, "acls", func(v *hujson.Value) {
		kept = len(p.d.Rules)
		var src, dst []text
		var action, proto text
		check := p.defaultCheck
		p.fields(v, aclFields, func(name string, v *hujson.Value) {
			switch name {
			case "action":
				action, _ = p.str(v, "action")
			case "proto":
				proto, _ = p.str(v, "proto")
			case "src":
				src = p.strs(v, "src")
			case "dst":
				dst = p.strs(v, "dst")
			case "srcPosture":
				check = p.check("srcPosture", v)
			}
		})
		switch a := strings.TrimSpace(action.s); {
		case a == "accept":
		case action.off == 0:
			p.fail(v.StartOffset, `an acl needs "action": "accept"`)
		default:
			p.fail(action.off, "action=%q is not supported; the only action is \"accept\"", a)
		}
		protos, err := ParseProto(strings.TrimSpace(proto.s))
		if err != nil {
			p.fail(proto.off, "%v", err)
		}
		p.acl(v, src, dst, protos, check)
	}, func() { p.d.Rules = p.d.Rules[:kept] })
}

// acl adds one rule per distinct port list of the entry's destinations.
func (p *parser) acl(v *hujson.Value, src, dst []text, protos []int, check []string) {
	type part struct {
		ports []tailcfg.PortRange
		dst   []Selector
		self  bool
	}
	var parts []*part
	byPorts := map[string]*part{}
	anySelf := false
	for _, t := range dst {
		host, ports, err := SplitPorts(strings.TrimSpace(t.s))
		if err != nil {
			p.fail(t.off, "dst=%v", err)
			continue
		}
		ranges, err := parsePorts(ports)
		if err != nil {
			p.fail(t.off, "dst=%q: %v", t.s, err)
			continue
		}
		if !HasPorts(protos) && ports != "*" {
			p.fail(t.off, "dst=%q: this protocol has no ports; write %q", t.s, host+":*")
		}
		one := byPorts[ports]
		if one == nil {
			one = &part{ports: ranges}
			byPorts[ports] = one
			parts = append(parts, one)
		}
		terms, self := p.selectors("dst", []text{{host, t.off}}, aclTargets)
		one.dst = append(one.dst, terms...)
		one.self = one.self || self
		anySelf = anySelf || self
	}
	srcTerms := p.sources(src, anySelf, true)
	line, _ := p.place(v.StartOffset)
	for _, one := range parts {
		p.addRule(Rule{Line: line, Self: one.self, Flows: []Flows{{protos, one.ports}}}, srcTerms, one.dst, check, nil)
	}
}

// sources resolves the src of a rule. With autogroup:self as a destination all
// of them must be users.
func (p *parser) sources(src []text, self, anyIsUsers bool) []Selector {
	ids, _ := p.selectors("src", src, aclSources)
	if !self {
		return ids
	}
	allowed := Member | Role | User | Domain | Group
	if anyIsUsers {
		allowed |= Any
	}
	for _, t := range src {
		if tm, err := p.d.Lookup(strings.TrimSpace(t.s)); err == nil && tm.Kind&allowed == 0 {
			p.fail(t.off, "src=%q: autogroup:self can only be used with users, groups, or supported autogroups", t.s)
		}
	}
	return ids
}

func (p *parser) addRule(r Rule, src, dst []Selector, check []string, via []Selector) {
	r.Src, r.Dst, r.Postures, r.Via = src, dst, check, via
	p.d.Rules = append(p.d.Rules, r)
}

// grant is one entry of grants as written.
type grant struct {
	src, dst, ip, via []text
	app               *hujson.Value
	check             []string
}

func (p *parser) grants(v *hujson.Value) {
	kept := 0
	p.entries(v, "grants", func(v *hujson.Value) {
		kept = len(p.d.Rules)
		g := grant{check: p.defaultCheck}
		p.fields(v, grantFields, func(name string, v *hujson.Value) {
			switch name {
			case "src":
				g.src = p.strs(v, "src")
			case "dst":
				g.dst = p.strs(v, "dst")
			case "ip":
				g.ip = p.strs(v, "ip")
			case "via":
				g.via = p.strs(v, "via")
			case "app":
				g.app = v
			case "srcPosture":
				g.check = p.check("srcPosture", v)
			}
		})
		p.grant(v, g)
	}, func() { p.d.Rules = p.d.Rules[:kept] })
}

func (p *parser) grant(v *hujson.Value, g grant) {
	r := Rule{Flows: p.grantFlows(g.ip, len(g.dst))}
	r.Line, _ = p.place(v.StartOffset)
	if g.app != nil {
		r.App = p.capabilities(g.app)
	}
	if len(g.ip) == 0 && len(r.App) == 0 {
		p.fail(v.StartOffset, "ip and app can not both be empty")
	}
	dst, self := p.selectors("dst", g.dst, aclTargets)
	r.Self = self
	for _, t := range g.dst {
		p.grantTarget(t, g.app != nil)
	}
	src := p.sources(g.src, self, false)
	via, _ := p.selectors("via", g.via, tagsOnly)
	if len(via) > 0 {
		r.App = nil // a router has no use for it; the service does not send it
		if self {
			p.fail(v.StartOffset, "autogroup:self can not be combined with via")
		}
	}
	for name := range r.App {
		switch name {
		case tailcfg.PeerCapabilityTaildrive:
			p.companion(&r, tailcfg.PeerCapabilityTaildriveSharer)
		case tailcfg.PeerCapabilityRelay:
			p.companion(&r, tailcfg.PeerCapabilityRelayTarget)
		}
	}
	p.addRule(r, src, dst, g.check, via)
}

func (p *parser) companion(r *Rule, name tailcfg.PeerCapability) {
	if r.Companion == nil {
		r.Companion = tailcfg.PeerCapMap{}
	}
	r.Companion[name] = nil
}

func (p *parser) grantTarget(t text, app bool) {
	s := strings.TrimSpace(t.s)
	if pre, err := netip.ParsePrefix(s); err == nil && pre.Bits() == 0 {
		p.fail(t.off, `dst %q: to allow all IP addresses, use "*" or "autogroup:internet"`, s)
	}
	if app && s == "autogroup:internet" {
		p.fail(t.off, `dst %q: app can not be granted on the internet`, s)
	}
}

// grantFlows reads the ip field of a grant: PORTS or PROTO:PORTS.
func (p *parser) grantFlows(ip []text, targets int) []Flows {
	var out []Flows
	byProto := map[string]int{}
	count := 0
	for _, t := range ip {
		s := strings.TrimSpace(t.s)
		proto, ports, ok := strings.Cut(s, ":")
		if !ok {
			proto, ports = "", s
		}
		protos, err := ParseProto(proto)
		if err == nil && ok && proto == "" {
			p.fail(t.off, "ip=%q: the protocol is missing before ':'", s)
			continue
		}
		var ranges []tailcfg.PortRange
		if err == nil {
			ranges, err = parsePorts(ports)
		}
		if err != nil {
			p.fail(t.off, "ip=%q: %v", s, err)
			continue
		}
		if !HasPorts(protos) && ports != "*" {
			p.fail(t.off, "ip=%q: this protocol has no ports; write %q", s, proto+":*")
		}
		i, ok := byProto[proto]
		if !ok {
			i = len(out)
			byProto[proto] = i
			out = append(out, Flows{Protos: protos})
		}
		out[i].Ports = append(out[i].Ports, ranges...)
		if count += len(ranges) * targets; count > maxExpanded {
			p.fail(t.off, "ip: more than %d combinations of destination and port in one grant", maxExpanded)
			return nil
		}
	}
	for i := range out {
		out[i].Ports = mergePorts(out[i].Ports)
	}
	return out
}

// ownCaps are the capabilities of tailscale.com that a policy may grant.
var ownCaps = map[tailcfg.PeerCapability]bool{
	tailcfg.PeerCapabilityTaildrive: true, tailcfg.PeerCapabilityRelay: true, tailcfg.PeerCapabilityWebUI: true,
	tailcfg.PeerCapabilityKubernetes: true, tailcfg.PeerCapabilityTsIDP: true,
	"tailscale.com/cap/secrets": true, "tailscale.com/cap/golink": true,
}

// capabilities reads the app field: capability name to a list of values.
func (p *parser) capabilities(v *hujson.Value) tailcfg.PeerCapMap {
	out := tailcfg.PeerCapMap{}
	p.members(v, "app", func(key text, v *hujson.Value) {
		name := tailcfg.PeerCapability(key.s)
		domain, path, ok := strings.Cut(key.s, "/")
		switch {
		case !ok || domain == "" || path == "" || strings.Contains(domain, ":") || strings.ContainsAny(key.s, " \t\r\n"):
			p.fail(key.off, "app: %q: capability name must have the form {domain}/{path}", key.s)
		case (domain == "tailscale.com" || strings.HasSuffix(domain, ".tailscale.com")) && !ownCaps[name]:
			p.fail(key.off, "app: %q: capability name must not be in the tailscale.com domain", key.s)
		}
		values := []tailcfg.RawMessage{}
		p.elements(v, "app["+key.s+"]", func(v *hujson.Value) {
			values = append(values, tailcfg.RawMessage(p.raw(v)))
		})
		out[name] = values
	})
	return out
}
