package netmap

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/netip"
	"slices"

	"heddle/control/tailnet"
	"heddle/policy"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// appendSelf writes the viewer's own node. What the client knows better itself
// (endpoints, DERP home, disco key, presence) is left out: a new self
// node makes it build everything anew.
func (e *Encoder) appendSelf(b []byte, s *tailnet.Snapshot, n *tailnet.Node) []byte {
	b = appendIdentity(b, n, s.DNS().BaseDomain)
	b = append(b, `,"Key":`...)
	b = appendKey(b, n.Key)
	if !n.Expiry.IsZero() {
		b = append(b, `,"KeyExpiry":`...)
		b = appendTime(b, n.Expiry)
	}
	serves := n.Serves()
	addrs := addresses(n, s.Policy().Compiled.IPv4Off(policy.NodeID(n.ID)))
	b = append(b, `,"Addresses":`...)
	b = appendPrefixes(b, addrs)
	b = append(b, `,"AllowedIPs":`...)
	b = appendPrefixes(b, append(addrs, serves...))
	b = appendTagsAndPrimaries(b, n, slices.DeleteFunc(serves, func(r netip.Prefix) bool { return s.Primaries().Of(r) != n.ID }))
	b = append(b, `,"Hostinfo":`...)
	h := n.Report.Hostinfo
	b = appendHostinfo(b, &tailcfg.Hostinfo{OS: h.OS, Hostname: h.Hostname}, key.DiscoPublic{})
	b = append(b, `,"Created":`...)
	b = appendTime(b, n.Origin.Created)
	if n.Status.Expired {
		b = append(b, `,"Expired":true`...)
	}
	b = append(b, `,"Online":true,"MachineAuthorized":`...)
	b = appendBool(b, !n.Pending) // without it clients wait and show that they do
	b = append(b, `,"CapMap":`...)
	b = appendCaps(b, e.selfCaps(s, n))
	return append(b, '}')
}

// selfCaps returns what the node may do: what every node may, what its user's
// role adds, and what the policy says.
func (e *Encoder) selfCaps(s *tailnet.Snapshot, n *tailnet.Node) tailcfg.NodeCapMap {
	caps := tailcfg.NodeCapMap{
		tailcfg.CapabilityFileSharing: nil,
		// Without it `tailscale up --ssh` fails; who may connect is the SSH policy's matter.
		tailcfg.CapabilitySSH: nil,
		// Apple and Android apps show the suggested exit node only with it.
		tailcfg.NodeAttrSuggestExitNodeUI: nil,
	}
	title := e.opts.DisplayName
	if title == "" {
		title = s.DNS().BaseDomain
	}
	if text, err := json.Marshal(title); err == nil && title != "" {
		caps[tailcfg.NodeAttrTailnetDisplayName] = []tailcfg.RawMessage{tailcfg.RawMessage(text)}
	}
	if isAdmin(s, n) {
		caps[tailcfg.CapabilityAdmin] = nil
	}
	maps.Copy(caps, s.Policy().Compiled.Caps(policy.NodeID(n.ID)))
	return caps
}

// isAdmin reports whether apps are to offer the node's user administration.
func isAdmin(s *tailnet.Snapshot, n *tailnet.Node) bool {
	if n.Tagged() {
		return false
	}
	u := s.User(n.Owner)
	return u != nil && (u.Role == policy.Owner || u.Role == policy.Admin)
}

// selfChange returns the viewer's own node as it is in to if it differs from
// what it was in from, else nil. If the policy was compiled anew, kept tells what of the node's
// is as it was. Almost always it finds that without encoding anything.
func (e *Encoder) selfChange(d *diff, kept policy.Kept, from, to *tailnet.Snapshot, id tailnet.NodeID) []byte {
	was, is := from.Node(id), to.Node(id)
	if was == is && !d.base && (!d.primaries || len(is.Approved) == 0) && len(d.users) == 0 {
		if !d.policy || kept.Caps {
			return nil
		}
		a, b := from.Policy().Compiled, to.Policy().Compiled
		if p := policy.NodeID(id); a.IPv4Off(p) == b.IPv4Off(p) && equalCaps(a.Caps(p), b.Caps(p)) {
			return nil
		}
	}
	now := e.appendSelf(nil, to, is)
	if bytes.Equal(now, e.appendSelf(nil, from, was)) {
		return nil
	}
	return now
}
