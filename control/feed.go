package control

import (
	"context"
	"sync/atomic"
	"time"

	"heddle/control/tailnet"
)

// feed hands snapshots out to sessions at a pace that they keep up with.
//
// All sessions go from one edition to the next, so that what differs between
// the two is encoded once for all of them. The first changes after a quiet time go out
// at once. While there are many, the sum of them goes out now and then, so that
// it takes half of the time: a change costs each session some 20 µs, and a fleet that
// enrols would else cost the square of its size.
type feed struct {
	state   *tailnet.State
	latest  atomic.Pointer[edition]
	members atomic.Int64 // sessions that follow
}

// edition is a snapshot that was handed out.
type edition struct {
	snap  *tailnet.Snapshot
	over  chan struct{} // closed when the next one is out
	taken atomic.Int64  // sessions that are done with it
	all   chan struct{} // has an element once all are
}

const (
	// minCost is what the smallest edition counts for.
	minCost = 10 * time.Millisecond
	// share is how much of the time editions may take when there are many: one part in share.
	share = 2
	// saved is how many editions may follow each other at once after a quiet time, because it was quiet.
	saved = 4
	// maxPause is the longest between two editions, however slow sessions are.
	maxPause = time.Second
	// takeTick is how often the feed looks whether sessions still take an edition up. Those that
	// have not when takeStill ticks have brought no progress are blocked by their clients.
	takeTick  = 5 * time.Millisecond
	takeStill = 4
)

func newFeed(state *tailnet.State) *feed {
	f := &feed{state: state}
	f.publish()
	return f
}

func (f *feed) publish() *edition {
	e := &edition{snap: f.state.Snapshot(), over: make(chan struct{}), all: make(chan struct{}, 1)}
	if old := f.latest.Swap(e); old != nil {
		close(old.over)
	}
	return e
}

// done notes that a session is done with an edition.
func (f *feed) done(e *edition) {
	if e.taken.Add(1) < f.members.Load() {
		return
	}
	select {
	case e.all <- struct{}{}:
	default: // it was told; who joined later counts too
	}
}

// run hands out editions until ctx ends.
func (f *feed) run(ctx context.Context) {
	e := f.latest.Load()
	clock := time.NewTimer(0)
	defer clock.Stop()
	pause := func(d time.Duration, early <-chan struct{}) bool {
		clock.Reset(d)
		select {
		case <-clock.C:
			return true
		case <-early:
			return true
		case <-ctx.Done():
			return false
		}
	}
	var credit time.Duration // that editions may take before there must be a pause
	last := time.Now()
	for {
		select {
		case <-e.snap.Superseded():
		case <-ctx.Done():
			return
		}
		e = f.publish()
		began := time.Now()
		taken, still := int64(0), 0
		for taken < f.members.Load() && still < takeStill && time.Since(began) < maxPause {
			if !pause(takeTick, e.all) {
				return
			}
			before := taken
			if taken = e.taken.Load(); taken == before {
				still++
			} else {
				still = 0
			}
		}
		cost := max(time.Since(began), minCost)
		credit = min(credit+time.Since(last)/share, saved*cost) - cost
		last = time.Now()
		if credit < 0 && !pause(min(-credit*share, maxPause), nil) {
			return
		}
	}
}
