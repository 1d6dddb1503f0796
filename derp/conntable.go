package derp

import (
	"net/netip"
	"slices"
	"sync"

	"heddle/control/tailnet/site"

	"tailscale.com/types/key"
)

// connTable knows the relay's connections, so that those of a key can be found.
type connTable struct {
	mu      sync.Mutex
	open    map[*conn]bool             // true: proven
	byKey   map[key.NodePublic][]*conn // oldest first; claimed or proven
	pending map[netip.Prefix][]*conn   // of open those that are not proven, by address, oldest first
	waiting int                        // how many are pending
	idle    chan struct{}              // nil until close; closed when open is empty
}

func newConnTable() *connTable {
	return &connTable{open: map[*conn]bool{}, byKey: map[key.NodePublic][]*conn{}, pending: map[netip.Prefix][]*conn{}}
}

// add registers a new connection, unless the table is closed. If too many handshakes are
// under way it returns the one that must end: the oldest of the address that has most, so that a
// flood makes room for others by itself.
func (t *connTable) add(c *conn) (surplus *conn, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.idle != nil {
		return nil, false
	}
	if t.waiting >= maxPending {
		var most []*conn
		for _, conns := range t.pending {
			if len(conns) > len(most) {
				most = conns
			}
		}
		surplus = most[0]
		t.settleLocked(surplus)
	}
	t.open[c] = false
	from := site.Of(c.src)
	t.pending[from] = append(t.pending[from], c)
	t.waiting++
	return surplus, true
}

// settleLocked takes c from those that are pending, if it is there.
func (t *connTable) settleLocked(c *conn) {
	from := site.Of(c.src)
	conns := t.pending[from]
	i := slices.Index(conns, c)
	if i < 0 {
		return
	}
	t.waiting--
	if conns = slices.Delete(conns, i, i+1); len(conns) > 0 {
		t.pending[from] = conns
	} else {
		delete(t.pending, from)
	}
}

// claim notes that c says to own c.key.
func (t *connTable) claim(c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.byKey[c.key] = append(t.byKey[c.key], c)
}

// proven notes that c has proved to own its key. It cuts the oldest proven
// connection of that key if there are too many: strangers, who can claim a key
// but not prove it, cannot push its owner out.
func (t *connTable) proven(c *conn) {
	if oldest := t.prove(c); oldest != nil {
		oldest.cut()
	}
}

func (t *connTable) prove(c *conn) (surplus *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open[c] = true
	t.settleLocked(c)
	n := 0
	for _, other := range t.byKey[c.key] {
		if t.open[other] && !other.isCut.Load() {
			if n++; surplus == nil {
				surplus = other
			}
		}
	}
	if n <= maxPerKey {
		return nil
	}
	return surplus
}

// remove forgets a connection that has ended.
func (t *connTable) remove(c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settleLocked(c)
	delete(t.open, c)
	rest := slices.DeleteFunc(t.byKey[c.key], func(other *conn) bool { return other == c })
	if len(rest) > 0 {
		t.byKey[c.key] = rest
	} else {
		delete(t.byKey, c.key)
	}
	if t.idle != nil && len(t.open) == 0 {
		close(t.idle)
	}
}

// of returns the connections of the keys.
func (t *connTable) of(keys []key.NodePublic) []*conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	var conns []*conn
	for _, k := range keys {
		conns = append(conns, t.byKey[k]...)
	}
	return conns
}

// claimed returns all connections whose key is known.
func (t *connTable) claimed() []*conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	conns := make([]*conn, 0, len(t.open))
	for _, of := range t.byKey {
		conns = append(conns, of...)
	}
	return conns
}

func (t *connTable) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.open)
}

// close lets no more connections in and cuts those that are there. The returned
// channel is closed when all have ended. It must be called once.
func (t *connTable) close() <-chan struct{} {
	conns, idle := t.shut()
	for _, c := range conns {
		c.cut()
	}
	return idle
}

func (t *connTable) shut() (conns []*conn, idle <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.idle = make(chan struct{})
	for c := range t.open {
		conns = append(conns, c)
	}
	if len(conns) == 0 {
		close(t.idle)
	}
	return conns, t.idle
}
