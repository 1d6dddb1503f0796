package control

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"heddle/control/netmap"
	"heddle/control/tailnet"

	"tailscale.com/tailcfg"
)

// errGone ends a stream whose client has left.
var errGone = errors.New("client is gone")

// keepAliveIn is how long a stream may stay silent. Clients give up after
// 120 s and load balancers after 60 s, and streams must not beat in step.
func keepAliveIn() time.Duration { return 50*time.Second + rand.N(8*time.Second) }

// rotationWait is how long the stream of a replaced key stays open. The client
// closes it itself once it has its new login; told at once that its old key is
// good no more, it would begin yet another login.
const rotationWait = 10 * time.Second

// leaveTime is how long a stream's end waits for the writer at a time.
const leaveTime = 5 * time.Second

// stream serves a map stream until the client leaves, a newer stream takes over,
// the node is gone, or the server stops.
func (s *Server) stream(ctx context.Context, c *call, n *tailnet.Node, req *tailcfg.MapRequest, v netmap.Viewer) error {
	keepAlive := req.KeepAlive
	*req = tailcfg.MapRequest{} // it does not outlive the months that a stream may take
	ss := newSession(n, c.conn, v)
	live, ok := s.hub.enter(ss, s.now())
	if !ok {
		return tailnet.ErrStopped
	}
	defer s.hub.leave(ss)
	c.w.Header().Set("Content-Type", "application/octet-stream")
	if live != nil && !s.hold(ctx, c, ss, live) {
		return nil
	}
	if _, err := s.state.Update(ctx, c.actor(), func(tx *tailnet.Tx) error { return tx.Connect(ss.node) }); err != nil {
		return err
	}
	defer s.disconnect(context.WithoutCancel(ctx), c, n.ID)
	snap, err := s.firstMap(ctx, c, ss)
	if snap == nil {
		return err
	}
	ss.has.Store(snap)
	// A stream may live for months: it must not hold on to the state at its start.
	c.snap = nil
	return s.follow(ctx, c, ss, snap, keepAlive)
}

// disconnect notes the end of a stream, in any case and however long it takes: otherwise
// the node would be online for ever. Only a server that stops gives up, since presence does not
// survive a restart.
func (s *Server) disconnect(ctx context.Context, c *call, id tailnet.NodeID) {
	const longest = 10 * time.Second
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, longest) {
		attempt, cancel := context.WithTimeout(ctx, leaveTime)
		_, err := s.state.Update(attempt, c.actor(), func(tx *tailnet.Tx) error { tx.Disconnect(id); return nil })
		cancel()
		if err == nil || errors.Is(err, tailnet.ErrStopped) || s.hub.stopping() {
			return
		}
		if s.throttle.told.allow("disconnect") {
			s.log.Warn("the end of a stream cannot be noted; will retry", "node", id, "err", err)
		}
		select {
		case <-time.After(pause):
		case <-s.hub.over: // once more
		}
	}
}

// hold keeps a stream waiting while another device with the same keys has its
// turn. It reports whether the stream may go on.
func (s *Server) hold(ctx context.Context, c *call, ss, live *session) bool {
	s.counts.held.Add(1)
	if s.throttle.told.allow("clone" + ss.node.String()) {
		s.log.Warn("two devices use the keys of one node and take turns; log one of them out and in again",
			"node", ss.node, "remote", c.conn.Remote(), "other", live.conn.Remote())
	}
	if s.send(c, kindKeepAlive, s.maps.KeepAlive(ss.viewer)) != nil {
		return false
	}
	// If the other stream is only what is left of this client's last
	// connection, nobody answers there.
	heard := live.conn.Heard()
	s.pings.Go(live.conn.Ping)
	answer := time.NewTimer(probePatience)
	defer answer.Stop()
	turn := time.NewTimer(holdTime)
	defer turn.Stop()
	for waiting := true; waiting; {
		select {
		case <-answer.C:
			waiting = live.conn.Heard() != heard
		case <-live.left:
			waiting = false
		case <-turn.C:
			waiting = false
		case <-ss.quit:
			return false
		case <-s.hub.over:
			return false
		case <-ctx.Done():
			return false
		}
	}
	s.hub.retake(ss)
	return true
}

// follow sends what changes after the snapshot that the client has.
func (s *Server) follow(ctx context.Context, c *call, ss *session, has *tailnet.Snapshot, keepAlive bool) error {
	s.hub.feed.members.Add(1)
	defer s.hub.feed.members.Add(-1)
	var alive <-chan struct{}
	quiet := func() {
		if keepAlive {
			alive = s.hub.wheel.after(keepAliveIn())
		}
	}
	quiet()
	var current *edition
	for {
		if e := s.hub.feed.latest.Load(); e != current {
			current = e
			done, err := s.takeUp(ctx, c, ss, &has, e, quiet)
			s.hub.feed.done(e)
			if done {
				return err
			}
		}
		var m netmap.Message
		k := kindOther
		select {
		case <-current.over:
			continue
		case x := <-ss.extras:
			m = s.maps.Extra(ss.viewer, x)
		case <-alive:
			m, k = s.maps.KeepAlive(ss.viewer), kindKeepAlive
		case <-ss.quit:
			s.counts.replaced.Add(1)
			return nil
		case <-s.hub.over:
			return s.drain(ctx)
		case <-ctx.Done():
			return nil
		}
		if err := s.send(c, k, m); err != nil {
			return err
		}
		quiet()
	}
}

// takeUp sends what an edition brings, and moves has to it. It reports whether the stream is to end.
func (s *Server) takeUp(ctx context.Context, c *call, ss *session, has **tailnet.Snapshot, e *edition, sent func()) (done bool, err error) {
	next := e.snap
	if next.Version() <= (*has).Version() {
		return false, nil
	}
	if now := next.Node(ss.node); now == nil || now.Key != ss.key {
		return true, s.bid(ctx, c, ss, now, next)
	}
	changed, done, err := s.update(ctx, c, ss, *has, e)
	if done {
		return true, err
	}
	if changed {
		sent()
	}
	*has = next
	ss.has.Store(next)
	return false, nil
}

// rest waits for d. It returns false if the stream is to end first.
func (s *Server) rest(ctx context.Context, ss *session, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ss.quit:
		s.counts.replaced.Add(1)
		return false
	case <-s.hub.over:
		s.drain(ctx)
		return false
	case <-ctx.Done():
		return false
	}
}

// bid ends the stream of a key that is good no more: the node was deleted, or
// goes on under another key (now is not nil then).
func (s *Server) bid(ctx context.Context, c *call, ss *session, now *tailnet.Node, snap *tailnet.Snapshot) error {
	if now != nil && !s.rest(ctx, ss, rotationWait) {
		return nil
	}
	grave := snap.Tombstone(ss.key)
	if grave == nil {
		return nil
	}
	return s.send(c, kindOther, s.maps.Gone(grave, ss.viewer, s.now()))
}

// drain keeps a stream open, but silent, until it is its turn to end: the
// others' ends are no news, and the client would be back before the next server is up.
func (s *Server) drain(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// PopBrowser asks a node's client to open a URL for its person. It must be
// https, unless the server itself is not. The error is Unavailable if the node is not
// connected.
func (s *Server) PopBrowser(id tailnet.NodeID, url string) error {
	return s.sendExtra(id, netmap.Extra{PopBrowserURL: url})
}

func (s *Server) sendExtra(id tailnet.NodeID, x netmap.Extra) error {
	ss := s.hub.of(id)
	if ss == nil {
		return tailnet.Errorf(tailnet.Unavailable, "node %d is not connected", id)
	}
	select {
	case ss.extras <- x:
		return nil
	default:
		return tailnet.Errorf(tailnet.Unavailable, "node %d is connected but does not read what it is sent", id)
	}
}
