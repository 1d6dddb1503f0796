package noise

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"tailscale.com/control/controlbase"
	"tailscale.com/net/wsconn"
	"tailscale.com/types/key"
)

// rig is a Server behind a real HTTP server on loopback.
type rig struct {
	*Server
	key  key.MachinePrivate
	web  *httptest.Server
	stop context.CancelFunc
	done chan error
}

func start(t testing.TB, h http.Handler, l Limits) *rig {
	r := &rig{key: key.NewMachine(), done: make(chan error, 1)}
	r.Server = New(Options{Key: r.key, Handler: h, Known: func(key.MachinePublic) bool { return false }, Limits: l})
	r.web = httptest.NewServer(r.Server)
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-r.done
		r.web.Close()
	})
	return r
}

// dial opens a Noise connection as a native client does.
func (r *rig) dial(t testing.TB) *controlbase.Conn {
	t.Helper()
	raw, err := net.Dial("tcp", r.web.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	init, finish, err := controlbase.ClientDeferred(key.NewMachine(), r.key.Public(), 142)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(raw, "POST / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: "+protocol+"\r\n"+
		handshakeParam+": "+base64.StdEncoding.EncodeToString(init)+"\r\n\r\n")
	br := bufio.NewReader(raw)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != 101 {
		t.Fatalf("upgrade: %v %v", res, err)
	}
	c, err := finish(t.Context(), bufConn{raw, br})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

type bufConn struct {
	net.Conn
	r io.Reader
}

func (b bufConn) Read(p []byte) (int, error) { return b.r.Read(p) }

func h2client(t testing.TB, c net.Conn) *http2.ClientConn {
	t.Helper()
	cc, err := (&http2.Transport{AllowHTTP: true}).NewClientConn(c)
	if err != nil {
		t.Fatal(err)
	}
	return cc
}

func get(t *testing.T, cc *http2.ClientConn, path string) string {
	t.Helper()
	req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://x"+path, nil)
	res, err := cc.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestPeerAndLargeAnswers(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB: many Noise frames in many DATA frames
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/who" {
			c := FromContext(r.Context())
			io.WriteString(w, c.Peer().String()+" "+c.Remote().String())
			return
		}
		io.WriteString(w, big)
	})
	r := start(t, h, Limits{})
	c := r.dial(t)
	cc := h2client(t, c)
	if got := get(t, cc, "/big"); got != big {
		t.Errorf("1 MiB answer: %d bytes differ", len(got))
	}
	if got := get(t, cc, "/who"); !strings.HasSuffix(got, " 127.0.0.1") || !strings.HasPrefix(got, "mkey:") {
		t.Errorf("who = %q", got)
	}
}

func TestWebSocket(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "inside") })
	r := start(t, h, Limits{})
	init, finish, err := controlbase.ClientDeferred(key.NewMachine(), r.key.Public(), 142)
	if err != nil {
		t.Fatal(err)
	}
	u := r.web.URL + "/?" + url.Values{handshakeParam: {base64.StdEncoding.EncodeToString(init)}}.Encode()
	ws, _, err := websocket.Dial(t.Context(), u, &websocket.DialOptions{Subprotocols: []string{protocol}})
	if err != nil {
		t.Fatal(err)
	}
	conn := wsconn.NetConn(context.Background(), ws, websocket.MessageBinary, "")
	defer conn.Close()
	c, err := finish(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	cc := h2client(t, c)
	for range 3 { // the connection outlives the handler that upgraded it
		if got := get(t, cc, "/"); got != "inside" {
			t.Errorf("got %q", got)
		}
	}
}

func TestBadHandshakes(t *testing.T) {
	good, _, err := controlbase.ClientDeferred(key.NewMachine(), key.NewMachine().Public(), 142)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString
	tests := []struct {
		name, method, upgrade, handshake, want string
	}{
		{"no upgrade", "POST", "", b64(good), "reverse proxy"},
		{"other protocol", "POST", "h2c", b64(good), "reverse proxy"},
		{"GET", "GET", protocol, b64(good), "reverse proxy"},
		{"no handshake", "POST", protocol, "", "missing"},
		{"not base64", "POST", protocol, "!!!", "not base64"},
		{"short", "POST", protocol, b64(good[:50]), "not a handshake"},
		{"wrong type", "POST", protocol, b64(append([]byte{0, 142, 2}, good[3:]...)), "not a handshake"},
		{"wrong length", "POST", protocol, b64(append([]byte{0, 142, 1, 0, 0}, good[5:]...)), "not a handshake"},
		{"oversized", "POST", protocol, strings.Repeat("A", 5000), "oversized"},
		{"for another server", "POST", protocol, b64(good), "does not fit this server's key"},
		{"garbage", "POST", protocol, b64(append([]byte{0, 142, 1, 0, 96}, make([]byte, 96)...)), "does not fit"},
	}
	s := New(Options{Key: key.NewMachine(), Known: func(key.MachinePublic) bool { return false }})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(tt.method, "/ts2021", nil)
			r.Header.Set("Upgrade", tt.upgrade)
			r.Header.Set(handshakeParam, tt.handshake)
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), tt.want) {
				t.Errorf("%d %q, want 400 with %q", w.Code, w.Body, tt.want)
			}
		})
	}
}

func FuzzHandshake(f *testing.F) {
	good, _, err := controlbase.ClientDeferred(key.NewMachine(), key.NewMachine().Public(), 142)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(base64.StdEncoding.EncodeToString(good), false)
	f.Add(base64.StdEncoding.EncodeToString(good), true)
	f.Add("", false)
	s := New(Options{Key: key.NewMachine(), Known: func(key.MachinePublic) bool { return false }})
	f.Fuzz(func(t *testing.T, handshake string, ws bool) {
		r := httptest.NewRequest("POST", "/ts2021", nil)
		r.Header.Set("Upgrade", protocol)
		r.Header.Set(handshakeParam, handshake)
		if ws {
			r.Method = "GET"
			r.Header.Set("Upgrade", "websocket")
			r.URL.RawQuery = url.Values{handshakeParam: {handshake}}.Encode()
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != http.StatusBadRequest {
			t.Errorf("%q: status %d", handshake, w.Code)
		}
	})
}

// TestStrangersAreBounded: whoever opens many connections loses their own.
func TestStrangersAreBounded(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	r := start(t, h, Limits{Strangers: 20, StrangersPerAddr: 10})
	var conns []*controlbase.Conn
	for range 15 {
		conns = append(conns, r.dial(t))
	}
	for i, c := range conns {
		if i < 5 {
			if _, err := io.Copy(io.Discard, c); err != nil && !isClosed(err) {
				t.Errorf("connection %d: %v", i, err)
			}
			continue
		}
		if got := get(t, h2client(t, c), "/"); got != "ok" {
			t.Errorf("connection %d: %q", i, got)
		}
	}
	if got := r.strangers.len(); got != 10 {
		t.Errorf("%d strangers, want 10", got)
	}
}

func isClosed(err error) bool {
	return strings.Contains(err.Error(), "reset") || strings.Contains(err.Error(), "EOF")
}

func TestCrowd(t *testing.T) {
	a, b := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32")
	g := newCrowd[netip.Prefix](4, 5)
	conns := make([]*Conn, 9)
	for i := range conns {
		conns[i] = new(Conn)
	}
	for i, step := range []struct {
		from  netip.Prefix
		evict int // index, or -1
	}{
		{a, -1}, {a, -1}, {a, -1}, {a, -1},
		{a, 0}, // a has its four
		{b, -1},
		{b, 1}, // five in all: the larger group gives way
		{b, 2},
		{b, 5}, // now b is the largest
	} {
		want := (*Conn)(nil)
		if step.evict >= 0 {
			want = conns[step.evict]
		}
		if got := g.join(step.from, conns[i]); got != want {
			t.Errorf("step %d evicts the wrong one", i)
		}
	}
	for i, c := range conns {
		g.leave(a, c)
		g.leave(b, conns[i])
	}
	if g.len() != 0 || len(g.members) != 0 {
		t.Errorf("%d left in %d groups", g.len(), len(g.members))
	}
}

func TestStopIsGentleAndBounded(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		io.WriteString(w, "bye") // what was to be said still arrives
	})
	r := start(t, h, Limits{})
	cc := h2client(t, r.dial(t))
	req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://x/", nil)
	res, err := cc.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	r.stop()
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "bye" {
		t.Errorf("last words: %q, %v", body, err)
	}
	if err := <-r.done; err != nil {
		t.Error(err)
	}
	r.done <- nil // for the cleanup
	// Nothing is accepted any more.
	if _, err := io.ReadAll(r.dial(t)); err != nil && !isClosed(err) {
		t.Error(err)
	}
}

// TestPingsDoNotBreakAnswers: pings slip between frames, never into one or
// into a header block.
func TestPingsDoNotBreakAnswers(t *testing.T) {
	part := bytes.Repeat([]byte("x"), 10000)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := FromContext(r.Context())
		c.Ping()
		w.Header().Set("X-Long", strings.Repeat("h", 40000)) // HEADERS and CONTINUATION frames
		for range 50 {
			w.Write(part)
			c.Ping() // while the server's own goroutine writes
		}
	})
	r := start(t, h, Limits{})
	cc := h2client(t, r.dial(t))
	for range 20 {
		if got := get(t, cc, "/"); len(got) != 50*len(part) {
			t.Fatalf("%d bytes", len(got))
		}
	}
}

// TestPingOnTheWire: an idle client gets a PING of its own, after SETTINGS.
func TestPingOnTheWire(t *testing.T) {
	conns := make(chan *Conn, 1)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { conns <- FromContext(r.Context()) })
	r := start(t, h, Limits{})
	nc := r.dial(t)
	io.WriteString(nc, http2.ClientPreface)
	fr := http2.NewFramer(nc, nc)
	fr.WriteSettings()
	fr.WriteSettingsAck()
	var head bytes.Buffer
	enc := hpack.NewEncoder(&head)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "x"}, {":path", "/"}} {
		enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndHeaders: true, EndStream: true})
	c := <-conns
	c.Ping()
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := f.(*http2.PingFrame); ok {
			if string(p.Data[:]) != "heddle-1" || p.IsAck() {
				t.Errorf("ping with %q", p.Data)
			}
			return
		}
	}
}
