package crash_test

import (
	"context"
	"flag"
	"math/rand/v2"
	"testing"
	"time"
)

var kills = flag.Int("kills", 20, "how often heddle is killed")

// callers are how many devices log in at once.
const callers = 8

// TestKill kills heddle at any moment of a storm. What it acknowledged is there afterwards, no address
// and no name is given twice, and the audit log tells of exactly what is stored.
func TestKill(t *testing.T) {
	s := newServer(t, tempDir(t), "")
	killStorm(t, s, *kills)
}

func killStorm(t *testing.T, s *server, kills int) {
	t.Helper()
	l := newLedger()
	for i := range kills {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { l.storm(ctx, s, callers); close(done) }()
		<-time.After(time.Duration(rand.Int64N(int64(500 * time.Millisecond)))) // what is tested is any moment
		s.kill()
		cancel()
		<-done
		l.verify(t, s.store)
		if t.Failed() {
			t.Fatalf("after kill %d", i+1)
		}
		s.start()
	}
	t.Logf("%d kills; acknowledged: %v; asked for: %v", kills, l.acked, l.asked)
	if l.acked["node.create"] == 0 || l.acked["routes.approve"] == 0 {
		t.Error("the storm was none")
	}
	s.logHolds("panic:", "fatal error:", s.secret)
}
