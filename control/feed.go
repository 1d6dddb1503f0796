package control

import (
	"context"
	"slices"
	"sync"
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
// enrols would else cost the square of its size. Changes that tell no session anything wake
// none: a device that lost its stream is no news until its grace is over, for one.
type feed struct {
	state   *tailnet.State
	news    func(from, to *tailnet.Snapshot) bool // see netmap.Encoder.News
	latest  atomic.Pointer[edition]
	members atomic.Int64 // sessions that follow

	mu    sync.Mutex
	taken []*tailnet.Snapshot // in order, since the last look for news
}

// edition is a snapshot that was handed out.
type edition struct {
	snap  *tailnet.Snapshot
	since time.Time     // when the writer took up the first change in it that is news
	upTo  atomic.Uint64 // the newest version that says no more than it
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
	// maxTaken is with how many snapshots sessions may have begun until it is cheaper to wake all than to compare them.
	maxTaken = 16
)

func newFeed(state *tailnet.State, news func(from, to *tailnet.Snapshot) bool) *feed {
	f := &feed{state: state, news: news}
	f.publish(time.Time{})
	return f
}

func (f *feed) publish(since time.Time) *edition {
	e := &edition{snap: f.state.Snapshot(), since: since, over: make(chan struct{}), all: make(chan struct{}, 1)}
	e.upTo.Store(e.snap.Version())
	if old := f.latest.Swap(e); old != nil {
		close(old.over)
	}
	return e
}

// sent returns the version up to which a session was told everything; zero if it was sent nothing yet.
func (f *feed) sent(ss *session) uint64 {
	has := ss.has.Load()
	if has == nil {
		return 0
	}
	if e := f.latest.Load(); has.Version() >= e.snap.Version() {
		return max(has.Version(), e.upTo.Load())
	}
	return has.Version()
}

// take returns the snapshot to begin a session with. What happened since counts as news if it
// is for that session, even if all others see what they saw before.
func (f *feed) take() *tailnet.Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.state.Snapshot()
	if n := len(f.taken); n == 0 || f.taken[n-1] != s {
		f.taken = append(f.taken, s)
	}
	return s
}

// look returns the newest snapshot, and those that sessions began with since the last look.
func (f *feed) look() (next *tailnet.Snapshot, taken []*tailnet.Snapshot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	next, taken, f.taken = f.state.Snapshot(), f.taken, nil
	return next, taken
}

// awaitNews returns when the state has news that the latest edition lacks, with the time of the first of them.
func (f *feed) awaitNews(ctx context.Context, e *edition) (since time.Time, ok bool) {
	for known := e.snap; ; {
		select {
		case <-known.Superseded():
		case <-ctx.Done():
			return time.Time{}, false
		}
		next, taken := f.look()
		began := func(s *tailnet.Snapshot) bool { return s.Version() > known.Version() && f.news(s, next) }
		if len(taken) > maxTaken || f.news(known, next) || slices.ContainsFunc(taken, began) {
			return known.StaleSince(), true
		}
		known = next
		e.upTo.Store(known.Version())
	}
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
		since, ok := f.awaitNews(ctx, e)
		if !ok {
			return
		}
		e = f.publish(since)
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
