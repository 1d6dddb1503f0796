package control

import (
	"context"
	"runtime"
	"sync"
	"time"

	"heddle/control/tailnet"
)

const (
	// maxLogins bounds the registrations with auth keys that wait for the writer. It is what the
	// writer commits at once: more would only wait longer, without knowing for what.
	maxLogins = 512
	// gatePatience is how long they wait for a place.
	gatePatience = 5 * time.Second
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

// enter waits for its turn, but not for long. The error is errBusy: the client is asked to
// come back later. Who entered must leave.
func (g gate) enter(ctx context.Context) error {
	select {
	case g <- struct{}{}:
		return nil
	default:
	}
	busy := time.NewTimer(gatePatience)
	defer busy.Stop()
	select {
	case g <- struct{}{}:
		return nil
	case <-busy.C:
		return errBusy
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g gate) leave() { <-g }

// turn waits until it is the stream's turn to be sent something large that is made for it alone: to make it for
// all at once would take the memory of all. Keepalives hold who waits: clients accept them also
// before their first map, and would give up after 120 s of silence. The caller calls leave when it is done; it
// is nil if the stream is to end.
func (s *Server) turn(ctx context.Context, c *call, ss *session) (leave func(), err error) {
	for waiting := true; waiting; {
		select {
		case s.hub.maps <- struct{}{}:
			waiting = false
		case <-s.hub.wheel.after(keepAliveIn()):
			if err := s.send(c, kindKeepAlive, s.maps.KeepAlive(ss.viewer)); err != nil {
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
	once := sync.OnceFunc(s.hub.maps.leave)
	slow := time.AfterFunc(slowMap, once)
	return func() { slow.Stop(); once() }, nil
}

// firstMap sends a stream's first message when it is its turn, and returns the snapshot that
// the client then has; nil if the stream is to end.
func (s *Server) firstMap(ctx context.Context, c *call, ss *session) (*tailnet.Snapshot, error) {
	leave, err := s.turn(ctx, c, ss)
	if leave == nil {
		return nil, err
	}
	defer leave()
	snap := s.hub.feed.take()
	if now := snap.Node(ss.node); now == nil || now.Key != ss.key {
		return nil, s.bid(ctx, c, ss, now, snap)
	}
	m, err := s.maps.Full(snap, ss.viewer, s.now())
	if err == nil {
		err = s.send(c, kindFull, m)
	}
	if err != nil {
		return nil, err
	}
	return snap, nil
}

// update sends what is new for a stream's client. It reports whether it sent anything; done means
// that the stream is to end.
func (s *Server) update(ctx context.Context, c *call, ss *session, has *tailnet.Snapshot, e *edition) (sent, done bool, err error) {
	next := e.snap
	if has.Policy().Doc != next.Policy().Doc { // rules of its own for everybody
		leave, err := s.turn(ctx, c, ss)
		if leave == nil {
			return false, true, err
		}
		defer leave()
	}
	m, changed, err := s.maps.Delta(has, next, ss.viewer, s.now())
	if err == nil && changed {
		if err = s.send(c, kindDelta, m); err == nil {
			s.counts.delay(s.now().Sub(e.since))
		}
	}
	return changed, err != nil, err
}
