package tailnet

import (
	"container/heap"
	"time"
)

// timerKind is what a deadline is about.
type timerKind int

const (
	flushTimer     timerKind = iota // soft state must be written
	offlineTimer                    // the online grace is over
	dormantTimer                    // the grace of primary routes is over
	ephemeralTimer                  // an ephemeral node stayed away too long
	expiryTimer                     // a node key expires
	tombstoneTimer                  // tombstones to clear
	attributeTimer                  // a posture attribute expires
)

func (k timerKind) String() string {
	names := [...]string{"flush", "offline", "route failover", "ephemeral removal", "key expiry", "tombstone removal", "attribute expiry"}
	return names[k]
}

// timer names one deadline; at most one of each is set.
type timer struct {
	kind timerKind
	node NodeID
}

// timers are the writer's deadlines. A heap entry whose time is no longer
// that of the map is stale and skipped.
type timers struct {
	heap deadlines
	at   map[timer]time.Time
}

type deadline struct {
	timer
	at time.Time
}

func (t *timers) set(k timer, at time.Time) {
	t.at[k] = at
	heap.Push(&t.heap, deadline{k, at})
}

func (t *timers) setIfUnset(k timer, at time.Time) {
	if _, ok := t.at[k]; !ok {
		t.set(k, at)
	}
}

// setEarlier sets a deadline unless an earlier one is set.
func (t *timers) setEarlier(k timer, at time.Time) {
	if old, ok := t.at[k]; !ok || at.Before(old) {
		t.set(k, at)
	}
}

func (t *timers) drop(k timer) { delete(t.at, k) }

func (t *timers) live(d deadline) bool {
	at, ok := t.at[d.timer]
	return ok && at.Equal(d.at)
}

// next returns the earliest deadline.
func (t *timers) next() (time.Time, bool) {
	for len(t.heap) > 0 {
		if t.live(t.heap[0]) {
			return t.heap[0].at, true
		}
		heap.Pop(&t.heap)
	}
	return time.Time{}, false
}

// due removes and returns what has come due.
func (t *timers) due(now time.Time) []timer {
	var out []timer
	for {
		at, ok := t.next()
		if !ok || at.After(now) {
			return out
		}
		d := heap.Pop(&t.heap).(deadline)
		delete(t.at, d.timer)
		out = append(out, d.timer)
	}
}

type deadlines []deadline

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i].at.Before(d[j].at) }
func (d deadlines) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *deadlines) Push(x any)        { *d = append(*d, x.(deadline)) }
func (d *deadlines) Pop() any {
	old := *d
	x := old[len(old)-1]
	*d = old[:len(old)-1]
	return x
}
