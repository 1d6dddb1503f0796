package impact

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"heddle/policy"

	"tailscale.com/tailcfg"
)

// content is what a grant says: an entry of a packet filter or of an SSH
// policy, in words that are the same at all destinations that it is the same at.
type content struct {
	protos []int // nil: TCP, UDP, ICMP
	ports  []portsAt
	apps   map[string]string // "app NAME" and maybe where → values
	ssh    *tailcfg.SSHRule
}

// portsAt are ports of the destination itself, or of what it routes to.
type portsAt struct {
	self4, self6 bool
	routed       netip.Prefix // not valid: nothing
	ports        tailcfg.PortRange
}

// filter returns the grants of a node's packet filter.
func (c *comparison) filter(p *policy.Compiled, n *policy.Node) []grant {
	var out []grant
	for _, g := range p.Filter(n.ID) {
		for _, r := range g.Rules {
			one := content{protos: r.IPProto, apps: map[string]string{}}
			var key strings.Builder
			fmt.Fprint(&key, r.IPProto)
			for _, d := range r.DstPorts {
				for _, at := range placesAt(n, d) {
					one.ports = append(one.ports, at)
					fmt.Fprint(&key, at)
				}
			}
			for _, g := range r.CapGrant {
				one.addApps(n, g)
			}
			for _, name := range slices.Sorted(maps.Keys(one.apps)) {
				fmt.Fprint(&key, name, one.apps[name])
			}
			if len(one.ports)+len(one.apps) > 0 {
				cover := c.finder.find(r.SrcIPs)
				out = append(out, grant{c.covers.id(cover.key(), cover), c.contents.id(key.String(), one)})
			}
		}
	}
	return out
}

// placesAt returns what a destination of a filter is at a node.
func placesAt(n *policy.Node, d tailcfg.NetPortRange) []portsAt {
	all := d.IP == "*"
	r := parseRange(d.IP)
	out := []portsAt{{
		self4: n.IPv4.IsValid() && (all || r.Contains(n.IPv4)),
		self6: n.IPv6.IsValid() && (all || r.Contains(n.IPv6)), ports: d.Ports,
	}}
	if !out[0].self4 && !out[0].self6 {
		out = nil
	}
	for _, route := range n.Approved {
		if all {
			out = append(out, portsAt{routed: route, ports: d.Ports})
			continue
		}
		for _, p := range r.Prefixes() {
			switch {
			case !p.Overlaps(route):
			case p.Bits() > route.Bits():
				out = append(out, portsAt{routed: p, ports: d.Ports})
			default:
				out = append(out, portsAt{routed: route, ports: d.Ports})
			}
		}
	}
	return out
}

func (one *content) addApps(n *policy.Node, g tailcfg.CapGrant) {
	var where []string
	for _, p := range g.Dsts {
		if p.Contains(n.IPv4) || p.Contains(n.IPv6) {
			where = append(where, "")
			continue
		}
		for _, route := range n.Approved {
			if p.Overlaps(route) {
				where = append(where, " at "+p.String())
				break
			}
		}
	}
	for name, values := range g.CapMap {
		for _, w := range where {
			one.apps["app "+string(name)+w] = fmt.Sprint(values)
		}
	}
	for _, name := range g.Caps {
		for _, w := range where {
			one.apps["app "+string(name)+w] = ""
		}
	}
}

// ssh returns the grants of a node's SSH policy, in the order of evaluation.
func (c *comparison) ssh(p *policy.Compiled, n *policy.Node) []grant {
	pol := p.SSH(n.ID)
	if pol == nil {
		return nil
	}
	var out []grant
	for _, r := range pol.Rules {
		var from []string
		for _, who := range r.Principals {
			from = append(from, who.NodeIP)
		}
		cover := c.finder.find(from)
		key := fmt.Sprint("ssh", r.SSHUsers, sshAction(r.Action), r.AcceptEnv)
		out = append(out, grant{c.covers.id(cover.key(), cover), c.contents.id(key, content{ssh: r})})
	}
	return out
}

func sshAction(a *tailcfg.SSHAction) string {
	switch {
	case a == nil || a.Reject:
		return "reject"
	case a.Accept && len(a.Recorders) > 0:
		return "recorded"
	case a.Accept:
		return "accept"
	}
	return "check"
}
