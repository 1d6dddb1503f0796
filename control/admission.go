package control

import (
	"context"
	"runtime"
	"sync"
	"time"

	"heddle/control/tailnet"
)

const (
	// mapsPerCore keeps the cores busy although some clients are slow. Each full map under way takes some 100 KB.
	mapsPerCore = 4
	// slowMap is how long a full map may hold its place. Whoever takes longer has a slow link,
	// which costs the server nothing: the next one may go.
	slowMap = 100 * time.Millisecond
)

// A gate admits so many at a time as its channel holds, in the order in which they
// came. A fleet that comes back all at once is served one after the other, and soon, instead
// of all together and late.
type gate chan struct{}

// newMapGate bounds the full maps that are made and sent at a time.
func newMapGate() gate { return make(gate, mapsPerCore*runtime.GOMAXPROCS(0)) }

func (g gate) leave() { <-g }

// firstMap sends a stream's first message when it is its turn, and returns the snapshot that
// the client then has; nil if the stream is to end. Keepalives hold who waits: clients accept
// them before the first map, and would give up after 120 s of silence.
func (s *Server) firstMap(ctx context.Context, c *call, ss *session) (*tailnet.Snapshot, error) {
	for waiting := true; waiting; {
		select {
		case s.hub.maps <- struct{}{}:
			waiting = false
		case <-s.hub.wheel.after(keepAliveIn()):
			if err := s.send(c, s.maps.KeepAlive(ss.viewer)); err != nil {
				return nil, err
			}
		case <-ss.quit:
			s.counts.replaced.Add(1)
			return nil, nil
		case <-s.hub.over:
			return nil, s.drain(ctx)
		case <-ctx.Done():
			return nil, nil
		}
	}
	leave := sync.OnceFunc(s.hub.maps.leave)
	defer leave()
	defer time.AfterFunc(slowMap, leave).Stop()
	snap := s.state.Snapshot()
	if now := snap.Node(ss.node); now == nil || now.Key != ss.key {
		return nil, s.bid(ctx, c, ss, now, snap)
	}
	m, err := s.maps.Full(snap, ss.viewer, s.now())
	if err == nil {
		err = s.send(c, m)
	}
	if err != nil {
		return nil, err
	}
	return snap, nil
}
