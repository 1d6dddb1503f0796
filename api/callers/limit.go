package callers

import (
	"container/list"
	"sync"
	"time"
)

// A pace is how many may come at once, and after what time one more.
type pace struct {
	burst  int
	refill time.Duration
}

var (
	// failPace is for calls without a valid key: who mistypes a key is told, and a
	// guesser gets nowhere.
	failPace = pace{10, 6 * time.Second}
	// keyPace and addrPace are for calls with one. A program that lists thousands of
	// nodes in pages does not notice them; one that runs wild does, before the clients do.
	keyPace  = pace{1000, 10 * time.Millisecond}
	addrPace = pace{2000, 5 * time.Millisecond}
)

// maxOwing bounds the parties that are remembered, since strangers
// fill such a table: 4096 of them take some 300 kB. Beyond it, those that have been
// quiet longest are forgotten.
const maxOwing = 4096

// limiter counts what each party did lately.
type limiter[K comparable] struct {
	pace
	mu    sync.Mutex
	owing map[K]*list.Element
	order *list.List // of *owing[K], the one that did something last at the back
}

type owing[K comparable] struct {
	party K
	debt
}

// debt of one party. It shrinks by one every refill.
type debt struct {
	count int
	since time.Time // count was exact then
}

func newLimiter[K comparable](p pace) *limiter[K] {
	return &limiter[K]{pace: p, owing: map[K]*list.Element{}, order: list.New()}
}

// allow reports whether the party may do it once more.
func (l *limiter[K]) allow(party K, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.owing[party]
	return !ok || e.Value.(*owing[K]).at(now, l.refill).count < l.burst
}

// add notes that the party did it, and reports whether it is the first time for a while
// or the last that is let through: those are worth a line in the log.
func (l *limiter[K]) add(party K, now time.Time) (tell bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.owing[party]
	if !ok {
		if len(l.owing) >= maxOwing {
			quiet := l.order.Front()
			delete(l.owing, l.order.Remove(quiet).(*owing[K]).party)
		}
		e = l.order.PushBack(&owing[K]{party: party})
		l.owing[party] = e
	}
	l.order.MoveToBack(e)
	o := e.Value.(*owing[K])
	o.debt = o.at(now, l.refill)
	o.count++
	return o.count == 1 || o.count == l.burst
}

// at returns the debt as it is at now.
func (d debt) at(now time.Time, refill time.Duration) debt {
	paid := int(max(0, now.Sub(d.since)) / refill)
	if paid >= d.count {
		return debt{since: now}
	}
	return debt{count: d.count - paid, since: d.since.Add(time.Duration(paid) * refill)}
}
