package pending_test

import (
	"context"
	"crypto/rand"
	"errors"
	"net/netip"
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
	l, err := tab.Start(r, from)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

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
		done := make(chan error, 1)
		go func() { done <- tab.Wait(t.Context(), waited.ID, r.Machine, r.Key) }()
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
			go tab.Wait(ctx, l.ID, r.Machine, r.Key)
		}
		synctest.Wait()
		if _, err := tab.Start(device(), from); tailnet.CodeOf(err) != tailnet.Exhausted {
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
		done := make(chan error, 1)
		go func() { done <- tab.Wait(t.Context(), l.ID, r.Machine, r.Key) }()
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
	if err := tab.Wait(t.Context(), l.ID, r.Machine, r.Key); err != nil {
		t.Errorf("late waiter: %v", err)
	}
	if err := tab.Wait(t.Context(), "nonsense", r.Machine, r.Key); err != nil {
		t.Errorf("unknown: %v", err)
	}
}
