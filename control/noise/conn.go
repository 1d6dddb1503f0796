package noise

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"heddle/control/h2"
	"heddle/control/tailnet/site"

	"tailscale.com/control/controlbase"
	"tailscale.com/types/key"
)

// Conn is one client's connection. To handlers it tells who is at the other
// end and whether it lives.
//
// Liveness is asked with HTTP/2 PING frames. They need nothing but this connection, unlike a
// control-to-node request, which travels in the map stream behind whatever update the
// client has yet to digest: a router under load is slow to take its map, but answers pings.
type Conn struct {
	noise  *controlbase.Conn
	out    *wire
	remote netip.Addr
	server *Server
	h2     *h2.Conn
	cancel context.CancelFunc // ends all requests

	heard atomic.Uint64 // successful reads
	sent  atomic.Uint64 // bytes of plaintext
}

type connKey struct{}

// FromContext returns the connection that a request came by. It panics if
// there is none, since that is a mistake in wiring.
func FromContext(ctx context.Context) *Conn { return ctx.Value(connKey{}).(*Conn) }

// Peer returns the machine key that the client proved.
func (c *Conn) Peer() key.MachinePublic { return c.noise.Peer() }

// Remote returns the address of the other end; invalid if it is not an IP address.
func (c *Conn) Remote() netip.Addr { return c.remote }

// Vouch takes the connection out of the count of strangers: its machine key now
// belongs to a node.
func (c *Conn) Vouch() {
	s := c.server
	s.strangers.leave(site.Of(c.remote), c)
}

// Heard counts what came from the client. A count that grows after a Ping
// proves that the process at the other end runs: its kernel alone acknowledges TCP
// segments, but sends no data.
func (c *Conn) Heard() uint64 { return c.heard.Load() }

// Sent counts the bytes that were sent, before encryption.
func (c *Conn) Sent() uint64 { return c.sent.Load() }

// Ping asks the client for a sign of life. It may block as long as a write may.
func (c *Conn) Ping() { c.h2.Ping() }

// transport is the connection as HTTP/2 sees it.
type transport struct{ *Conn }

func (t transport) Read(p []byte) (int, error) {
	n, err := t.noise.Read(p)
	if n > 0 {
		t.heard.Add(1)
	}
	return n, err
}

// WriteAll encrypts the pieces and writes all their Noise frames at once. Noise frames are at
// most 4 KB, and one system call for each is what large maps would mostly cost.
func (t transport) WriteAll(pieces ...[]byte) error {
	t.out.held = true
	var err error
	for _, p := range pieces {
		if len(p) > 0 && err == nil {
			_, err = t.noise.Write(p)
			t.sent.Add(uint64(len(p)))
		}
	}
	if e := t.out.release(); err == nil {
		err = e
	}
	return err
}

func (t transport) SetReadDeadline(at time.Time) error { return t.noise.SetReadDeadline(at) }
func (t transport) Close() error                       { return t.noise.Close() }

// end ends all requests, gives their answers a moment to leave, and closes.
func (c *Conn) end() {
	c.cancel()
	time.AfterFunc(200*time.Millisecond, func() { c.Close() })
}

// Close closes the connection at once.
func (c *Conn) Close() error { return c.h2.Close() }

// wire is the outer connection, below the encryption. While held it collects
// what is written, so that it leaves in one piece. Its methods but Write are
// called by one goroutine at a time.
type wire struct {
	net.Conn // nil until the upgrade is answered
	held     bool
	buf      *[]byte
}

// wireBufs are shared, so that an idle connection has none.
var wireBufs = sync.Pool{New: func() any { b := make([]byte, 0, 20<<10); return &b }}

// wireMax is when a held wire writes all the same.
const wireMax = 64 << 10

func (w *wire) Write(p []byte) (int, error) {
	if !w.held {
		return w.Conn.Write(p)
	}
	if w.buf == nil {
		w.buf = wireBufs.Get().(*[]byte)
	}
	*w.buf = append(*w.buf, p...)
	if len(*w.buf) < wireMax || w.Conn == nil {
		return len(p), nil
	}
	w.held = false
	defer func() { w.held = true }()
	return len(p), w.release()
}

// release writes what was held and holds no more.
func (w *wire) release() error {
	w.held = false
	if w.buf == nil {
		return nil
	}
	_, err := w.Conn.Write(*w.buf)
	w.drop()
	return err
}

// take returns what was held without writing it, and holds no more.
func (w *wire) take() []byte {
	w.held = false
	if w.buf == nil {
		return nil
	}
	b := append([]byte(nil), *w.buf...)
	w.drop()
	return b
}

func (w *wire) drop() {
	*w.buf = (*w.buf)[:0]
	wireBufs.Put(w.buf)
	w.buf = nil
}
