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
	maxHostKeys = 8
	maxHostKey  = 1024 // an RSA key of 4096 bits takes 720
	maxServices = 16
)

// CleanHostinfo returns what heddle keeps of what a client said of itself: cut to bounds,
// in canonical order, without what changes all the time, what nobody reads
// (logs' IDs, TPM), and what only a server may say of a node (its location, that it is shared). A nil h
// gives an empty one. The caller owns the result until it is published.
func CleanHostinfo(h *tailcfg.Hostinfo) *tailcfg.Hostinfo {
	if h == nil {
		return &tailcfg.Hostinfo{}
	}
	c := &tailcfg.Hostinfo{
		IPNVersion: cutText(h.IPNVersion), OS: cutText(h.OS), OSVersion: cutText(h.OSVersion),
		Container: cutText(h.Container), Env: cutText(h.Env), Distro: cutText(h.Distro),
		DistroVersion: cutText(h.DistroVersion), DistroCodeName: cutText(h.DistroCodeName),
		App: cutText(h.App), Desktop: cutText(h.Desktop), Package: cutText(h.Package),
		DeviceModel: cutText(h.DeviceModel), Hostname: cutText(h.Hostname), Machine: cutText(h.Machine),
		GoArch: cutText(h.GoArch), GoArchVar: cutText(h.GoArchVar), GoVersion: cutText(h.GoVersion),
		Cloud: cutText(h.Cloud), Userspace: cutText(h.Userspace), UserspaceRouter: cutText(h.UserspaceRouter),
		AppConnector: cutText(h.AppConnector), ServicesHash: cutText(h.ServicesHash),
		ExitNodeID: cutText(h.ExitNodeID), StateEncrypted: cutText(h.StateEncrypted),
		ShieldsUp: h.ShieldsUp, NoLogsNoSupport: h.NoLogsNoSupport, RemoteConfig: h.RemoteConfig,
		WireIngress: h.WireIngress, IngressEnabled: h.IngressEnabled, AllowsUpdate: h.AllowsUpdate, PeerRelay: h.PeerRelay,
		RoutableIPs: cleanAdvertised(h.RoutableIPs),
	}
	for _, t := range h.RequestTags {
		if len(t) <= maxHostText && tailcfg.CheckTag(t) == nil && len(c.RequestTags) < maxTags {
			c.RequestTags = append(c.RequestTags, t)
		}
	}
	c.RequestTags = sortedUnique(c.RequestTags)
	for _, svc := range h.Services {
		switch svc.Proto {
		case tailcfg.PeerAPI4, tailcfg.PeerAPI6, tailcfg.PeerAPIDNS: // others are the OS's ports: clients are told not to collect them
			if len(c.Services) < maxServices {
				c.Services = append(c.Services, tailcfg.Service{Proto: svc.Proto, Port: svc.Port, Description: cutText(svc.Description)})
			}
		}
	}
	for _, k := range h.SSH_HostKeys {
		if len(k) <= maxHostKey && len(c.SSH_HostKeys) < maxHostKeys {
			c.SSH_HostKeys = append(c.SSH_HostKeys, strings.ToValidUTF8(k, ""))
		}
	}
	if ni := h.NetInfo; ni != nil {
		// Latencies jitter with each netcheck; keeping them would make every report news.
		c.NetInfo = &tailcfg.NetInfo{PreferredDERP: ni.PreferredDERP, WorkingIPv6: ni.WorkingIPv6, WorkingUDP: ni.WorkingUDP}
	}
	return c
}

// cutText makes text valid UTF-8 of bounded length.
func cutText[S ~string](s S) S {
	if len(s) > maxHostText {
		s = s[:maxHostText]
	}
	return S(strings.ToValidUTF8(string(s), ""))
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
