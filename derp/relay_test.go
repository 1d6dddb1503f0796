package derp_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	tsderp "tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/net/wsconn"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"heddle/derp"
)

// admission is what a control server knows: the keys that may use the relay.
type admission struct {
	mu   sync.Mutex
	keys map[key.NodePublic]bool
	srcs []netip.Addr // whom Admit was asked about
}

func (a *admission) set(k key.NodePublic, admitted bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys[k] = admitted
}

func (a *admission) admit(_ context.Context, k key.NodePublic, src netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.srcs = append(a.srcs, src)
	return a.keys[k]
}

// newMember returns the key of a client that is admitted.
func (a *admission) newMember() key.NodePrivate {
	k := key.NewNode()
	a.set(k.Public(), true)
	return k
}

// testRelay is a relay behind its own pinned TLS listener, and its region as
// clients get it.
type testRelay struct {
	*derp.Relay
	*admission
	region *tailcfg.DERPRegion
}

func startRelay(t *testing.T) *testRelay {
	t.Helper()
	adm := &admission{keys: map[key.NodePublic]bool{}}
	relay, err := derp.NewRelay(derp.RelayConfig{Key: key.NewNode(), Admit: adm.admit})
	if err != nil {
		t.Fatal(err)
	}
	pinned, err := derp.ListenPinned(derp.PinnedConfig{
		Addr:      "127.0.0.1:0",
		Hosts:     []string{"127.0.0.1"},
		File:      filepath.Join(t.TempDir(), "relay.pem"),
		Handler:   relay.Handler(),
		MetaCert:  relay.MetaCert(),
		ConnState: func(net.Conn, http.ConnState) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	region, err := derp.Region{
		Code:     "test",
		HostName: "127.0.0.1",
		IPv4:     netip.MustParseAddr("127.0.0.1"),
		NoIPv6:   true,
		DERPPort: int(pinned.Addr().Port()),
		STUNPort: -1,
		CertName: pinned.Pin(),
	}.DERPRegion()
	if err != nil {
		t.Fatal(err)
	}
	run(t, "relay", relay.Run)
	run(t, "pinned listener", func(ctx context.Context) error { return pinned.Run(ctx, nil) })
	return &testRelay{relay, adm, region}
}

// run runs f until the test ends, and checks that it ended well.
func run(t *testing.T, name string, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// client returns a stock client of the relay; it dials when it is used.
func (r *testRelay) client(t *testing.T, k key.NodePrivate) *derphttp.Client {
	c := derphttp.NewRegionClient(k, t.Logf, netmon.NewStatic(), func() *tailcfg.DERPRegion { return r.region })
	t.Cleanup(func() { c.Close() })
	return c
}

// join returns a stock client that the relay has let in.
func (r *testRelay) join(t *testing.T, k key.NodePrivate) *derphttp.Client {
	t.Helper()
	c := r.client(t, k)
	if m, err := c.Recv(); err != nil {
		t.Fatal(err)
	} else if _, ok := m.(tsderp.ServerInfoMessage); !ok {
		t.Fatalf("first message is %T", m)
	}
	return c
}

type receiver interface {
	Recv() (tsderp.ReceivedMessage, error)
}

// receive returns the next packet.
func receive(t *testing.T, c receiver) tsderp.ReceivedPacket {
	t.Helper()
	for {
		m, err := c.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := m.(tsderp.ReceivedPacket); ok {
			return p
		}
	}
}

// awaitCut waits until the client's connection ends.
func awaitCut(c receiver) {
	for {
		if _, err := c.Recv(); err != nil {
			return
		}
	}
}

func checkExchange(t *testing.T, from, to key.NodePrivate, sender interface {
	Send(key.NodePublic, []byte) error
}, recipient receiver, payload []byte) {
	t.Helper()
	if err := sender.Send(to.Public(), payload); err != nil {
		t.Fatal(err)
	}
	p := receive(t, recipient)
	if p.Source != from.Public() || !bytes.Equal(p.Data, payload) {
		t.Fatalf("got %d bytes from %v, want %d from %v", len(p.Data), p.Source, len(payload), from.Public())
	}
}

func TestRelayExchangesPackets(t *testing.T) {
	r := startRelay(t)
	a, b := r.newMember(), r.newMember()
	ca, cb := r.join(t, a), r.join(t, b)
	checkExchange(t, a, b, ca, cb, []byte("there"))
	checkExchange(t, b, a, cb, ca, bytes.Repeat([]byte("x"), tsderp.MaxPacketSize))

	s := r.Stats() // a packet counts as sent shortly after it arrives
	if s.Connections != 2 || s.PacketsReceived != 2 || s.PacketsSent < 1 || s.BytesReceived < tsderp.MaxPacketSize || s.Refused != 0 {
		t.Errorf("stats %+v", s)
	}
	if ca.ServerPublicKey() != r.PublicKey() {
		t.Error("the client sees another relay key")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, src := range r.srcs {
		if src != netip.MustParseAddr("127.0.0.1") {
			t.Errorf("Admit was asked about source %v", src)
		}
	}
}

func TestRelayRefusesStrangers(t *testing.T) {
	r := startRelay(t)
	c := r.client(t, key.NewNode())
	if m, err := c.Recv(); err == nil {
		t.Fatalf("a stranger got %T", m)
	}
	if s := r.Stats(); s.Refused != 1 || s.Connections != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestEvict(t *testing.T) {
	r := startRelay(t)
	a, b := r.newMember(), r.newMember()
	ca, cb := r.join(t, a), r.join(t, b)

	r.set(a.Public(), false)
	if n := r.Evict(a.Public(), key.NewNode().Public()); n != 1 {
		t.Errorf("evicted %d connections", n)
	}
	awaitCut(ca)
	if _, err := ca.Recv(); err == nil { // it dials again
		t.Error("the evicted key came back")
	}
	if s := r.Stats(); s.Evicted != 1 || s.Refused != 1 {
		t.Errorf("stats %+v", s)
	}
	c := r.newMember()
	checkExchange(t, c, b, r.join(t, c), cb, []byte("still here"))
}

func TestRunEvictsWhoIsNoLongerAdmitted(t *testing.T) {
	r := startRelay(t)
	k := r.newMember()
	c := r.join(t, k)
	r.set(k.Public(), false) // a key that expires does so silently
	awaitCut(c)
}

func TestRecheckKeepsTheAdmitted(t *testing.T) {
	r := startRelay(t)
	k := r.newMember()
	c := r.join(t, k)
	if n := r.Recheck(t.Context()); n != 0 {
		t.Errorf("cut %d", n)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	r.set(k.Public(), false)
	if n := r.Recheck(cancelled); n != 0 {
		t.Errorf("a cancelled recheck cut %d", n)
	}
	r.set(k.Public(), true)
	checkExchange(t, k, k, c, c, []byte("to myself"))
}

func TestOldestOfTooManyConnectionsIsCut(t *testing.T) {
	r := startRelay(t)
	k := r.newMember()
	first := r.join(t, k)
	second := r.join(t, k)
	for range 7 {
		// A ping proves that the relay reads on after the handshake.
		c := r.join(t, k)
		if err := c.SendPing([8]byte{1}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	awaitCut(first)
	if err := second.SendPing([8]byte{2}); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := second.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m == (tsderp.PongMessage{2}) {
			break
		}
	}
}

// A stranger who knows a member's key can claim it, but not prove it.
func TestClaimedKeysDoNotDisturbTheirOwner(t *testing.T) {
	r := startRelay(t)
	plain := httptest.NewServer(r.Handler())
	defer plain.Close()
	k := r.newMember()
	c := r.join(t, k)
	claim := append([]byte{byte(tsderp.FrameClientInfo), 0, 0, 0, 100}, k.Public().AppendTo(nil)...)
	for range 20 {
		nc, _ := upgrade(t, plain.Listener.Addr().String())
		if _, err := nc.Write(claim); err != nil { // and hold the connection
			t.Fatal(err)
		}
		wrong, br := upgrade(t, plain.Listener.Addr().String())
		if _, err := wrong.Write(append(claim, make([]byte, 68)...)); err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, br) // until the relay closes
	}
	second := r.join(t, k) // makes the relay count the connections of the key
	checkExchange(t, k, k, second, second, []byte("second"))
	checkExchange(t, k, k, c, c, []byte("undisturbed"))
}

// upgrade opens a raw DERP connection.
func upgrade(t *testing.T, addr string) (net.Conn, *bufio.Reader) {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	fmt.Fprintf(nc, "GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n")
	br := bufio.NewReader(nc)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(res.Status)
	}
	return nc, br
}

func TestWebSocket(t *testing.T) {
	r := startRelay(t)
	plain := httptest.NewServer(r.Handler())
	defer plain.Close()
	dial := func(k key.NodePrivate) (*tsderp.Client, error) {
		// A browser sends the Origin of the page that it shows.
		ws, _, err := websocket.Dial(t.Context(), plain.URL+"/derp", &websocket.DialOptions{
			Subprotocols: []string{"derp"},
			HTTPHeader:   http.Header{"Origin": {"https://console.example"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ws.CloseNow() })
		ws.SetReadLimit(1 << 20)
		nc := wsconn.NetConn(context.Background(), ws, websocket.MessageBinary, "")
		return tsderp.NewClient(k, nc, bufio.NewReadWriter(bufio.NewReader(nc), bufio.NewWriter(nc)), t.Logf)
	}
	a, b := r.newMember(), r.newMember()
	ca, err := dial(a)
	if err != nil {
		t.Fatal(err)
	}
	cb := r.join(t, b)
	checkExchange(t, a, b, ca, cb, bytes.Repeat([]byte("y"), tsderp.MaxPacketSize))
	checkExchange(t, b, a, cb, ca, bytes.Repeat([]byte("z"), tsderp.MaxPacketSize))

	stranger, err := dial(key.NewNode())
	if err == nil {
		_, err = stranger.Recv()
	}
	if err == nil {
		t.Error("a stranger got in")
	}

	r.set(a.Public(), false)
	if n := r.Evict(a.Public()); n != 1 {
		t.Errorf("evicted %d connections", n)
	}
	awaitCut(ca)
}

func TestStopCutsEverybody(t *testing.T) {
	adm := &admission{keys: map[key.NodePublic]bool{}}
	relay, err := derp.NewRelay(derp.RelayConfig{Key: key.NewNode(), Admit: adm.admit})
	if err != nil {
		t.Fatal(err)
	}
	stop := run(t, "relay", relay.Run)
	srv := httptest.NewServer(relay.Handler())
	defer srv.Close()
	dial := func() *derphttp.Client {
		c, err := derphttp.NewClient(adm.newMember(), srv.URL+"/derp", t.Logf, netmon.NewStatic())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	c := dial()
	if _, err := c.Recv(); err != nil {
		t.Fatal(err)
	}
	silent, _ := upgrade(t, srv.Listener.Addr().String()) // never sends a frame
	stop()
	awaitCut(c)
	io.Copy(io.Discard, silent)
	if err := dial().Connect(t.Context()); err == nil {
		t.Error("the stopped relay accepts connections")
	}
	if s := relay.Stats(); s.Connections != 0 || s.Overloaded != 1 {
		t.Errorf("stats %+v", s)
	}
}

func TestHandler(t *testing.T) {
	control := netip.MustParseAddr("203.0.113.5")
	relay, err := derp.NewRelay(derp.RelayConfig{
		Key:   key.NewNode(),
		Admit: func(context.Context, key.NodePublic, netip.Addr) bool { return false },
		Hosts: map[string][]netip.Addr{
			"Control.Example.": {control, netip.MustParseAddr("2001:db8::5")},
			"relay.example":    nil,
		},
		Lookup: func(context.Context, string) ([]netip.Addr, error) {
			t.Error("a request caused a look-up")
			return nil, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		method, target, header, value string
		status                        int
		wantHeader, wantValue, body   string
	}{
		{"GET", "/derp", "", "", 426, "", "", ""},
		{"GET", "/derp", "Upgrade", "h2c", 426, "", "", ""},
		{"GET", "/derp", "Upgrade", "websocket", 426, "", "", ""},
		{"GET", "/derp/probe", "", "", 200, "Access-Control-Allow-Origin", "*", ""},
		{"HEAD", "/derp/probe", "", "", 200, "Access-Control-Allow-Origin", "*", ""},
		{"GET", "/derp/latency-check", "", "", 200, "", "", ""},
		{"POST", "/derp/latency-check", "", "", 405, "", "", ""},
		{"GET", "/generate_204", "X-Tailscale-Challenge", "ts_x.1", 204, "X-Tailscale-Response", "response ts_x.1", ""},
		{"GET", "/generate_204", "X-Tailscale-Challenge", "<b>", 204, "X-Tailscale-Response", "", ""},
		{"GET", "/bootstrap-dns?q=control.example", "", "", 200, "Content-Type", "application/json", `{"control.example":["203.0.113.5","2001:db8::5"]}` + "\n"},
		{"GET", "/bootstrap-dns?q=CONTROL.example", "", "", 200, "", "", `{"CONTROL.example":["203.0.113.5","2001:db8::5"]}` + "\n"},
		{"GET", "/bootstrap-dns?q=relay.example", "", "", 200, "", "", "{}\n"},
		{"GET", "/bootstrap-dns?q=elsewhere.example", "", "", 200, "", "", "{}\n"},
		{"GET", "/bootstrap-dns", "", "", 200, "", "", `{"control.example":["203.0.113.5","2001:db8::5"]}` + "\n"},
		{"POST", "/bootstrap-dns", "", "", 405, "Allow", "GET, HEAD", ""},
		{"GET", "/elsewhere", "", "", 404, "", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.method+tt.target+tt.value, func(t *testing.T) {
			req := httptest.NewRequest(tt.method, tt.target, nil)
			if tt.header != "" {
				req.Header.Set(tt.header, tt.value)
			}
			w := httptest.NewRecorder()
			relay.Handler().ServeHTTP(w, req)
			if w.Code != tt.status {
				t.Errorf("status %d, want %d", w.Code, tt.status)
			}
			if got := w.Header().Get(tt.wantHeader); tt.wantHeader != "" && got != tt.wantValue {
				t.Errorf("%s: %q, want %q", tt.wantHeader, got, tt.wantValue)
			}
			if tt.body != "" && w.Body.String() != tt.body {
				t.Errorf("body %q, want %q", w.Body, tt.body)
			}
		})
	}
}

func TestBootstrapLookup(t *testing.T) { synctest.Test(t, testBootstrapLookup) }

func testBootstrapLookup(t *testing.T) {
	var addr atomic.Value // "" makes look-ups fail
	var looked atomic.Int64
	relay, err := derp.NewRelay(derp.RelayConfig{
		Key:   key.NewNode(),
		Admit: func(context.Context, key.NodePublic, netip.Addr) bool { return false },
		Hosts: map[string][]netip.Addr{"Relay.example": nil},
		Lookup: func(_ context.Context, host string) ([]netip.Addr, error) {
			looked.Add(1)
			if host != "relay.example" {
				t.Errorf("looked %q up", host)
			}
			if addr.Load() == "" {
				return nil, errors.New("no DNS")
			}
			return []netip.Addr{netip.MustParseAddr(addr.Load().(string))}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	answer := func() string {
		w := httptest.NewRecorder()
		relay.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/bootstrap-dns?q=relay.example", nil))
		return strings.TrimSpace(w.Body.String())
	}
	addr.Store("")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- relay.Run(ctx) }()
	for _, step := range []struct{ addr, want string }{
		{"", "{}"},
		{"::ffff:192.0.2.1", `{"relay.example":["192.0.2.1"]}`},
		{"", `{"relay.example":["192.0.2.1"]}`},
		{"2001:db8::1", `{"relay.example":["2001:db8::1"]}`},
	} {
		addr.Store(step.addr)
		time.Sleep(11 * time.Minute) // of the bubble's clock
		synctest.Wait()
		if got := answer(); got != step.want {
			t.Errorf("with %q: %s, want %s", step.addr, got, step.want)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := looked.Load(); n < 4 || n > 40 {
		t.Errorf("%d look-ups", n)
	}
}

func TestNewRelayErrors(t *testing.T) {
	admit := func(context.Context, key.NodePublic, netip.Addr) bool { return true }
	many := map[string][]netip.Addr{}
	for i := range 33 {
		many[fmt.Sprintf("h%d.example", i)] = nil
	}
	for name, cfg := range map[string]derp.RelayConfig{
		"no key":         {Admit: admit},
		"no admission":   {Key: key.NewNode()},
		"too many hosts": {Key: key.NewNode(), Admit: admit, Hosts: many},
	} {
		if _, err := derp.NewRelay(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
