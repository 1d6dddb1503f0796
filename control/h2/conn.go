// Package h2 owns HTTP/2 for connections that mostly wait: thousands of clients
// that hold one request open for days and are told something small now and
// then. A connection that waits costs one goroutine, and one for each request;
// it holds no buffers, and a message goes out in the goroutine that wrote it. It refuses to know
// what lies below (a Noise connection) and what requests mean.
//
// golang.org/x/net/http2 reads the frames; its server is made for many
// short requests, and takes three goroutines, three buffers and six changes of goroutine for a message
// (measured: 60 KB and 30 µs, of which a third is left here).
package h2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A Transport carries a connection. Closing it unblocks reads and writes.
type Transport interface {
	io.Reader
	// WriteAll sends the pieces in one go. Any error ends the connection.
	WriteAll(pieces ...[]byte) error
	SetReadDeadline(time.Time) error
	Close() error
}

// Limits of one connection. Clients have a few requests at a time, with less than 1 KB of headers each;
// what a stranger can make the server hold is the body window and the headers of maxStreams requests,
// until their handlers have let go of these.
const (
	maxStreams    = 16      // that run, whatever the client knows of their ends
	offerStreams  = 12      // fewer, since the client may know of an end before the handler has returned
	maxHeaders    = 4 << 10 // as RFC 9113 counts them, with 32 bytes for each field
	maxSettings   = 100     // of a frame; there are less than ten
	maxChatter    = 1000    // frames that cost work and carry nothing, in chatterTime; clients send a few
	chatterTime   = 10 * time.Second
	bodyWindow    = 65535 // of the connection and of each stream: the protocol's own initial value
	frameLen      = 16 << 10
	maxWindow     = 1<<31 - 1
	prefaceTime   = 10 * time.Second
	writeStall    = 30 * time.Second // the longest that one write of at most frameLen may take
	quietTime     = time.Minute      // of silence, before the client is asked for a sign of life
	pongTime      = 15 * time.Second // for its answer
	creditMinimum = bodyWindow / 4   // body bytes that are given back together
)

// Options are what a Conn needs besides its Transport.
type Options struct {
	Handler http.Handler
	Context context.Context // of all requests; when it ends the handlers are to return
	Remote  string          // for Request.RemoteAddr
	Idle    time.Duration   // how long the connection lives without a request
	Log     *slog.Logger    // hears of panics
}

// Conn is one connection. Make one with New; Serve owns its goroutines.
type Conn struct {
	t    Transport
	opts Options

	writing sync.Mutex // held while frames are written
	life    life

	handlers sync.WaitGroup

	mu      sync.Mutex // guards what follows, and the guarded part of streams
	moved   sync.Cond  // something that writers or readers of bodies wait for
	streams map[uint32]*stream
	last    uint32 // highest stream seen
	window  int64  // what may be sent
	initial int64  // of the windows of new streams
	intake  intake // of all bodies
	idle    time.Time
	retired bool  // no request is taken any more
	err     error // the connection is over
}

// life is what Sweep judges by: times since the connection began, by the monotonic clock, which
// never steps. Zero stands for never.
type life struct {
	began  time.Time
	wrote  atomic.Int64 // when the write began that is under way
	heard  atomic.Int64 // when something was read last
	pinged atomic.Int64 // when the client was asked for a sign of life, if nothing was read since
}

// at is the time for the fields of life.
func (l *life) at(now time.Time) int64 { return max(1, int64(now.Sub(l.began))) }

// since returns how long ago something of life was; for never it returns 0.
func (l *life) since(then *atomic.Int64, now time.Time) time.Duration {
	if at := then.Load(); at != 0 {
		return time.Duration(l.at(now) - at)
	}
	return 0
}

// intake is the account of body bytes of a stream or the connection.
type intake struct {
	held   int // received and not yet read or dropped
	credit int // read or dropped, but not yet given back to the client
}

// New returns a connection; Serve serves it.
func New(t Transport, o Options) *Conn {
	c := &Conn{t: t, opts: o, streams: map[uint32]*stream{}, window: bodyWindow, initial: bodyWindow, idle: time.Now()}
	c.moved.L = &c.mu
	c.life.began = c.idle
	c.life.heard.Store(c.life.at(c.idle))
	return c
}

var errClosed = errors.New("connection closed")

// Serve reads requests and runs a handler for each until the connection ends.
// It returns when they all have returned.
func (c *Conn) Serve() {
	err := c.read()
	var broken http2.ConnectionError
	if errors.As(err, &broken) {
		c.goAway(http2.ErrCode(broken))
	}
	c.Close()
	c.handlers.Wait()
}

// Close ends the connection and all its requests at once.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.err == nil {
		c.err = errClosed
	}
	for _, st := range c.streams {
		st.cancel()
	}
	c.moved.Broadcast()
	c.mu.Unlock()
	return c.t.Close()
}

// reader notes when something came.
type reader struct{ c *Conn }

func (r reader) Read(p []byte) (int, error) {
	n, err := r.c.t.Read(p)
	if n > 0 {
		r.c.life.heard.Store(r.c.life.at(time.Now()))
		r.c.life.pinged.Store(0)
	}
	return n, err
}

// read serves what the client sends.
func (c *Conn) read() error {
	c.t.SetReadDeadline(time.Now().Add(prefaceTime))
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(reader{c}, preface); err != nil {
		return err
	}
	if !bytes.Equal(preface, []byte(http2.ClientPreface)) {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if err := c.write(settings); err != nil {
		return err
	}
	fr := http2.NewFramer(nil, reader{c})
	fr.SetMaxReadFrameSize(frameLen)
	fr.MaxHeaderListSize = maxHeaders
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	first := true
	var talk chatter
	for {
		f, err := fr.ReadFrame()
		if first {
			if _, ok := f.(*http2.SettingsFrame); err == nil && !ok {
				return http2.ConnectionError(http2.ErrCodeProtocol)
			}
			c.t.SetReadDeadline(time.Time{})
			first = false
		}
		if err == nil {
			err = c.frame(f)
		}
		if talk.tooMuch(f, err) {
			return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
		}
		var bad http2.StreamError
		switch {
		case errors.As(err, &bad):
			c.abort(bad.StreamID, bad)
			c.seen(bad.StreamID)
			err = c.write(resetFrame(bad.StreamID, bad.Code))
		case errors.Is(err, http2.ErrFrameTooLarge):
			return http2.ConnectionError(http2.ErrCodeFrameSize)
		}
		if err != nil {
			return err
		}
	}
}

// chatter counts frames that cost work and carry nothing.
type chatter struct {
	began time.Time
	n     int
}

// tooMuch counts a frame, and what became of it, and reports whether there were too many. Window updates
// do not count, since they come with each few KB of a large answer, nor do answers to pings.
func (ch *chatter) tooMuch(f http2.Frame, err error) bool {
	switch f := f.(type) {
	case *http2.DataFrame:
		if len(f.Data()) > 0 || f.StreamEnded() {
			return false
		}
	case *http2.MetaHeadersFrame:
		if err == nil {
			return false
		}
	case *http2.PingFrame:
		if f.IsAck() {
			return false
		}
	case *http2.WindowUpdateFrame:
		return false
	}
	if now := time.Now(); now.Sub(ch.began) > chatterTime {
		ch.began, ch.n = now, 0
	}
	ch.n++
	return ch.n > maxChatter
}

// frame does what a frame says.
func (c *Conn) frame(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		return c.headers(f)
	case *http2.DataFrame:
		return c.data(f)
	case *http2.SettingsFrame:
		if f.IsAck() {
			return nil
		}
		if f.NumSettings() > maxSettings || f.HasDuplicates() {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		if err := c.settings(f); err != nil {
			return err
		}
		return c.write(settingsAck)
	case *http2.PingFrame:
		if f.IsAck() {
			return nil
		}
		return c.write(pingFrame(f.Data, true))
	case *http2.WindowUpdateFrame:
		return c.grow(f.StreamID, int64(f.Increment))
	case *http2.RSTStreamFrame:
		c.abort(f.StreamID, fmt.Errorf("client reset the stream: %v", f.ErrCode))
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return nil
}

// settings takes over the client's settings.
func (c *Conn) settings(f *http2.SettingsFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.moved.Broadcast()
	return f.ForeachSetting(c.settingLocked)
}

func (c *Conn) settingLocked(s http2.Setting) error {
	if err := s.Valid(); err != nil {
		return err
	}
	if s.ID != http2.SettingInitialWindowSize { // frames are never larger than any client takes, nor headers indexed
		return nil
	}
	more := int64(s.Val) - c.initial
	c.initial = int64(s.Val)
	for _, st := range c.streams {
		if st.window += more; st.window > maxWindow {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
	}
	return nil
}

// grow widens a window of what may be sent; stream 0 is the connection.
func (c *Conn) grow(id uint32, by int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id == 0 {
		if c.window += by; c.window > maxWindow {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
	} else if st := c.streams[id]; st != nil {
		if st.window += by; st.window > maxWindow {
			return http2.StreamError{StreamID: id, Code: http2.ErrCodeFlowControl}
		}
	}
	c.moved.Broadcast()
	return nil
}

// headers begins a request, or ends the body of one.
func (c *Conn) headers(f *http2.MetaHeadersFrame) error {
	id := f.StreamID
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.retired {
		return nil
	}
	st, fresh := c.streams[id], id > c.last
	c.last = max(c.last, id)
	switch {
	case st != nil && f.StreamEnded() && st.bodyErr == nil && !st.body.fits(0, true):
		return http2.StreamError{StreamID: id, Code: http2.ErrCodeProtocol, Cause: errLength}
	case st != nil && f.StreamEnded(): // trailers
		c.endBodyLocked(st)
		return nil
	case st != nil || id%2 == 0:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	case !fresh:
		return http2.StreamError{StreamID: id, Code: http2.ErrCodeStreamClosed}
	case len(c.streams) >= maxStreams:
		return http2.StreamError{StreamID: id, Code: http2.ErrCodeRefusedStream}
	case f.Truncated:
		return http2.StreamError{StreamID: id, Code: http2.ErrCodeEnhanceYourCalm}
	}
	st, req, err := c.newStream(f)
	if err != nil {
		return http2.StreamError{StreamID: id, Code: http2.ErrCodeProtocol, Cause: err}
	}
	if c.err != nil {
		st.cancel()
		return c.err
	}
	c.streams[id] = st
	c.handlers.Go(func() { st.run(req) })
	return nil
}

// data takes in a piece of a body.
func (c *Conn) data(f *http2.DataFrame) error {
	n := int(f.Length)
	c.mu.Lock()
	st := c.streams[f.StreamID]
	c.intake.held += n
	switch {
	case c.intake.held > bodyWindow+creditMinimum:
		c.mu.Unlock()
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	case st == nil || st.bodyErr != nil: // it was answered or reset already
		idle := f.StreamID > c.last && !c.retired
		c.mu.Unlock()
		if idle {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		return c.giveBack(nil, n)
	case st.intake.held+n > bodyWindow+creditMinimum:
		c.mu.Unlock()
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	if !st.body.fits(len(f.Data()), f.StreamEnded()) {
		out := c.giveBackLocked(nil, n)
		c.mu.Unlock()
		if err := c.writeSome(out); err != nil {
			return err
		}
		return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeProtocol, Cause: errLength}
	}
	st.body.data = append(st.body.data, f.Data()...)
	st.intake.held += n
	if f.StreamEnded() {
		st.bodyErr = io.EOF
	}
	c.moved.Broadcast()
	out := c.giveBackLocked(st, n-len(f.Data())) // the padding, before the handler can end and give back the rest
	c.mu.Unlock()
	return c.writeSome(out)
}

func (c *Conn) wake() {
	c.mu.Lock()
	c.moved.Broadcast()
	c.mu.Unlock()
}

// giveBack lets the client send as many bytes again. st is nil if its stream is over.
func (c *Conn) giveBack(st *stream, n int) error {
	c.mu.Lock()
	out := c.giveBackLocked(st, n)
	c.mu.Unlock()
	return c.writeSome(out)
}

// giveBackLocked does the sums of giveBack, and returns the frames to be sent, if any.
func (c *Conn) giveBackLocked(st *stream, n int) (out []byte) {
	c.intake.held -= n
	if c.intake.credit += n; c.intake.credit >= creditMinimum {
		out = appendWindowUpdate(out, 0, c.intake.credit)
		c.intake.credit = 0
	}
	if st != nil {
		st.intake.held -= n
		if st.intake.credit += n; st.intake.credit >= creditMinimum && st.bodyErr == nil {
			out = appendWindowUpdate(out, st.id, st.intake.credit)
			st.intake.credit = 0
		}
	}
	return out
}

// writeSome writes frames, if there are any.
func (c *Conn) writeSome(frames []byte) error {
	if len(frames) == 0 {
		return nil
	}
	return c.write(frames)
}

// endBodyLocked notes that a body is complete.
func (c *Conn) endBodyLocked(st *stream) {
	if st.bodyErr == nil {
		st.bodyErr = io.EOF
	}
	c.moved.Broadcast()
}

// seen notes a stream whose headers were refused: what else comes for it is dropped.
func (c *Conn) seen(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id%2 == 1 {
		c.last = max(c.last, id)
	}
}

// abort ends a stream that one of the ends has given up.
func (c *Conn) abort(id uint32, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if st := c.streams[id]; st != nil && st.dead == nil {
		st.dead = err
		if st.bodyErr == nil {
			st.bodyErr = err
		}
		st.cancel()
		c.moved.Broadcast()
	}
}

// write sends frames that belong together.
func (c *Conn) write(pieces ...[]byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.life.wrote.Store(c.life.at(time.Now()))
	err := c.t.WriteAll(pieces...)
	c.life.wrote.Store(0)
	if err != nil {
		c.Close()
	}
	return err
}

func (c *Conn) goAway(code http2.ErrCode) {
	c.mu.Lock()
	last := c.last
	c.mu.Unlock()
	c.write(goAwayFrame(last, code))
}

// retire ends the connection unless a request has come meanwhile. None that comes later is
// served, so the client may send it again elsewhere.
func (c *Conn) retire() {
	c.mu.Lock()
	if len(c.streams) > 0 {
		c.mu.Unlock()
		return
	}
	c.retired = true
	c.mu.Unlock()
	c.goAway(http2.ErrCodeNo)
	c.Close()
}

// Ping asks the client for a sign of life. It may block as long as a write may.
func (c *Conn) Ping() { c.write(pingFrame([8]byte{'h', 'e', 'd', 'd', 'l', 'e', '-', '1'}, false)) }

// Sweep looks after the connection. Called every few seconds, it returns what is
// to be done, which may take as long as a write: to end a connection whose client takes nothing or
// does not answer, or that has nothing to do, or to ask for a sign of life. Mostly it returns nil.
func (c *Conn) Sweep(now time.Time) func() {
	shut := func() { c.Close() }
	if c.life.since(&c.life.wrote, now) > writeStall {
		return shut
	}
	c.mu.Lock()
	idle := len(c.streams) == 0 && now.Sub(c.idle) > c.opts.Idle
	late := false
	for _, st := range c.streams {
		late = late || st.due.late(now)
	}
	c.mu.Unlock()
	switch {
	case late || c.life.since(&c.life.pinged, now) > pongTime:
		return shut
	case idle:
		return c.retire
	case c.life.since(&c.life.heard, now) > quietTime && c.life.pinged.CompareAndSwap(0, c.life.at(now)):
		return c.Ping
	}
	return nil
}
