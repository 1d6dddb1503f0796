package noise

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"tailscale.com/control/controlbase"
	"tailscale.com/types/key"
)

// Conn is one client's connection. To http2.Server it is the plaintext
// net.Conn; to handlers it tells who is at the other end and whether it lives.
//
// Liveness is asked with HTTP/2 PING frames that Conn slips between the frames
// of http2.Server. They need nothing but this connection, unlike a
// control-to-node request, which travels in the map stream behind whatever update the
// client has yet to digest: a router under load is slow to take its map, but answers pings.
type Conn struct {
	noise  *controlbase.Conn
	out    *wire
	remote netip.Addr
	server *Server
	cancel context.CancelFunc // ends all requests

	heard  atomic.Uint64 // successful reads
	pinged atomic.Bool   // a PING waits to be written

	writing sync.Mutex // guards frames and the order of writes
	frames  boundary
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
	s.strangers.leave(group(c.remote), c)
}

// Heard counts what came from the client. A count that grows after a Ping
// proves that the process at the other end runs: its kernel alone acknowledges TCP
// segments, but sends no data.
func (c *Conn) Heard() uint64 { return c.heard.Load() }

// pingFrame is an HTTP/2 PING (RFC 9113 §6.7) with a payload of our own.
// http2.Server ignores answers to pings that it did not send.
var pingFrame = []byte{0, 0, 8, 6, 0, 0, 0, 0, 0, 'h', 'e', 'd', 'd', 'l', 'e', '-', '1'}

// Ping asks the client for a sign of life. If a frame is just being written
// the ping follows it. It may block as long as a write may.
func (c *Conn) Ping() {
	c.pinged.Store(true)
	c.flushPing()
}

// flushPing writes a ping that waits, unless another goroutine writes: that
// one calls flushPing when it is done.
func (c *Conn) flushPing() {
	for c.pinged.Load() && c.writing.TryLock() {
		if !c.frames.between() {
			c.writing.Unlock()
			return // the rest of the frame is written next
		}
		c.pinged.Store(false)
		_, err := c.send(pingFrame)
		c.writing.Unlock()
		if err != nil {
			c.Close()
			return
		}
	}
}

// Write sends plaintext of http2.Server.
func (c *Conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	n, err := c.send(p)
	c.frames.advance(p[:n])
	c.writing.Unlock()
	if err == nil {
		c.flushPing()
	}
	return n, err
}

// send encrypts p and writes all its Noise frames at once: they are at most
// 4 KB each, and http2.Server writes 16 KB at a time. For large maps this saves
// a tenth of the CPU time of both ends (measured), and packets.
func (c *Conn) send(p []byte) (int, error) {
	c.out.held = true
	n, err := c.noise.Write(p)
	if e := c.out.release(); err == nil {
		err = e
	}
	return n, err
}

func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.noise.Read(p)
	if n > 0 {
		c.heard.Add(1)
	}
	return n, err
}

// end ends all requests, gives their answers a moment to leave, and closes.
func (c *Conn) end() {
	c.cancel()
	time.AfterFunc(200*time.Millisecond, func() { c.Close() })
}

// Close closes the connection at once.
func (c *Conn) Close() error { return c.noise.Close() }

func (c *Conn) LocalAddr() net.Addr                { return c.noise.LocalAddr() }
func (c *Conn) RemoteAddr() net.Addr               { return c.noise.RemoteAddr() }
func (c *Conn) SetDeadline(t time.Time) error      { return c.noise.SetDeadline(t) }
func (c *Conn) SetReadDeadline(t time.Time) error  { return c.noise.SetReadDeadline(t) }
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.noise.SetWriteDeadline(t) }

// boundary follows the frames of an HTTP/2 byte stream, to know when it is
// between two of them.
type boundary struct {
	header  [9]byte
	have    int    // bytes of header that are known
	payload uint32 // bytes of payload to come
	block   bool   // inside a header block, which nothing may interrupt (RFC 9113 §6.10)
	begun   bool   // the first frame, SETTINGS, has passed
}

// between reports whether another frame may be put in here.
func (b *boundary) between() bool {
	return b.begun && b.have == 0 && b.payload == 0 && !b.block
}

func (b *boundary) advance(p []byte) {
	for len(p) > 0 {
		if b.payload > 0 {
			n := min(uint32(len(p)), b.payload)
			b.payload -= n
			p = p[n:]
			continue
		}
		n := copy(b.header[b.have:], p)
		b.have += n
		p = p[n:]
		if b.have < len(b.header) {
			return
		}
		const (
			headers, pushPromise, continuation = 1, 5, 9
			endHeaders                         = 4
		)
		b.payload = binary.BigEndian.Uint32(b.header[:]) >> 8
		switch b.header[3] {
		case headers, pushPromise, continuation:
			b.block = b.header[4]&endHeaders == 0
		}
		b.have, b.begun = 0, true
	}
}

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
