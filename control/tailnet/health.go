package tailnet

import (
	"fmt"
	"sync"
	"time"
)

// slowCommit is how long a commit may take before it is trouble.
const slowCommit = 10 * time.Second

// storeHealth is what the writer last learnt of the store.
type storeHealth struct {
	mu    sync.Mutex
	since time.Time // start of the commit that is under way; zero if there is none
	err   error     // of the last commit
}

func (h *storeHealth) begin(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.since = now
}

func (h *storeHealth) end(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.since, h.err = time.Time{}, err
}

// Trouble tells why nothing can be stored at present; nil if the last commit
// succeeded and none hangs. It never waits. While there is trouble the writer tries again now
// and then, so that this ends by itself.
func (s *State) Trouble() error {
	h := &s.health
	h.mu.Lock()
	defer h.mu.Unlock()
	if took := s.opts.Now().Sub(h.since); !h.since.IsZero() && took > slowCommit {
		return fmt.Errorf("a commit has been under way for %v", took.Round(time.Second))
	}
	return h.err
}
