package h2_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"heddle/control/h2"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"tailscale.com/net/memnet"
)

// wire is a Transport over memory.
type wire struct{ net.Conn }

func (w wire) WriteAll(pieces ...[]byte) error {
	for _, p := range pieces {
		if _, err := w.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// serve serves h on one end of a connection, of which it returns the other.
func serve(t testing.TB, h http.HandlerFunc) (net.Conn, *h2.Conn) {
	client, server := memnet.NewConn("h2", 1<<20)
	ctx, cancel := context.WithCancel(context.Background())
	c := h2.New(wire{server}, h2.Options{Handler: h, Context: ctx, Remote: "192.0.2.1", Idle: 2 * time.Minute, Log: slog.New(slog.DiscardHandler)})
	done := make(chan struct{})
	go func() { defer close(done); c.Serve() }()
	t.Cleanup(func() {
		cancel()
		client.Close()
		<-done
	})
	return client, c
}

// stock is the client that stock Tailscale clients use.
func stock(t testing.TB, conn net.Conn) *http2.ClientConn {
	cc, err := (&http2.Transport{AllowHTTP: true}).NewClientConn(conn)
	if err != nil {
		t.Fatal(err)
	}
	return cc
}

func request(t testing.TB, method, path string, body io.Reader) *http.Request {
	req, err := http.NewRequestWithContext(t.Context(), method, "http://x.test"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func TestAnswers(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<18) // 4 MiB, as large as the client's window
	h := func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/echo":
			w.Header().Set("X-Got", fmt.Sprint(r.Method, " ", r.Host, " ", r.URL.RawQuery, " ", r.Header.Get("X-Sent"), " ", r.ContentLength))
			io.Copy(w, r.Body)
		case "/big":
			io.WriteString(w, big+big)
		case "/none":
		case "/missing":
			http.NotFound(w, r)
		case "/header":
			w.Header().Set("X-Long", strings.Repeat("h", 40000)) // CONTINUATION frames
			w.WriteHeader(http.StatusAccepted)
		case "/panic":
			panic("on purpose")
		case "/deaf":
			w.WriteHeader(http.StatusTeapot) // without reading the body
		}
	}
	conn, _ := serve(t, h)
	cc := stock(t, conn)
	body := strings.Repeat("b", 300000) // several windows
	tests := []struct {
		path, body string
		status     int
		want       string
	}{
		{"/echo?q=1", body, 200, body},
		{"/echo?q=1", "", 200, ""},
		{"/big", "", 200, big + big},
		{"/none", "", 200, ""},
		{"/missing", "", 404, "404 page not found\n"},
		{"/header", "", 202, ""},
		{"/deaf", body, 418, ""},
		{"/echo?q=1", body, 200, body}, // the windows are what they were
	}
	for range 3 {
		for _, tt := range tests {
			req := request(t, "POST", tt.path, strings.NewReader(tt.body))
			req.Header.Set("X-Sent", "yes")
			res, err := cc.RoundTrip(req)
			if err != nil {
				t.Fatalf("%s: %v", tt.path, err)
			}
			got, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != tt.status || string(got) != tt.want {
				t.Errorf("%s: %d, %d bytes, %v", tt.path, res.StatusCode, len(got), err)
			}
			if want := fmt.Sprintf("POST x.test q=1 yes %d", len(tt.body)); strings.HasPrefix(tt.path, "/echo") && res.Header.Get("X-Got") != want {
				t.Errorf("the handler saw %q, want %q", res.Header.Get("X-Got"), want)
			}
		}
	}
	if _, err := cc.RoundTrip(request(t, "GET", "/panic", nil)); err == nil {
		t.Error("a panic was answered")
	}
	if res, err := cc.RoundTrip(request(t, "GET", "/none", nil)); err != nil || res.StatusCode != 200 {
		t.Errorf("after a panic: %v", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	conn, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for range 20 {
			io.WriteString(w, strings.Repeat(r.URL.Path, 1000))
			w.(http.Flusher).Flush()
		}
	})
	cc := stock(t, conn)
	if res, err := cc.RoundTrip(request(t, "GET", "/", nil)); err != nil { // the client learns how many it may have
		t.Fatal(err)
	} else {
		io.Copy(io.Discard, res.Body)
	}
	var running sync.WaitGroup
	for i := range 10 {
		running.Go(func() {
			path := fmt.Sprintf("/%03d", i)
			res, err := cc.RoundTrip(request(t, "GET", path, nil))
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := io.ReadAll(res.Body); err != nil || string(got) != strings.Repeat(path, 20000) {
				t.Errorf("%s: %d bytes, %v", path, len(got), err)
			}
		})
	}
	running.Wait()
}

// TestClientLeaves: a handler learns that its client has given up, and that the connection is over.
func TestClientLeaves(t *testing.T) {
	left := make(chan error, 1)
	begun := make(chan bool, 1)
	conn, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		begun <- true
		<-r.Context().Done()
		_, err := io.WriteString(w, strings.Repeat("x", 100000))
		left <- err
	})
	cc := stock(t, conn)
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := cc.RoundTrip(request(t, "GET", "/", nil).WithContext(ctx)); err != nil {
		t.Fatal(err)
	}
	<-begun
	cancel()
	if err := <-left; err == nil {
		t.Error("wrote to a client that had reset the stream")
	}
	if _, err := cc.RoundTrip(request(t, "GET", "/", nil)); err != nil {
		t.Fatal(err)
	}
	<-begun
	conn.Close()
	if err := <-left; err == nil {
		t.Error("wrote to a closed connection")
	}
}

// TestWaitsHoldLittle: requests that wait hold none of their headers, as large as these may be.
func TestWaitsHoldLittle(t *testing.T) {
	const conns, streams = 10, 16
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	fields := []string{":method", "POST", ":scheme", "http", ":authority", "x", ":path", "/"}
	for i := range 110 { // nearly 4 KB as they are counted, in the form that costs most
		fields = append(fields, string([]byte{'a' + byte(i/26), 'a' + byte(i%26)}), "")
	}
	large := encode(fields...)
	entered := make(chan bool)
	hold := func(block []byte) int64 {
		before := heap()
		for range conns {
			conn, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
				ctx := r.Context()
				entered <- true
				<-ctx.Done()
			})
			go io.Copy(io.Discard, conn)
			fr := raw(t, conn)
			for i := range streams {
				fr.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: block, EndHeaders: true})
				<-entered
			}
		}
		return (heap() - before) / conns
	}
	small := hold(block("/"))
	much := hold(large)
	t.Logf("a connection with %d requests holds %d bytes with few headers, %d with many", streams, small, much)
	if more := much - small; more > 32<<10 { // the framer keeps its last frame
		t.Errorf("large headers cost %d bytes more", more)
	}
}

// encode returns a header block of names and values in turn.
func encode(fields ...string) []byte {
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1], Sensitive: true})
	}
	return b.Bytes()
}

// raw speaks frames.
func raw(t *testing.T, conn net.Conn) *http2.Framer {
	io.WriteString(conn, http2.ClientPreface)
	fr := http2.NewFramer(conn, conn)
	fr.AllowIllegalWrites = true
	fr.WriteSettings()
	return fr
}

func block(path string) []byte {
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":authority", "x"}, {":path", path}} {
		enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	return b.Bytes()
}

// ends reads until the server resets a stream or goes away, and says with which code.
func ends(t *testing.T, fr *http2.Framer) (goAway bool, code http2.ErrCode) {
	t.Helper()
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			t.Fatalf("the connection ended without a word: %v", err)
		}
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			return true, f.ErrCode
		case *http2.RSTStreamFrame:
			return false, f.ErrCode
		}
	}
}

func TestMisbehaviour(t *testing.T) {
	open := func(fr *http2.Framer, id uint32) {
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block("/"), EndHeaders: true})
	}
	tests := []struct {
		name   string
		do     func(fr *http2.Framer)
		goAway bool
		code   http2.ErrCode
	}{
		{"even stream", func(fr *http2.Framer) { open(fr, 2) }, true, http2.ErrCodeProtocol},
		{"stream twice", func(fr *http2.Framer) { open(fr, 1); open(fr, 1) }, true, http2.ErrCodeProtocol},
		{"data before headers", func(fr *http2.Framer) { fr.WriteData(7, false, []byte("x")) }, true, http2.ErrCodeProtocol},
		{"too much data", func(fr *http2.Framer) {
			open(fr, 1)
			for range 6 {
				fr.WriteData(1, false, make([]byte, 16<<10))
			}
		}, true, http2.ErrCodeFlowControl},
		{"frame too large", func(fr *http2.Framer) { open(fr, 1); fr.WriteData(1, false, make([]byte, 17<<10)) }, true, http2.ErrCodeFrameSize},
		{"window overflow", func(fr *http2.Framer) { fr.WriteWindowUpdate(0, 1<<31-1) }, true, http2.ErrCodeFlowControl},
		{"window overflow of a stream", func(fr *http2.Framer) { open(fr, 1); fr.WriteWindowUpdate(1, 1<<31-1) }, false, http2.ErrCodeFlowControl},
		{"push", func(fr *http2.Framer) {
			fr.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: block("/"), EndHeaders: true})
		}, true, http2.ErrCodeProtocol},
		{"too many streams", func(fr *http2.Framer) {
			for i := range 17 {
				open(fr, uint32(2*i+1))
			}
		}, false, http2.ErrCodeRefusedStream},
		{"many settings", func(fr *http2.Framer) {
			var list []http2.Setting
			for i := range 101 {
				list = append(list, http2.Setting{ID: http2.SettingID(100 + i)})
			}
			fr.WriteSettings(list...)
		}, true, http2.ErrCodeProtocol},
		{"a setting twice", func(fr *http2.Framer) {
			fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 2})
		}, true, http2.ErrCodeProtocol},
		{"chatter", func(fr *http2.Framer) {
			open(fr, 1)
			for range 1001 {
				fr.WriteData(1, false, nil)
			}
		}, true, http2.ErrCodeEnhanceYourCalm},
		{"chatter of pings", func(fr *http2.Framer) {
			for i := range 1001 {
				fr.WritePing(false, [8]byte{byte(i)})
			}
		}, true, http2.ErrCodeEnhanceYourCalm},
		{"no path", func(fr *http2.Framer) {
			fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(""), EndHeaders: true})
		}, false, http2.ErrCodeProtocol},
		{"huge headers", func(fr *http2.Framer) {
			var b bytes.Buffer
			b.Write(block("/"))
			hpack.NewEncoder(&b).WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("~", 20000)})
			fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b.Bytes()[:10000]})
			fr.WriteContinuation(1, true, b.Bytes()[10000:])
		}, true, http2.ErrCodeCompression}, // the framer decodes no longer string
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn, _ := serve(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
			fr := raw(t, conn)
			tt.do(fr)
			goAway, code := ends(t, fr)
			if goAway != tt.goAway || code != tt.code {
				t.Errorf("connection over: %v, with %v; want %v, %v", goAway, code, tt.goAway, tt.code)
			}
		})
	}
}

func TestSweep(t *testing.T) {
	wait := func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
	sweeping := func(t *testing.T, c *h2.Conn, d time.Duration) {
		for range d / time.Second {
			time.Sleep(time.Second)
			if do := c.Sweep(time.Now()); do != nil {
				go do()
			}
		}
		synctest.Wait()
	}
	over := func(cc *http2.ClientConn) bool { return cc.State().Closed || cc.State().Closing }
	t.Run("answers pings", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			conn, c := serve(t, wait)
			cc := stock(t, conn)
			if _, err := cc.RoundTrip(request(t, "GET", "/", nil)); err != nil {
				t.Fatal(err)
			}
			if sweeping(t, c, time.Hour); over(cc) {
				t.Error("closed although it answered")
			}
		})
	})
	t.Run("idle", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			conn, c := serve(t, func(http.ResponseWriter, *http.Request) {})
			cc := stock(t, conn)
			if _, err := cc.RoundTrip(request(t, "GET", "/", nil)); err != nil {
				t.Fatal(err)
			}
			if sweeping(t, c, time.Minute); over(cc) {
				t.Error("closed too early")
			}
			if sweeping(t, c, 3*time.Minute); !over(cc) {
				t.Error("an idle connection stays open")
			}
		})
	})
	t.Run("dumb", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			conn, c := serve(t, wait)
			fr := raw(t, conn)
			fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block("/"), EndHeaders: true, EndStream: true})
			done := make(chan time.Duration)
			began := time.Now()
			go func() {
				for {
					if _, err := fr.ReadFrame(); err != nil {
						done <- time.Since(began)
						return
					}
				}
			}()
			go sweeping(t, c, 2*time.Minute)
			if d := <-done; d < time.Minute || d > 80*time.Second {
				t.Errorf("a client that answers nothing was closed after %v", d)
			}
			time.Sleep(2 * time.Minute)
		})
	})
	t.Run("takes nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			errs := make(chan error, 1)
			conn, c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				http.NewResponseController(w).SetWriteDeadline(time.Now().Add(20 * time.Second))
				_, err := w.Write(make([]byte, 1<<20)) // more than the initial window
				errs <- err
			})
			fr := raw(t, conn)
			fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block("/"), EndHeaders: true, EndStream: true})
			began := time.Now()
			go sweeping(t, c, time.Minute)
			if err := <-errs; err == nil || time.Since(began) < 20*time.Second || time.Since(began) > 25*time.Second {
				t.Errorf("%v after %v", err, time.Since(began))
			}
			time.Sleep(2 * time.Minute)
		})
	})
}

// TestMalformed: malformed requests (RFC 9113, section 8) end their streams, not the connection.
func TestMalformed(t *testing.T) {
	with := func(more ...string) []byte {
		return encode(append([]string{":method", "POST", ":scheme", "http", ":authority", "x", ":path", "/"}, more...)...)
	}
	tests := []struct {
		name  string
		block []byte
		body  string
	}{
		{"no scheme", encode(":method", "POST", ":path", "/"), ""},
		{"no method", encode(":scheme", "http", ":path", "/"), ""},
		{"method is no token", encode(":method", "A B", ":scheme", "http", ":path", "/"), ""},
		{"connection", with("connection", "close"), ""},
		{"keep-alive", with("keep-alive", "1"), ""},
		{"proxy-connection", with("proxy-connection", "close"), ""},
		{"transfer-encoding", with("transfer-encoding", "chunked"), ""},
		{"upgrade", with("upgrade", "h3"), ""},
		{"two lengths", with("content-length", "9", "content-length", "2"), ""},
		{"length is no number", with("content-length", "+2"), ""},
		{"body too long", with("content-length", "2"), "123"},
		{"body too short", with("content-length", "4"), "123"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if b, err := io.ReadAll(r.Body); err == nil {
					t.Errorf("accepted with %q", b)
				}
				<-r.Context().Done()
			})
			fr := raw(t, conn)
			fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: tt.block, EndHeaders: true})
			if tt.body != "" {
				fr.WriteData(1, true, []byte(tt.body))
			}
			if goAway, code := ends(t, fr); goAway || code != http2.ErrCodeProtocol {
				t.Errorf("connection over: %v, with %v", goAway, code)
			}
		})
	}
}

// TestBodiless: answers that must have no body end with their header.
func TestBodiless(t *testing.T) {
	tests := []struct {
		method string
		status int
	}{{"HEAD", 200}, {"GET", 204}, {"GET", 304}}
	for _, tt := range tests {
		conn, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(tt.status)
			io.WriteString(w, "body")
			w.(http.Flusher).Flush()
			io.WriteString(w, "body")
		})
		fr := raw(t, conn)
		fr.WriteHeaders(http2.HeadersFrameParam{
			StreamID: 1, EndHeaders: true, EndStream: true,
			BlockFragment: encode(":method", tt.method, ":scheme", "http", ":path", "/"),
		})
		fr.WritePing(false, [8]byte{1})
		for ended := false; !ended; {
			f, err := fr.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			switch f := f.(type) {
			case *http2.DataFrame:
				t.Fatalf("%s %d: DATA", tt.method, tt.status)
			case *http2.HeadersFrame:
				if ended = f.StreamEnded(); !ended {
					t.Fatalf("%s %d: the header does not end the answer", tt.method, tt.status)
				}
			}
		}
	}
}

// TestPongTime: the time for an answer begins with the question, even if that came late.
func TestPongTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := serve(t, func(http.ResponseWriter, *http.Request) {})
		now := time.Now()
		if c.Sweep(now.Add(80*time.Second)) == nil {
			t.Fatal("no ping")
		}
		if c.Sweep(now.Add(94*time.Second)) != nil {
			t.Error("no time to answer")
		}
		if c.Sweep(now.Add(96*time.Second)) == nil {
			t.Error("a silent client is not closed")
		}
	})
}

// TestRequestWhileRetiring: a request that comes between the decision to close an idle
// connection and the deed is served.
func TestRequestWhileRetiring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wait := make(chan bool)
		conn, c := serve(t, func(http.ResponseWriter, *http.Request) { <-wait })
		cc := stock(t, conn)
		synctest.Wait()
		retire := c.Sweep(time.Now().Add(3 * time.Minute))
		answer := make(chan error)
		go func() {
			_, err := cc.RoundTrip(request(t, "GET", "/", nil))
			answer <- err
		}()
		synctest.Wait()
		retire()
		close(wait)
		if err := <-answer; err != nil {
			t.Error(err)
		}
		cc.Close()
	})
}

// TestDeadStreamIsNotLate: what nobody can take any more does not end the connection.
func TestDeadStreamIsNotLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun, end := make(chan bool), make(chan bool)
		conn, c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			begun <- true
			<-r.Context().Done()
			w.Write([]byte("too late"))
			w.(http.Flusher).Flush()
			w.Write([]byte("too late"))
			w.(http.Flusher).Flush()
			<-end
		})
		fr := raw(t, conn)
		go io.Copy(io.Discard, conn)
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block("/"), EndHeaders: true, EndStream: true})
		<-begun
		fr.WriteRSTStream(1, http2.ErrCodeCancel)
		synctest.Wait()
		if c.Sweep(time.Now().Add(40*time.Second)) != nil {
			t.Error("closed for what a dead stream said")
		}
		close(end)
	})
}

// TestBodyOfMalformed: what comes for a stream whose headers the framer refused is dropped.
func TestBodyOfMalformed(t *testing.T) {
	conn, _ := serve(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	fr := raw(t, conn)
	fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encode(":method", "POST", ":scheme", "http", ":path", "/", "X-Upper", "1"), EndHeaders: true})
	fr.WriteData(1, true, []byte("body"))
	if goAway, code := ends(t, fr); goAway || code != http2.ErrCodeProtocol {
		t.Errorf("connection over: %v, with %v", goAway, code)
	}
	fr.WritePing(false, [8]byte{1})
	for {
		switch f, err := fr.ReadFrame(); f := f.(type) {
		case *http2.GoAwayFrame:
			t.Fatalf("go away: %v", f.ErrCode)
		case *http2.PingFrame:
			return
		default:
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestPadding: padding is given back once, also when the handler ends meanwhile.
func TestPadding(t *testing.T) {
	conn, _ := serve(t, func(w http.ResponseWriter, r *http.Request) { r.Body.Read(make([]byte, 1)) })
	fr := raw(t, conn)
	sent, credit := 0, 0
	for i := range 20000 {
		id := uint32(2*i + 1)
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block("/"), EndHeaders: true})
		fr.WriteDataPadded(id, false, []byte("x"), make([]byte, 255))
		sent += 257
		for reset := false; !reset; {
			f, err := fr.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			switch f := f.(type) {
			case *http2.WindowUpdateFrame:
				if f.StreamID == 0 {
					credit += int(f.Increment)
				}
			case *http2.RSTStreamFrame:
				reset = true
			}
		}
		if credit > sent {
			t.Fatalf("after %d requests %d bytes were sent and %d given back", i+1, sent, credit)
		}
	}
}

func TestReadDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		errs := make(chan error, 1)
		conn, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).SetReadDeadline(time.Now().Add(10 * time.Second))
			_, err := io.ReadAll(r.Body)
			errs <- err
		})
		fr := raw(t, conn)
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block("/"), EndHeaders: true})
		fr.WriteData(1, false, []byte("slow"))
		go io.Copy(io.Discard, conn)
		if err := <-errs; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v", err)
		}
		conn.Close()
	})
}

// FuzzClient: whatever a client sends, the server neither panics nor hangs.
func FuzzClient(f *testing.F) {
	var seed bytes.Buffer
	fr := http2.NewFramer(&seed, nil)
	fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block("/a?b"), EndHeaders: true})
	fr.WriteData(1, false, []byte("body"))
	fr.WriteWindowUpdate(1, 100)
	fr.WritePing(false, [8]byte{1})
	fr.WriteData(1, true, nil)
	fr.WriteRSTStream(1, http2.ErrCodeCancel)
	f.Add(seed.Bytes())
	f.Fuzz(func(t *testing.T, sent []byte) {
		client, server := memnet.NewConn("h2", 1<<20)
		c := h2.New(wire{server}, h2.Options{
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, io.LimitReader(r.Body, 1000)) }),
			Context: t.Context(), Idle: time.Minute, Log: slog.New(slog.DiscardHandler),
		})
		done := make(chan struct{})
		go func() { defer close(done); c.Serve() }()
		go io.Copy(io.Discard, client)
		io.WriteString(client, http2.ClientPreface)
		client.Write(sent)
		client.Close()
		<-done
	})
}
