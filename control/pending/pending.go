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
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"heddle/control/tailnet"

	"tailscale.com/types/key"
)

// Limits bound the table. Zero fields take the defaults. Beyond a bound the
// oldest login that no device is waiting for is forgotten: its device gets a new page when
// it asks again. Only if all are waited for is a new one refused.
type Limits struct {
	Total      int           // default 10000; an entry is a few KB
	PerAddr    int           // of one address (IPv6: one /64); default 1000, an office behind one NAT
	PerMachine int           // default 4: one for each profile that a person may be logging in to
	Life       time.Duration // default 7 days: clients offer the same page for almost as long
}

func (l Limits) withDefaults() Limits {
	l.Total = cmp.Or(l.Total, 10000)
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
	Done         bool // it was approved
}

// Table holds the pending logins. Its methods may be called concurrently.
type Table struct {
	limits Limits
	now    func() time.Time

	mu        sync.Mutex
	byID      map[string]*entry
	byMachine map[key.MachinePublic][]*entry // oldest first
	perAddr   map[netip.Prefix]int
	order     *list.List // of *entry, oldest first
}

type entry struct {
	Login
	place   *list.Element
	waiters int
	busy    bool
	changed chan struct{} // closed when the login is done or forgotten
}

// New returns an empty table.
func New(l Limits, now func() time.Time) *Table {
	return &Table{
		limits:    l.withDefaults(),
		now:       now,
		byID:      map[string]*entry{},
		byMachine: map[key.MachinePublic][]*entry{},
		perAddr:   map[netip.Prefix]int{},
		order:     list.New(),
	}
}

// Start returns the pending login of a device, which is new unless the same
// device asks for the same node key again. The error is Exhausted.
func (t *Table) Start(r tailnet.Registration, from netip.Addr) (Login, error) {
	r.Hostinfo = tailnet.CleanHostinfo(r.Hostinfo)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireLocked()
	for _, e := range t.byMachine[r.Machine] {
		if e.Registration.Key == r.Key && !e.Done {
			if !e.busy {
				e.Registration = r
			}
			return e.Login, nil
		}
	}
	addr := group(from)
	if !t.makeRoomLocked(r.Machine, addr) {
		return Login{}, tailnet.Errorf(tailnet.Exhausted, "too many devices are waiting to be approved; try again later")
	}
	e := &entry{
		Login: Login{
			ID:           strings.ToLower(rand.Text()), // 130 bits
			Registration: r, From: from, Started: t.now(),
		},
		changed: make(chan struct{}),
	}
	e.place = t.order.PushBack(e)
	t.byID[e.ID] = e
	t.byMachine[r.Machine] = append(t.byMachine[r.Machine], e)
	t.perAddr[addr]++
	return e.Login, nil
}

// makeRoomLocked forgets what must go so that one more login fits.
func (t *Table) makeRoomLocked(m key.MachinePublic, addr netip.Prefix) bool {
	if len(t.byMachine[m]) >= t.limits.PerMachine &&
		!t.forgetOldestLocked(func(e *entry) bool { return e.Registration.Machine == m }) {
		return false
	}
	if t.perAddr[addr] >= t.limits.PerAddr &&
		!t.forgetOldestLocked(func(e *entry) bool { return group(e.From) == addr }) {
		return false
	}
	return len(t.byID) < t.limits.Total || t.forgetOldestLocked(func(*entry) bool { return true })
}

// forgetOldestLocked forgets the oldest login that matches and that nobody waits for.
func (t *Table) forgetOldestLocked(match func(*entry) bool) bool {
	for el := t.order.Front(); el != nil; el = el.Next() {
		if e := el.Value.(*entry); e.waiters == 0 && !e.busy && match(e) {
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
		if e.busy || now.Sub(e.Started) < t.limits.Life {
			return
		}
		t.forgetLocked(e)
	}
}

func (t *Table) forgetLocked(e *entry) {
	t.order.Remove(e.place)
	delete(t.byID, e.ID)
	m, addr := e.Registration.Machine, group(e.From)
	t.byMachine[m] = slices.DeleteFunc(t.byMachine[m], func(o *entry) bool { return o == e })
	if len(t.byMachine[m]) == 0 {
		delete(t.byMachine, m)
	}
	if t.perAddr[addr]--; t.perAddr[addr] == 0 {
		delete(t.perAddr, addr)
	}
	if !e.Done {
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
	return e.Login, true
}

// Wait returns once the login is approved or forgotten, or with ctx's error.
// It returns at once if there is no such login, or if it is not that of
// this machine and node key.
func (t *Table) Wait(ctx context.Context, id string, m key.MachinePublic, k key.NodePublic) error {
	t.mu.Lock()
	e, ok := t.byID[id]
	if !ok || e.Done || e.Registration.Machine != m || e.Registration.Key != k {
		t.mu.Unlock()
		return nil
	}
	e.waiters++
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		e.waiters--
	}()
	select {
	case <-e.changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Complete lets approve admit the device, once: while it runs, and after it
// returned nil, others get Conflict. If it fails the login goes on waiting.
func (t *Table) Complete(id string, approve func(tailnet.Registration) error) error {
	e, err := t.claim(id)
	if err != nil {
		return err
	}
	err = approve(e.Registration)
	t.mu.Lock()
	defer t.mu.Unlock()
	e.busy = false
	if err == nil {
		e.Done = true
		close(e.changed)
	}
	return err
}

func (t *Table) claim(id string) (*entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireLocked()
	e, ok := t.byID[id]
	switch {
	case !ok:
		return nil, tailnet.Errorf(tailnet.NotFound, "no device waits under the ID %.40q: it may have expired or been approved long ago; run `tailscale up` on the device and use the ID of the page that it opens", id)
	case e.Done:
		return nil, tailnet.Errorf(tailnet.Conflict, "this device was approved already")
	case e.busy:
		return nil, tailnet.Errorf(tailnet.Conflict, "this device is just being approved")
	}
	e.busy = true
	return e, nil
}

// Len returns how many logins the table holds.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID)
}

// group is what counts as one address: hosts choose freely within an IPv6 /64.
func group(a netip.Addr) netip.Prefix {
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}
