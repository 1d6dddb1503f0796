package control_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"heddle/control"
	"heddle/control/controltest"
	"heddle/control/tailnet"
	"heddle/control/tailnet/tailnettest"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// stuckStore is a store whose commits may hang.
type stuckStore struct {
	tailnettest.Store
	mu  sync.Mutex
	rdy chan struct{} // not nil while commits hang
}

// hang lets commits hang until release.
func (s *stuckStore) hang() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ready := make(chan struct{})
	s.rdy = ready
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.rdy = nil
		close(ready)
	}
}

func (s *stuckStore) Commit(ctx context.Context, d *tailnet.Delta) error {
	s.mu.Lock()
	ready := s.rdy
	s.mu.Unlock()
	if ready != nil {
		<-ready
	}
	return s.Store.Commit(ctx, d)
}

// lines collects a log.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

func tooMany(err error) bool {
	var status *controltest.StatusError
	return errors.As(err, &status) && status.Status == http.StatusTooManyRequests && status.Header.Get("Retry-After") != ""
}

// TestEndOfStreamIsNotLost: a stream that ends while commits hang or fail is over all the same
// once they work again.
func TestEndOfStreamIsNotLost(t *testing.T) {
	tests := []struct {
		name  string
		upset func(*stuckStore) (settle func())
	}{
		{"hang", func(st *stuckStore) func() { return st.hang() }},
		{"fail", func(st *stuckStore) func() {
			st.FailWith(errors.New("disk full"))
			return func() { st.FailWith(nil) }
		}},
		{"hang and fail", func(st *stuckStore) func() {
			release := st.hang()
			st.FailWith(errors.New("disk full"))
			time.AfterFunc(7*time.Second, release)
			return func() { st.FailWith(nil) }
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			st := &stuckStore{}
			scenario(t, controltest.Config{Store: st}, func(t *testing.T, s *controltest.Server, authKey string) {
				alice, _ := s.State.Snapshot().ParseUserRef("alice")
				short := s.AuthKey(tailnet.AuthKeySpec{Owner: alice.ID, Ephemeral: true})
				job := s.Client("job").Join(short)
				m := job.MustStream()
				other := s.Client("other").Join(authKey)
				time.Sleep(5 * time.Second)
				settle := tt.upset(st)
				go other.Register(t.Context(), controltest.Logout) // takes a commit
				synctest.Wait()
				m.Close()
				job.Kill()
				time.Sleep(30 * time.Second)
				settle()
				time.Sleep(time.Minute)
				if n := s.Node("job"); n.Status.Online || s.Control.Stats().Streams != 0 {
					t.Errorf("online %v with %d streams", n.Status.Online, s.Control.Stats().Streams)
				}
				time.Sleep(2 * time.Hour)
				if s.State.Snapshot().NodeByName("job") != nil {
					t.Error("the ephemeral node outlived its timeout")
				}
			})
		})
	}
}

// TestSlowStrangersBlockNobody: who sends the body of a request slowly holds up
// nobody but its own connection.
func TestSlowStrangersBlockNobody(t *testing.T) {
	scenario(t, controltest.Config{Limits: control.Limits{Decoding: 1}}, func(t *testing.T, s *controltest.Server, authKey string) {
		known := s.Client("known").Join(authKey)
		slow := make([]*controltest.Client, 20)
		cut := make(chan int, 2*len(slow))
		for i := range slow {
			slow[i] = s.Client("slow")
			for range 2 {
				body, writer := io.Pipe()
				defer writer.Close()
				go func() {
					res, err := slow[i].Upload(t.Context(), "/machine/register", body)
					if err != nil {
						t.Error(err)
						cut <- 0
						return
					}
					cut <- res.StatusCode
				}()
			}
		}
		synctest.Wait()
		began := time.Now()
		s.Client("stranger").Join(authKey)
		if err := known.Report(t.Context(), nil); err != nil {
			t.Error(err)
		}
		known.MustStream()
		if d := time.Since(began); d > 0 {
			t.Errorf("others were held up for %v", d)
		}
		if _, err := slow[0].Register(t.Context(), nil); !tooMany(err) {
			t.Errorf("third request of a slow connection: %v, want 429 with Retry-After", err)
		}
		for range 2 * len(slow) {
			if code := <-cut; code != http.StatusBadRequest {
				t.Errorf("a slow body: %d", code)
			}
		}
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("slow bodies were cut after %v", d)
		}
		slow[0].Join(authKey)
	})
}

func TestStrangersSaySmallThings(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		c := s.Client("box")
		req := tailcfg.RegisterRequest{Version: 142, NodeKey: c.Node.Public(), Hostinfo: &tailcfg.Hostinfo{
			Hostname: "box", Package: strings.Repeat("x", 40<<10),
		}}
		post := func() int {
			t.Helper()
			res, err := c.Do(t.Context(), "POST", "/machine/register", req)
			if err != nil {
				t.Fatal(err)
			}
			return res.StatusCode
		}
		if got := post(); got != http.StatusBadRequest {
			t.Errorf("a stranger's 40 KB: %d", got)
		}
		c.Join(authKey)
		if got := post(); got != http.StatusOK {
			t.Errorf("a node's 40 KB: %d", got)
		}
	})
}

// TestWaitingHoldsLittle: a request that waits for a person may wait for days, so nothing of
// it stays in memory. This one decodes to fourteen times its size.
func TestWaitingHoldsLittle(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, _ string) {
		heap := func() int {
			synctest.Wait()
			runtime.GC()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return int(m.HeapAlloc)
		}
		var clients []*controltest.Client
		var bodies [][]byte
		for range 5 {
			c := s.Client("x")
			for range 4 {
				c.Node = key.NewNode()
				resp, err := c.Register(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				clients = append(clients, c)
				bodies = append(bodies, fmt.Appendf(nil, `{"Version":142,"NodeKey":%q,"Followup":%q,"Hostinfo":{"Services":[{}%s]}}`,
					c.Node.Public(), resp.AuthURL, strings.Repeat(",{}", 10000)))
			}
		}
		before := heap()
		var waiting sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		for i, c := range clients {
			for range 4 {
				waiting.Go(func() {
					if res, err := c.Do(ctx, "POST", "/machine/register", bodies[i]); err == nil {
						t.Errorf("answered: %s", res.Status)
					}
				})
				synctest.Wait()
			}
		}
		if grown := (heap() - before) / 80; grown > 60<<10 {
			t.Errorf("requests that wait hold %d KB each", grown>>10)
		}
		cancel()
		waiting.Wait()
	})
}

// TestEarlierFollowUpsLeave: of many requests that wait for one login the oldest are sent away,
// with the page that they know, and one still learns of the approval.
func TestEarlierFollowUpsLeave(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, _ string) {
		alice, _ := s.State.Snapshot().ParseUserRef("alice")
		c := s.Client("kiosk")
		first, err := c.Register(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		answers := make(chan *tailcfg.RegisterResponse, 20)
		for range 20 {
			go func() {
				resp, err := c.Register(t.Context(), func(r *tailcfg.RegisterRequest) { r.Followup = first.AuthURL })
				if err != nil {
					t.Error(err)
				}
				answers <- resp
			}()
		}
		synctest.Wait()
		if len(answers) != 16 {
			t.Errorf("%d of 20 were sent away", len(answers))
		}
		for range len(answers) {
			if resp := <-answers; resp == nil || resp.AuthURL != first.AuthURL {
				t.Errorf("%+v, want the same page again", resp)
			}
		}
		id := first.AuthURL[strings.LastIndex(first.AuthURL, "/")+1:]
		if _, err := s.Control.CompleteLogin(t.Context(), tailnet.Actor{Kind: tailnet.LocalCLI}, id, alice.ID, tailnet.ByCLI); err != nil {
			t.Fatal(err)
		}
		for range 4 {
			if resp := <-answers; resp == nil || !resp.MachineAuthorized {
				t.Errorf("%+v, want it logged in", resp)
			}
		}
	})
}

// TestStrangersDoNotHideFaults: strangers can fill no log, and keep nothing out of it.
func TestStrangersDoNotHideFaults(t *testing.T) {
	var log lines
	st := &stuckStore{}
	c := controltest.Config{Store: st, Log: slog.New(slog.NewTextHandler(&log, nil))}
	scenario(t, c, func(t *testing.T, s *controltest.Server, authKey string) {
		for range 200 {
			c := s.Client("x").From("2001:db8::1")
			c.Register(t.Context(), nil)
			c.Register(t.Context(), controltest.WithKey("tskey-auth-x-y"))
			c.Do(t.Context(), "POST", "/machine/map", []byte("hello"))
			c.Kill()
		}
		if waits, refused := log.count("login waits"), log.count("refused"); waits == 0 || waits > 20 || refused == 0 || refused > 5 {
			t.Errorf("200 strangers of one site: %d lines about logins, %d about refusals", waits, refused)
		}
		good := s.Client("good").Join(authKey)
		good.Hostinfo.Hostname = "other"
		st.FailWith(errors.New("disk broke"))
		if err := good.Report(t.Context(), nil); err == nil {
			t.Error("a rename succeeded without a commit")
		}
		if log.count("disk broke") == 0 {
			t.Error("the failure is not in the log")
		}
		for range 100 {
			good.Report(t.Context(), nil)
		}
		if got := log.count("request refused\" path=/machine/map"); got > 20 {
			t.Errorf("%d lines about one fault", got)
		}
		st.FailWith(nil)
	})
}

// TestStrangersDoNotReachTheWriter: what a stranger asks for is answered although
// the writer is busy.
func TestStrangersDoNotReachTheWriter(t *testing.T) {
	st := &stuckStore{}
	scenario(t, controltest.Config{Store: st}, func(t *testing.T, s *controltest.Server, authKey string) {
		good := s.Client("good").Join(authKey)
		release := st.hang()
		defer release()
		go good.Register(t.Context(), controltest.Logout)
		synctest.Wait()
		c := s.Client("stranger")
		for name, change := range map[string]func(*tailcfg.RegisterRequest){
			"no key": nil, "bad key": controltest.WithKey("tskey-auth-x-y"), "logout": controltest.Logout,
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := c.Register(ctx, change); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			cancel()
		}
		if w := ask(s, "GET", "/health", ""); w.Code != http.StatusOK {
			t.Errorf("health: %d", w.Code)
		}
	})
}

// TestRestlessNode: a node whose reports always bring news does not keep the others
// busy, and what it said last is taken over in the end.
func TestRestlessNode(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		c := s.Client("restless").Join(authKey)
		calm := s.Client("calm").Join(authKey)
		var last key.DiscoPublic
		change := func(r *tailcfg.MapRequest) { r.DiscoKey = last }
		accepted := 0
		for range 300 {
			last = key.NewDisco().Public()
			switch err := c.Report(t.Context(), change); {
			case err == nil:
				accepted++
			case !tooMany(err):
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if accepted < 45 || accepted > 55 { // 20, and one for each of 30 s
			t.Errorf("%d changes in 30 s", accepted)
		}
		for c.Report(t.Context(), change) != nil {
			time.Sleep(time.Second)
		}
		if got := s.Node("restless").Report.Disco; got != last {
			t.Error("what it said last was dropped")
		}
		for range 100 { // no news is no load
			if err := c.Report(t.Context(), change); err != nil {
				t.Fatal(err)
			}
		}
		if err := calm.Report(t.Context(), func(r *tailcfg.MapRequest) { r.DiscoKey = key.NewDisco().Public() }); err != nil {
			t.Errorf("another node: %v", err)
		}
	})
}

// TestRestlessExpiry: nor does a node that changes when its key expires, over and over.
func TestRestlessExpiry(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		c := s.Client("restless").Join(authKey)
		at := time.Now().Add(time.Hour)
		accepted := 0
		for range 300 {
			at = at.Add(-time.Second)
			switch _, err := c.Register(t.Context(), func(r *tailcfg.RegisterRequest) { r.Expiry = at }); {
			case err == nil:
				accepted++
			case !tooMany(err):
				t.Fatal(err)
			}
		}
		if accepted < 15 || accepted > 25 {
			t.Errorf("%d changes in no time", accepted)
		}
		time.Sleep(time.Minute)
		if resp, err := c.Register(t.Context(), controltest.Logout); err != nil || !resp.NodeKeyExpired {
			t.Errorf("logout: %v", err)
		}
	})
}

// TestHastyStreams: nor does one that asks for its map over and over.
func TestHastyStreams(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		c := s.Client("hasty").Join(authKey)
		opened := 0
		for range 100 {
			st, err := c.Stream(func(r *tailcfg.MapRequest) { r.Stream = opened%2 == 0 })
			if err != nil {
				if !tooMany(err) {
					t.Fatal(err)
				}
				continue
			}
			opened++
			st.Close()
		}
		if opened != 20 {
			t.Errorf("%d maps at once", opened)
		}
		time.Sleep(2 * time.Second)
		c.MustStream()
	})
}
