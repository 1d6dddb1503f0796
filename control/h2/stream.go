package h2

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"
)

// stream is one request: its body, and its ResponseWriter. A handler uses it in one
// goroutine.
type stream struct {
	c      *Conn
	id     uint32
	ctx    context.Context
	cancel context.CancelFunc

	// The handler's.
	header http.Header
	status int     // zero until the header is written
	head   bool    // the request's method is HEAD
	begun  bool    // the header has been sent
	out    *[]byte // room for a frame's header and what waits to be sent; nil if nothing does

	// Guarded by c.mu.
	window  int64 // what may be sent
	body    body
	intake  intake
	bodyErr error // no more comes; io.EOF if that is all
	dead    error // one of the ends has given the stream up
	due     due
}

// body is what came of a request's body.
type body struct {
	data []byte // received and not yet read
	left int64  // how much is still to come; negative if the client did not declare it
}

// fits counts n bytes more, perhaps the last ones, and reports whether there are as many as were declared.
func (b *body) fits(n int, last bool) bool {
	if b.left < 0 {
		return true
	}
	if int64(n) > b.left || last && int64(n) < b.left {
		return false
	}
	b.left -= int64(n)
	return true
}

var errLength = errors.New("the body is not as long as its content-length")

// due is by when the client must have done what the handler waits for.
type due struct {
	read, write time.Time // zero: in any time for reads, writeStall for what is buffered at a time
	since       time.Time // when it was first asked to take what is buffered; zero if nothing is
}

// late reports whether the client has not taken in time what was sent.
func (d *due) late(now time.Time) bool {
	switch {
	case d.since.IsZero():
		return false
	case d.write.IsZero():
		return now.Sub(d.since) > writeStall
	}
	return now.After(d.write)
}

// newStream returns a stream and its request. An error says what makes it malformed (RFC 9113, section 8.1.1).
func (c *Conn) newStream(f *http2.MetaHeadersFrame) (*stream, *http.Request, error) {
	method, path := f.PseudoValue("method"), f.PseudoValue("path")
	if !httpguts.ValidHeaderFieldName(method) || method == http.MethodConnect || f.PseudoValue("scheme") == "" { // a method is a token too
		return nil, nil, errors.New("malformed request")
	}
	u, err := url.ParseRequestURI(path)
	if err != nil {
		return nil, nil, err
	}
	header := http.Header{}
	for _, h := range f.RegularFields() {
		header.Add(h.Name, h.Value)
	}
	length, err := declared(header)
	switch {
	case err != nil:
		return nil, nil, err
	case f.StreamEnded() && length > 0:
		return nil, nil, errLength
	}
	st := &stream{c: c, id: f.StreamID, header: http.Header{}, window: c.initial, head: method == http.MethodHead, body: body{left: length}}
	st.ctx, st.cancel = context.WithCancel(c.opts.Context)
	req := &http.Request{
		Method: method, URL: u, RequestURI: path, Host: f.PseudoValue("authority"),
		Proto: "HTTP/2.0", ProtoMajor: 2, RemoteAddr: c.opts.Remote,
		Header: header, Body: st, ContentLength: length,
	}
	if req.Host == "" {
		req.Host = header.Get("Host")
	}
	if f.StreamEnded() {
		st.bodyErr = io.EOF
		req.Body, req.ContentLength = http.NoBody, 0
	}
	return st, req.WithContext(st.ctx), nil
}

// declared returns the length of the body that a header declares, or -1. An error says what
// the header must not have.
func declared(h http.Header) (int64, error) {
	for name := range hopByHop {
		if h[name] != nil {
			return 0, errors.New("the request has a header that belongs to a connection: " + name)
		}
	}
	length := int64(-1)
	for _, v := range h["Content-Length"] {
		n, err := strconv.ParseUint(v, 10, 63)
		if err != nil || length >= 0 && length != int64(n) {
			return 0, errors.New("the request has a bad content-length")
		}
		length = int64(n)
	}
	return length, nil
}

// run answers the request. Once the handler waits, nothing but the handler holds the
// request, so one that lets go of it frees the headers.
func (st *stream) run(req *http.Request) {
	path := strings.Clone(req.URL.Path)
	defer st.end()
	defer func() {
		if v := recover(); v != nil {
			if v != http.ErrAbortHandler {
				st.c.opts.Log.Error("handler panicked", "path", path, "panic", v, "stack", string(debug.Stack()))
			}
			st.give(http2.ErrCodeInternal)
		}
	}()
	st.c.opts.Handler.ServeHTTP(st, req)
	st.finish()
}

// finish ends the answer.
func (st *stream) finish() {
	if st.status == 0 {
		st.WriteHeader(http.StatusOK)
	}
	if st.flush(true) != nil {
		return
	}
	st.c.mu.Lock()
	unread := st.bodyErr == nil
	st.c.mu.Unlock()
	if unread {
		st.give(http2.ErrCodeNo) // the answer is complete; the rest of the body is not wanted
	}
}

// give gives the stream up.
func (st *stream) give(code http2.ErrCode) {
	st.c.abort(st.id, http.ErrAbortHandler)
	st.c.write(resetFrame(st.id, code))
}

// end forgets the stream.
func (st *stream) end() {
	st.cancel()
	st.drop()
	c := st.c
	c.mu.Lock()
	delete(c.streams, st.id)
	c.idle = time.Now()
	left := st.intake.held
	st.intake.held, st.body.data = 0, nil
	if st.bodyErr == nil {
		st.bodyErr = http.ErrBodyReadAfterClose
	}
	c.mu.Unlock()
	if left > 0 {
		c.giveBack(nil, left)
	}
}

// outBufs are shared, so that a stream which waits has none.
var outBufs = sync.Pool{New: func() any { b := make([]byte, frameHeaderLen, frameHeaderLen+frameLen); return &b }}

func (st *stream) Header() http.Header { return st.header }

func (st *stream) WriteHeader(status int) {
	if st.status == 0 {
		st.status = status
	}
}

// bodiless reports whether the answer must have no body (RFC 9110, section 6.4.1).
func (st *stream) bodiless() bool {
	return st.head || st.status == http.StatusNoContent || st.status == http.StatusNotModified
}

// Write buffers up to a frame. The answer to a HEAD may be written, but is not sent.
func (st *stream) Write(p []byte) (int, error) {
	st.WriteHeader(http.StatusOK)
	n := len(p)
	switch {
	case st.head:
		return n, nil
	case st.bodiless():
		return 0, http.ErrBodyNotAllowed
	}
	for len(p) > 0 {
		if st.out == nil {
			st.out = outBufs.Get().(*[]byte)
		}
		room := cap(*st.out) - len(*st.out)
		if room == 0 {
			if err := st.flush(false); err != nil {
				return n - len(p), err
			}
			continue
		}
		k := min(room, len(p))
		*st.out = append(*st.out, p[:k]...)
		p = p[k:]
	}
	return n, nil
}

// WriteString is Write.
func (st *stream) WriteString(s string) (int, error) { return st.Write([]byte(s)) }

// Flush is for http.Flusher.
func (st *stream) Flush() { st.FlushError() }

// FlushError sends what is buffered.
func (st *stream) FlushError() error {
	st.WriteHeader(http.StatusOK)
	return st.flush(false)
}

func (st *stream) drop() {
	if st.out != nil {
		*st.out = (*st.out)[:frameHeaderLen]
		outBufs.Put(st.out)
		st.out = nil
	}
}

// flush sends the header, if it was not sent, and what is buffered.
func (st *stream) flush(end bool) error {
	if st.bodiless() {
		if st.begun {
			return nil
		}
		st.begun = true
		return st.send(headersFrames(st.id, st.status, st.header, true))
	}
	defer st.drop()
	var data []byte
	if st.out != nil {
		data = (*st.out)[frameHeaderLen:]
	}
	var head []byte
	if !st.begun {
		st.begun = true
		bare := len(data) == 0
		head = headersFrames(st.id, st.status, st.header, bare && end)
		if bare {
			return st.send(head)
		}
	}
	if len(data) == 0 {
		if !end {
			return nil
		}
		return st.send(head, appendHeader(nil, 0, http2.FrameData, http2.FlagDataEndStream, st.id))
	}
	for at := 0; at < len(data); head = nil {
		n, err := st.take(len(data) - at)
		if err != nil {
			return err
		}
		var flags http2.Flags
		if end && at+n == len(data) {
			flags = http2.FlagDataEndStream
		}
		// The frame's header takes the place of what was sent before, or of the room that was left for it.
		frame := (*st.out)[at : at+frameHeaderLen+n]
		appendHeader(frame[:0], n, http2.FrameData, flags, st.id)
		if err := st.c.write(head, frame); err != nil {
			return err
		}
		at += n
	}
	st.c.mu.Lock()
	st.due.since = time.Time{}
	st.c.mu.Unlock()
	return nil
}

// send sends frames that need no window.
func (st *stream) send(frames ...[]byte) error {
	st.c.mu.Lock()
	err := st.aliveLocked()
	st.c.mu.Unlock()
	if err != nil {
		return err
	}
	return st.c.write(frames...)
}

// aliveLocked returns why nothing can be sent any more, or nil.
func (st *stream) aliveLocked() error {
	if st.dead != nil {
		return st.dead
	}
	return st.c.err
}

// take waits for the client to take some of want bytes, and says how many.
func (st *stream) take(want int) (int, error) {
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if err := st.aliveLocked(); err != nil {
			st.due.since = time.Time{} // nobody waits for the client any more
			return 0, err
		}
		if st.due.since.IsZero() {
			st.due.since = time.Now()
		}
		if n := min(int64(want), st.window, c.window); n > 0 {
			st.window -= n
			c.window -= n
			return int(n), nil
		}
		c.moved.Wait()
	}
}

// Read reads the request's body.
func (st *stream) Read(p []byte) (int, error) {
	c := st.c
	c.mu.Lock()
	var alarm *time.Timer
	for len(st.body.data) == 0 && st.bodyErr == nil && c.err == nil && len(p) > 0 {
		if !st.due.read.IsZero() {
			left := time.Until(st.due.read)
			if left <= 0 {
				c.mu.Unlock()
				return 0, os.ErrDeadlineExceeded
			}
			if alarm == nil {
				alarm = time.AfterFunc(left, c.wake)
				defer alarm.Stop()
			}
		}
		c.moved.Wait()
	}
	n := copy(p, st.body.data)
	if st.body.data = st.body.data[n:]; len(st.body.data) == 0 {
		st.body.data = nil
	}
	err := st.bodyErr
	if err == nil {
		err = c.err
	}
	if n > 0 || len(p) == 0 {
		err = nil
	}
	c.mu.Unlock()
	if n > 0 {
		err = c.giveBack(st, n)
	}
	return n, err
}

// Close is for the request's body; the rest of it is dropped when the answer ends.
func (st *stream) Close() error { return nil }

// SetReadDeadline bounds reads of the body; it is for http.ResponseController.
func (st *stream) SetReadDeadline(t time.Time) error {
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	st.due.read = t
	return nil
}

// SetWriteDeadline bounds when the client must have taken what is written; it is for
// http.ResponseController. Missing it ends the connection, within the few seconds between two Sweeps.
func (st *stream) SetWriteDeadline(t time.Time) error {
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	st.due.write = t
	return nil
}
