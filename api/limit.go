package api

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

const (
	// failBurst calls without a valid key are answered and logged at once, and one more
	// per failRefill: who mistypes a key is told, and a guesser gets nowhere.
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
	mu    sync.Mutex
	fail  map[netip.Addr]*list.Element
	order *list.List // of *failing, the one that failed last at the back
}

type failing struct {
	addr netip.Addr
	failures
}

// failures of one address. The debt shrinks by one every failRefill.
type failures struct {
	debt  int
	since time.Time // debt was exact then
}

func newLimiter() *limiter {
	return &limiter{fail: map[netip.Addr]*list.Element{}, order: list.New()}
}

// allow reports whether addr may still fail.
func (l *limiter) allow(addr netip.Addr, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.fail[site(addr)]
	return !ok || e.Value.(*failing).at(now).debt < failBurst
}

// add notes a failure of addr, and reports whether it is the first for a while
// or the last that is let through: those are worth a line in the log.
func (l *limiter) add(addr netip.Addr, now time.Time) (tell bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	addr = site(addr)
	e, ok := l.fail[addr]
	if !ok {
		if len(l.fail) >= maxFailing {
			quiet := l.order.Front()
			delete(l.fail, l.order.Remove(quiet).(*failing).addr)
		}
		e = l.order.PushBack(&failing{addr: addr})
		l.fail[addr] = e
	}
	l.order.MoveToBack(e)
	f := e.Value.(*failing)
	f.failures = f.at(now)
	f.debt++
	return f.debt == 1 || f.debt == failBurst
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
