package tailnet

import (
	"net/netip"
	"slices"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// routeGrace is how long a router that lost its map stream keeps its primary
// routes: long enough for a client that merely redials, short beside the
// three seconds in which a standby must have taken over. It does not wait for the online grace.
const routeGrace = time.Second

// restartGrace is how long nodes that were online when the server stopped are
// taken to be still there: clients redial within milliseconds, but a whole fleet takes its time.
const restartGrace = time.Minute

// Update is what a client says of itself in a map request.
type Update struct {
	Disco     key.DiscoPublic
	Endpoints []netip.AddrPort
	Hostinfo  *tailcfg.Hostinfo // nil: unchanged
	CapVer    tailcfg.CapabilityVersion
}

// maxEndpoints bounds what each peer is told of a node; clients report a handful.
const maxEndpoints = 64

// Report takes over what a client said. It is soft state, except that a
// new hostname may rename the node and new tags may retag it. A report
// without news costs nothing.
func (tx *Tx) Report(id NodeID, u Update) error {
	n := tx.snap.Node(id)
	if n == nil {
		return Errorf(NotFound, "no node with ID %d", id)
	}
	eps := u.Endpoints
	if len(eps) > maxEndpoints {
		eps = eps[:maxEndpoints]
	}
	host := n.Report.Hostinfo
	if u.Hostinfo != nil {
		if h := CleanHostinfo(u.Hostinfo); !h.Equal(host) {
			host = h
		}
	}
	home := n.Report.HomeDERP
	if host.NetInfo != nil {
		home = host.NetInfo.PreferredDERP
	}
	old := n.Report
	if old.Disco == u.Disco && old.HomeDERP == home && old.CapVer == u.CapVer && old.Hostinfo == host && slices.Equal(old.Endpoints, eps) {
		return nil
	}
	out := n.clone()
	out.Report = &Report{Disco: u.Disco, Endpoints: slices.Clone(eps), HomeDERP: home, CapVer: u.CapVer, Hostinfo: host}
	if seen := n.Status.LastSeen; !n.Status.Online && !seen.IsZero() {
		out.Status.LastSeen = after(seen, tx.now)
	}
	renamed := tx.followHostname(out)
	retagged := tx.followTags(out, old.Hostinfo.RequestTags)
	if renamed || retagged {
		tx.putHard(out)
		tx.audit("node.report", out.label(), nodeChanges(n, out)...)
		return nil
	}
	tx.putSoft(out)
	return nil
}

// followTags applies the tags that a client asks for in a map request
// (`tailscale set --advertise-tags`): if the policy lets the node have them it is retagged in
// place; otherwise its key expires and its user must log in again. A node
// never loses all its tags this way, and none whose key has expired gets any: they would bring
// back who was shut out. It reports whether n changed.
func (tx *Tx) followTags(n *Node, before []string) bool {
	want := n.Report.Hostinfo.RequestTags
	if n.Status.Expired || len(want) == 0 || slices.Equal(want, before) || slices.Equal(want, n.Tags) {
		return false
	}
	for _, tag := range want {
		if slices.Contains(n.Tags, tag) {
			continue
		}
		if tx.userWaits(n.Owner) || !tx.mayTag(tx.snap.User(n.Owner), n.Tags, tag) {
			tx.setExpiry(n, tx.now)
			return true
		}
	}
	n.Tags, n.Owner = want, 0
	tx.setExpiry(n, time.Time{})
	return true
}

// Connect counts a map stream that opened. If the node was online already,
// which is so of a whole fleet that comes back after a restart, it is no news and costs no write.
func (tx *Tx) Connect(id NodeID) error {
	n := tx.snap.Node(id)
	if n == nil {
		return Errorf(NotFound, "no node with ID %d", id)
	}
	out := n.clone()
	out.Status.streams++
	out.Status.mute, out.Status.Alive = false, true
	for _, kind := range []timerKind{offlineTimer, dormantTimer, ephemeralTimer} {
		tx.cancel(kind, id)
	}
	if n.Status.Online {
		tx.putDerived(out)
		return nil
	}
	out.Status.Online, out.Status.LastSeen = !n.Status.Expired, tx.now
	tx.putSoft(out)
	return nil
}

// refresh notes whether the key has expired. An expired node is shown offline,
// although its client listens on for an extension.
func (s *Status) refresh(expired bool, now time.Time) {
	s.Expired = expired
	switch {
	case expired && s.Online:
		s.Online, s.LastSeen = false, now
	case !expired && s.streams > 0:
		s.Online = true
	}
}

// Disconnect counts a map stream that ended: exactly one for each successful
// Connect. The node may be gone by then.
func (tx *Tx) Disconnect(id NodeID) {
	n := tx.snap.Node(id)
	if n == nil || n.Status.streams == 0 {
		return
	}
	out := n.clone()
	out.Status.streams--
	out.Status.LastSeen = after(n.Status.LastSeen, tx.now)
	if out.Status.streams == 0 {
		tx.after(offlineTimer, id, tx.state.opts.OnlineGrace)
		tx.after(dormantTimer, id, routeGrace)
		if n.Ephemeral {
			tx.after(ephemeralTimer, id, tx.state.opts.EphemeralTimeout)
		}
	}
	tx.putSoft(out)
}

// after returns now, or the second after the last time if that is later. Clients keep
// the disco key that they know of an offline peer, whatever they are told, unless the time when it was
// seen moves on; they are told whole seconds.
func after(last, now time.Time) time.Time {
	if next := last.Truncate(time.Second).Add(time.Second); next.After(now) {
		return next
	}
	return now
}

// SetAnswering tells whether a connected node answers its liveness probe. One
// that does not loses its primary routes to a standby at once.
func (tx *Tx) SetAnswering(id NodeID, ok bool) {
	n := tx.snap.Node(id)
	if n == nil || n.Status.streams == 0 || n.Status.mute == !ok {
		return
	}
	out := n.clone()
	out.Status.mute, out.Status.Alive = !ok, ok
	tx.putDerived(out)
}

// expire does what a deadline is about, if it still holds.
func (tx *Tx) expire(t timer) error {
	if t.kind == tombstoneTimer {
		tx.clearTombstones()
		return nil
	}
	n := tx.snap.Node(t.node)
	if n == nil {
		return nil
	}
	out := n.clone()
	switch t.kind {
	case offlineTimer:
		if n.Status.streams > 0 {
			return nil
		}
		out.Status.Online = false
	case dormantTimer:
		if n.Status.streams > 0 {
			return nil
		}
		out.Status.Alive = false
		tx.putDerived(out)
		return nil
	case ephemeralTimer:
		if n.Ephemeral && n.Status.streams == 0 {
			tx.removeNode(n, "node.delete")
		}
		return nil
	case attributeTimer:
		tx.dropAttributes(n)
		return nil
	case expiryTimer:
		tx.setExpiry(out, n.Expiry)
		if !out.Status.Expired {
			tx.putDerived(out)
			return nil
		}
	}
	tx.putSoft(out)
	return nil
}

func (tx *Tx) clearTombstones() {
	var next time.Time
	for it := tx.snap.tombstones.Iterator(); !it.Done(); {
		_, t, _ := it.Next()
		switch {
		case !tx.now.Before(t.Ends):
			tx.unbury(t)
		case next.IsZero() || t.Ends.Before(next):
			next = t.Ends
		}
	}
	if !next.IsZero() {
		tx.at(tombstoneTimer, 0, next)
	}
}
