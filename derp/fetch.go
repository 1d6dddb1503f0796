package derp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"tailscale.com/tailcfg"
)

const (
	fetchTimeout = 30 * time.Second
	planTimeout  = 10 * time.Second // somebody waits for it
	fetchRetry   = 10 * time.Second // after the first failure; doubles, up to the interval
)

// urlSource is a DERP map behind a URL.
type urlSource struct {
	url  string
	name string // the URL without its password

	// Guarded by Sources.mu.
	m     *tailcfg.DERPMap // what it gave last; nil before
	raw   json.RawMessage  // the text of m
	dirty bool             // raw is not in the cache file yet

	fetched bool // by Plan; set before refresh runs
}

// A URLError is why no DERP map could be fetched.
type URLError struct {
	URL string // without its password
	Err error
}

func (e *URLError) Error() string { return e.URL + " gives no DERP map: " + e.Err.Error() }
func (e *URLError) Unwrap() error { return e.Err }

// fetchNew fetches URLs of which nothing is known yet. The error is a *URLError.
func (s *Sources) fetchNew(ctx context.Context, urls []*urlSource) error {
	ctx, cancel := context.WithTimeout(ctx, planTimeout)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	for _, u := range urls {
		g.Go(func() error {
			m, raw, err := s.fetch(ctx, u.url)
			var call *url.Error
			if errors.As(err, &call) {
				err = call.Err // without the URL
			}
			if err != nil {
				return &URLError{u.name, err}
			}
			u.m, u.raw, u.dirty, u.fetched = m, raw, true, true
			return nil
		})
	}
	return g.Wait()
}

// fetchers fetch each URL again and again. They belong to Run's goroutine.
type fetchers struct {
	every   time.Duration
	running map[*urlSource]context.CancelFunc
	group   sync.WaitGroup
}

// follow goes on with the URLs of o, as often as o says, and stops with others.
func (f *fetchers) follow(ctx context.Context, s *Sources, o origins) {
	for u, stop := range f.running {
		if o.every != f.every || !slices.Contains(o.urls, u) {
			stop()
			delete(f.running, u)
		}
	}
	f.every = o.every
	for _, u := range o.urls {
		if f.running[u] == nil {
			ctx, stop := context.WithCancel(ctx)
			f.running[u] = stop
			f.group.Go(func() { s.refresh(ctx, u, o.every) })
		}
	}
}

// wait stops all and waits for their ends.
func (f *fetchers) wait() {
	for _, stop := range f.running {
		stop()
	}
	f.group.Wait()
}

// refresh fetches u again and again until ctx is done.
func (s *Sources) refresh(ctx context.Context, u *urlSource, every time.Duration) {
	retry := fetchRetry
	if u.fetched {
		pause(ctx, jitter(every))
	}
	for ctx.Err() == nil {
		wait := every
		m, raw, err := s.fetch(ctx, u.url)
		if err == nil {
			retry = fetchRetry
			s.note(u.name, nil)
			s.keep(u, m, raw)
		} else if ctx.Err() == nil {
			wait = min(retry, every)
			retry = min(2*retry, every)
			s.note(u.name, fmt.Errorf("%s: %w", u.name, err))
			s.log.Warn("derp url not used, its last good content stays in force", "url", u.name, "err", err, "retry_in", wait)
		}
		pause(ctx, jitter(wait))
	}
}

// jitter spreads d by a tenth either way, so that servers do not ask in step.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}

func (s *Sources) keep(u *urlSource, m *tailcfg.DERPMap, raw json.RawMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if string(raw) == string(u.raw) {
		return
	}
	u.m, u.raw, u.dirty = m, raw, true
	s.rebuildLocked()
	s.nudge() // the cache changed even if the map did not
}

func (s *Sources) fetch(ctx context.Context, from string) (*tailcfg.DERPMap, json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Accept", "application/json")
	res, err := s.cfg.Client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("the answer is %s", res.Status)
	}
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxMapSize+1))
	if err != nil {
		return nil, nil, err
	}
	if len(raw) > maxMapSize {
		return nil, nil, fmt.Errorf("the answer has more than %d bytes", maxMapSize)
	}
	m, err := parseMapJSON(raw)
	return m, raw, err
}

// parseMapJSON reads a DERP map as servers publish it. Unknown keys are fine:
// the publisher may be newer than we are.
func parseMapJSON(raw []byte) (*tailcfg.DERPMap, error) {
	m := &tailcfg.DERPMap{}
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, err
	}
	if m.Regions == nil {
		return nil, errors.New("it has no Regions")
	}
	if err := checkMap(m); err != nil {
		return nil, err
	}
	return m, nil
}

// loadCache gives each URL what it gave last, as far as that is in the cache.
// The cache only spares clients a time without those regions, so its errors are
// told and otherwise ignored.
func (s *Sources) loadCache() {
	if s.cfg.CacheFile == "" || len(s.urls) == 0 {
		return
	}
	text, err := os.ReadFile(s.cfg.CacheFile)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	cached := map[string]json.RawMessage{}
	if err == nil {
		err = json.Unmarshal(text, &cached)
	}
	for _, u := range s.urls {
		raw, ok := cached[u.url]
		if err != nil || !ok {
			continue
		}
		var m *tailcfg.DERPMap
		if m, err = parseMapJSON(raw); err == nil {
			u.m, u.raw = m, raw
		}
	}
	if err != nil {
		s.log.Warn("derp cache not used", "file", s.cfg.CacheFile, "err", err)
	}
}

// saveCache writes what the URLs gave, if some gave something new.
func (s *Sources) saveCache() {
	text, ok := s.newCache()
	if !ok || s.cfg.CacheFile == "" {
		return
	}
	if err := replaceFile(s.cfg.CacheFile, text); err != nil {
		s.log.Warn("derp cache not written", "err", err)
	}
}

// newCache returns the content of the cache file, false if it has it already.
func (s *Sources) newCache() (text []byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cached := map[string]json.RawMessage{}
	for _, u := range s.urls {
		if u.raw != nil {
			cached[u.url] = u.raw
		}
		ok = ok || u.dirty
		u.dirty = false
	}
	if !ok {
		return nil, false
	}
	text, err := json.Marshal(cached)
	return text, err == nil
}
