// Package cache owns a bounded memory of what is costly to make. It refuses to know what that is.
package cache

import (
	"container/list"
	"math"
	"sync"
)

// A Cache keeps values by their keys, up to a number of bytes and of items; what was
// not used for the longest time goes first.
type Cache struct {
	limit Limit

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

// Limit bounds a Cache.
type Limit struct {
	Bytes    int
	MaxItems int // zero: as many as the bytes allow
	MinItems int // kept although they are beyond the other limits: they are in use
}

// New makes a Cache.
func New(l Limit) *Cache {
	if l.MaxItems == 0 {
		l.MaxItems = math.MaxInt
	}
	return &Cache{limit: l, items: map[any]*list.Element{}}
}

// Get returns the value of a key, nil if there is none.
func (c *Cache) Get(key any) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.getLocked(key)
}

func (c *Cache) getLocked(key any) any {
	e, ok := c.items[key]
	if !ok {
		c.misses++
		return nil
	}
	c.hits++
	c.recent.MoveToFront(e)
	return e.Value.(*cached).value
}

// Put stores a value that costs so many bytes, in place of what had the key.
func (c *Cache) Put(key, value any, cost int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.putLocked(key, value, cost)
}

func (c *Cache) putLocked(key, value any, cost int) {
	if e, ok := c.items[key]; ok {
		c.removeLocked(e)
	}
	c.items[key] = c.recent.PushFront(&cached{key, value, cost})
	c.used += cost
	c.trimLocked()
}

// GetOrPut returns the value of a key, or what fresh makes, which must be quick.
func (c *Cache) GetOrPut(key any, fresh func() any) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := c.getLocked(key); v != nil {
		return v
	}
	v := fresh()
	c.putLocked(key, v, 0)
	return v
}

// Grow notes that a value costs so many bytes more.
func (c *Cache) Grow(key any, more int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.items[key]; ok {
		e.Value.(*cached).cost += more
		c.used += more
		c.trimLocked()
	}
}

func (c *Cache) trimLocked() {
	for (c.used > c.limit.Bytes || len(c.items) > c.limit.MaxItems) && len(c.items) > c.limit.MinItems {
		c.removeLocked(c.recent.Back())
		c.evicted++
	}
}

func (c *Cache) removeLocked(e *list.Element) {
	old := c.recent.Remove(e).(*cached)
	delete(c.items, old.key)
	c.used -= old.cost
}

// Stats tell what became of what was asked for, and what is kept.
type Stats struct {
	Hits, Misses uint64
	Evicted      uint64 // for want of room
	Bytes, Items int    // kept now
}

// AddTo adds the cache's numbers to others.
func (c *Cache) AddTo(s *Stats) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Hits += c.hits
	s.Misses += c.misses
	s.Evicted += c.evicted
	s.Bytes += c.used
	s.Items += len(c.items)
}
