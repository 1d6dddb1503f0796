package api

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// failBurst calls without a valid key are let through at once, and one more
	// per failRefill: a mistyped key does not lock anybody out, and a guesser
	// gets nowhere.
	failBurst  = 10
	failRefill = 6 * time.Second
	// maxFailing bounds the addresses that are remembered, since strangers
	// fill this table: 4096 of them take some 300 kB. Beyond it, those that have been
	// quiet longest are forgotten.
	maxFailing = 4096
)

// limiter counts failures per address. An IPv6 /64, which is what one site
// has, counts as one address.
type limiter struct {
	mu   sync.Mutex
	fail map[netip.Addr]failures
}

// failures of one address. Its debt shrinks by one every failRefill.
type failures struct {
	debt  int
	since time.Time // debt was exact then
}

func newLimiter() *limiter { return &limiter{fail: map[netip.Addr]failures{}} }

// allow reports whether addr may still fail.
func (l *limiter) allow(addr netip.Addr, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fail[site(addr)].at(now).debt < failBurst
}

// add notes a failure of addr.
func (l *limiter) add(addr netip.Addr, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	addr = site(addr)
	f, known := l.fail[addr]
	if !known && len(l.fail) >= maxFailing {
		l.forgetLocked(now)
	}
	f = f.at(now)
	f.debt++
	l.fail[addr] = f
}

// forgetLocked makes room: it drops all addresses without debt, or else the
// oldest one.
func (l *limiter) forgetLocked(now time.Time) {
	var oldest netip.Addr
	var since time.Time
	for addr, f := range l.fail {
		if f.at(now).debt == 0 {
			delete(l.fail, addr)
			continue
		}
		if since.IsZero() || f.since.Before(since) {
			oldest, since = addr, f.since
		}
	}
	if len(l.fail) >= maxFailing {
		delete(l.fail, oldest)
	}
}

// at returns f as it is at now.
func (f failures) at(now time.Time) failures {
	paid := int(max(0, now.Sub(f.since)) / failRefill)
	if paid >= f.debt {
		return failures{since: now}
	}
	return failures{debt: f.debt - paid, since: f.since.Add(time.Duration(paid) * failRefill)}
}

func site(addr netip.Addr) netip.Addr {
	if addr.Is6() {
		p, _ := addr.Prefix(64)
		return p.Addr()
	}
	return addr
}
