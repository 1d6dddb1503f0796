package callers

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"heddle/control/tailnet"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// take waits for a turn in the background.
func take(t *testing.T, g *Gate) <-chan *Turn {
	got := make(chan *Turn, 1)
	go func() {
		turn, err := g.Reading(t.Context())
		if err != nil {
			t.Error(err)
		}
		got <- turn
	}()
	synctest.Wait()
	return got
}

func TestReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(nil, time.Now, nil)
		g.reading = make(line, 1)
		slow := <-take(t, g)
		next := take(t, g)
		if len(next) != 0 {
			t.Fatal("two have a turn")
		}
		// Whoever has an answer to send keeps nobody waiting,
		if err := slow.Made(t.Context(), maxHeld-1); err != nil {
			t.Fatal(err)
		}
		second := <-next
		// as long as there are not too many of them.
		made := make(chan error, 1)
		go func() { made <- second.Made(t.Context(), 100*maxHeld) }()
		third := take(t, g)
		if len(made)+len(third) != 0 {
			t.Fatal("answers are kept without a bound")
		}
		slow.End()
		if err := <-made; err != nil {
			t.Fatal(err)
		}
		second.End()
		(<-third).End()

		// Whoever has nothing to send gives the turn back all the same, once.
		if len(g.reading) != 0 || !g.held.TryAcquire(maxHeld) {
			t.Errorf("%d turns are taken in the end", len(g.reading))
		}
	})
}

func TestImpatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(nil, time.Now, nil)
		g.reading = make(line, 1)
		turn, err := g.Reading(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer turn.End()
		start := time.Now()
		if _, err := g.Reading(t.Context()); status.Code(err) != codes.Unavailable || time.Since(start) != maxWait {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := g.Reading(ctx); status.Code(err) != codes.Canceled {
			t.Error(err)
		}
	})
}

// Those who may only read leave one turn to an admin.
func TestWorking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(nil, time.Now, nil)
		var ends []func()
		ask := func(a tailnet.Actor) bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			end, err := g.Working(ctx, a)
			if err != nil {
				return false
			}
			ends = append(ends, end)
			return true
		}
		reader, admin := tailnet.Actor{Kind: tailnet.ByAPIKey, Scopes: []string{"policy_file:read"}}, tailnet.SystemActor("test")
		for range maxBusy - 1 {
			if !ask(reader) {
				t.Fatal("a reader got no turn")
			}
		}
		if ask(reader) {
			t.Error("readers got all turns")
		}
		if !ask(admin) || ask(admin) {
			t.Error("an admin got none, or more than there are")
		}
		for _, end := range ends {
			end()
		}
		if !ask(reader) {
			t.Error("no turn came back")
		}
		ends[len(ends)-1]()
	})
}
