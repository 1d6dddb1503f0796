package cache_test

import (
	"testing"

	"heddle/control/netmap/cache"
)

// What was not asked for the longest time goes first, and what is in use stays although it is too much.
func TestLimits(t *testing.T) {
	c := cache.New(cache.Limit{Bytes: 100, MinItems: 1})
	for _, key := range []string{"a", "b", "c"} {
		c.Put(key, key, 30)
	}
	c.Get("a")
	c.Grow("c", 20) // 110
	for key, kept := range map[string]bool{"a": true, "b": false, "c": true} {
		if got := c.Get(key) != nil; got != kept {
			t.Errorf("%s is kept: %v", key, got)
		}
	}
	c.Put("a", "A", 1000)
	var s cache.Stats
	if c.AddTo(&s); c.Get("a") != "A" || s.Items != 1 || s.Bytes != 1000 || s.Evicted != 2 || s.Hits != 3 || s.Misses != 1 {
		t.Errorf("%v, %+v", c.Get("a"), s)
	}

	few := cache.New(cache.Limit{Bytes: 100, MaxItems: 2})
	for _, key := range []int{1, 2, 3} {
		if v := few.GetOrPut(key, func() any { return -key }); v != -key {
			t.Errorf("%v for %d", v, key)
		}
	}
	if few.Get(1) != nil || few.GetOrPut(3, func() any { return 0 }) != -3 {
		t.Error("of three items not the last two are kept")
	}
}
