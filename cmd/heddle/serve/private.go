package serve

import (
	"io"
	"net/http"
	"net/http/pprof"

	"heddle/cmd/heddle/serve/metrics"

	"github.com/go-chi/chi/v5"
)

const debugIndex = `heddle's private listener. It has no authentication: keep it private.

/metrics        everything in numbers, for Prometheus
/debug/pprof/   profiles, for go tool pprof
`

// debugHandler serves what only operators may see.
func (s *server) debugHandler() http.Handler {
	r := chi.NewRouter()
	r.Get("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		io.WriteString(w, debugIndex)
	})
	r.HandleFunc("/debug/pprof/*", pprof.Index)
	r.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	r.HandleFunc("/debug/pprof/profile", pprof.Profile)
	r.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	r.HandleFunc("/debug/pprof/trace", pprof.Trace)
	r.Handle("/metrics", s.metrics.Handler(s.sourcesOfNumbers()))
	return r
}

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
