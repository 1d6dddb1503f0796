package api

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

type pageRequest struct {
	size  uint32
	token string
}

func (p pageRequest) GetPageSize() uint32  { return p.size }
func (p pageRequest) GetPageToken() string { return p.token }

func FuzzPage(f *testing.F) {
	f.Add(uint32(0), "")
	f.Add(uint32(3), "2")
	f.Add(uint32(1<<31), "zzzzzzzzzzzzzz")
	f.Fuzz(func(t *testing.T, size uint32, token string) {
		list := func(yield func(int64) bool) {
			for i := range int64(10) {
				if !yield(i + 1) {
					return
				}
			}
		}
		self := func(i int64) int64 { return i }
		even := func(i int64) bool { return i%2 == 0 }
		items, next, err := page(pageRequest{size, token}, list, self, even)
		if err != nil {
			return
		}
		if len(items) > 5 || next != "" && uint32(len(items)) != size {
			t.Errorf("%v, %q", items, next)
		}
	})
}

func FuzzParsePrefixes(f *testing.F) {
	f.Add("10.0.0.0/8")
	f.Add("fe80::1%eth0")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parsePrefixes([]string{text})
		if err == nil && (len(list) != 1 || !list[0].IsValid()) {
			t.Errorf("%q: %v", text, list)
		}
	})
}
