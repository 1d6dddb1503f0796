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
	"os"
	"time"

	"tailscale.com/tailcfg"
)

const (
	fetchTimeout = 30 * time.Second
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
}

// refresh fetches u again and again until ctx is done.
func (s *Sources) refresh(ctx context.Context, u *urlSource) {
	retry := fetchRetry
	for ctx.Err() == nil {
		wait := s.cfg.Interval
		m, raw, err := s.fetch(ctx, u.url)
		if err == nil {
			retry = fetchRetry
			s.note(u.name, nil)
			s.keep(u, m, raw)
		} else if ctx.Err() == nil {
			wait = min(retry, s.cfg.Interval)
			retry = min(2*retry, s.cfg.Interval)
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

func (s *Sources) fetch(ctx context.Context, url string) (*tailcfg.DERPMap, json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
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
