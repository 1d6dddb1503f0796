package oidc

import (
	"cmp"
	"container/list"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/netip"
	"sync"
	"time"

	"heddle/control/tailnet"
)

// Limits bound the logins that people have begun. Zero fields take the defaults, with which the table
// holds some 10 MB, whatever strangers do.
type Limits struct {
	Total   int           // default 10000; beyond it the oldest is forgotten
	PerAddr int           // of one address (IPv6: one /64); default 200, beyond it more are refused
	Life    time.Duration // default 15 minutes
	Again   time.Duration // how long a finished login can be told again; default 5 minutes

	// Finished is how many finished logins are kept, to be told again. Strangers
	// finish none, but a login holds the names of all groups of a person. Default 1000.
	Finished int
}

func (l Limits) withDefaults() Limits {
	l.Total = cmp.Or(l.Total, 10000)
	l.PerAddr = cmp.Or(l.PerAddr, 200)
	l.Life = cmp.Or(l.Life, 15*time.Minute)
	l.Again = cmp.Or(l.Again, 5*time.Minute)
	l.Finished = cmp.Or(l.Finished, 1000)
	return l
}

// maxReloads is how many requests may wait for the same login to be finished:
// a browser has two, if an extension fetches what is loaded.
const maxReloads = 4

// A digest stands for a secret that is only compared.
type digest [sha256.Size]byte

func digestOf(text string) digest { return sha256.Sum256([]byte(text)) }

func (d digest) equal(o digest) bool { return subtle.ConstantTimeCompare(d[:], o[:]) == 1 }

// A flow is a login that was begun. What is above the line never changes.
type flow struct {
	state    string // unguessable; the provider hands it back
	nonce    string // the provider writes it into the token
	verifier string // of PKCE: proves that who redeems the code is who began
	provider *provider
	then     string
	fresh    bool
	another  bool
	browser  digest // of the cookie
	from     netip.Prefix
	began    time.Time

	// guarded by flows.mu
	place *list.Element
	busy  chan struct{} // closed when the one who finishes is done; nil if nobody does
	waits int           // how many wait for that
	end   *ending       // nil while the login is open
}

// An ending is what became of a login. It is set once.
type ending struct {
	answer digest // of what the browser brought
	login  Login
	err    error
	at     time.Time
}

// flows is the table of logins that were begun.
type flows struct {
	limits Limits
	now    func() time.Time

	mu       sync.Mutex
	byState  map[string]*flow
	perAddr  map[netip.Prefix]int // of those that are open
	open     *list.List           // of *flow, oldest first
	finished *list.List           // of *flow, the one that ended first in front
}

func newFlows(l Limits, now func() time.Time) *flows {
	return &flows{
		limits: l.withDefaults(), now: now,
		byState: map[string]*flow{}, perAddr: map[netip.Prefix]int{},
		open: list.New(), finished: list.New(),
	}
}

// add makes the table know a flow. The error is Exhausted.
func (t *flows) add(f *flow) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireLocked()
	if t.perAddr[f.from] >= t.limits.PerAddr {
		return tailnet.Errorf(tailnet.Exhausted, "too many logins were begun and not finished at your address: finish one of them, or wait %d minutes", int(t.limits.Life.Minutes()))
	}
	if t.open.Len() >= t.limits.Total {
		t.forgetOldestLocked()
	}
	f.began = t.now()
	f.place = t.open.PushBack(f)
	t.byState[f.state] = f
	t.perAddr[f.from]++
	return nil
}

// claim gives the flow of a state to the caller, who must settle it, if the browser is the one
// that began it. If the flow has ended or ends meanwhile, the ending is returned instead.
func (t *flows) claim(ctx context.Context, state string, browser, answer digest) (*flow, *ending, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		t.expireLocked()
		f := t.byState[state]
		switch {
		case f == nil:
			return nil, nil, tailnet.Errorf(tailnet.Invalid, "this login is not known here: it took longer than %d minutes, or the address was opened long ago; begin anew", int(t.limits.Life.Minutes()))
		case !f.browser.equal(browser):
			return nil, nil, tailnet.Errorf(tailnet.Denied, "this login was begun in another browser, or this one keeps no cookies: begin anew, and finish in the same browser")
		case f.end != nil && !f.end.answer.equal(answer):
			return nil, nil, tailnet.Errorf(tailnet.Denied, "this login was finished already with another answer: begin anew")
		case f.end != nil:
			return f, f.end, nil
		case f.busy == nil:
			f.busy = make(chan struct{})
			return f, nil, nil
		case f.waits >= maxReloads:
			return nil, nil, tailnet.Errorf(tailnet.Exhausted, "this login is just being finished: wait for the page that was opened first")
		}
		if err := t.waitLocked(ctx, f); err != nil {
			return nil, nil, err
		}
	}
}

// waitLocked waits without the lock until nobody finishes f.
func (t *flows) waitLocked(ctx context.Context, f *flow) error {
	f.waits++
	busy := f.busy
	t.mu.Unlock()
	var err error
	select {
	case <-busy:
	case <-ctx.Done():
		err = &tailnet.Error{Code: tailnet.Unavailable, Msg: "the page was closed before the login was finished", Err: ctx.Err()}
	}
	t.mu.Lock()
	f.waits--
	return err
}

// settle ends a claimed flow, or with nil opens it again.
func (t *flows) settle(f *flow, end *ending) {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(f.busy)
	f.busy = nil
	if end == nil {
		return
	}
	t.forgetLocked(f)
	end.at = t.now()
	f.end = end
	t.byState[f.state] = f
	f.place = t.finished.PushBack(f)
	if t.finished.Len() > t.limits.Finished {
		t.forgetLocked(t.finished.Front().Value.(*flow))
	}
}

func (t *flows) expireLocked() {
	now := t.now()
	for e := t.finished.Front(); e != nil && now.Sub(e.Value.(*flow).end.at) >= t.limits.Again; e = t.finished.Front() {
		t.forgetLocked(e.Value.(*flow))
	}
	for e := t.open.Front(); e != nil && now.Sub(e.Value.(*flow).began) >= t.limits.Life; {
		f := e.Value.(*flow)
		e = e.Next()
		if f.busy == nil {
			t.forgetLocked(f)
		}
	}
}

// forgetOldestLocked forgets the login that was begun first and is not just being finished;
// of these there are no more than providers may be asked at once.
func (t *flows) forgetOldestLocked() {
	for e := t.open.Front(); e != nil; e = e.Next() {
		if f := e.Value.(*flow); f.busy == nil {
			t.forgetLocked(f)
			return
		}
	}
}

func (t *flows) forgetLocked(f *flow) {
	delete(t.byState, f.state)
	if f.end != nil {
		t.finished.Remove(f.place)
		return
	}
	t.open.Remove(f.place)
	if t.perAddr[f.from]--; t.perAddr[f.from] == 0 {
		delete(t.perAddr, f.from)
	}
}
