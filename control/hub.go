package control

import (
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"heddle/control/netmap"
	"heddle/control/noise"
	"heddle/control/tailnet"

	"tailscale.com/types/key"
)

// hub knows the map stream of each node, and what all streams wait for. A node has one: a newer stream
// replaces the older, whose client is usually gone without a word.
//
// Two devices with copied keys would replace each other's streams every few
// milliseconds, for ever. After a few replacements in a row the newer stream is
// held back until the live one ends or has had its time.
type hub struct {
	feed   *feed
	wheel  *wheel
	maps   gate // full maps under way
	logins gate // registrations under way

	forwarding forwarding

	mu     sync.Mutex
	slots  map[tailnet.NodeID]*slot
	open   int // sessions entered and not left
	closed bool
	over   chan struct{} // closed when the hub closes
	empty  chan struct{} // closed when it has closed and the last session left
}

type slot struct {
	live, held *session
	swaps      int // times in a row that another connection came while the stream lived
	swapped    time.Time
}

const (
	// swapWindow is how close together swaps are in a row; longer than holdTime.
	swapWindow = time.Minute
	// maxSwaps leaves room for a client on a bad network, which dials again and again.
	maxSwaps = 5
	// holdTime is how long each of two devices with the same keys is served in turn.
	holdTime = 30 * time.Second
)

// session is one map stream.
type session struct {
	node   tailnet.NodeID
	key    key.NodePublic
	conn   *noise.Conn
	viewer netmap.Viewer
	extras chan netmap.Extra                // small messages to send; a full channel means that the client does not read
	quit   chan struct{}                    // closed when a newer stream takes over
	left   chan struct{}                    // closed when the stream has ended
	has    atomic.Pointer[tailnet.Snapshot] // what was sent last; nil if nothing was
}

func newSession(n *tailnet.Node, conn *noise.Conn, v netmap.Viewer) *session {
	return &session{
		node: n.ID, key: n.Key, conn: conn, viewer: v,
		extras: make(chan netmap.Extra, 4),
		quit:   make(chan struct{}), left: make(chan struct{}),
	}
}

func newHub(state *tailnet.State, news func(from, to *tailnet.Snapshot) bool) *hub {
	return &hub{feed: newFeed(state, news), wheel: newWheel(), maps: newMapGate(), logins: make(gate, maxLogins), slots: map[tailnet.NodeID]*slot{}, over: make(chan struct{}), empty: make(chan struct{})}
}

// enter makes ss the live session of its node, unless it must be held back: then it
// returns the one that lives, and the caller tries again with retake once that has left or had
// its time. ok is false if the hub has closed. Each session that entered must leave.
func (h *hub) enter(ss *session, now time.Time) (live *session, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, false
	}
	h.open++
	s := h.slots[ss.node]
	if s == nil {
		s = &slot{}
		h.slots[ss.node] = s
	}
	if s.live != nil && s.live.conn != ss.conn {
		if now.Sub(s.swapped) > swapWindow {
			s.swaps = 0
		}
		s.swapped = now
		if s.swaps++; s.swaps > maxSwaps {
			if s.held != nil {
				close(s.held.quit)
			}
			s.held = ss
			return s.live, true
		}
	}
	s.takeOver(ss)
	return nil, true
}

// retake makes a session that was held back the live one.
func (h *hub) retake(ss *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.slots[ss.node]; s != nil && s.held == ss {
		s.held = nil
		s.takeOver(ss)
	}
}

func (s *slot) takeOver(ss *session) {
	if s.live != nil {
		close(s.live.quit)
	}
	s.live = ss
}

// leave ends a session.
func (h *hub) leave(ss *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(ss.left)
	// A session that was replaced may leave after its successor, and find no slot.
	if s := h.slots[ss.node]; s != nil {
		if s.live == ss {
			s.live = nil
		}
		if s.held == ss {
			s.held = nil
		}
		if s.live == nil && s.held == nil {
			delete(h.slots, ss.node)
		}
	}
	h.open--
	if h.closed && h.open == 0 {
		close(h.empty)
	}
}

// of returns the live session of a node, or nil.
func (h *hub) of(id tailnet.NodeID) *session {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.slots[id]; s != nil {
		return s.live
	}
	return nil
}

func (h *hub) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.open
}

// close lets no session in any more and tells those inside that the server stops.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	close(h.over)
	if h.open == 0 {
		close(h.empty)
	}
}

func (h *hub) stopping() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed
}

// wait returns when the hub has closed and all sessions have left.
func (h *hub) wait() { <-h.empty }

// Stream is an open map stream, as operators see it.
type Stream struct {
	Node      tailnet.NodeID
	CapVer    int
	Version   uint64 // of the snapshot that it was sent last; zero if it waits for its first map
	BytesSent uint64 // on its connection, before encryption
}

// Streams yields the map streams that are open, in no order.
func (s *Server) Streams() iter.Seq[Stream] {
	return func(yield func(Stream) bool) {
		for _, ss := range s.hub.all() {
			if !yield(Stream{ss.node, int(ss.viewer.CapVer), s.hub.feed.sent(ss), ss.conn.Sent()}) {
				return
			}
		}
	}
}

// all returns the live sessions.
func (h *hub) all() []*session {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]*session, 0, len(h.slots))
	for _, s := range h.slots {
		if s.live != nil {
			out = append(out, s.live)
		}
	}
	return out
}
