// Package packet owns what the packet filters of clients let through.
//
// It refuses to know whose filter it is and which rules it was made of.
package packet

import (
	"net/netip"
	"slices"

	"tailscale.com/tailcfg"

	"heddle/policy/syntax"
)

// Allowing returns the part of a filter rule that allows a flow.
func Allowing(r tailcfg.FilterRule, src, dst netip.Addr, proto int, port uint16) (tailcfg.FilterRule, bool) {
	covers := func(ips string, a netip.Addr) bool {
		if ips == "*" {
			return true
		}
		ps, err := syntax.ParsePrefixes(ips)
		return err == nil && slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	out := tailcfg.FilterRule{IPProto: r.IPProto}
	for _, ips := range r.SrcIPs {
		if covers(ips, src) {
			out.SrcIPs = append(out.SrcIPs, ips)
		}
	}
	for _, d := range r.DstPorts {
		if covers(d.IP, dst) && Passes(r.IPProto, d.Ports, dst, proto, port) {
			out.DstPorts = append(out.DstPorts, d)
		}
	}
	return out, len(out.SrcIPs) > 0 && len(out.DstPorts) > 0
}

// Passes is the decision of a client about a protocol and a port.
func Passes(protos []int, ports tailcfg.PortRange, dst netip.Addr, proto int, port uint16) bool {
	if dst.Is4() && proto == 1 || dst.Is6() && proto == 58 {
		return true
	}
	if len(protos) == 0 {
		protos = syntax.DefaultProtos
	}
	if syntax.HasPorts([]int{proto}) {
		return slices.Contains(protos, proto) && ports.Contains(port)
	}
	return slices.Contains(protos, proto) && ports == tailcfg.PortRangeAny
}
