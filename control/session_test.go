package control_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"heddle/control"
	"heddle/control/controltest"
	"heddle/control/idtoken"
	"heddle/control/tailnet"

	"tailscale.com/tailcfg"
)

func TestNewerStreamReplacesOlder(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		viewer := s.Client("viewer").Join(authKey).MustStream()
		c := s.Client("phone").Join(authKey)
		old := c.MustStream()
		must(t, "seen", viewer.Await(sees("phone")))
		c.Reconnect() // another network; the old connection hangs about
		fresh := c.MustStream()
		<-old.Done()
		if err := c.Report(t.Context(), nil); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if fresh.Ended() {
			t.Error("the newer stream ended")
		}
		if p := viewer.Netmap().Peer("phone"); p.Online == nil || !*p.Online {
			t.Error("the late end of the old stream took the node offline")
		}
		if got := s.Control.Stats(); got.Streams != 2 || got.Replaced != 1 {
			t.Errorf("%+v", got)
		}
	})
}

func TestClonesTakeTurns(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		a := s.Client("golden-image").Join(authKey)
		b := a.Clone()
		bystander := s.Client("bystander").Join(authKey).MustStream()
		// Both poll again as soon as their stream ends, as stock clients do.
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		streams := 0
		var running sync.WaitGroup
		for _, c := range []*controltest.Client{a, b} {
			running.Go(func() {
				for ctx.Err() == nil {
					st, err := c.Stream(nil)
					if err != nil {
						t.Errorf("clone: %v", err)
						return
					}
					mu.Lock()
					streams++
					mu.Unlock()
					select {
					case <-st.Done():
					case <-ctx.Done():
						st.Close()
					}
				}
			})
		}
		time.Sleep(10 * time.Minute)
		cancel()
		running.Wait()
		if streams > 30 {
			t.Errorf("%d streams in ten minutes: the clones fight", streams)
		}
		if s.Control.Stats().Held == 0 {
			t.Error("no stream was held")
		}
		if n := bystander.Netmap().Messages; n > 50 {
			t.Errorf("a bystander got %d messages", n)
		}
	})
}

// TestBadNetworkIsNoClone: a client that dials again and again, because its
// connections die, is served at once or after a ping to the dead one.
func TestBadNetworkIsNoClone(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		c := s.Client("train").Join(authKey)
		for i := range 10 {
			began := time.Now()
			c.MustStream()
			if d := time.Since(began); d > 5*time.Second {
				t.Errorf("stream %d took %v", i, d)
			}
			time.Sleep(10 * time.Second)
			c.Lose()
		}
	})
}

func TestKeepAlives(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		c := s.Client("quiet").Join(authKey)
		st := c.MustStream()
		began := time.Now()
		for i := range 10 {
			must(t, "keepalive", st.Await(func(n *controltest.Netmap) bool { return n.KeepAlive > i }))
			if d := time.Since(began); d < 50*time.Second || d > 60*time.Second {
				t.Errorf("keepalive %d after %v", i, d)
			}
			began = time.Now()
		}
		st.Close()
		st, err := c.Stream(func(r *tailcfg.MapRequest) { r.KeepAlive = false })
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		if n := st.Netmap(); n.KeepAlive > 0 || st.Ended() {
			t.Errorf("%d keepalives although none were asked for; ended %v", n.KeepAlive, st.Ended())
		}
	})
}

func TestBurstsAreCoalesced(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		st := s.Client("viewer").Join(authKey).MustStream()
		time.Sleep(time.Second)
		before := st.Netmap().Messages
		began := time.Now()
		var labels []string
		for i := range 100 {
			s.Client(fmt.Sprintf("n%d", i)).Join(authKey)
			labels = append(labels, fmt.Sprintf("n%d", i))
			if i == 0 {
				must(t, "first", st.Await(sees("n0")))
				if d := time.Since(began); d > 0 {
					t.Errorf("the first change took %v", d)
				}
			}
			time.Sleep(time.Millisecond)
		}
		must(t, "all", st.Await(sees(labels...)))
		if got := st.Netmap().Messages - before; got > 12 {
			t.Errorf("%d messages for a burst of 100 ms", got)
		}
	})
}

func TestForms(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		s.Client("other").Join(authKey)
		c := s.Client("me").Join(authKey)
		tests := []struct {
			name   string
			change func(*tailcfg.MapRequest)
			peers  int
		}{
			{"plain stream", func(r *tailcfg.MapRequest) { r.Stream, r.Compress = true, "" }, 1},
			{"stream without peers", func(r *tailcfg.MapRequest) { r.Stream, r.OmitPeers = true, true }, 0},
			{"single", func(r *tailcfg.MapRequest) {}, 1},
			{"single, read only", func(r *tailcfg.MapRequest) { r.ReadOnly = true }, 1},
			{"single, read only, without peers", func(r *tailcfg.MapRequest) { r.ReadOnly, r.OmitPeers = true, true }, 0},
		}
		for _, tt := range tests {
			st, err := c.Stream(func(r *tailcfg.MapRequest) { r.Stream = false; tt.change(r) })
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
				continue
			}
			if !st.Await(func(n *controltest.Netmap) bool { return n.Self != nil && n.DERP != nil }) {
				t.Errorf("%s: %v", tt.name, st.Err())
			}
			if got := len(st.Netmap().Peers); got != tt.peers {
				t.Errorf("%s: %d peers, want %d", tt.name, got, tt.peers)
			}
			st.Close()
		}
	})
}

// TestStreamRequestIsReadOnly: what a stream request says of the client may be
// older than what a lite update said.
func TestStreamRequestIsReadOnly(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		c := s.Client("box").Join(authKey)
		c.Advertise("10.9.0.0/24")
		st, err := c.Stream(func(r *tailcfg.MapRequest) { r.Hostinfo = &tailcfg.Hostinfo{Hostname: "stale"} })
		if err != nil {
			t.Fatal(err)
		}
		must(t, "map", st.Await(func(n *controltest.Netmap) bool { return n.Self != nil }))
		if n := s.Node("box"); len(n.Advertised()) != 1 {
			t.Error("the stream request overwrote the report")
		}
	})
}

func TestSlowReaderIsDropped(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		good := s.Client("good").Join(authKey).MustStream()
		c := s.Client("stuck").Join(authKey)
		st := c.MustStream()
		c.Freeze()
		id := s.Node("stuck").ID
		go func() { // more than its buffers hold
			noise := make([]byte, 1<<20)
			rand.Read(noise)
			req, _ := http.NewRequest("POST", "/echo", bytes.NewReader(noise))
			s.Control.C2N(context.Background(), id, req)
		}()
		time.Sleep(time.Second)
		s.Client("news").Join(authKey)
		must(t, "the others get their news", good.Await(func(n *controltest.Netmap) bool { return n.Peer("news") != nil }))
		time.Sleep(3 * time.Minute)
		if got := s.Control.Stats(); got.Streams != 1 || got.Slow != 1 {
			t.Errorf("%+v: the stream of the stuck client is still open", got)
		}
		if p := good.Netmap().Peer("stuck"); p == nil || p.Online == nil || *p.Online {
			t.Error("the stuck client is still shown online")
		}
		c.Thaw()
		<-st.Done()
		c.Reconnect()
		must(t, "it comes back", c.MustStream().Await(sees("good", "news")))
	})
}

// TestReplacedStreamLeavesLast: the old stream hangs in a write while the newer
// one comes and goes.
func TestReplacedStreamLeavesLast(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		c := s.Client("phone").Join(authKey)
		c.MustStream()
		c.Lose()
		id := s.Node("phone").ID
		go func() {
			noise := make([]byte, 1<<20)
			rand.Read(noise)
			req, _ := http.NewRequest("POST", "/echo", bytes.NewReader(noise))
			s.Control.C2N(context.Background(), id, req)
		}()
		time.Sleep(time.Second)
		c.MustStream().Close()
		time.Sleep(3 * time.Minute)
		if got := s.Control.Stats().Streams; got != 0 || s.Node("phone").Status.Online {
			t.Errorf("%d streams, online %v", got, s.Node("phone").Status.Online)
		}
		c.MustStream()
	})
}

// TestCancelledUpdateIsDropped: the client has given up on it, and may have
// sent a newer one since.
func TestCancelledUpdateIsDropped(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		c := s.Client("phone").Join(authKey)
		busy := make(chan struct{})
		go s.Update(func(*tailnet.Tx) error { <-busy; return nil })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := c.Report(ctx, func(r *tailcfg.MapRequest) {
			r.Endpoints = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:1")}
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		synctest.Wait()
		close(busy)
		c.MustStream()
		if got := s.Node("phone").Report.Endpoints; len(got) != 0 {
			t.Errorf("stale endpoints %v", got)
		}
	})
}

// TestUnreadStreamIsDropped: the connection works, but its client does not take
// what its map stream holds.
func TestUnreadStreamIsDropped(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		c := s.Client("stuck").Join(authKey)
		req := c.MapRequest()
		req.Stream = true
		res, err := c.Do(t.Context(), "POST", "/machine/map", req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		go func() { // more than the window of 4 MiB, also when it is compressed
			noise := make([]byte, 8<<20)
			rand.Read(noise)
			req, _ := http.NewRequest("POST", "/echo", bytes.NewReader(noise))
			s.Control.C2N(context.Background(), s.Node("stuck").ID, req)
		}()
		time.Sleep(3 * time.Minute)
		if got := s.Control.Stats(); got.Streams != 0 || got.Slow != 1 {
			t.Errorf("%+v: the unread stream is still open", got)
		}
		if err := c.Report(t.Context(), nil); err != nil {
			t.Errorf("the connection is spoilt: %v", err)
		}
	})
}

func TestVanishedClientIsNoticed(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		good := s.Client("good").Join(authKey).MustStream()
		c := s.Client("train").Join(authKey)
		c.MustStream()
		must(t, "seen", good.Await(sees("train")))
		c.Freeze() // a tunnel: no word, no FIN
		time.Sleep(2 * time.Minute)
		if p := good.Netmap().Peer("train"); *p.Online {
			t.Error("still online after two minutes of silence")
		}
	})
}

func TestOrdinaryNodesAreNotProbed(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		r := s.Client("only-router").Join(authKey)
		r.MustStream()
		r.Advertise("10.1.0.0/24")
		s.Approve("only-router", "10.1.0.0/24")
		c := s.Client("plain").Join(authKey)
		c.MustStream()
		time.Sleep(10 * time.Second)
		// A client without its keys loaded in memory for a while is no reason
		// to move anything: nobody could take over.
		r.Freeze()
		c.Freeze()
		time.Sleep(20 * time.Second)
		if got := s.Control.Stats().Unheard; got != 0 {
			t.Errorf("%d nodes were probed", got)
		}
		r.Thaw()
		c.Thaw()
	})
}

func TestStopWithThousandsOfPolls(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		const n = 2000
		streams := make([]*controltest.Stream, n)
		clients := make([]*controltest.Client, n)
		for i := range clients {
			clients[i] = s.Client(fmt.Sprintf("n%d", i)).Join(authKey)
		}
		for i, c := range clients {
			st, err := c.Stream(func(r *tailcfg.MapRequest) { r.OmitPeers = true })
			if err != nil {
				t.Fatal(err)
			}
			streams[i] = st
		}
		synctest.Wait()
		if got := s.Control.Stats().Streams; got != n {
			t.Fatalf("%d streams", got)
		}
		var messages int
		for _, st := range streams {
			messages += st.Netmap().Messages
		}
		began := time.Now()
		s.Stop()
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("stopping took %v", d)
		} else {
			t.Logf("stopping took %v", d)
		}
		for _, st := range streams {
			<-st.Done()
			messages -= st.Netmap().Messages
		}
		if messages != 0 {
			t.Errorf("%d messages about the others' ends", -messages)
		}
	})
}

func TestServerRestart(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		const lan = "10.20.0.0/16"
		a, b := s.Client("a").Join(authKey), s.Client("b").Join(authKey)
		a.MustStream()
		b.MustStream()
		a.Advertise(lan)
		b.Advertise(lan)
		s.Approve("a", lan)
		s.Approve("b", lan)
		time.Sleep(5 * time.Second)
		s.Restart()
		// b is back first, yet a keeps its route.
		b.Reconnect()
		sb := b.MustStream()
		a.Reconnect()
		sa := a.MustStream()
		must(t, "peers are online", sa.Await(func(n *controltest.Netmap) bool { p := n.Peer("b"); return p != nil && *p.Online }))
		time.Sleep(2 * time.Minute)
		if got := sb.Netmap().Carrier(lan); got != "a" {
			t.Errorf("carrier after the restart: %q", got)
		}
		s.Client("c").Join(authKey).MustStream()
		must(t, "new devices join", sa.Await(sees("b", "c")))
	})
}

func TestC2N(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		c := s.Client("box").Join(authKey)
		st := c.MustStream()
		other := s.Client("other").Join(authKey)
		id := s.Node("box").ID
		type answer struct {
			body string
			err  error
		}
		call := func() <-chan answer {
			got := make(chan answer, 1)
			go func() {
				req, _ := http.NewRequest("POST", "/echo", strings.NewReader("ping"))
				res, err := s.Control.C2N(context.Background(), id, req)
				if err != nil {
					got <- answer{err: err}
					return
				}
				body, err := io.ReadAll(res.Body)
				got <- answer{string(body), err}
			}()
			return got
		}
		got := call()
		must(t, "asked", st.Await(func(n *controltest.Netmap) bool { return len(n.Pings) == 1 }))
		ping := st.Netmap().Pings[0]
		path, ok := strings.CutPrefix(ping.URL, "https://heddle.test")
		if !ok || ping.Types != "c2n" || !bytes.Contains(ping.Payload, []byte("POST /echo HTTP/1.1\r\n")) {
			t.Fatalf("ping %+v", ping)
		}
		reply := []byte("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong")
		if res, err := other.Do(t.Context(), "POST", path, reply); err != nil || res.StatusCode != http.StatusNotFound {
			t.Errorf("another machine's answer: %v, %v; want 404", res.Status, err)
		}
		if res, err := c.Do(t.Context(), "POST", path, reply); err != nil || res.StatusCode != http.StatusOK {
			t.Errorf("answer: %v, %v", res, err)
		}
		if a := <-got; a.err != nil || a.body != "pong" {
			t.Errorf("%+v", a)
		}
		if res, err := c.Do(t.Context(), "POST", path, reply); err != nil || res.StatusCode != http.StatusNotFound {
			t.Errorf("second answer: %v, %v; want 404", res.Status, err)
		}

		got = call() // each URL is another, and garbage is no answer
		must(t, "asked", st.Await(func(n *controltest.Netmap) bool { return len(n.Pings) == 2 }))
		path2 := strings.TrimPrefix(st.Netmap().Pings[1].URL, "https://heddle.test")
		if path2 == path {
			t.Error("the same URL twice: clients ignore that")
		}
		c.Do(t.Context(), "POST", path2, []byte("garbage"))
		if a := <-got; tailnet.CodeOf(a.err) != tailnet.Unavailable {
			t.Errorf("garbage: %+v", a)
		}
		began := time.Now()
		if a := <-call(); tailnet.CodeOf(a.err) != tailnet.Unavailable || time.Since(began) > 2*time.Minute {
			t.Errorf("silence: %+v after %v", a, time.Since(began))
		}
		st.Close()
		synctest.Wait()
		if a := <-call(); tailnet.CodeOf(a.err) != tailnet.Unavailable {
			t.Errorf("not connected: %+v", a)
		}
		if err := s.Control.PopBrowser(id, "https://x.test/"); tailnet.CodeOf(err) != tailnet.Unavailable {
			t.Errorf("not connected: %v", err)
		}
	})
}

func TestPopBrowser(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		st := s.Client("box").Join(authKey).MustStream()
		if err := s.Control.PopBrowser(s.Node("box").ID, "https://x.test/page"); err != nil {
			t.Fatal(err)
		}
		must(t, "page", st.Await(func(n *controltest.Netmap) bool {
			return len(n.URLs) == 1 && n.URLs[0] == "https://x.test/page"
		}))
	})
}

func TestBadBodies(t *testing.T) {
	limits := control.Limits{Body: 64 << 10}
	scenario(t, controltest.Config{Limits: limits}, func(t *testing.T, s *controltest.Server, authKey string) {
		bystander := s.Client("bystander").Join(authKey).MustStream()
		c := s.Client("bad").Join(authKey)
		big := append([]byte(`{"Hostinfo":{"Hostname":"`), bytes.Repeat([]byte("x"), 100<<10)...)
		tests := []struct {
			name, method, path string
			body               any
			want               int
		}{
			{"empty", "POST", "/machine/register", []byte{}, 400},
			{"not JSON", "POST", "/machine/register", []byte("hello"), 400},
			{"wrong types", "POST", "/machine/map", []byte(`{"NodeKey":7}`), 400},
			{"bad key", "POST", "/machine/map", []byte(`{"NodeKey":"nodekey:zz"}`), 400},
			{"too large", "POST", "/machine/register", big, 400},
			{"too large", "POST", "/machine/map", big, 400},
			{"deep", "POST", "/machine/map", bytes.Repeat([]byte("["), 50000), 400},
			{"wrong method", "GET", "/machine/map", nil, 405},
			{"unknown path", "POST", "/machine/nonsense", nil, 404},
			{"no node key", "POST", "/machine/map", tailcfg.MapRequest{Version: 142}, 404},
			{"old version", "POST", "/machine/map", tailcfg.MapRequest{Version: 90, NodeKey: c.Node.Public()}, 400},
		}
		for _, tt := range tests {
			res, err := c.Do(t.Context(), tt.method, tt.path, tt.body)
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
				continue
			}
			text, _ := io.ReadAll(res.Body)
			if res.StatusCode != tt.want || len(bytes.TrimSpace(text)) == 0 {
				t.Errorf("%s: %d %q, want %d and a reason", tt.name, res.StatusCode, text, tt.want)
			}
		}
		if err := c.Report(t.Context(), nil); err != nil {
			t.Errorf("the connection is spoilt: %v", err)
		}
		must(t, "nobody else is disturbed", bystander.Await(sees("bad")))
	})
}

func TestStrangeHostnames(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		viewer := s.Client("viewer").Join(authKey).MustStream()
		names := []string{strings.Repeat("h", 5000), "😀😀", "", "localhost", "-.-", "viewer", "a\x00b", "\xff\xfe"}
		for i, name := range names {
			c := s.Client("x")
			c.Hostinfo.Hostname = name
			c.Join(authKey).MustStream()
			must(t, fmt.Sprintf("device %d %.20q", i, name), viewer.Await(func(n *controltest.Netmap) bool { return len(n.Peers) == i+1 }))
		}
		for _, p := range viewer.Netmap().Peers {
			if label, _, _ := strings.Cut(p.Name, "."); label == "" || len(label) > 63 {
				t.Errorf("name %q", p.Name)
			}
		}
	})
}

// vault forgets what it is to keep.
type vault struct{}

func (vault) Load() ([]byte, error) { return nil, nil }
func (vault) Save([]byte) error     { return nil }

func TestSidePaths(t *testing.T) {
	tokens, err := idtoken.Open(&url.URL{Scheme: "http", Host: "heddle.test"}, vault{}, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	scenario(t, controltest.Config{Tokens: tokens}, func(t *testing.T, s *controltest.Server, authKey string) {
		c := s.Client("box").Join(authKey)
		k := c.Node.Public()
		stranger := s.Client("stranger")
		tests := []struct {
			name, method, path string
			body               any
			status             int
			want               string
		}{
			{"own challenge", "POST", "/machine/set-dns", tailcfg.SetDNSRequest{NodeKey: k, Name: "_acme-challenge.box.tail.test", Type: "TXT", Value: "x"}, 501, "DNS"},
			{"other's challenge", "POST", "/machine/set-dns", tailcfg.SetDNSRequest{NodeKey: k, Name: "_acme-challenge.nas.tail.test", Type: "TXT"}, 403, "_acme-challenge.box.tail.test"},
			{"serve", "POST", "/machine/feature/query", tailcfg.QueryFeatureRequest{NodeKey: k, Feature: "serve"}, 200, "HTTPS"},
			{"id-token", "POST", "/machine/id-token", tailcfg.TokenRequest{NodeKey: k, Audience: "sts"}, 200, "id_token"},
			{"id-token for nobody", "POST", "/machine/id-token", tailcfg.TokenRequest{NodeKey: k}, 400, "audience"},
			{"attr", "PATCH", "/machine/set-device-attr", tailcfg.SetDeviceAttributesRequest{NodeKey: k, Update: tailcfg.AttrUpdate{"custom:x": true}}, 403, "attrConfig"},
			{"audit", "POST", "/machine/audit-log", tailcfg.AuditLogRequest{NodeKey: k, Action: "DISCONNECT_NODE"}, 200, ""},
			{"health", "POST", "/machine/update-health", tailcfg.HealthChangeRequest{NodeKey: k}, 204, ""},
			{"tka", "GET", "/machine/tka/init/begin", []byte("{}"), 501, "not enabled"},
			{"ssh", "GET", "/machine/ssh/action/x", nil, 403, "destination"},
			{"web client", "POST", "/machine/webclient/init/1/to/2", nil, 501, "web interface"},
			{"whoami", "GET", "/machine/whoami", nil, 200, "box"},
		}
		for _, tt := range tests {
			res, err := c.Do(t.Context(), tt.method, tt.path, tt.body)
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
				continue
			}
			text, _ := io.ReadAll(res.Body)
			if res.StatusCode != tt.status || !strings.Contains(string(text), tt.want) {
				t.Errorf("%s: %d %q, want %d with %q", tt.name, res.StatusCode, text, tt.status, tt.want)
			}
			if tt.body == nil || tt.method != "POST" || tt.status == 501 && tt.name != "own challenge" {
				continue
			}
			res, err = stranger.Do(t.Context(), tt.method, tt.path, tt.body)
			if err != nil || res.StatusCode != http.StatusForbidden {
				t.Errorf("%s for another machine: %v, %v; want 403", tt.name, res, err)
			}
		}
	})
}
