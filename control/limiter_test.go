package control

import (
	"testing"
	"time"
)

func TestLimiter(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	l := newLimiter[string](3, time.Second, func() time.Time { return now })
	allowed := func(cause string) (n int) {
		for range 10 {
			if l.allow(cause) {
				n++
			}
		}
		return n
	}
	steps := []struct {
		pass  time.Duration
		cause string
		want  int
	}{
		{0, "a", 3},
		{0, "a", 0},
		{0, "b", 3},
		{999 * time.Millisecond, "a", 0},
		{time.Millisecond, "a", 1},
		{2 * time.Second, "a", 2},
		{time.Hour, "a", 3},
		{-time.Minute, "c", 3}, // a clock that was put back
	}
	for i, s := range steps {
		now = now.Add(s.pass)
		if got := allowed(s.cause); got != s.want {
			t.Errorf("step %d: %d allowed, want %d", i, got, s.want)
		}
	}
}

// TestLimiterForgets: who floods it with causes does not use up the others' share, and
// those that ask on are not forgotten for newcomers.
func TestLimiterForgets(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	l := newLimiter[int](1, time.Hour, func() time.Time { return now })
	const loud = -1
	l.allow(loud)
	for i := range 3 * limiterCauses {
		if !l.allow(i) {
			t.Fatalf("cause %d is new and was refused", i)
		}
		if l.allow(loud) {
			t.Fatalf("the loudest was forgotten after %d others", i)
		}
		if len(l.debts) > limiterCauses || l.order.Len() != len(l.debts) {
			t.Fatalf("%d causes are remembered", len(l.debts))
		}
	}
	now = now.Add(2 * time.Hour)
	l.allow(0)
	if len(l.debts) != 1 {
		t.Errorf("%d causes are remembered that owe nothing", len(l.debts)-1)
	}
}
