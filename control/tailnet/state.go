package tailnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// Options are what a State needs besides its Store.
type Options struct {
	Tailnet   string // "" means Default
	Addresses Ranges
	// OnlineGrace is how long a node that lost its last map stream is still
	// shown online, so that a client that changes networks does not flicker.
	OnlineGrace time.Duration
	// EphemeralTimeout is how long an ephemeral node outlives its last map stream.
	EphemeralTimeout time.Duration
	// KeyExpiry is the life of a user's node's key; zero means for ever.
	// Keys of tagged nodes never expire.
	KeyExpiry time.Duration
	// Owners are the e-mail addresses of those who become owners when they log in. If there are
	// none, the first person who logs in does.
	Owners []string
	// SSHCheckURL is where clients ask about SSH connections that a person must confirm; "" refuses these.
	SSHCheckURL string
	Log         *slog.Logger
	Now         func() time.Time // nil means time.Now
	Count       Count
}

// Count is told what the writer does, for those who count it. Nil functions
// are not called; the others must be quick.
type Count struct {
	Commit func(took time.Duration, err error) // each commit
	Change func(action string)                 // each change that was audited and stored
}

// State is a tailnet: one writer, any number of readers.
//
// Updates run one after another in Run's goroutine. What they change is
// committed to the Store before it is published, except soft state (reports
// and presence), which is published at once and written behind.
type State struct {
	store Store
	opts  Options
	log   *slog.Logger

	current atomic.Pointer[Snapshot]
	health  storeHealth
	queue   chan *request
	stopped chan struct{} // closed when Run has returned

	learning chan struct{} // holds one while an auth key of another server is checked

	// The rest belongs to the writer.
	seq    Seq
	timers timers
	soft   Delta            // published but not yet written
	saved  map[NodeID]*Node // how those in soft are stored
	owed   map[NodeID]bool  // whose routes the policy may approve, once a commit succeeds
	alloc  *allocator
}

// queueLen bounds the updates that wait: beyond it callers wait themselves, each
// in its own goroutine and under its own context.
const queueLen = 1024

// maxBatch bounds the updates of one commit, so that the first caller does not
// wait for an endless stream of others.
const maxBatch = 512

// flushEvery is how long soft state may stay unwritten. A crash loses at most
// that much of what clients will report again anyway.
const flushEvery = 2 * time.Second

// flushRetry is the pause after a soft flush that the store refused.
const flushRetry = 10 * time.Second

type request struct {
	ctx   context.Context
	actor Actor
	fn    func(*Tx) error
	done  chan result
}

type result struct {
	snap *Snapshot
	err  error
}

// ErrStopped is what Update returns once the State has stopped.
var ErrStopped = &Error{Code: Unavailable, Msg: "the server is stopping; try again in a moment"}

// Open loads a tailnet. Run must be called for updates to happen.
func Open(ctx context.Context, store Store, o Options) (*State, error) {
	if o.Tailnet == "" {
		o.Tailnet = Default
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Count = o.Count.orNothing()
	alloc, err := newAllocator(o.Addresses)
	if err != nil {
		return nil, err
	}
	img, err := store.Load(ctx, o.Tailnet)
	if err != nil {
		return nil, fmt.Errorf("load tailnet %q: %w", o.Tailnet, err)
	}
	s := &State{
		store:    store,
		opts:     o,
		log:      o.Log,
		queue:    make(chan *request, queueLen),
		stopped:  make(chan struct{}),
		learning: make(chan struct{}, 1),
		seq:      img.Seq,
		timers:   timers{at: map[timer]time.Time{}},
		alloc:    alloc,
	}
	s.current.Store(s.fromImage(img))
	return s, nil
}

// orNothing replaces nil functions.
func (c Count) orNothing() Count {
	if c.Commit == nil {
		c.Commit = func(time.Duration, error) {}
	}
	if c.Change == nil {
		c.Change = func(string) {}
	}
	return c
}

// Queued returns how many updates wait for the writer.
func (s *State) Queued() int { return len(s.queue) }

// KeyExpiry returns how long a login lasts where the settings leave it open; zero means for ever.
func (s *State) KeyExpiry() time.Duration { return s.opts.KeyExpiry }

// Snapshot returns the latest published snapshot.
func (s *State) Snapshot() *Snapshot { return s.current.Load() }

// Update runs fn on a draft of the tailnet and returns the published snapshot
// that holds what it did. If fn returns an error nothing of it happens and
// that error is returned. fn runs in the writer's goroutine: it must be quick, must not
// do I/O, and may be run more than once.
func (s *State) Update(ctx context.Context, a Actor, fn func(*Tx) error) (*Snapshot, error) {
	req := &request{ctx: ctx, actor: a, fn: fn, done: make(chan result, 1)}
	select {
	case s.queue <- req:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.stopped:
		return nil, ErrStopped
	}
	select {
	case r := <-req.done:
		return r.snap, r.err
	case <-s.stopped:
		select {
		case r := <-req.done: // it was served last
			return r.snap, r.err
		default:
			return nil, ErrStopped
		}
	}
	// Once queued an update is waited for to its end: a caller that left would
	// not know whether it happened. The writer skips it if ctx ended before its turn.
}

// Run is the writer. It returns after ctx ends and soft state is written; the
// error is that of the last flush.
func (s *State) Run(ctx context.Context) error {
	defer close(s.stopped)
	news, unwatch := s.watch(ctx)
	defer unwatch()
	clock := time.NewTimer(0)
	defer clock.Stop()
	for {
		select {
		case <-ctx.Done():
			// The store must have its last word although ctx has ended.
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushRetry)
			defer cancel()
			return s.flush(last)
		case req := <-s.queue:
			s.serve(ctx, s.drain(req))
		case <-news:
			if err := s.catchUp(ctx); err != nil {
				s.log.Error("cannot read what other processes changed; will retry", "err", err)
			}
		case <-clock.C:
		}
		now := s.opts.Now()
		s.expireTimers(ctx, now)
		if next, ok := s.timers.next(); ok {
			clock.Reset(max(0, next.Sub(s.opts.Now())))
		}
	}
}

// drain returns first and what else is queued already.
func (s *State) drain(first *request) []*request {
	batch := []*request{first}
	for len(batch) < maxBatch {
		select {
		case req := <-s.queue:
			batch = append(batch, req)
		default:
			return batch
		}
	}
	return batch
}

// serve applies a batch: one failure does not touch the others, and all that
// succeed share one commit and one snapshot.
func (s *State) serve(ctx context.Context, batch []*request) {
	b := s.newBatch()
	for _, req := range batch {
		if err := req.ctx.Err(); err != nil {
			req.done <- result{err: err}
			continue
		}
		b.run(req)
	}
	b, err := s.settle(ctx, b)
	if code := CodeOf(err); err != nil && len(b.ran) > 1 && (code == Internal || code == Invalid) {
		// The store has something against what one of them wants: the others must not suffer for it.
		for _, d := range b.ran {
			s.serve(ctx, []*request{d.req})
		}
		return
	}
	if err != nil {
		// What needed the commit fails; soft updates need none, so they run
		// again without the others, and what the policy approves waits.
		retry := s.newBatch()
		retry.softOnly = true
		for _, d := range b.ran {
			if d.hard {
				d.req.done <- result{err: err}
				continue
			}
			retry.run(d.req)
		}
		b = retry
		if err := s.finish(ctx, b); err != nil {
			for _, d := range b.ran {
				d.req.done <- result{err: err}
			}
			return
		}
	}
	snap := s.Snapshot()
	for _, d := range b.ran {
		d.req.done <- result{snap: snap}
	}
}

// maxConflicts bounds how often a commit is tried again because another process
// was quicker. Of two that never pause each loses about every other time.
const maxConflicts = 64

// settle finishes a batch. As often as another process has changed the tailnet
// first, the updates run again on what it left. It returns the batch that was finished or
// could not be.
func (s *State) settle(ctx context.Context, b *batch) (*batch, error) {
	for tries := 0; ; tries++ {
		// While commits fail, what the policy owes must not make every report try one.
		b.softOnly = !b.hard && len(s.owed) > 0 && s.Trouble() != nil
		err := s.finish(ctx, b)
		if !errors.Is(err, ErrConflict) {
			return b, err
		}
		if tries == maxConflicts {
			return b, &Error{Code: Unavailable, Msg: "other servers change this tailnet faster than this one can; try again", Err: err}
		}
		if err := s.catchUp(ctx); err != nil {
			return b, err
		}
		again := s.newBatch()
		for _, d := range b.ran {
			again.run(d.req)
		}
		b = again
	}
}

// finish derives, commits if something hard changed, and publishes. It fails with
// ErrConflict if another process has changed the tailnet.
func (s *State) finish(ctx context.Context, b *batch) error {
	b.derive()
	if !b.changed && !b.stirred {
		return nil
	}
	if b.hard {
		all := s.soft.clone()
		all.merge(&b.delta)
		if err := s.commit(ctx, &all); err != nil {
			return err
		}
		s.forgetSoft()
		s.timers.drop(timer{kind: flushTimer})
		for _, e := range b.delta.Audit {
			s.opts.Count.Change(e.Action)
			s.log.Info("changed", "action", e.Action, "target", e.Target, "by", e.Actor.String())
		}
	} else if !b.delta.empty() {
		s.noteSaved(b)
		s.soft.merge(&b.delta)
		s.timers.setIfUnset(timer{kind: flushTimer}, s.opts.Now().Add(flushEvery))
	}
	if !b.softOnly {
		s.owed = nil
	}
	s.publish(b)
	return nil
}

// publish makes the batch's draft the snapshot that readers see.
func (s *State) publish(b *batch) {
	for _, effect := range b.effects {
		effect()
	}
	next := b.snap
	if !b.changed {
		// Readers cannot tell it from the one before: it goes by the same version, and wakes nobody.
		s.current.Store(&next)
		return
	}
	next.version = b.base.version + 1
	next.heir = newHeir()
	s.current.Store(&next)
	b.base.heir.begun = b.begun
	close(b.base.heir.published)
}

// commit writes a delta and counts the sequence. It fails with ErrConflict, which
// is no trouble, if another process has changed the tailnet.
func (s *State) commit(ctx context.Context, d *Delta) error {
	d.Tailnet, d.Base = s.opts.Tailnet, s.seq
	began := s.opts.Now()
	s.health.begin(began)
	err := s.store.Commit(context.WithoutCancel(ctx), d)
	s.opts.Count.Commit(s.opts.Now().Sub(began), err)
	if errors.Is(err, ErrConflict) {
		s.health.end(nil)
		return ErrConflict
	}
	s.health.end(err)
	if err != nil {
		// Try again soon, so that Trouble ends when the reason does.
		s.timers.setIfUnset(timer{kind: flushTimer}, s.opts.Now().Add(flushRetry))
		return storeError(err)
	}
	s.seq++
	return nil
}

// storeError makes an error of the store one for people.
func storeError(err error) error {
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	return &Error{Code: Unavailable, Msg: "the change could not be stored; the server's log has the reason", Err: err}
}

// flush writes what is soft.
func (s *State) flush(ctx context.Context) error {
	for tries := 0; ; tries++ {
		if s.soft.empty() && s.Trouble() == nil {
			return nil
		}
		d := s.soft.clone()
		d.LastID = s.Snapshot().lastID
		err := s.commit(ctx, &d)
		switch {
		case err == nil:
			s.forgetSoft()
			return nil
		case !errors.Is(err, ErrConflict):
			return err
		case tries == maxConflicts:
			s.timers.setIfUnset(timer{kind: flushTimer}, s.opts.Now().Add(flushEvery))
			return err
		}
		if err := s.catchUp(ctx); err != nil {
			s.timers.setIfUnset(timer{kind: flushTimer}, s.opts.Now().Add(flushRetry))
			return err
		}
	}
}

// expireTimers does what is due.
func (s *State) expireTimers(ctx context.Context, now time.Time) {
	due := s.timers.due(now)
	if len(due) == 0 {
		return
	}
	var batch []*request
	var kinds []timer
	for _, t := range due {
		if t.kind == flushTimer {
			if err := s.flush(ctx); err != nil {
				s.log.Error("cannot store reports and presence; will retry", "err", err)
			} else if len(s.owed) > 0 {
				s.serve(ctx, nil) // the store works again: what the policy owes can be approved
			}
			continue
		}
		add := func(fn func(*Tx) error) {
			kinds = append(kinds, t)
			batch = append(batch, &request{ctx: ctx, actor: SystemActor(t.kind.String()), fn: fn, done: make(chan result, 1)})
		}
		add(func(tx *Tx) error { return tx.expire(t) })
		if t.kind == expiryTimer {
			add(func(tx *Tx) error { tx.noteExpiry(t.node); return nil })
		}
	}
	if len(batch) == 0 {
		return
	}
	s.serve(ctx, batch)
	var failed []error
	for i, req := range batch {
		if r := <-req.done; r.err != nil {
			failed = append(failed, r.err)
			s.timers.set(kinds[i], now.Add(flushRetry))
		}
	}
	if len(failed) > 0 {
		s.log.Error("timed changes failed; will retry", "changes", len(failed), "err", failed[0])
	}
}
