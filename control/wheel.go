package control

import (
	"context"
	"sync/atomic"
	"time"
)

// wheel is a clock for keepalives: all that are due within the same second wait
// for the same channel. A timer for each stream would cost 200 bytes and a place
// in the runtime's heap, to be moved with each message sent.
type wheel struct {
	now   atomic.Int64
	slots [wheelSlots]atomic.Pointer[chan struct{}]
}

// wheelSlots bounds how far ahead a keepalive may be, in seconds.
const wheelSlots = 64

func newWheel() *wheel {
	w := new(wheel)
	for i := range w.slots {
		ch := make(chan struct{})
		w.slots[i].Store(&ch)
	}
	return w
}

// after returns a channel that is closed in d, or up to a second later. d must be less
// than wheelSlots-1 seconds.
func (w *wheel) after(d time.Duration) <-chan struct{} {
	at := w.now.Load() + int64(d/time.Second) + 1
	return *w.slots[at%wheelSlots].Load()
}

// run turns the wheel until ctx ends.
func (w *wheel) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		fresh := make(chan struct{})
		close(*w.slots[w.now.Add(1)%wheelSlots].Swap(&fresh))
	}
}
