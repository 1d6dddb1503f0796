package control_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"heddle/control/controltest"
	"heddle/control/tailnet"
	"heddle/control/tailnet/tailnettest"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// fleet joins n devices.
func fleet(s *controltest.Server, authKey string, n int) []*controltest.Client {
	var out []*controltest.Client
	for i := range n {
		// A few of each address, like offices.
		c := s.Client(fmt.Sprintf("n%d", i)).From(fmt.Sprintf("203.0.113.%d", i/16)).Join(authKey)
		out = append(out, c)
	}
	return out
}

func streams(fleet []*controltest.Client) []*controltest.Stream {
	var out []*controltest.Stream
	for _, c := range fleet {
		out = append(out, c.MustStream())
	}
	return out
}

func hasPeers(n int) func(*controltest.Netmap) bool {
	return func(m *controltest.Netmap) bool { return len(m.Peers) == n }
}

// TestFleetComesBack: after a restart everybody gets a full map, and a new
// device joins meanwhile.
func TestFleetComesBack(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		const n = 120
		nodes := fleet(s, authKey, n)
		for i, st := range streams(nodes) {
			must(t, fmt.Sprintf("n%d sees all", i), st.Await(hasPeers(n-1)))
		}
		s.Restart()
		began := time.Now()
		for _, c := range nodes {
			c.Reconnect()
		}
		back := streams(nodes)
		s.Client("new").Join(authKey).MustStream()
		for i, st := range back {
			must(t, fmt.Sprintf("n%d sees all again, and the new one", i), st.Await(hasPeers(n)))
			for _, p := range st.Netmap().Peers {
				if p.Online == nil || !*p.Online {
					t.Fatalf("n%d sees %s offline after a restart", i, p.Name)
				}
			}
		}
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

// TestStalledFleet: devices that take nothing hold up nobody, neither with changes nor with
// their first maps, and are let go.
func TestStalledFleet(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		const n = 60
		nodes := fleet(s, authKey, n)
		var long []netip.AddrPort // makes maps larger than what the connections' buffers hold
		for i := range 60 {
			long = append(long, netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("2001:db8:%x:%x::%x", i*977, i*7919%65536, i*31)), uint16(1024+i*61)))
		}
		for i, c := range nodes {
			must(t, "report", c.Report(t.Context(), func(r *tailcfg.MapRequest) {
				for j := range long {
					r.Endpoints = append(r.Endpoints, netip.AddrPortFrom(long[j].Addr(), uint16(1024+i*577+j*61)))
				}
			}) == nil)
		}
		all := streams(nodes)
		for _, st := range all {
			must(t, "all are there", st.Await(hasPeers(n-1)))
		}
		stalled, good := nodes[:40], all[40:]
		for _, c := range stalled {
			c.Freeze()
		}
		for i := range 5 {
			began := time.Now()
			s.Client(fmt.Sprintf("news%d", i)).Join(authKey)
			for _, st := range good {
				must(t, "news", st.Await(hasPeers(n+i)))
			}
			if d := time.Since(began); d > 2*time.Second {
				t.Errorf("news took %v while others are stalled", d)
			}
			time.Sleep(2 * time.Second)
		}
		s.Restart()
		for _, c := range stalled { // they read nothing of their new connections either
			c.Reconnect()
			go c.Stream(nil)
			time.Sleep(time.Millisecond)
			c.Freeze()
		}
		for _, c := range nodes[40:] {
			c.Reconnect()
			began := time.Now()
			must(t, "map", c.MustStream().Await(hasPeers(n+4)))
			if d := time.Since(began); d > 10*time.Second {
				t.Errorf("a first map took %v while others are stalled", d)
			}
		}
		time.Sleep(5 * time.Minute)
		if got := s.Control.Stats().Streams; got != n-len(stalled) {
			t.Errorf("%d streams, want those of the %d that read", got, n-len(stalled))
		}
		for _, c := range stalled {
			c.Thaw()
		}
	})
}

// TestDayOfChurn: devices come, go and move for a day, and nothing piles up.
func TestDayOfChurn(t *testing.T) {
	if testing.Short() {
		t.Skip("a day is long")
	}
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		const n = 24
		nodes := fleet(s, authKey, n)
		list := streams(nodes)
		visitor := s.Client("guest")
		guest := s.AuthKey(tailnet.AuthKeySpec{Owner: s.Node("n0").Owner, Reusable: true, Ephemeral: true, Expires: time.Now().Add(48 * time.Hour)})
		step := func(i int) {
			c := nodes[i%n]
			switch i % 4 {
			case 0: // another network
				must(t, "report", c.Report(t.Context(), func(r *tailcfg.MapRequest) {
					r.Endpoints = []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(i))}
				}) == nil)
			case 1: // away for longer than the grace
				list[i%n].Forget()
				time.Sleep(30 * time.Second)
				list[i%n] = c.MustStream()
			case 2: // the connection dies
				c.Lose()
				old := list[i%n]
				c.Reconnect()
				list[i%n] = c.MustStream()
				old.Forget()
			default: // somebody for a moment
				visitor.Machine, visitor.Node = key.NewMachine(), key.NewNode()
				visitor.Join(guest).MustStream().Forget()
				visitor.Kill()
				visitor.Reconnect()
			}
		}
		type size struct {
			goroutines, cached int
			heap               uint64
		}
		measure := func() size {
			for i := range nodes { // what their streams and connections have collected is the test's
				list[i].Forget()
				nodes[i].Kill()
				nodes[i].Reconnect()
				list[i] = nodes[i].MustStream()
			}
			time.Sleep(2 * time.Hour) // guests are removed
			runtime.GC()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return size{runtime.NumGoroutine(), s.Maps.Stats().Bytes, m.HeapAlloc}
		}
		hours := func(h int) {
			for i := range h * 30 {
				step(i)
				time.Sleep(2 * time.Minute)
			}
		}
		hours(4)
		early := measure()
		hours(20)
		late := measure()
		t.Logf("after 4 hours %+v, after 24 %+v", early, late)
		if late.goroutines > early.goroutines+10 {
			t.Errorf("goroutines grew from %d to %d", early.goroutines, late.goroutines)
		}
		if late.heap > early.heap+early.heap/5+2<<20 {
			t.Errorf("the heap grew from %d to %d bytes", early.heap, late.heap)
		}
		if late.cached > 2*early.cached {
			t.Errorf("the cache grew from %d to %d bytes", early.cached, late.cached)
		}
		if got := s.State.Snapshot().NumNodes(); got != n {
			t.Errorf("%d nodes are left, want %d", got, n)
		}
		for _, st := range list {
			must(t, "map", st.Await(hasPeers(n-1)))
		}
	})
}

// heldStore is a store whose commits wait until a channel is closed, if there is one.
type heldStore struct {
	tailnettest.Store
	held atomic.Pointer[chan struct{}]
}

func (s *heldStore) Commit(ctx context.Context, d *tailnet.Delta) error {
	if ch := s.held.Load(); ch != nil {
		<-*ch
	}
	return s.Store.Commit(ctx, d)
}

// TestTooManyLogins: while the database is slow, devices that join beyond a bound
// are told to come back instead of waiting without end.
func TestTooManyLogins(t *testing.T) {
	store := new(heldStore)
	scenario(t, controltest.Config{Store: store}, func(t *testing.T, s *controltest.Server, authKey string) {
		const n = 600
		held := make(chan struct{})
		store.held.Store(&held)
		var running sync.WaitGroup
		var busy, in atomic.Int64
		for i := range n {
			c := s.Client(fmt.Sprintf("n%d", i)).From(fmt.Sprintf("203.0.113.%d", i/16))
			running.Go(func() {
				_, err := c.Register(t.Context(), controltest.WithKey(authKey))
				var status *controltest.StatusError
				switch {
				case err == nil:
					in.Add(1)
				case errors.As(err, &status) && status.Status == http.StatusTooManyRequests:
					busy.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		time.Sleep(10 * time.Second)
		if got := busy.Load(); got < 50 || got >= n {
			t.Errorf("%d of %d were told to come back", got, n)
		}
		close(held)
		running.Wait()
		if got := in.Load() + busy.Load(); got != n || in.Load() < 500 {
			t.Errorf("%d got in", in.Load())
		}
	})
}
