package callers

import (
	"context"
	"runtime"
	"time"

	"heddle/control/tailnet"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A line is where callers wait for one of as many turns as it has room for, first come, first served.
type line chan struct{}

// maxWait bounds how long somebody stands in line: most programs have given up by then.
const maxWait = 30 * time.Second

// wait waits for a turn; done ends it. The error is a gRPC status.
func (l line) wait(ctx context.Context) (done func(), err error) {
	patience := time.NewTimer(maxWait)
	defer patience.Stop()
	select {
	case l <- struct{}{}:
		return func() { <-l }, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	case <-patience.C:
		return nil, status.Error(codes.Unavailable, "too many programs ask at the same time: try again in a moment")
	}
}

// maxReading bounds the answers that are made at a time for remote callers who read: however many
// there are, there is CPU left for the devices.
var maxReading = max(1, runtime.GOMAXPROCS(0)/2)

// maxBusy bounds the policies that are prepared and compared at a time: each
// may take seconds of CPU, and clients need some of it. Those who may only read
// have all but one of the turns, so that an admin always finds one.
const maxBusy = 2

// maxHeld bounds the bytes of answers that are made and that their receivers have not taken yet: some lists of
// the largest tailnets. Beyond it readers keep their turns, until the slow ones of before have taken
// theirs or are cut off.
const maxHeld = 64 << 20

// A Turn lets something be read for a remote caller.
type Turn struct {
	gate *Gate
	end  func() // of the turn; nil after it
	held int64  // bytes
}

// Reading waits for a turn. The error is a gRPC status.
func (g *Gate) Reading(ctx context.Context) (*Turn, error) {
	end, err := g.reading.wait(ctx)
	if err != nil {
		return nil, err
	}
	return &Turn{gate: g, end: end}, nil
}

// Made gives the turn to the next, with an answer of some bytes to be sent: a slow receiver keeps nobody
// waiting. The error is a gRPC status.
func (t *Turn) Made(ctx context.Context, size int) error {
	held := min(int64(size), maxHeld)
	if err := t.gate.held.Acquire(ctx, held); err != nil {
		return status.FromContextError(err).Err()
	}
	t.held = held
	t.end()
	t.end = nil
	return nil
}

// End says that the answer was sent, or that there is none.
func (t *Turn) End() {
	if t.end != nil {
		t.end()
	}
	t.gate.held.Release(t.held)
}

// Working waits for a turn to do work for a caller that takes long; done ends it. The error is a gRPC status.
func (g *Gate) Working(ctx context.Context, a tailnet.Actor) (done func(), err error) {
	if a.Can(tailnet.Write(tailnet.AreaPolicy)) {
		return g.working.wait(ctx)
	}
	one, err := g.asking.wait(ctx)
	if err != nil {
		return nil, err
	}
	work, err := g.working.wait(ctx)
	if err != nil {
		one()
		return nil, err
	}
	return func() { work(); one() }, nil
}
