package tailnet

import (
	"net/netip"
	"slices"
	"strings"

	"tailscale.com/net/tsaddr"
	"tailscale.com/tailcfg"
)

// Bounds on what a client may say of itself: generous beside what stock
// clients send, small beside what a hostile one could.
const (
	maxHostText = 256
	maxRoutes   = 4096 // an app connector advertises one route per address that it learns
	maxTags     = 64
	maxHostKeys = 16
	maxHostKey  = 4096
	maxServices = 16
)

// CleanHostinfo returns a copy of what a client said of itself, cut to bounds,
// in canonical order, without what changes all the time and nobody reads. A nil h
// gives an empty one. The caller owns the result until it is published.
func CleanHostinfo(h *tailcfg.Hostinfo) *tailcfg.Hostinfo {
	if h == nil {
		return &tailcfg.Hostinfo{}
	}
	c := h.Clone()
	for _, s := range []*string{
		&c.IPNVersion, &c.FrontendLogID, &c.BackendLogID, &c.OS, &c.OSVersion, &c.Env, &c.Distro, &c.DistroVersion,
		&c.DistroCodeName, &c.App, &c.Package, &c.DeviceModel, &c.PushDeviceToken, &c.Hostname, &c.Machine, &c.GoArch,
		&c.GoArchVar, &c.GoVersion, &c.Cloud, &c.ServicesHash,
	} {
		*s = cutText(*s)
	}
	c.RoutableIPs = cleanAdvertised(c.RoutableIPs)
	c.RequestTags = sortedUnique(slices.DeleteFunc(c.RequestTags, func(t string) bool {
		return len(t) > maxHostText || tailcfg.CheckTag(t) != nil
	}))
	c.RequestTags = c.RequestTags[:min(len(c.RequestTags), maxTags)]
	c.WoLMACs = nil
	c.Services = slices.DeleteFunc(c.Services, func(s tailcfg.Service) bool {
		switch s.Proto {
		case tailcfg.PeerAPI4, tailcfg.PeerAPI6, tailcfg.PeerAPIDNS:
			return false
		}
		return true // port lists of the OS: clients are told not to collect them
	})
	c.Services = c.Services[:min(len(c.Services), maxServices)]
	for i := range c.Services {
		c.Services[i].Description = cutText(c.Services[i].Description)
	}
	c.SSH_HostKeys = slices.DeleteFunc(c.SSH_HostKeys, func(k string) bool { return len(k) > maxHostKey })
	c.SSH_HostKeys = c.SSH_HostKeys[:min(len(c.SSH_HostKeys), maxHostKeys)]
	if ni := c.NetInfo; ni != nil {
		// Latencies jitter with each netcheck; keeping them would make every report news.
		c.NetInfo = &tailcfg.NetInfo{PreferredDERP: ni.PreferredDERP, WorkingIPv6: ni.WorkingIPv6, WorkingUDP: ni.WorkingUDP}
	}
	return c
}

// cutText makes text valid UTF-8 of bounded length.
func cutText(s string) string {
	if len(s) > maxHostText {
		s = s[:maxHostText]
	}
	return strings.ToValidUTF8(s, "")
}

// cleanAdvertised returns the routes sorted, without doubles, without what no
// router can offer.
func cleanAdvertised(in []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range in {
		if !p.IsValid() || p.Addr().Is4In6() || p.Addr().IsLoopback() || p.Addr().IsMulticast() {
			continue
		}
		if p = p.Masked(); insideTailnet(p) {
			continue
		}
		out = append(out, p)
	}
	tsaddr.SortPrefixes(out)
	out = slices.Compact(out)
	return out[:min(len(out), maxRoutes)]
}

// insideTailnet reports whether a route would draw the tailnet's own
// addresses to one node. 4via6 routes lie inside the range but are no node's.
func insideTailnet(p netip.Prefix) bool {
	if via := tsaddr.TailscaleViaRange(); via.Contains(p.Addr()) && p.Bits() >= via.Bits() {
		return false
	}
	for _, own := range []netip.Prefix{tsaddr.CGNATRange(), tsaddr.TailscaleULARange()} {
		if own.Contains(p.Addr()) && p.Bits() >= own.Bits() {
			return true
		}
	}
	return false
}
