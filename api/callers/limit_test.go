package callers

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestLimiterIsBounded(t *testing.T) {
	l, now := newLimiter[netip.Addr](failPace), time.Unix(1_000_000, 0)
	addr := func(i uint32) netip.Addr {
		return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, i)))
	}
	for i := range uint32(3 * maxOwing) {
		now = now.Add(time.Millisecond)
		l.add(addr(i), now)
		if len(l.owing) > maxOwing {
			t.Fatalf("%d addresses are remembered", len(l.owing))
		}
	}
	// Those who fail on are not forgotten for newcomers.
	loud := netip.MustParseAddr("198.51.100.1")
	for i := range uint32(2 * maxOwing) {
		now = now.Add(time.Millisecond)
		l.add(addr(i), now)
		l.add(loud, now)
	}
	if l.allow(loud, now) {
		t.Error("the loudest is let through")
	}
	if now = now.Add(24 * time.Hour); !l.allow(loud, now) {
		t.Error("the next day it is still refused")
	}
}

// Strangers choose what stands in these.
func FuzzBearer(f *testing.F) {
	f.Add("Bearer tskey-api-x-y")
	f.Add("bearer  ")
	f.Add("")
	f.Fuzz(func(t *testing.T, value string) {
		token, ok := bearer([]string{value})
		if ok != (token != "") || !strings.Contains(value, token) {
			t.Errorf("%q: %q, %v", value, token, ok)
		}
	})
}
