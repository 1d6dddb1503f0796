package netmap

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"heddle/control/tailnet"
	"heddle/policy"

	"tailscale.com/net/tsaddr"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/util/dnsname"
)

// A sight is what the viewers of a class see of a peer: the node and what the
// policy lets them know of it. Immutable.
type sight struct {
	node   *tailnet.Node
	caps   tailcfg.NodeCapMap
	routes []netip.Prefix // beyond its own addresses, sorted
	v4off  bool
}

// look returns what viewer sees of n. They must be two nodes, and visible to
// each other.
func look(s *tailnet.Snapshot, viewer tailnet.NodeID, n *tailnet.Node) sight {
	c := s.Policy().Compiled
	v, p := policy.NodeID(viewer), policy.NodeID(n.ID)
	out := sight{node: n, caps: c.PeerCaps(v, p), v4off: c.IPv4Off(p)}
	if len(n.Approved) > 0 && !n.Status.Expired {
		out.routes = c.Routes(v, p, func(r netip.Prefix) policy.NodeID { return policy.NodeID(s.Primaries().Of(r)) })
		if !slices.IsSortedFunc(out.routes, netip.Prefix.Compare) {
			out.routes = slices.SortedFunc(slices.Values(out.routes), netip.Prefix.Compare)
		}
	}
	return out
}

func (a sight) equal(b sight) bool {
	return a.node.Alike(b.node) && a.sameCopy(b)
}

// sameCopy reports whether the viewers are shown the same copy of a node, if
// the node is the same.
func (a sight) sameCopy(b sight) bool {
	return a.v4off == b.v4off && slices.Equal(a.routes, b.routes) && equalCaps(a.caps, b.caps)
}

func equalCaps(a, b tailcfg.NodeCapMap) bool {
	return len(a) == len(b) && (len(a) == 0 || maps.EqualFunc(a, b, slices.Equal[[]tailcfg.RawMessage]))
}

// addresses returns the prefixes of n that the tailnet uses.
func addresses(n *tailnet.Node, v4off bool) []netip.Prefix {
	a := n.Addrs
	if v4off {
		a.V4 = netip.Addr{}
	}
	return a.Prefixes()
}

// check returns why clients could not understand the node, or would be confused
// by it; such a node is left out of maps, so that all the rest of them works.
func (a sight) check(s *tailnet.Snapshot) error {
	n := a.node
	addrs := addresses(n, a.v4off)
	switch {
	case n.ID <= 0:
		return errors.New("its ID is not positive")
	case n.Key.IsZero():
		return errors.New("it has no key")
	case !found(s.NodeByKey(n.Key), n):
		return errors.New("another node has its key")
	case len(addrs) == 0:
		return errors.New("it has no address")
	}
	for _, p := range addrs {
		if !found(s.NodeByIP(p.Addr()), n) {
			return fmt.Errorf("another node has its address %v", p.Addr())
		}
	}
	if err := dnsname.ValidLabel(n.Name); err != nil {
		return fmt.Errorf("its name: %w", err)
	}
	if l := len(fqdn(n.Name, s.DNS().BaseDomain)); l > 254 { // final dot included
		return fmt.Errorf("its full name has %d bytes; DNS allows 253", l-1)
	}
	for _, t := range []time.Time{n.Expiry, n.Status.LastSeen} {
		if y := t.UTC().Year(); y < 0 || y > 9999 {
			return fmt.Errorf("its time %v cannot be written", t)
		}
	}
	return nil
}

// found reports whether who, maybe nobody, is that node in whatever state.
func found(who, n *tailnet.Node) bool { return who != nil && who.ID == n.ID }

// appendPeer writes the node as peers are told of it: only what clients read
// of a peer, always in the same order, so that an unchanged node gives the same
// bytes.
func appendPeer(b []byte, a sight, base string) []byte {
	b = appendLasting(b, a, base)
	n, r := a.node, a.node.Report
	b = append(b, `,"Key":`...)
	b = appendKey(b, n.Key)
	if !n.Expiry.IsZero() {
		b = append(b, `,"KeyExpiry":`...)
		b = appendTime(b, n.Expiry)
	}
	if !r.Disco.IsZero() {
		b = append(b, `,"DiscoKey":`...)
		b = appendKey(b, r.Disco)
	}
	// Present even if empty: clients do not notice endpoints that go missing.
	b = append(b, `,"Endpoints":`...)
	b = appendEndpoints(b, r.Endpoints)
	if r.HomeDERP != 0 {
		b = append(b, `,"HomeDERP":`...)
		b = appendInt(b, r.HomeDERP)
	}
	if r.CapVer != 0 {
		b = append(b, `,"Cap":`...)
		b = appendInt(b, int(r.CapVer))
	}
	// Always explicit: clients cannot learn it later if it is absent first.
	b = append(b, `,"Online":`...)
	b = appendBool(b, n.Status.Online)
	if !n.Status.Online && !n.Status.LastSeen.IsZero() {
		b = append(b, `,"LastSeen":`...)
		b = appendTime(b, n.Status.LastSeen)
	}
	return append(b, '}')
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, "true"...)
	}
	return append(b, "false"...)
}

// appendLasting writes the part of a peer that no patch can change, without
// the closing brace.
func appendLasting(b []byte, a sight, base string) []byte {
	n := a.node
	b = appendIdentity(b, n, base)
	addrs := addresses(n, a.v4off)
	b = append(b, `,"Addresses":`...)
	b = appendPrefixes(b, addrs)
	if len(a.routes) > 0 { // absent means: the addresses
		b = append(b, `,"AllowedIPs":`...)
		b = appendPrefixes(b, append(addrs, a.routes...))
	}
	b = appendTagsAndPrimaries(b, n, a.routes)
	if len(a.caps) > 0 {
		b = append(b, `,"CapMap":`...)
		b = appendCaps(b, a.caps)
	}
	b = append(b, `,"Hostinfo":`...)
	b = appendHostinfo(b, n.Report.Hostinfo, n.Report.Disco)
	if n.Status.Expired {
		b = append(b, `,"Expired":true`...)
	}
	if n.Report.HomeDERP == 0 {
		// Clients cannot be told that a peer lost its DERP home unless something else
		// changes with it that forbids a patch. They read this field
		// of themselves only.
		b = append(b, `,"MachineAuthorized":true`...)
	}
	return b
}

// appendIdentity opens a node.
func appendIdentity(b []byte, n *tailnet.Node, base string) []byte {
	b = append(b, `{"ID":`...)
	b = appendInt(b, n.ID)
	b = append(b, `,"StableID":`...)
	b = appendString(b, string(n.StableID))
	b = append(b, `,"Name":`...)
	b = appendString(b, fqdn(n.Name, base))
	b = append(b, `,"User":`...)
	return appendInt(b, owner(n))
}

func fqdn(name, base string) string {
	if base == "" {
		return name + "."
	}
	return name + "." + base + "."
}

// owner is the user that clients show for a node.
func owner(n *tailnet.Node) tailnet.UserID {
	if n.Tagged() {
		return tailnet.TaggedDevices
	}
	return n.Owner
}

func appendTagsAndPrimaries(b []byte, n *tailnet.Node, routes []netip.Prefix) []byte {
	if len(n.Tags) > 0 {
		b = append(b, `,"Tags":`...)
		b = appendStrings(b, n.Tags)
	}
	if primary := withoutExit(routes); len(primary) > 0 {
		b = append(b, `,"PrimaryRoutes":`...)
		b = appendPrefixes(b, primary)
	}
	return b
}

func withoutExit(routes []netip.Prefix) []netip.Prefix {
	if !slices.ContainsFunc(routes, tsaddr.IsExitRoute) {
		return routes
	}
	return slices.DeleteFunc(slices.Clone(routes), tsaddr.IsExitRoute)
}

// appendHostinfo writes what clients read of a peer's Hostinfo. The rest is
// nobody's business, and would change more often.
//
// BackendLogID, which they read of themselves only, is a mark of the disco key. Each start of a
// client brings a new key, and clients build everything anew for a patch that has one; they make a
// patch of a whole node too unless something changes with the key that forbids it. Keys with
// the same mark, which are rare, cost just that.
func appendHostinfo(b []byte, h *tailcfg.Hostinfo, disco key.DiscoPublic) []byte {
	b = append(b, `{"OS":`...)
	b = appendString(b, h.OS)
	b = append(b, `,"Hostname":`...)
	b = appendString(b, h.Hostname)
	if h.ShareeNode {
		b = append(b, `,"ShareeNode":true`...)
	}
	if !disco.IsZero() {
		raw := disco.Raw32()
		b = append(b, `,"BackendLogID":"`...)
		b = hex.AppendEncode(b, raw[:2])
		b = append(b, '"')
	}
	b = appendServices(b, h.Services)
	if len(h.SSH_HostKeys) > 0 {
		b = append(b, `,"sshHostKeys":`...)
		b = appendStrings(b, h.SSH_HostKeys)
	}
	if h.Location != nil {
		b = append(b, `,"Location":`...)
		b = appendValue(b, h.Location, "null")
	}
	return append(b, '}')
}

// appendServices writes where the node's peer API listens.
func appendServices(b []byte, list []tailcfg.Service) []byte {
	start := len(b)
	b = append(b, `,"Services":[`...)
	empty := len(b)
	for _, s := range list {
		switch s.Proto {
		case tailcfg.PeerAPI4, tailcfg.PeerAPI6, tailcfg.PeerAPIDNS:
		default:
			continue
		}
		if len(b) > empty {
			b = append(b, ',')
		}
		b = append(b, `{"Proto":`...)
		b = appendString(b, string(s.Proto))
		b = append(b, `,"Port":`...)
		b = appendInt(b, int(s.Port))
		b = append(b, '}')
	}
	if len(b) == empty {
		return b[:start]
	}
	return append(b, ']')
}

// appendPatches writes the difference between two states of a peer whose
// lasting part is equal as one or two patches. b must be empty, and stays so if
// there is no difference that peers are told of.
func appendPatches(b []byte, old, new *tailnet.Node) []byte {
	b = append(b, `{"NodeID":`...)
	b = appendInt(b, new.ID)
	empty := len(b)
	was, is := old.Report, new.Report
	if was != is {
		if was.HomeDERP != is.HomeDERP {
			b = append(b, `,"DERPRegion":`...)
			b = appendInt(b, is.HomeDERP)
		}
		if was.CapVer != is.CapVer {
			b = append(b, `,"Cap":`...)
			b = appendInt(b, int(is.CapVer))
		}
		if !bytes.Equal(appendEndpoints(nil, was.Endpoints), appendEndpoints(nil, is.Endpoints)) {
			b = append(b, `,"Endpoints":`...)
			b = appendEndpoints(b, is.Endpoints)
		}
		if was.Disco != is.Disco {
			b = append(b, `,"DiscoKey":`...)
			b = appendKey(b, is.Disco)
		}
	}
	if old.Key != new.Key {
		b = append(b, `,"Key":`...)
		b = appendKey(b, new.Key)
	}
	if !sameSecond(old.Expiry, new.Expiry) {
		b = append(b, `,"KeyExpiry":`...)
		b = appendTime(b, new.Expiry)
	}
	if len(b) == empty {
		b = b[:0]
	} else {
		b = append(b, '}')
	}
	return appendPresence(b, old, new)
}

// appendPresence writes the patch about presence, if it changed, after a comma
// if b is not empty. It stands alone because clients reject a patch as a whole
// if it has a new disco key and a time that is not newer than what they know.
// A patch with Online always has LastSeen: newer Apple clients take a node
// without it for offline.
func appendPresence(b []byte, old, new *tailnet.Node) []byte {
	was, is := old.Status, new.Status
	turned := was.Online != is.Online
	seen := !is.Online && !sameSecond(was.LastSeen, is.LastSeen)
	if !turned && !seen {
		return b
	}
	if len(b) > 0 {
		b = append(b, ',')
	}
	b = append(b, `{"NodeID":`...)
	b = appendInt(b, new.ID)
	b = append(b, `,"Online":`...)
	b = appendBool(b, is.Online)
	if !is.LastSeen.IsZero() {
		b = append(b, `,"LastSeen":`...)
		b = appendTime(b, is.LastSeen)
	}
	return append(b, '}')
}

func sameSecond(a, b time.Time) bool {
	return a.Truncate(time.Second).Equal(b.Truncate(time.Second))
}
