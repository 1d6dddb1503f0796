package control

import (
	"sync"
	"time"
)

// limiter counts events of one kind and cause, such as requests of one address,
// in fixed windows of time.
type limiter struct {
	max    int
	window time.Duration
	now    func() time.Time

	mu     sync.Mutex
	since  time.Time
	counts map[string]int
}

// limiterKeys bounds the causes that are told apart; the others share one count.
const limiterKeys = 10000

func newLimiter(max int, window time.Duration, now func() time.Time) *limiter {
	return &limiter{max: max, window: window, now: now, counts: map[string]int{}}
}

// allow counts an event and reports whether it is within the limit.
func (l *limiter) allow(cause string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.now(); now.Sub(l.since) >= l.window {
		l.since = now
		clear(l.counts)
	}
	if _, known := l.counts[cause]; !known && len(l.counts) >= limiterKeys {
		cause = ""
	}
	l.counts[cause]++
	return l.counts[cause] <= l.max
}
