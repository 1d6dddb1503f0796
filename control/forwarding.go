package control

import (
	"context"
	"slices"
	"sync"

	"heddle/control/tailnet"
)

// forwardingOff is what clients put among the debug flags of their map requests while they offer routes
// and their system does not forward packets (tailscale.com/health).
const forwardingOff = "warn-ip-forwarding-off"

// forwarding knows the nodes that say so, to put it on record once, not with each request.
type forwarding struct {
	mu  sync.Mutex
	off map[tailnet.NodeID]bool
}

// news reports whether a node begins to say so.
func (f *forwarding) news(id tailnet.NodeID, off bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !off {
		delete(f.off, id)
		return false
	}
	if f.off == nil {
		f.off = map[tailnet.NodeID]bool{}
	}
	had := f.off[id]
	f.off[id] = true // of nodes only, so there are no more than these
	return !had
}

// noteForwarding takes up what a client says of the forwarding of packets. It is for the record
// only: a failure keeps nobody from anything.
func (s *Server) noteForwarding(ctx context.Context, c *call, id tailnet.NodeID, flags []string) {
	n := s.state.Snapshot().Node(id)
	off := n != nil && len(n.Advertised()) > 0 && slices.Contains(flags, forwardingOff)
	if !s.hub.forwarding.news(id, off) || !s.throttle.told.allow("forwarding"+id.String()) {
		return
	}
	_, err := s.state.Update(ctx, c.actor(), func(tx *tailnet.Tx) error { tx.NoteForwarding(id); return nil })
	if err != nil {
		s.hub.forwarding.news(id, false) // it is said again
	}
}
