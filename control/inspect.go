package control

import (
	"context"

	"heddle/control/netmap"
	"heddle/control/tailnet"
)

// Netmap is what a node would be sent.
type Netmap struct {
	Connected bool   // whether it has a map stream
	CapVer    int    // what its client can do
	Snapshot  uint64 // version of the state that is shown
	Sent      uint64 // version of the state that it was sent last; zero if none was

	Full  netmap.Message
	Delta netmap.Message // what it has yet to be sent; empty if that is nothing
	Plain bool           // the messages are not compressed
}

// Netmap returns what a node would be sent now: its whole map, and what is new since it was
// sent something last. Errors are NotFound, or Exhausted if too many maps are being made.
func (s *Server) Netmap(ctx context.Context, id tailnet.NodeID) (*Netmap, error) {
	if err := s.hub.maps.enter(ctx); err != nil {
		return nil, err
	}
	defer s.hub.maps.leave()
	snap := s.state.Snapshot()
	n := snap.Node(id)
	if n == nil {
		return nil, tailnet.Errorf(tailnet.NotFound, "no node with ID %d", id)
	}
	viewer := netmap.Viewer{ID: id, CapVer: n.Report.CapVer}
	out := &Netmap{Snapshot: snap.Version()}
	var has *tailnet.Snapshot
	if ss := s.hub.of(id); ss != nil {
		viewer, has = ss.viewer, ss.has.Load()
		out.Connected, out.Sent = true, s.hub.feed.sent(ss)
	}
	out.CapVer, out.Plain = int(viewer.CapVer), viewer.Plain
	var err error
	if out.Full, err = s.maps.Full(snap, viewer, s.now()); err != nil || has == nil {
		return out, err
	}
	out.Delta, _, err = s.maps.Delta(has, snap, viewer, s.now())
	return out, err
}
