package serve

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// giveBackMemory returns to the operating system what a burst of work has left.
// A fleet that enrols or comes back makes hundreds of megabytes of garbage within seconds, and
// then goes quiet; the runtime by itself would keep most of that for a long time, since it expects the next burst.
func giveBackMemory(ctx context.Context) {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	var m memory
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if m.look() {
			debug.FreeOSMemory() // some 50 ms for a heap of 100 MB
			m.rest()
		}
	}
}

// memory is what is known of the heap from looking at it now and then.
type memory struct {
	allocs uint64 // bytes allocated ever, when it was looked at last
	floor  uint64 // what was resident after the last time that memory was given back
}

const (
	// worthwhile is the least to be given back, in bytes.
	worthwhile = 32 << 20
	// calm is how much may be allocated between two looks for it to be quiet.
	calm = 16 << 20
)

// look reports whether it is quiet and much of the heap is not in use.
func (m *memory) look() bool {
	allocs, resident, live := readHeap()
	quiet := allocs-m.allocs < calm
	m.allocs = allocs
	return quiet && resident > m.floor+worthwhile && resident > live+live/4+worthwhile
}

// rest notes what could not be given back.
func (m *memory) rest() { m.allocs, m.floor, _ = readHeap() }

// readHeap returns the bytes that were ever allocated, that the heap holds of the
// machine's memory, and that were in use after the last collection.
func readHeap() (allocs, resident, live uint64) {
	s := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(s)
	return s[0].Value.Uint64(), s[2].Value.Uint64() + s[3].Value.Uint64() + s[4].Value.Uint64(), s[1].Value.Uint64()
}
