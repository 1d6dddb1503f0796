package control

import (
	"context"
	"time"

	"heddle/control/noise"
	"heddle/control/tailnet"
)

// A subnet router that hangs keeps its TCP connection, since the kernel alone
// acknowledges. So routers that a standby could replace are asked for a sign
// of life. It is an HTTP/2 PING on their connection, not a request in the map
// stream: that waits behind whatever map the router has yet to take in, and
// under load, when routes matter most, would call a busy router dead.
//
// A router that hangs is found within probeEvery + probePatience + probeTick, 7 s
// at most, and its standby is announced at once: in all less than 10 s. Nodes that
// nobody could stand in for are not asked.
const (
	probeEvery    = 2 * time.Second
	probePatience = 4 * time.Second
	probeTick     = 500 * time.Millisecond
)

// probe is what is known of one router's answers.
type probe struct {
	conn  *noise.Conn
	heard uint64    // conn's count when it was asked
	asked time.Time // zero if no answer is due
	next  time.Time // when to ask again
	mute  bool      // the last answer did not come
}

// probeRouters asks until ctx ends.
func (s *Server) probeRouters(ctx context.Context) {
	probes := map[tailnet.NodeID]*probe{}
	tick := time.NewTicker(probeTick)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		snap := s.state.Snapshot()
		s.selectProbes(snap, probes)
		for id, p := range probes {
			switch now := s.now(); {
			case p.asked.IsZero() && !now.Before(p.next):
				p.heard, p.asked, p.next = p.conn.Heard(), now, now.Add(probeEvery)
				s.pings.Go(p.conn.Ping)
			case p.asked.IsZero():
			case p.conn.Heard() != p.heard:
				p.asked = time.Time{}
				if p.mute {
					s.setAnswering(ctx, id, p, true)
				}
			case now.Sub(p.asked) >= probePatience && !p.mute:
				s.counts.unheard.Add(1)
				s.setAnswering(ctx, id, p, false)
			}
		}
	}
}

// selectProbes brings probes up to date: the connected nodes that share a
// prefix with another, and those that did not answer until they do.
func (s *Server) selectProbes(snap *tailnet.Snapshot, probes map[tailnet.NodeID]*probe) {
	for id, p := range probes {
		n, ss := snap.Node(id), s.hub.of(id)
		if n == nil || ss == nil || ss.conn != p.conn || !p.mute && !snap.Primaries().Contested(n) {
			delete(probes, id)
		}
	}
	for n := range snap.Nodes() {
		if len(n.Approved) == 0 || probes[n.ID] != nil || !snap.Primaries().Contested(n) {
			continue
		}
		if ss := s.hub.of(n.ID); ss != nil {
			probes[n.ID] = &probe{conn: ss.conn}
		}
	}
}

func (s *Server) setAnswering(ctx context.Context, id tailnet.NodeID, p *probe, ok bool) {
	_, err := s.state.Update(ctx, tailnet.SystemActor("probe"), func(tx *tailnet.Tx) error {
		tx.SetAnswering(id, ok)
		return nil
	})
	if err != nil {
		return // the server stops, or the next tick tries again
	}
	p.mute = !ok
	if ok {
		s.log.Info("subnet router answers again", "node", id)
	} else {
		s.log.Warn("subnet router does not answer; its routes go to a standby", "node", id, "for", probePatience)
	}
}
