package serve

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"net/http/pprof"
	"net/url"
	"sync"
	"time"

	"heddle/cmd/heddle/serve/metrics"

	"github.com/go-chi/chi/v5"
)

const debugIndex = `heddle's private listener. It has no authentication: keep it private.

/metrics        everything in numbers, for Prometheus
/debug/pprof/   profiles, for go tool pprof
`

// Bounds on what a program that runs wild on this machine can have made. The text of all goroutines takes up to
// 64 MB, and everything stands still while it is made.
const (
	maxProfiles  = 2 // at a time
	profilePause = time.Second
	numbersPause = 20 * time.Millisecond
	// turnTimeout is how long a request waits until others are done.
	turnTimeout = 10 * time.Second
)

// debugHandler serves what only operators may see.
func (s *server) debugHandler() http.Handler {
	r := chi.NewRouter()
	r.Get("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		io.WriteString(w, debugIndex)
	})
	profiles := newTurns(maxProfiles, profilePause)
	for path, h := range map[string]http.HandlerFunc{
		"*": pprof.Index, "cmdline": pprof.Cmdline, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace,
	} {
		r.Handle("/debug/pprof/"+path, profiles.of(h))
	}
	r.Handle("/metrics", newShared(s.metrics.Handler(s.sourcesOfNumbers()), numbersPause))
	return r
}

// turns let some requests at a time do what costs, with a pause after each.
type turns struct {
	taken chan struct{}
	pause time.Duration
}

func newTurns(n int, pause time.Duration) turns { return turns{make(chan struct{}, n), pause} }

// of returns h, in turn.
func (t turns) of(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		late := time.NewTimer(turnTimeout)
		defer late.Stop()
		select {
		case t.taken <- struct{}{}:
			defer time.AfterFunc(t.pause, func() { <-t.taken })
			h.ServeHTTP(w, r)
		case <-r.Context().Done():
		case <-late.C:
			w.Header().Set("Retry-After", "15")
			http.Error(w, "too many ask this at a time; come again later", http.StatusServiceUnavailable)
		}
	})
}

// shared makes one answer at a time, with a pause after each, for all who asked before it began: however many
// ask, it costs little, and nobody gets an old one. The answer must be small, for it is sent
// afterwards, so that who reads it slowly keeps nobody waiting. All requests are taken for the same.
type shared struct {
	turns
	h http.Handler

	mu   sync.Mutex
	next *answer // which has not begun yet; nil if nobody waits for one
}

func newShared(h http.Handler, pause time.Duration) *shared {
	return &shared{turns: newTurns(1, pause), h: h}
}

// ServeHTTP implements http.Handler.
func (s *shared) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a, first := s.join()
	if first {
		s.make(a)
	}
	select {
	case <-a.done:
	case <-r.Context().Done():
		return
	}
	maps.Copy(w.Header(), a.header)
	w.WriteHeader(a.status)
	w.Write(a.body.Bytes())
}

// join returns the next answer, and whether the caller must make it.
func (s *shared) join() (a *answer, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next, first = &answer{header: http.Header{}, status: http.StatusOK, done: make(chan struct{})}, true
	}
	return s.next, first
}

func (s *shared) make(a *answer) {
	defer close(a.done)
	s.taken <- struct{}{}
	defer time.AfterFunc(s.pause, func() { <-s.taken })
	s.mu.Lock()
	s.next = nil
	s.mu.Unlock()
	s.h.ServeHTTP(a, &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/"}, Header: http.Header{}})
}

// answer is an http.ResponseWriter that keeps what it is given. It does not change once done is closed.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
	done   chan struct{}
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }

// sourcesOfNumbers are the parts that count.
func (s *server) sourcesOfNumbers() metrics.Sources {
	from := metrics.Sources{
		Version: s.Version.Version, Commit: s.Version.Commit,
		State: s.state, Control: s.control.Stats, Maps: s.maps.Stats, Webhooks: s.webhookNumbers,
	}
	if s.relay != nil {
		from.Relay = s.relay.Stats
		if s.relay.stun != nil {
			from.STUN = s.relay.stun.Stats
		}
	}
	return from
}
