package control

import (
	"context"
	"net/http"
	"time"

	"heddle/control/netmap"
	"heddle/control/tailnet"
	"heddle/control/tailnet/site"

	"tailscale.com/tailcfg"
)

// serveMap serves /machine/map. A request is one of three: a stream, which
// only reads; a "lite update" (no stream, no peers), by which a client tells what changed
// about itself; a single full map.
func (s *Server) serveMap(ctx context.Context, c *call, req *tailcfg.MapRequest) error {
	if err := tooOld(req.Version, req.Hostinfo); err != nil {
		return err
	}
	viewer := netmap.Viewer{CapVer: req.Version, Plain: req.Compress != "zstd", OmitPeers: req.OmitPeers}
	n, err := c.node(req.NodeKey)
	if err != nil {
		grave := c.snap.Tombstone(req.NodeKey)
		switch {
		case tailnet.CodeOf(err) != tailnet.NotFound || req.NodeKey.IsZero():
			return err
		case grave == nil:
			return s.serveUnknown(ctx, c, req, viewer)
		case grave.Machine == c.machine:
			return s.serveGone(ctx, c, req, grave, viewer)
		}
		return err
	}
	c.conn.Vouch()
	viewer.ID = n.ID
	if (req.Stream || !req.OmitPeers) && !s.throttle.maps.allow(c.machine) {
		return errTooOften
	}
	if req.Stream {
		s.noteForwarding(ctx, c, n.ID, req.DebugFlags)
		// Whatever it says of the client may be older than what a lite update said.
		return s.stream(ctx, c, n, req, viewer)
	}
	snap := c.snap
	if !req.ReadOnly {
		if snap, err = s.report(ctx, c, n.ID, req); err != nil {
			return err
		}
		s.noteForwarding(ctx, c, n.ID, req.DebugFlags)
		if req.OmitPeers {
			c.w.WriteHeader(http.StatusOK) // clients read no more than the status
			return nil
		}
	}
	m, err := s.maps.Full(snap, viewer, s.now())
	if err != nil {
		return err
	}
	return s.send(c, kindFull, m)
}

// report takes over what a client says of itself. One that changes all the time is
// refused now and then, but not what it said last: clients repeat what was refused.
func (s *Server) report(ctx context.Context, c *call, id tailnet.NodeID, req *tailcfg.MapRequest) (*tailnet.Snapshot, error) {
	// If the client has given up waiting, what it said is stale: the
	// writer skips updates whose context has ended.
	return s.state.Update(ctx, c.actor(), func(tx *tailnet.Tx) error {
		before := tx.Snapshot().Node(id)
		err := tx.Report(id, tailnet.Update{
			Disco: req.DiscoKey, Endpoints: req.Endpoints, Hostinfo: req.Hostinfo, CapVer: req.Version,
		})
		if err == nil && tx.Snapshot().Node(id) != before && !s.throttle.changes.allow(c.machine) {
			return errTooOften
		}
		return err
	})
}

// serveUnknown answers a device whose node key nobody knows, say because the server
// was set up anew: it is told to log in again like one whose node is gone. Strangers can do this, so
// it is limited, and one stream of a connection stays open.
func (s *Server) serveUnknown(ctx context.Context, c *call, req *tailcfg.MapRequest, v netmap.Viewer) error {
	if !s.throttle.ghosts.allow(site.Of(c.conn.Remote())) {
		return errBusy
	}
	if req.Stream {
		if first, _ := s.intake.ghosts.enter(c.conn, 1); !first {
			return errBusy
		}
		defer s.intake.ghosts.leave(c.conn)
	}
	const nobody tailnet.NodeID = 1 << 52 // beyond what is ever given, but exact in any client's arithmetic
	return s.serveGone(ctx, c, req, &tailnet.Tombstone{
		Key: req.NodeKey, Machine: c.machine, Node: nobody, StableID: "unknown", Name: "unknown",
	}, v)
}

// goneHold is how long the stream of a client whose node is gone stays open: it would come
// back in milliseconds, and what it was told cannot change.
const goneHold = 5 * time.Minute

// serveGone tells a client whose node key is good no more that it must log in again. An error
// would not: it would go on with the map that it has.
func (s *Server) serveGone(ctx context.Context, c *call, req *tailcfg.MapRequest, t *tailnet.Tombstone, v netmap.Viewer) error {
	if !req.Stream && req.OmitPeers && !req.ReadOnly {
		c.w.WriteHeader(http.StatusOK)
		return nil
	}
	if s.throttle.told.allow("gone" + c.cause()) {
		s.log.Info("a device whose node is gone was told to log in again", "name", t.Name, "node", t.Node, "remote", c.conn.Remote())
	}
	v.ID = t.Node
	if err := s.send(c, kindOther, s.maps.Gone(t, v, s.now())); err != nil || !req.Stream {
		return err
	}
	c.snap, *req = nil, tailcfg.MapRequest{}
	end := time.NewTimer(goneHold)
	defer end.Stop()
	for {
		select {
		case <-s.hub.wheel.after(keepAliveIn()):
			if err := s.send(c, kindKeepAlive, s.maps.KeepAlive(v)); err != nil {
				return err
			}
		case <-end.C:
			return nil
		case <-s.hub.over:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// send writes one message within its deadline.
func (s *Server) send(c *call, k kind, m netmap.Message) error {
	if m.Len() == 0 {
		return nil
	}
	// The client gives up on a message after 120 s, so more time is no use.
	const slowest = 16 << 10 // bytes per second
	limit := min(s.limits.Write+time.Duration(m.Len()/slowest)*time.Second, 110*time.Second)
	began := time.Now()
	if m.Len() > slowest {
		c.rc.SetWriteDeadline(began.Add(limit)) // for less the connection's own limit will do
		defer c.rc.SetWriteDeadline(time.Time{})
	}
	var err error
	for _, p := range m.Parts() {
		if _, err = c.w.Write(p); err != nil {
			break
		}
	}
	if err == nil {
		err = c.rc.Flush()
	}
	// A connection that takes nothing at all ends before the limit.
	const tooLong = 10 * time.Second
	if took := time.Since(began); err != nil && took >= tooLong {
		s.counts.slow.Add(1)
		s.log.Warn("a client does not read its map; its stream ends", "machine", c.machine.ShortString(), "remote", c.conn.Remote(), "bytes", m.Len(), "after", took.Round(time.Second))
	}
	if err != nil {
		return errGone // nobody is left to be told
	}
	s.counts.sent[k].add(m.Len())
	return nil
}
