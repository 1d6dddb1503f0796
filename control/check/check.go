// Package check owns the SSH connections that wait for a person to confirm
// them, and for how long a confirmation holds. It refuses to know what the
// policy says, how people prove who they are, and whether they may.
package check

import (
	"container/list"
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"time"

	"heddle/control/tailnet"

	"tailscale.com/types/key"
)

// Life is how long a connection waits. Clients give up after half an hour, people
// long before.
const Life = 10 * time.Minute

// Bounds. Only nodes of the tailnet can ask, but a broken one may do so without end.
const (
	maxConnections = 4096
	maxPerNode     = 32     // that wait at a node
	maxPerPair     = 8      // that wait at a node for another, so that this does not keep all others out
	maxGrants      = 65_536 // confirmations remembered, about 10 MB
)

// Ends are the two nodes of a connection, as they were: with another key or owner
// they count as others. So does another account.
type Ends struct {
	Source, Dest tailnet.NodeID
	SourceKey    key.NodePublic
	Owner        tailnet.UserID // of the source; zero if it has tags
	Local        string         // the account on Dest that the session is for
}

// A Connection waits for a person.
type Connection struct {
	ID      string // unguessable: it is in the URL that the person at the source is told
	Ends    Ends
	Login   string // the user name that was asked for
	Started time.Time
	State   State
}

// State is what became of a connection.
type State string

const (
	Waiting  State = "waiting"
	Approved State = "approved"
	Rejected State = "rejected"
	Expired  State = "expired" // nobody answered in time
)

// Table holds the connections that wait, and what was confirmed. Its methods may be called concurrently.
type Table struct {
	now func() time.Time

	mu     sync.Mutex
	byID   map[string]*entry
	order  *list.List         // of *entry, oldest first
	waits  map[pair]int       // how many wait, for a pair and, with no source, for a node
	grants map[Ends]time.Time // when a person last confirmed
}

// pair is a destination and a source, which is 0 for any.
type pair struct{ dest, source tailnet.NodeID }

type entry struct {
	Connection
	place *list.Element
	done  chan struct{} // closed when State is no longer Waiting
}

// New returns an empty table.
func New(now func() time.Time) *Table {
	return &Table{
		now: now, byID: map[string]*entry{}, order: list.New(),
		waits: map[pair]int{}, grants: map[Ends]time.Time{},
	}
}

// Confirmed reports whether a person confirmed a connection between these ends at most period ago.
func (t *Table) Confirmed(e Ends, period time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, ok := t.grants[e]
	return ok && t.now().Sub(at) < period
}

// Ask adds a connection. The error is Exhausted.
func (t *Table) Ask(e Ends, login string) (Connection, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireLocked()
	if t.waits[pair{e.Dest, 0}] >= maxPerNode || t.waits[pair{e.Dest, e.Source}] >= maxPerPair || len(t.byID) >= maxConnections {
		return Connection{}, tailnet.Errorf(tailnet.Exhausted, "too many SSH connections wait to be confirmed; try again in a few minutes")
	}
	c := &entry{
		Connection: Connection{ID: strings.ToLower(rand.Text()), Ends: e, Login: login, Started: t.now(), State: Waiting},
		done:       make(chan struct{}),
	}
	c.place = t.order.PushBack(c)
	t.byID[c.ID] = c
	t.waits[pair{e.Dest, 0}]++
	t.waits[pair{e.Dest, e.Source}]++
	return c.Connection, nil
}

// Get returns a connection by its ID, for some minutes also after it was decided.
func (t *Table) Get(id string) (Connection, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireLocked()
	c, ok := t.byID[id]
	if !ok {
		return Connection{}, false
	}
	return c.Connection, true
}

// List returns the connections that wait, oldest first.
func (t *Table) List() []Connection {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireLocked()
	var out []Connection
	for el := t.order.Front(); el != nil; el = el.Next() {
		if c := el.Value.(*entry); c.State == Waiting {
			out = append(out, c.Connection)
		}
	}
	return out
}

// Decide ends the waiting of a connection. An approval holds from now on. The
// error is NotFound, or Conflict if it was decided already.
func (t *Table) Decide(id string, approve bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireLocked()
	c, ok := t.byID[id]
	switch {
	case !ok:
		return tailnet.Errorf(tailnet.NotFound, "no SSH connection waits under the ID %.40q: it may have been given up; connect again", id)
	case c.State != Waiting:
		return tailnet.Errorf(tailnet.Conflict, "this SSH connection was %s already", c.State)
	}
	if !approve {
		t.endLocked(c, Rejected)
		return nil
	}
	t.endLocked(c, Approved)
	t.grantLocked(c.Ends)
	return nil
}

// endLocked ends the waiting of a connection.
func (t *Table) endLocked(c *entry, s State) {
	c.State = s
	close(c.done)
	for _, p := range []pair{{c.Ends.Dest, 0}, {c.Ends.Dest, c.Ends.Source}} {
		if t.waits[p]--; t.waits[p] == 0 {
			delete(t.waits, p)
		}
	}
}

func (t *Table) grantLocked(e Ends) {
	if len(t.grants) >= maxGrants {
		clear(t.grants) // people are asked once more
	}
	t.grants[e] = t.now()
}

// Wait returns the connection once it is decided or has expired, or ctx's error. The
// connection must be one that dest asked about: others get NotFound.
func (t *Table) Wait(ctx context.Context, id string, dest tailnet.NodeID) (Connection, error) {
	t.mu.Lock()
	t.expireLocked()
	c, ok := t.byID[id]
	t.mu.Unlock()
	if !ok || c.Ends.Dest != dest {
		return Connection{}, tailnet.Errorf(tailnet.NotFound, "no such SSH connection waits")
	}
	late := time.NewTimer(c.Started.Add(Life).Sub(t.now()))
	defer late.Stop()
	select {
	case <-c.done:
	case <-late.C:
	case <-ctx.Done():
		return Connection{}, ctx.Err()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.State == Waiting {
		t.endLocked(c, Expired)
	}
	return c.Connection, nil
}

// expireLocked forgets what is old. Decided ones stay as long as others, for reloads of their page.
func (t *Table) expireLocked() {
	now := t.now()
	for el := t.order.Front(); el != nil; el = t.order.Front() {
		c := el.Value.(*entry)
		if now.Sub(c.Started) < Life {
			return
		}
		if c.State == Waiting {
			t.endLocked(c, Expired)
		}
		t.order.Remove(el)
		delete(t.byID, c.ID)
	}
}
