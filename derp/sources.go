package derp

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"tailscale.com/tailcfg"
)

// SourcesConfig says where DERP regions come from. Where several sources have a
// region of the same ID, the later one wins: URLs in their order, then files in
// theirs, then the embedded region. A file can remove a region of an earlier
// source by giving null for it.
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
	// keeps nothing.
	CacheFile string

	// Client fetches the URLs; nil means a client of the package's own. Each
	// fetch is bounded in time and size either way.
	Client *http.Client

	// Log gets a line for each source that fails; nil discards.
	Log *slog.Logger
}

// Sources keeps the DERP map up to date. A source that fails is reported in the
// log and leaves what it gave last in force.
type Sources struct {
	cfg SourcesConfig
}

// NewSources reads the files, and the cache if there is one; it waits for no
// network. A file that is missing or wrong at this point is an error, which
// names all wrong files and lines.
func NewSources(cfg SourcesConfig) (*Sources, error) { return nil, errors.ErrUnsupported }

// Map returns the present map: never nil, maybe without regions. It is shared:
// read only.
func (s *Sources) Map() *tailcfg.DERPMap { return nil }

// SetEmbedded replaces the embedded region, for example after the pinned
// certificate was renewed; nil removes it. Run publishes the change.
func (s *Sources) SetEmbedded(r *Region) error { return errors.ErrUnsupported }

// Run publishes the present map at once, and again whenever it changes, from one
// goroutine; until ctx is done. Maps are shared: read only.
func (s *Sources) Run(ctx context.Context, publish func(*tailcfg.DERPMap)) error {
	return errors.ErrUnsupported
}
