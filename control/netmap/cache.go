package netmap

import (
	"container/list"
	"sync"
)

// A cache keeps what was encoded, up to a number of bytes and of items; what was
// not used for the longest time goes first.
type cache struct {
	limit, maxItems int
	minItems        int // kept although they are beyond the limit: they are in use

	mu     sync.Mutex
	used   int
	items  map[any]*list.Element
	recent list.List // of *cached, last used first
	hits   uint64
	misses uint64
	// evicted counts what had to go for want of room.
	evicted uint64
}

type cached struct {
	key, value any
	cost       int
}

func newCache(limit, maxItems int) *cache {
	return &cache{limit: limit, maxItems: maxItems, items: map[any]*list.Element{}}
}

func (c *cache) get(key any) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.getLocked(key)
}

func (c *cache) getLocked(key any) any {
	e, ok := c.items[key]
	if !ok {
		c.misses++
		return nil
	}
	c.hits++
	c.recent.MoveToFront(e)
	return e.Value.(*cached).value
}

// put stores a value that costs so many bytes, in place of what had the key.
func (c *cache) put(key, value any, cost int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.putLocked(key, value, cost)
}

func (c *cache) putLocked(key, value any, cost int) {
	if e, ok := c.items[key]; ok {
		c.removeLocked(e)
	}
	c.items[key] = c.recent.PushFront(&cached{key, value, cost})
	c.used += cost
	c.trimLocked()
}

// getOrPut returns the value of a key, or what fresh makes, which must be quick.
func (c *cache) getOrPut(key any, fresh func() any) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := c.getLocked(key); v != nil {
		return v
	}
	v := fresh()
	c.putLocked(key, v, 0)
	return v
}

// grow notes that a value costs so many bytes more.
func (c *cache) grow(key any, more int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.items[key]; ok {
		e.Value.(*cached).cost += more
		c.used += more
		c.trimLocked()
	}
}

func (c *cache) trimLocked() {
	for (c.used > c.limit || len(c.items) > c.maxItems) && len(c.items) > c.minItems {
		c.removeLocked(c.recent.Back())
		c.evicted++
	}
}

func (c *cache) removeLocked(e *list.Element) {
	old := c.recent.Remove(e).(*cached)
	delete(c.items, old.key)
	c.used -= old.cost
}

// Stats tell how well messages are shared, and what is kept for it.
type Stats struct {
	Hits, Misses uint64
	Evicted      uint64 // to keep within the limit
	Bytes, Items int    // kept now
	Limit        int    // of Bytes
}

func (c *cache) addTo(s *Stats) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Hits += c.hits
	s.Misses += c.misses
	s.Evicted += c.evicted
	s.Bytes += c.used
	s.Items += len(c.items)
}
