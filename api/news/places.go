package news

import (
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"time"

	"heddle/control/tailnet"
)

const (
	// maxPlaces bounds the snapshots that are kept for watchers who come back. They
	// share what did not change: 128 of a tailnet with 10,000 nodes take some MB.
	maxPlaces = 128
	// placeLife is how long one is kept after somebody was sent it.
	placeLife = 10 * time.Minute
)

// Places are the snapshots at which watchers were lately.
type Places struct {
	name string // of this process: its versions mean nothing to the next one

	mu   sync.Mutex
	list []place // what was sent last at the end
}

type place struct {
	snap *tailnet.Snapshot
	sent time.Time
}

// NewPlaces makes an empty table.
func NewPlaces() *Places { return &Places{name: rand.Text()[:8]} }

// Put remembers a snapshot that a watcher of some kinds was sent, and returns the
// cursor that stands for it.
func (p *Places) Put(s *tailnet.Snapshot, kinds Kind, now time.Time) (cursor string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgetLocked(now)
	p.list = slices.DeleteFunc(p.list, func(one place) bool { return one.snap.Version() == s.Version() })
	p.list = append(p.list, place{s, now})
	p.list = p.list[max(0, len(p.list)-maxPlaces):]
	return p.cursor(s.Version(), kinds)
}

// Get returns the snapshot that a cursor stands for; nil if it is not known any
// more, is another process's or is about other kinds.
func (p *Places) Get(cursor string, kinds Kind, now time.Time) *tailnet.Snapshot {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgetLocked(now)
	for _, one := range p.list {
		if p.cursor(one.snap.Version(), kinds) == cursor {
			return one.snap
		}
	}
	return nil
}

// forgetLocked drops what is too old.
func (p *Places) forgetLocked(now time.Time) {
	p.list = slices.DeleteFunc(p.list, func(one place) bool { return now.Sub(one.sent) > placeLife })
}

func (p *Places) cursor(version uint64, kinds Kind) string {
	return fmt.Sprintf("%s-%d-%d", p.name, kinds, version)
}
