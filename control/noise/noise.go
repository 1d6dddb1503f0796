// Package noise owns the encrypted connections of clients: it accepts
// /ts2021 upgrades (plain HTTP and WebSocket), does the Noise handshake, bounds
// how many connections strangers may hold, serves HTTP/2 inside, and ends all
// connections gently. It refuses to know what the requests mean: a connection
// proves a machine key and nothing more.
package noise

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"heddle/control/h2"
	"heddle/control/tailnet/site"

	"github.com/coder/websocket"
	"tailscale.com/control/controlbase"
	"tailscale.com/net/netutil"
	"tailscale.com/net/wsconn"
	"tailscale.com/types/key"
)

const (
	// protocol is the Upgrade token and the WebSocket subprotocol.
	protocol = "tailscale-control-protocol"
	// handshakeParam is the header, or for WebSockets (which cannot set headers) the
	// query parameter, that holds the client's first Noise message.
	handshakeParam = "X-Tailscale-Handshake"
	// initiationLen is the size of that message: 2 bytes of version, 1 of type,
	// 2 of length, an ephemeral key (32), a sealed machine key (48) and a tag (16).
	initiationLen = 101
)

// Limits bound what connections may cost. Zero fields take the defaults.
type Limits struct {
	// Strangers is how many connections may be open whose machine key belongs
	// to no node. One with a request or two costs some 50 KB, so the default of 4096 is 200 MB;
	// one that sends all that h2 lets it costs up to 300 KB (measured: 210 KB with the headers of 16 requests,
	// and 80 KB for bodies) for the few seconds in which bodies must arrive. When the bound is
	// reached the address that holds most of them loses its oldest one, so a
	// flood from one place shuts nobody else out.
	Strangers int
	// StrangersPerAddr bounds those of one address (IPv6: one /64). The default of
	// 512 leaves room for a whole office that joins at once, or a reverse proxy.
	StrangersPerAddr int
	// PerMachine bounds the connections of one known machine: a client has one
	// or two, a cloned one twice that. Default 16; the oldest goes first.
	PerMachine int
	// Handshake bounds the time for the upgrade's answer. Default 10 s.
	Handshake time.Duration
	// Idle is how long a connection without a request lives. Default 2 min.
	Idle time.Duration
}

func (l Limits) withDefaults() Limits {
	l.Strangers = cmp.Or(l.Strangers, 4096)
	l.StrangersPerAddr = cmp.Or(l.StrangersPerAddr, 512)
	l.PerMachine = cmp.Or(l.PerMachine, 16)
	l.Handshake = cmp.Or(l.Handshake, 10*time.Second)
	l.Idle = cmp.Or(l.Idle, 2*time.Minute)
	return l
}

// Options are what a Server needs.
type Options struct {
	Key     key.MachinePrivate           // the server's identity
	Handler http.Handler                 // for the requests inside; FromContext gives it the connection
	Known   func(key.MachinePublic) bool // whether a machine key belongs to a node
	Log     *slog.Logger                 // nil discards
	Limits  Limits
}

// Server accepts connections. Make one with New; Run owns its goroutines.
type Server struct {
	opts   Options
	log    *slog.Logger
	limits Limits

	strangers *crowd[netip.Prefix]
	known     *crowd[key.MachinePublic]

	refused atomic.Int64 // when a refusal was last logged, in Unix seconds
	counts  counters

	serving sync.WaitGroup
	mu      sync.Mutex
	conns   map[*Conn]struct{}
	closed  bool
}

// New returns a Server. It accepts connections until its Run ends.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := o.Limits.withDefaults()
	return &Server{
		opts:      o,
		log:       o.Log,
		limits:    l,
		strangers: newCrowd[netip.Prefix](l.StrangersPerAddr, l.Strangers),
		known:     newCrowd[key.MachinePublic](l.PerMachine, 0),
		conns:     map[*Conn]struct{}{},
	}
}

// ServeHTTP upgrades a request to a Noise connection and serves it detached:
// it returns at once, which frees net/http's buffers for the life of the connection
// (measured: 39-44 KB each instead of 52-58).
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ws := strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
	init, err := initiation(r, ws)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	// The handshake needs nothing more from the client, so it is done before
	// the upgrade is answered: a bad one gets a plain HTTP error.
	out := &wire{held: true}
	nc, err := controlbase.Server(context.WithoutCancel(r.Context()), out, s.opts.Key, init)
	if err != nil {
		s.refuse(w, r, errors.New("the Noise handshake does not fit this server's key; restart the client so that it fetches /key again"))
		return
	}
	if out.Conn, err = s.upgrade(w, r, ws, out); err != nil {
		s.log.Debug("upgrade failed", "remote", r.RemoteAddr, "err", err)
		return
	}
	c := &Conn{noise: nc, out: out, remote: remoteAddr(r), server: s}
	if !s.start(c) {
		nc.Close()
	}
}

// refuse answers a bad upgrade request.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	s.counts.refused.Add(1)
	level := slog.LevelDebug
	if now := time.Now().Unix(); s.refused.Swap(now) != now {
		level = slog.LevelInfo // scanners and floods get one line a second
	}
	s.log.Log(r.Context(), level, "handshake refused", "remote", r.RemoteAddr, "err", err)
	http.Error(w, err.Error(), http.StatusBadRequest)
}

// initiation returns the client's first Noise message. Beyond its size and type
// nothing of it is believed.
func initiation(r *http.Request, ws bool) ([]byte, error) {
	var encoded string
	switch {
	case ws:
		encoded = r.URL.Query().Get(handshakeParam)
	case r.Method == http.MethodPost && strings.EqualFold(r.Header.Get("Upgrade"), protocol):
		encoded = r.Header.Get(handshakeParam)
	default:
		return nil, errors.New("this is the address of the Tailscale control protocol; a reverse proxy in front must pass the headers Upgrade and Connection")
	}
	if encoded == "" {
		return nil, errors.New("missing " + handshakeParam)
	}
	if len(encoded) > 2*initiationLen {
		return nil, errors.New("oversized " + handshakeParam)
	}
	init, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, errors.New("malformed " + handshakeParam + ": not base64")
	}
	const typeInitiation = 1
	if len(init) != initiationLen || init[2] != typeInitiation || binary.BigEndian.Uint16(init[3:]) != initiationLen-5 {
		return nil, errors.New("malformed " + handshakeParam + ": not a handshake initiation")
	}
	return init, nil
}

// upgrade answers the request, together with the handshake bytes that out
// holds, and returns the outer connection.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request, ws bool, out *wire) (net.Conn, error) {
	if ws {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{
			Subprotocols:    []string{protocol},
			OriginPatterns:  []string{"*"}, // browsers embed the client in pages from anywhere; Noise authenticates
			CompressionMode: websocket.CompressionDisabled,
		})
		if err != nil {
			return nil, err
		}
		if c.Subprotocol() != protocol {
			c.Close(websocket.StatusPolicyViolation, "the subprotocol must be "+protocol)
			return nil, errors.New("wrong subprotocol")
		}
		// The connection lives as long as this context, hence not r's.
		conn := wsconn.NetConn(context.WithoutCancel(r.Context()), c, websocket.MessageBinary, r.RemoteAddr)
		_, err = conn.Write(out.take())
		return conn, err
	}
	conn, brw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "the control protocol needs HTTP/1.1", http.StatusHTTPVersionNotSupported)
		return nil, err
	}
	answer := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: " + protocol + "\r\nConnection: upgrade\r\n\r\n"
	conn.SetDeadline(time.Now().Add(s.limits.Handshake))
	if _, err := conn.Write(append([]byte(answer), out.take()...)); err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	return netutil.NewDrainBufConn(conn, brw.Reader), nil
}

// start serves c in a goroutine of its own. It returns false if the server
// has stopped.
func (s *Server) start(c *Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), connKey{}, c))
	c.cancel = cancel
	c.h2 = h2.New(transport{c}, h2.Options{
		Handler: s.opts.Handler, Context: ctx, Remote: c.remote.String(), Idle: s.limits.Idle, Log: s.log,
	})
	s.conns[c] = struct{}{}
	s.counts.accepted.Add(1)
	evicted := s.admit(c)
	s.serving.Go(func() {
		defer s.forget(c)
		if evicted != nil {
			s.counts.evicted.Add(1)
			s.log.Info("too many connections: the oldest is closed", "remote", evicted.remote, "machine", evicted.Peer().ShortString())
			evicted.Close()
		}
		c.h2.Serve()
	})
	return true
}

// admit counts c among the strangers or its machine's connections and returns
// the one that must make room.
func (s *Server) admit(c *Conn) (evicted *Conn) {
	if s.opts.Known(c.Peer()) {
		return s.known.join(c.Peer(), c)
	}
	return s.strangers.join(site.Of(c.remote), c)
}

func (s *Server) forget(c *Conn) {
	c.cancel()
	s.strangers.leave(site.Of(c.remote), c)
	s.known.leave(c.Peer(), c)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// sweepEvery is how often connections are looked after. One ticker for all
// stands in for several timers of each.
const sweepEvery = 2 * time.Second

// sweep looks after all connections until ctx ends.
func (s *Server) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		s.mu.Lock()
		for c := range s.conns {
			if do := c.h2.Sweep(now); do != nil {
				s.serving.Go(do)
			}
		}
		s.mu.Unlock()
	}
}

// Run looks after connections, waits for ctx to end and then ends all connections, spread over at most
// maxSpread, because clients come back within milliseconds and all at once would be
// a stampede for whoever serves them next. It returns within about 5 s, however many there are.
func (s *Server) Run(ctx context.Context) error {
	s.sweep(ctx)
	s.mu.Lock()
	s.closed = true
	conns := make([]*Conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()

	const maxSpread = 3 * time.Second
	pause := min(time.Millisecond, maxSpread/time.Duration(max(1, len(conns))))
	tick := time.NewTicker(max(pause, time.Microsecond))
	defer tick.Stop()
	for _, c := range conns {
		<-tick.C
		c.end()
	}
	s.serving.Wait()
	return nil
}

// counters are for Stats.
type counters struct {
	accepted, refused, evicted atomic.Int64
}

// Stats are numbers for operators. Open and Strangers are those of the present, the others only grow.
type Stats struct {
	Open      int   // connections
	Strangers int   // those of them whose machine owns no node
	Accepted  int64 // handshakes that succeeded
	Refused   int64 // upgrade requests that were refused
	Evicted   int64 // connections that made room for others
}

// Stats returns the current numbers.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	open := len(s.conns)
	s.mu.Unlock()
	return Stats{
		Open: open, Strangers: s.strangers.len(),
		Accepted: s.counts.accepted.Load(), Refused: s.counts.refused.Load(), Evicted: s.counts.evicted.Load(),
	}
}

func remoteAddr(r *http.Request) netip.Addr {
	ap, _ := netip.ParseAddrPort(r.RemoteAddr)
	return ap.Addr().Unmap().WithZone("")
}

// crowd is a bounded set of connections in groups.
type crowd[K comparable] struct {
	perKey, total int // total 0: no bound

	mu      sync.Mutex
	members map[K][]*Conn // oldest first
	n       int
}

func newCrowd[K comparable](perKey, total int) *crowd[K] {
	return &crowd[K]{perKey: perKey, total: total, members: map[K][]*Conn{}}
}

// join adds c and returns the connection that leaves for it, if any: the
// oldest of the same group, or of the largest group.
func (g *crowd[K]) join(k K, c *Conn) (evicted *Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	from, full := k, g.total > 0 && g.n >= g.total
	crowded := len(g.members[k]) >= g.perKey
	if full && !crowded {
		for other, conns := range g.members {
			if len(conns) > len(g.members[from]) {
				from = other
			}
		}
	}
	if full || crowded {
		evicted = g.members[from][0]
		g.removeLocked(from, 0)
	}
	g.members[k] = append(g.members[k], c)
	g.n++
	return evicted
}

// leave removes c, if it is there.
func (g *crowd[K]) leave(k K, c *Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, m := range g.members[k] {
		if m == c {
			g.removeLocked(k, i)
			return
		}
	}
}

func (g *crowd[K]) removeLocked(k K, i int) {
	conns := append(g.members[k][:i:i], g.members[k][i+1:]...)
	if len(conns) == 0 {
		delete(g.members, k)
	} else {
		g.members[k] = conns
	}
	g.n--
}

func (g *crowd[K]) len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.n
}
