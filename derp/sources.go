package derp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tailscale.com/tailcfg"
)

const (
	// maxMapSize bounds a file or a download; Tailscale's own map has 50 KB.
	maxMapSize = 1 << 20

	// fileCheckEvery is how often the files are looked at.
	fileCheckEvery = 5 * time.Second

	defaultInterval = 3 * time.Hour
)

// SourcesConfig says where DERP regions come from. Where several sources have a
// region of the same ID, the later one wins: URLs in their order, then files in
// theirs, then the embedded region. A source removes a region of an earlier one
// by giving null for it.
type SourcesConfig struct {
	// Embedded is the embedded relay's region, nil if there is none.
	Embedded *Region

	// Files are DERP maps in YAML or JSON, read again when they change.
	Files []string

	// URLs are DERP maps in JSON, fetched again every Interval.
	URLs []string

	// Interval is how often URLs are fetched, give or take a tenth; 0 means 3 h.
	Interval time.Duration

	// CacheFile keeps what the URLs gave last, for starts without a network; ""
	// keeps nothing. Its directory must exist.
	CacheFile string

	// Client fetches the URLs; nil means http.DefaultClient. Each fetch is
	// bounded in time and size either way.
	Client *http.Client

	// Log gets a line for each source that fails; nil discards.
	Log *slog.Logger
}

// Sources keeps the DERP map up to date. A source that fails is reported in the
// log and leaves what it gave last in force.
type Sources struct {
	cfg     SourcesConfig
	log     *slog.Logger
	current atomic.Pointer[tailcfg.DERPMap]
	wake    chan struct{} // capacity 1: the map or the cache changed

	mu       sync.Mutex
	origins                   // replaced as a whole
	embedded *tailcfg.DERPMap // nil, or the one region
	text     []byte           // of the current map, to see whether it changed
	trouble  map[string]error // by the names of those sources whose last content was no good
}

// origins are what is fetched and read, in the order of the configuration.
type origins struct {
	urls  []*urlSource
	files []*fileSource
	every time.Duration // how often URLs are fetched
}

// Plan reads other files and fetches the URLs that are new, and returns what goes on with them:
// use, which is called once or never. Nothing changes before that. An error names all that is wrong with the
// files; if they are good it is a *[URLError].
func (s *Sources) Plan(ctx context.Context, files, urls []string, every time.Duration) (use func(), err error) {
	next, err := openOrigins(files, urls, every)
	if err != nil {
		return nil, err
	}
	now, fresh := s.present().urls, []*urlSource(nil)
	for i, u := range next.urls {
		known := slices.IndexFunc(now, func(old *urlSource) bool { return old.url == u.url })
		if known >= 0 {
			next.urls[i] = now[known]
			continue
		}
		fresh = append(fresh, u)
	}
	if err := s.fetchNew(ctx, fresh); err != nil {
		return nil, err
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.origins = next
		// The files were read just now. Of the URLs those that stay may have trouble still.
		maps.DeleteFunc(s.trouble, func(name string, _ error) bool {
			return !slices.ContainsFunc(next.urls, func(u *urlSource) bool { return u.name == name })
		})
		s.rebuildLocked()
		s.nudge() // for the fetches and the cache, even if the map stays as it is
	}, nil
}

// openOrigins reads the files. What URLs give is not known yet.
func openOrigins(files, urls []string, every time.Duration) (o origins, err error) {
	if o.every = every; every <= 0 {
		o.every = defaultInterval
	}
	var errs []error
	for _, raw := range urls {
		u, err := url.Parse(raw)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			errs = append(errs, fmt.Errorf("%q is not an http or https URL", raw))
			continue
		}
		o.urls = append(o.urls, &urlSource{url: raw, name: u.Redacted()})
	}
	for _, name := range files {
		f := &fileSource{name: name}
		m, err := f.load()
		if err != nil {
			errs = append(errs, err)
		}
		f.m = m
		o.files = append(o.files, f)
	}
	return o, errors.Join(errs...)
}

// NewSources reads the files, and the cache if there is one; it waits for no
// network. A file that is missing or wrong at this point is an error. The error
// names all that is wrong, with files and lines.
func NewSources(cfg SourcesConfig) (*Sources, error) {
	if cfg.Client == nil {
		cfg.Client = http.DefaultClient
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Sources{cfg: cfg, log: cfg.Log, wake: make(chan struct{}, 1), trouble: map[string]error{}}
	from, err := openOrigins(cfg.Files, cfg.URLs, cfg.Interval)
	m, embeddedErr := embeddedMap(cfg.Embedded)
	if err := errors.Join(err, embeddedErr); err != nil {
		return nil, err
	}
	s.origins, s.embedded = from, m
	s.loadCache()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rebuildLocked()
	return s, nil
}

func embeddedMap(r *Region) (*tailcfg.DERPMap, error) {
	if r == nil {
		return nil, nil
	}
	region, err := r.DERPRegion()
	if err != nil {
		return nil, err
	}
	return &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{region.RegionID: region}}, nil
}

// Map returns the present map: never nil, maybe without regions. It is shared:
// read only.
func (s *Sources) Map() *tailcfg.DERPMap { return s.current.Load() }

// Trouble tells which sources give nothing new at present, and why; nil if all do. Before the first answer of a URL
// there is none.
func (s *Sources) Trouble() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(s.trouble)) {
		errs = append(errs, s.trouble[name])
	}
	return errors.Join(errs...)
}

// note keeps what became of a source; nil is good.
func (s *Sources) note(name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		delete(s.trouble, name)
		return
	}
	s.trouble[name] = err
}

// SetEmbedded replaces the embedded region, for example after the pinned
// certificate was renewed; nil removes it. Run publishes the change.
func (s *Sources) SetEmbedded(r *Region) error {
	m, err := embeddedMap(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.embedded = m
	s.rebuildLocked()
	return nil
}

// Run publishes the present map at once, and again whenever it changes, from one
// goroutine; until ctx is done. Maps are shared: read only.
func (s *Sources) Run(ctx context.Context, publish func(*tailcfg.DERPMap)) error {
	f := &fetchers{running: map[*urlSource]context.CancelFunc{}}
	defer f.wait()
	files := time.NewTicker(fileCheckEvery)
	defer files.Stop()
	var published *tailcfg.DERPMap
	for ctx.Err() == nil {
		if m := s.Map(); m != published {
			published = m
			publish(m)
		}
		s.saveCache()
		f.follow(ctx, s, s.present())
		select {
		case <-ctx.Done():
		case <-s.wake:
		case <-files.C:
			s.checkFiles()
		}
	}
	return nil
}

// present returns the sources as they are now. What they gave is guarded by s.mu.
func (s *Sources) present() origins {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.origins
}

// checkFiles reads the files that changed.
func (s *Sources) checkFiles() {
	for _, f := range s.present().files {
		m, err := f.load()
		if err != nil {
			s.log.Error("derp file not used, its last good content stays in force", "err", err)
			s.note(f.name, err)
		}
		if m == nil {
			continue
		}
		s.note(f.name, nil)
		s.log.Info("read changed derp file", "file", f.name)
		s.mu.Lock()
		f.m = m
		s.rebuildLocked()
		s.mu.Unlock()
	}
}

// rebuildLocked makes the map from what the sources gave last, and wakes Run if
// it differs from the present one.
func (s *Sources) rebuildLocked() {
	var layers []layer
	for _, u := range s.urls {
		layers = append(layers, layer{u.name, u.m})
	}
	for _, f := range s.files {
		layers = append(layers, layer{f.name, f.m})
	}
	layers = append(layers, layer{"the embedded relay", s.embedded})
	m, clashes := mergeLayers(layers)
	text, err := json.Marshal(m)
	if err != nil { // checkMap lets no number pass that JSON lacks
		s.log.Error("derp map not encoded", "err", err)
		return
	}
	if bytes.Equal(text, s.text) {
		return
	}
	s.text = text
	s.current.Store(m)
	for _, clash := range clashes {
		s.log.Error("derp sources disagree", "detail", clash)
	}
	s.nudge()
}

func (s *Sources) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// fileSource is a DERP map in a file.
type fileSource struct {
	name string
	m    *tailcfg.DERPMap // what it gave last; guarded by Sources.mu

	// Owned by the goroutine that loads.
	seen os.FileInfo // of the file as last read; nil if it could not be
	fail string      // the error that was reported last
}

// load reads the file unless it is the one that was read last; then it returns
// nil. It returns each error once, for as long as that does not change.
func (f *fileSource) load() (*tailcfg.DERPMap, error) {
	m, info, err := f.read()
	f.seen = info
	switch {
	case err != nil && err.Error() == f.fail:
		return nil, nil
	case err != nil:
		f.fail = err.Error()
		return nil, err
	case m != nil:
		f.fail = ""
	}
	return m, nil
}

func (f *fileSource) read() (*tailcfg.DERPMap, os.FileInfo, error) {
	info, err := os.Stat(f.name)
	if err != nil {
		return nil, nil, err
	}
	if f.seen != nil && os.SameFile(info, f.seen) && info.ModTime().Equal(f.seen.ModTime()) && info.Size() == f.seen.Size() {
		return nil, info, nil
	}
	if !info.Mode().IsRegular() { // opening a pipe would block
		return nil, info, fmt.Errorf("%s is not a regular file", f.name)
	}
	data, err := readBounded(f.name)
	if err != nil {
		return nil, nil, err
	}
	m, err := parseMapFile(data)
	if err != nil {
		return nil, info, &fileError{f.name, err}
	}
	return m, info, nil
}

func readBounded(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxMapSize+1))
	if err == nil && len(data) > maxMapSize {
		err = fmt.Errorf("%s has more than %d bytes", name, maxMapSize)
	}
	return data, err
}

// fileError puts the file's name before each line of an error.
type fileError struct {
	file string
	err  error
}

func (e *fileError) Error() string {
	return e.file + ": " + strings.ReplaceAll(e.err.Error(), "\n", "\n"+e.file+": ")
}

func (e *fileError) Unwrap() error { return e.err }
