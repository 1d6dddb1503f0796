package netmap

import (
	"container/list"
	"sync"
)

// A cache keeps what was encoded, up to a number of bytes; what was not used
// for the longest time goes first.
type cache struct {
	limit int

	mu     sync.Mutex
	used   int
	items  map[any]*list.Element
	recent list.List // of *cached, last used first
	hits   uint64
	misses uint64
}

type cached struct {
	key, value any
	cost       int
}

func newCache(limit int) *cache {
	return &cache{limit: limit, items: map[any]*list.Element{}}
}

func (c *cache) get(key any) any {
	c.mu.Lock()
	defer c.mu.Unlock()
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
	if e, ok := c.items[key]; ok {
		c.removeLocked(e)
	}
	if cost > c.limit {
		return
	}
	c.items[key] = c.recent.PushFront(&cached{key, value, cost})
	c.used += cost
	for c.used > c.limit {
		c.removeLocked(c.recent.Back())
	}
}

func (c *cache) removeLocked(e *list.Element) {
	old := c.recent.Remove(e).(*cached)
	delete(c.items, old.key)
	c.used -= old.cost
}

// Stats tell how well messages are shared.
type Stats struct {
	Hits, Misses uint64
	Bytes, Items int // kept now
}

func (c *cache) stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Stats{Hits: c.hits, Misses: c.misses, Bytes: c.used, Items: len(c.items)}
}
