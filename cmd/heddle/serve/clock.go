package serve

import (
	"context"
	"fmt"
	"sync"
	"time"

	"heddle/control/tailnet"
	"heddle/db"
)

const (
	// clockSlack is how much the clock may be off before it is trouble: certificates, keys
	// and tokens are good to the minute at best.
	clockSlack = time.Minute
	// clockMemory is for how long a step of the clock is told.
	clockMemory = time.Hour
)

// clock watches the machine's clock, by which keys expire.
type clock struct {
	newest time.Time // that was stored before the start; zero if nothing was

	mu      sync.Mutex
	seen    time.Time     // when it was last looked at, with its monotonic part
	step    time.Duration // by which it was last set, and when
	stepped time.Time
}

// remember notes when the latest change was stored.
func (c *clock) remember(ctx context.Context, store *db.DB) error {
	latest, _, err := store.Audit(ctx, tailnet.Default, tailnet.AuditQuery{Limit: 1})
	if err != nil || len(latest) == 0 {
		return err
	}
	c.newest = latest[0].At
	return nil
}

// health tells what is wrong with the clock at now, or what the kernel knows of it.
func (c *clock) health(now time.Time) (fine string, err error) {
	wall := now.UTC().Round(0)
	if wall.Before(c.newest.Add(-clockSlack)) {
		return "", fmt.Errorf("it shows %s, which is before the last change that was stored (%s): set it, or keys expire at the wrong time",
			wall.Format(time.RFC3339), c.newest.UTC().Format(time.RFC3339))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if step := wall.Sub(c.seen.Round(0)) - now.Sub(c.seen); !c.seen.IsZero() && step.Abs() > clockSlack {
		c.step, c.stepped = step, now
	}
	c.seen = now
	if !c.stepped.IsZero() && now.Sub(c.stepped) < clockMemory {
		return "", fmt.Errorf("it was set by %v, found at %s: see to it that it is right and stays so",
			c.step.Round(time.Second), c.stepped.UTC().Format(time.RFC3339))
	}
	return wall.Format(time.RFC3339) + kernelClock(), nil
}
