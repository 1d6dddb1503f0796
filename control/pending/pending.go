// Package pending owns the logins that wait for a person: a device was told
// to open a page, and somebody has yet to say that it may join, and as whose. Strangers can
// fill this table, so it is bounded. It refuses to know how people prove who
// they are, and what joining means.
package pending

import (
	"cmp"
	"container/list"
	"context"
	"crypto/rand"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"heddle/control/tailnet"
	"heddle/control/tailnet/site"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// Limits bound the table. Zero fields take the defaults. Beyond a bound the
// oldest login that no device is waiting for is forgotten: its device gets a new page when
// it asks again. Only if all are waited for is a new one refused; with the defaults
// that happens to one address or machine at most.
//
// With the defaults the table holds at most 32 MB of what devices say of themselves, and
// some 10 MB of its own.
type Limits struct {
	Total      int           // default 10000
	Bytes      int           // of what devices say of themselves; default 32 MB, 3 KB for each of Total
	PerAddr    int           // of one address (IPv6: one /64); default 1000, an office behind one NAT
	AddrBytes  int           // of one address; default 4 MB, 4 KB for each of PerAddr
	PerMachine int           // default 4: one for each profile that a person may be logging in to
	Life       time.Duration // default 7 days: clients offer the same page for almost as long

	// Waiters is how many requests may wait for a person, each a goroutine and
	// an HTTP/2 stream of up to 30 KB. Default 4000, so that most logins of a
	// full table are not waited for and can make room. The oldest leaves: its
	// client asks again.
	Waiters int
	// PerLogin bounds those of one login. A client has one, and for a moment two
	// when it changes networks. Default 4.
	PerLogin int
}

// largeHost is from which size of what a device says of itself its login must
// make room even if it is waited for: strangers who say much and wait could fill Bytes
// otherwise. Stock clients say 1 KB, only those with hundreds of routes more.
const largeHost = 4 << 10

func (l Limits) withDefaults() Limits {
	l.Total = cmp.Or(l.Total, 10000)
	l.Bytes = cmp.Or(l.Bytes, 32<<20)
	l.AddrBytes = cmp.Or(l.AddrBytes, 4<<20)
	l.Waiters = cmp.Or(l.Waiters, 4000)
	l.PerLogin = cmp.Or(l.PerLogin, 4)
	l.PerAddr = cmp.Or(l.PerAddr, 1000)
	l.PerMachine = cmp.Or(l.PerMachine, 4)
	l.Life = cmp.Or(l.Life, 7*24*time.Hour)
	return l
}

// A Login is a device that asks to join.
type Login struct {
	ID           string               // unguessable: knowing it is what lets a person see the device
	Registration tailnet.Registration // Hostinfo is cleaned; never nil
	From         netip.Addr           // where the device asked from; may be invalid
	Started      time.Time
	Done         bool      // it was approved
	Rejected     time.Time // when it was turned away; zero if it was not
}

// settled reports whether somebody has decided about it.
func (l *Login) settled() bool { return l.Done || !l.Rejected.IsZero() }

// rejectionLife is how long a device that was turned away is told so when it asks again with the
// same key, as clients do by themselves. After that it gets a new page.
const rejectionLife = time.Hour

var errRejected = tailnet.Errorf(tailnet.Denied, "an administrator turned this device away; ask them, and try again later")

// Table holds the pending logins. Its methods may be called concurrently.
type Table struct {
	limits Limits
	now    func() time.Time

	mu        sync.Mutex
	byID      map[string]*entry
	byMachine map[key.MachinePublic][]*entry // oldest first
	perAddr   map[netip.Prefix]usage
	all       usage
	order     *list.List // of *entry, oldest first
	waiters   *list.List // of *Waiter, oldest first
}

// usage is what logins take.
type usage struct{ logins, bytes int }

func (u usage) plus(logins, bytes int) usage { return usage{u.logins + logins, u.bytes + bytes} }

// entry is a login, whose Hostinfo is kept as JSON: that has a size, and shares no memory with
// the request that it came in.
type entry struct {
	login   Login // its Registration has no Hostinfo
	host    []byte
	place   *list.Element
	waiters []*Waiter // oldest first
	busy    bool
	changed chan struct{} // closed when the login is done or forgotten
}

// Login returns what others may have of an entry.
func (e *entry) Login() Login {
	l := e.login
	l.Registration.Hostinfo = new(tailcfg.Hostinfo)
	json.Unmarshal(e.host, l.Registration.Hostinfo) // what was encoded here
	return l
}

// New returns an empty table.
func New(l Limits, now func() time.Time) *Table {
	return &Table{
		limits:    l.withDefaults(),
		now:       now,
		byID:      map[string]*entry{},
		byMachine: map[key.MachinePublic][]*entry{},
		perAddr:   map[netip.Prefix]usage{},
		order:     list.New(),
		waiters:   list.New(),
	}
}

// Start returns the pending login of a device, which is fresh unless the same
// device asks for the same node key again. The error is Exhausted, or Denied for a device that was
// turned away with that key a short time ago.
func (t *Table) Start(r tailnet.Registration, from netip.Addr) (l Login, fresh bool, err error) {
	host, err := json.Marshal(tailnet.CleanHostinfo(r.Hostinfo))
	if err != nil {
		return Login{}, false, tailnet.Errorf(tailnet.Invalid, "what the device says of itself cannot be kept: %v", err)
	}
	r.Hostinfo = nil
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireLocked()
	for _, e := range t.byMachine[r.Machine] {
		switch {
		case e.login.Registration.Key != r.Key || e.login.Done:
			continue
		case !e.login.settled():
		case t.now().Sub(e.login.Rejected) < rejectionLife:
			return Login{}, false, errRejected
		default:
			continue
		}
		if addr := site.Of(e.login.From); !e.busy && t.makeRoomLocked(e, addr, 0, len(host)-len(e.host)) {
			t.countLocked(addr, 0, len(host)-len(e.host))
			e.login.Registration, e.host = r, host
		}
		return e.Login(), false, nil
	}
	addr := site.Of(from)
	for len(t.byMachine[r.Machine]) >= t.limits.PerMachine {
		if !t.forgetOldestLocked(nil, func(e *entry) bool { return e.login.Registration.Machine == r.Machine }) {
			return Login{}, false, errFull
		}
	}
	if !t.makeRoomLocked(nil, addr, 1, len(host)) {
		return Login{}, false, errFull
	}
	e := &entry{
		login: Login{
			ID:           strings.ToLower(rand.Text()), // 130 bits
			Registration: r, From: from, Started: t.now(),
		},
		host:    host,
		changed: make(chan struct{}),
	}
	e.place = t.order.PushBack(e)
	t.byID[e.login.ID] = e
	t.byMachine[r.Machine] = append(t.byMachine[r.Machine], e)
	t.countLocked(addr, 1, len(host))
	return e.Login(), true, nil
}

var errFull = tailnet.Errorf(tailnet.Exhausted, "too many devices are waiting to be approved; try again later")

// countLocked counts what comes or, if negative, goes.
func (t *Table) countLocked(addr netip.Prefix, logins, bytes int) {
	t.all = t.all.plus(logins, bytes)
	t.perAddr[addr] = t.perAddr[addr].plus(logins, bytes)
	if t.perAddr[addr].logins == 0 {
		delete(t.perAddr, addr)
	}
}

// makeRoomLocked forgets what must go, but not keep, so that so many more logins and
// bytes fit. It reports whether they do.
func (t *Table) makeRoomLocked(keep *entry, addr netip.Prefix, logins, bytes int) bool {
	for {
		here, all := t.perAddr[addr].plus(logins, bytes), t.all.plus(logins, bytes)
		switch {
		case here.logins > t.limits.PerAddr || here.bytes > t.limits.AddrBytes:
			if !t.forgetOldestLocked(keep, func(e *entry) bool { return site.Of(e.login.From) == addr }) {
				return false
			}
		case all.logins > t.limits.Total || all.bytes > t.limits.Bytes:
			if !t.forgetOldestLocked(keep, func(*entry) bool { return true }) {
				return false
			}
		default:
			return true
		}
	}
}

// forgetOldestLocked forgets the oldest login that matches, is not keep, and may go.
func (t *Table) forgetOldestLocked(keep *entry, match func(*entry) bool) bool {
	for el := t.order.Front(); el != nil; el = el.Next() {
		if e := el.Value.(*entry); e != keep && (len(e.waiters) == 0 || len(e.host) > largeHost) && !e.busy && match(e) {
			t.forgetLocked(e)
			return true
		}
	}
	return false
}

func (t *Table) expireLocked() {
	now := t.now()
	for el := t.order.Front(); el != nil; el = t.order.Front() {
		e := el.Value.(*entry)
		if e.busy || now.Sub(e.login.Started) < t.limits.Life {
			return
		}
		t.forgetLocked(e)
	}
}

func (t *Table) forgetLocked(e *entry) {
	t.order.Remove(e.place)
	delete(t.byID, e.login.ID)
	m := e.login.Registration.Machine
	t.byMachine[m] = slices.DeleteFunc(t.byMachine[m], func(o *entry) bool { return o == e })
	if len(t.byMachine[m]) == 0 {
		delete(t.byMachine, m)
	}
	t.countLocked(site.Of(e.login.From), -1, -len(e.host))
	if !e.login.settled() {
		close(e.changed)
	}
}

// Get returns a login by its ID.
func (t *Table) Get(id string) (Login, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireLocked()
	e, ok := t.byID[id]
	if !ok {
		return Login{}, false
	}
	return e.Login(), true
}

// A Waiter is a request that waits for a login to be decided. It holds nothing but
// its place.
type Waiter struct {
	table *Table
	entry *entry
	place *list.Element
	told  chan struct{} // closed when it must leave for another
}

// Join makes a request wait for a login; Wait must be called. It returns nil if no such login waits,
// or if it is not that of this machine and node key.
func (t *Table) Join(id string, m key.MachinePublic, k key.NodePublic) *Waiter {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.byID[id]
	if !ok || e.login.settled() || e.login.Registration.Machine != m || e.login.Registration.Key != k {
		return nil
	}
	if len(e.waiters) >= t.limits.PerLogin {
		t.dismissLocked(e.waiters[0])
	}
	if t.waiters.Len() >= t.limits.Waiters {
		t.dismissLocked(t.waiters.Front().Value.(*Waiter))
	}
	w := &Waiter{table: t, entry: e, told: make(chan struct{})}
	w.place = t.waiters.PushBack(w)
	e.waiters = append(e.waiters, w)
	return w
}

func (t *Table) dismissLocked(w *Waiter) {
	close(w.told)
	t.leaveLocked(w)
}

// leaveLocked takes w out, if it is still there.
func (t *Table) leaveLocked(w *Waiter) {
	i := slices.Index(w.entry.waiters, w)
	if i < 0 {
		return
	}
	w.entry.waiters = slices.Delete(w.entry.waiters, i, i+1)
	t.waiters.Remove(w.place)
}

// Wait returns once the login is approved or forgotten, or when the waiter must leave for
// another, with what the device asked for; or with ctx's error, or Denied if the login was rejected.
func (w *Waiter) Wait(ctx context.Context) (tailnet.Registration, error) {
	var err error
	select {
	case <-w.entry.changed:
	case <-w.told:
	case <-ctx.Done():
		err = ctx.Err()
	}
	w.table.mu.Lock()
	defer w.table.mu.Unlock()
	w.table.leaveLocked(w)
	if err == nil && !w.entry.login.Rejected.IsZero() {
		err = errRejected
	}
	if err != nil {
		return tailnet.Registration{}, err
	}
	return w.entry.Login().Registration, nil
}

// Complete lets approve admit the device, once: while it runs, and after it
// returned nil, others get Conflict. If it fails the login goes on waiting.
func (t *Table) Complete(id string, approve func(tailnet.Registration) error) error {
	e, err := t.claim(id)
	if err != nil {
		return err
	}
	err = approve(e.Login().Registration) // it does not change while busy
	t.settle(e, err == nil, func(l *Login) { l.Done = true })
	return err
}

// Reject turns the device away if allow, which is told what it asked for, returns nil. Otherwise the login goes
// on waiting.
func (t *Table) Reject(id string, allow func(tailnet.Registration) error) error {
	e, err := t.claim(id)
	if err != nil {
		return err
	}
	err = allow(e.Login().Registration)
	t.settle(e, err == nil, func(l *Login) { l.Rejected = t.now() })
	return err
}

// settle ends a claim and, if it led to something, the waiting.
func (t *Table) settle(e *entry, decided bool, note func(*Login)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.busy = false
	if decided {
		note(&e.login)
		close(e.changed)
	}
}

func (t *Table) claim(id string) (*entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireLocked()
	e, ok := t.byID[id]
	switch {
	case !ok:
		return nil, tailnet.Errorf(tailnet.NotFound, "no device waits under the ID %.40q: it may have expired or been approved long ago; run `tailscale up` on the device and use the ID of the page that it opens", id)
	case e.login.Done:
		return nil, tailnet.Errorf(tailnet.Conflict, "this device was approved already")
	case e.login.settled():
		return nil, tailnet.Errorf(tailnet.Conflict, "this device was turned away already; it can ask again in an hour, or after `tailscale logout`")
	case e.busy:
		return nil, tailnet.Errorf(tailnet.Conflict, "somebody else is just deciding about this device")
	}
	e.busy = true
	return e, nil
}

// List returns the logins that wait, those that started last first and at most
// most of them, and how many there are more.
func (t *Table) List(most int) (list []Login, more int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireLocked()
	for el := t.order.Back(); el != nil; el = el.Prev() {
		switch e := el.Value.(*entry); {
		case e.login.settled():
		case len(list) < most:
			list = append(list, e.Login())
		default:
			more++
		}
	}
	return list, more
}

// Len returns how many logins the table holds.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID)
}

// Bytes returns how much the table holds of what devices say of themselves.
func (t *Table) Bytes() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all.bytes
}
