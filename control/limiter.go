package control

import (
	"container/list"
	"sync"
	"time"
)

// limiter lets each cause, such as an address, do something burst times at
// once, and once more for each interval that passes.
type limiter[K comparable] struct {
	burst int
	every time.Duration
	now   func() time.Time

	mu    sync.Mutex
	debts map[K]*list.Element
	order *list.List // of *debt[K], the cause that asked last at the back
}

// debt is what a cause has taken: it is paid at one piece per interval.
type debt[K comparable] struct {
	cause K
	paid  time.Time // when all will be
}

// limiterCauses bounds the causes that are remembered, since strangers fill this table: some 2 MB. The
// one that has been quiet longest is forgotten, so nobody answers for others.
const limiterCauses = 10000

func newLimiter[K comparable](burst int, every time.Duration, now func() time.Time) *limiter[K] {
	return &limiter[K]{burst: burst, every: every, now: now, debts: map[K]*list.Element{}, order: list.New()}
}

// allow reports whether the cause may do it once more, and if so counts it.
func (l *limiter[K]) allow(cause K) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.forgetLocked(now)
	e, known := l.debts[cause]
	if !known {
		e = l.order.PushBack(&debt[K]{cause: cause})
		l.debts[cause] = e
	}
	l.order.MoveToBack(e)
	d := e.Value.(*debt[K])
	paid := now
	if d.paid.After(now) {
		paid = d.paid
	}
	if paid = paid.Add(l.every); paid.Sub(now) > time.Duration(l.burst)*l.every {
		return false
	}
	d.paid = paid
	return true
}

// forgetLocked forgets the quietest causes that owe nothing, and makes room for one.
func (l *limiter[K]) forgetLocked(now time.Time) {
	for e := l.order.Front(); e != nil; e = l.order.Front() {
		d := e.Value.(*debt[K])
		if d.paid.After(now) && len(l.debts) < limiterCauses {
			return
		}
		l.order.Remove(e)
		delete(l.debts, d.cause)
	}
}
