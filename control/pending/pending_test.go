package pending_test

import (
	"context"
	"crypto/rand"
	"errors"
	"net/netip"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"heddle/control/pending"
	"heddle/control/tailnet"

	"go4.org/mem"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

var from = netip.MustParseAddr("192.0.2.7")

func device() tailnet.Registration {
	var raw [64]byte // any bytes will do for public keys, and are cheap
	rand.Read(raw[:])
	return tailnet.Registration{
		Machine:  key.MachinePublicFromRaw32(mem.B(raw[:32])),
		Key:      key.NodePublicFromRaw32(mem.B(raw[32:])),
		Hostinfo: &tailcfg.Hostinfo{Hostname: "laptop"},
	}
}

func start(t *testing.T, tab *pending.Table, r tailnet.Registration) pending.Login {
	t.Helper()
	l, _, err := tab.Start(r, from)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// wait is a request that waits for a login.
func wait(ctx context.Context, tab *pending.Table, id string, r tailnet.Registration) <-chan error {
	done := make(chan error, 1)
	w := tab.Join(id, r.Machine, r.Key)
	if w == nil {
		done <- errNothing
		return done
	}
	go func() {
		got, err := w.Wait(ctx)
		if err == nil && (got.Machine != r.Machine || got.Key != r.Key || got.Hostinfo == nil) {
			err = errors.New("got another device's registration")
		}
		done <- err
	}()
	return done
}

var errNothing = errors.New("there is nothing to wait for")

func TestSameDeviceKeepsItsLogin(t *testing.T) {
	tab := pending.New(pending.Limits{}, time.Now)
	r := device()
	a, b := start(t, tab, r), start(t, tab, r)
	if a.ID != b.ID {
		t.Errorf("same machine and node key: IDs %s and %s", a.ID, b.ID)
	}
	r.Key = key.NewNode().Public()
	if c := start(t, tab, r); c.ID == a.ID {
		t.Error("another node key got the same ID")
	}
	if got := tab.Len(); got != 2 {
		t.Errorf("Len = %d, want 2", got)
	}
}

func TestList(t *testing.T) {
	tab := pending.New(pending.Limits{}, time.Now)
	a, b, c := start(t, tab, device()), start(t, tab, device()), start(t, tab, device())
	if err := tab.Complete(b.ID, func(tailnet.Registration) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if list, more := tab.List(5); len(list) != 2 || list[0].ID != c.ID || list[1].ID != a.ID || more != 0 {
		t.Errorf("%d logins and %d more, want the third, the first and no more: %+v", len(list), more, list)
	}
	if list, more := tab.List(1); len(list) != 1 || list[0].ID != c.ID || more != 1 {
		t.Errorf("%d logins and %d more, want the third and one more: %+v", len(list), more, list)
	}
}

func TestBounds(t *testing.T) {
	tests := []struct {
		name    string
		limits  pending.Limits
		devices func(i int) tailnet.Registration
		want    int
	}{
		{"total", pending.Limits{Total: 10}, func(int) tailnet.Registration { return device() }, 10},
		{"address", pending.Limits{PerAddr: 5}, func(int) tailnet.Registration { return device() }, 5},
		{"machine", pending.Limits{}, func() func(int) tailnet.Registration {
			m := key.NewMachine().Public()
			return func(int) tailnet.Registration { r := device(); r.Machine = m; return r }
		}(), 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tab := pending.New(tt.limits, time.Now)
			first := start(t, tab, tt.devices(0))
			var last pending.Login
			for i := range 50 {
				last = start(t, tab, tt.devices(i+1))
			}
			if got := tab.Len(); got != tt.want {
				t.Errorf("Len = %d, want %d", got, tt.want)
			}
			if _, ok := tab.Get(first.ID); ok {
				t.Error("the oldest is still there")
			}
			if _, ok := tab.Get(last.ID); !ok {
				t.Error("the newest is gone")
			}
		})
	}
}

func TestTenThousandAbandonedDisturbNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := pending.New(pending.Limits{PerAddr: 20000}, time.Now)
		r := device()
		waited := start(t, tab, r)
		done := wait(t.Context(), tab, waited.ID, r)
		synctest.Wait()
		for range 11000 {
			start(t, tab, device())
		}
		if got := tab.Len(); got != 10000 {
			t.Errorf("Len = %d, want 10000", got)
		}
		if err := tab.Complete(waited.ID, func(tailnet.Registration) error { return nil }); err != nil {
			t.Fatalf("the login that a device waits for: %v", err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestAllWaitedForRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		tab := pending.New(pending.Limits{Total: 2}, time.Now)
		for range 2 {
			r := device()
			l := start(t, tab, r)
			wait(ctx, tab, l.ID, r)
		}
		synctest.Wait()
		if _, _, err := tab.Start(device(), from); tailnet.CodeOf(err) != tailnet.Exhausted {
			t.Errorf("third: %v, want Exhausted", err)
		}
		cancel()
		synctest.Wait()
		start(t, tab, device())
	})
}

func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := pending.New(pending.Limits{}, time.Now)
		r := device()
		l := start(t, tab, r)
		done := wait(t.Context(), tab, l.ID, r)
		time.Sleep(6*24*time.Hour + 23*time.Hour)
		if _, ok := tab.Get(l.ID); !ok {
			t.Fatal("gone before 7 days, although clients still offer the page")
		}
		time.Sleep(2 * time.Hour)
		if _, ok := tab.Get(l.ID); ok {
			t.Error("still there after 7 days")
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestComplete(t *testing.T) {
	tab := pending.New(pending.Limits{}, time.Now)
	r := device()
	l := start(t, tab, r)
	broken := errors.New("database is away")
	if err := tab.Complete(l.ID, func(tailnet.Registration) error { return broken }); err != broken {
		t.Fatalf("got %v", err)
	}
	err := tab.Complete(l.ID, func(got tailnet.Registration) error {
		if got.Key != r.Key || got.Machine != r.Machine {
			t.Error("approved another device")
		}
		again := tab.Complete(l.ID, func(tailnet.Registration) error { t.Error("ran twice"); return nil })
		if tailnet.CodeOf(again) != tailnet.Conflict {
			t.Errorf("while busy: %v", again)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := tab.Complete(l.ID, nil); tailnet.CodeOf(err) != tailnet.Conflict {
		t.Errorf("twice: %v, want Conflict", err)
	}
	if err := tab.Complete("nonsense", nil); tailnet.CodeOf(err) != tailnet.NotFound {
		t.Errorf("unknown: %v, want NotFound", err)
	}
	if got, ok := tab.Get(l.ID); !ok || !got.Done {
		t.Errorf("the page cannot tell that it is done: %v %v", got.Done, ok)
	}
	if err := <-wait(t.Context(), tab, l.ID, r); err != errNothing {
		t.Errorf("late waiter: %v", err)
	}
	if err := <-wait(t.Context(), tab, "nonsense", r); err != errNothing {
		t.Errorf("unknown: %v", err)
	}
}

// claims returns a device that says about n bytes of itself.
func claims(n int) tailnet.Registration {
	r := device()
	h := &tailcfg.Hostinfo{Hostname: "laptop"}
	for i := range n / 24 {
		h.RoutableIPs = append(h.RoutableIPs, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24))
	}
	r.Hostinfo = h
	return r
}

func TestBytesAreBounded(t *testing.T) {
	tests := []struct {
		name   string
		limits pending.Limits
		max    int
	}{
		{"total", pending.Limits{Bytes: 100_000}, 100_000},
		{"address", pending.Limits{AddrBytes: 60_000}, 60_000},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tab := pending.New(tt.limits, time.Now)
			for range 50 {
				l := start(t, tab, claims(20_000))
				if got := tab.Bytes(); got > tt.max {
					t.Fatalf("%d bytes", got)
				}
				if got, ok := tab.Get(l.ID); !ok || len(got.Registration.Hostinfo.RoutableIPs) < 500 {
					t.Fatal("what the newest says of itself is not there whole")
				}
			}
			if tab.Len() < 3 {
				t.Errorf("only %d logins fit", tab.Len())
			}
			// A device that says more when it asks again counts for what it says then.
			r := device()
			l := start(t, tab, r)
			before := tab.Len()
			r.Hostinfo = claims(20_000).Hostinfo
			start(t, tab, r)
			if got, _ := tab.Get(l.ID); tab.Bytes() > tt.max || tab.Len() >= before || len(got.Registration.Hostinfo.RoutableIPs) < 500 {
				t.Errorf("%d logins with %d bytes", tab.Len(), tab.Bytes())
			}
		})
	}
	// What goes is counted too.
	tab := pending.New(pending.Limits{PerMachine: 1}, time.Now)
	r := claims(1000)
	start(t, tab, r)
	size := tab.Bytes()
	for range 20 {
		r.Key = key.NewNode().Public()
		start(t, tab, r)
	}
	if got := tab.Bytes(); got != size {
		t.Errorf("%d bytes, want %d", got, size)
	}
}

// TestLargeLoginsMakeRoom: who says much of itself and waits shuts nobody else out.
func TestLargeLoginsMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		tab := pending.New(pending.Limits{Bytes: 100_000}, time.Now)
		small := device()
		l := start(t, tab, small)
		wait(ctx, tab, l.ID, small)
		for range 50 {
			big := claims(20_000)
			wait(ctx, tab, start(t, tab, big).ID, big)
		}
		start(t, tab, device())
		if _, ok := tab.Get(l.ID); !ok || tab.Bytes() > 100_000 {
			t.Errorf("the small one that is waited for: %v; %d bytes", ok, tab.Bytes())
		}
	})
}

// TestLetsTheRequestGo: what is kept shares no memory with the request, which may be large.
func TestLetsTheRequestGo(t *testing.T) {
	tab := pending.New(pending.Limits{}, time.Now)
	r := device()
	collected := make(chan struct{})
	func() {
		h := &tailcfg.Hostinfo{Hostname: "laptop"}
		runtime.AddCleanup(h, func(struct{}) { close(collected) }, struct{}{})
		r.Hostinfo = h
		start(t, tab, r)
		r.Hostinfo = nil
	}()
	runtime.GC()
	<-collected
}

func TestWaitersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		tab := pending.New(pending.Limits{Waiters: 5, PerLogin: 2}, time.Now)
		r := device()
		l := start(t, tab, r)
		left := func(done <-chan error) bool {
			t.Helper()
			synctest.Wait()
			select {
			case err := <-done:
				if err != nil {
					t.Error(err)
				}
				return true
			default:
				return false
			}
		}
		a, b, c := wait(ctx, tab, l.ID, r), wait(ctx, tab, l.ID, r), wait(ctx, tab, l.ID, r)
		if !left(a) || left(b) || left(c) {
			t.Error("of three for one login not just the oldest left")
		}
		for range 3 {
			other := device()
			wait(ctx, tab, start(t, tab, other).ID, other)
		}
		if left(b) {
			t.Error("left although there was room")
		}
		other := device()
		wait(ctx, tab, start(t, tab, other).ID, other)
		if !left(b) || left(c) {
			t.Error("of six not just the oldest left")
		}
		if _, ok := tab.Get(l.ID); !ok {
			t.Error("the login is gone with its waiters")
		}
		if err := tab.Complete(l.ID, func(tailnet.Registration) error { return nil }); err != nil || !left(c) {
			t.Errorf("the one that stayed was not told: %v", err)
		}
	})
}

// Who is turned away is told so at once, and for a while each time that it asks again.
func TestReject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := pending.New(pending.Limits{}, time.Now)
		r := device()
		l := start(t, tab, r)
		waiting := wait(t.Context(), tab, l.ID, r)
		denied := errors.New("not you")
		if err := tab.Reject(l.ID, func(tailnet.Registration) error { return denied }); err != denied {
			t.Error(err)
		}
		if list, _ := tab.List(9); len(list) != 1 {
			t.Error("a refused rejection ended the waiting")
		}
		allow := func(got tailnet.Registration) error {
			if got.Machine != r.Machine || got.Hostinfo.Hostname != "laptop" {
				t.Errorf("rejected %+v", got)
			}
			return nil
		}
		if err := tab.Reject(l.ID, allow); err != nil {
			t.Fatal(err)
		}
		if err := <-waiting; tailnet.CodeOf(err) != tailnet.Denied {
			t.Errorf("who waited is told %v", err)
		}
		if err := tab.Reject(l.ID, allow); tailnet.CodeOf(err) != tailnet.Conflict {
			t.Errorf("rejected twice: %v", err)
		}
		if err := tab.Complete(l.ID, allow); tailnet.CodeOf(err) != tailnet.Conflict {
			t.Errorf("approved afterwards: %v", err)
		}
		if list, more := tab.List(9); len(list)+more > 0 {
			t.Errorf("it is still listed: %v", list)
		}
		if _, _, err := tab.Start(r, from); tailnet.CodeOf(err) != tailnet.Denied {
			t.Errorf("asking again: %v", err)
		}
		other := r
		other.Key = device().Key
		start(t, tab, other)
		time.Sleep(time.Hour)
		if l := start(t, tab, r); l.Rejected != (time.Time{}) || tab.Join(l.ID, r.Machine, r.Key) == nil {
			t.Errorf("after an hour it gets %+v", l)
		}
	})
}
