// Package metrics owns what heddle tells Prometheus: the names of its numbers,
// what they mean, and where each is read. It counts next to nothing itself: the
// parts do, by atomic additions, and a scrape reads their counters. It refuses to
// know who may ask; the private listener is not for strangers.
package metrics

import (
	"net/http"
	"time"

	"heddle/control"
	"heddle/control/netmap"
	"heddle/control/tailnet"
	"heddle/derp"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Sources are the parts whose counters a scrape reads. State, Control and Maps
// are required; without a relay or STUN server its numbers are missing.
type Sources struct {
	Version, Commit string
	State           *tailnet.State
	Control         func() control.Stats
	Maps            func() netmap.Stats
	Relay           func() derp.RelayStats
	STUN            func() derp.STUNStats
	Webhooks        func() Webhooks
}

// Webhooks are the numbers of the webhooks' deliveries.
type Webhooks struct {
	Endpoints int   // present
	Failing   int   // present: those whose last attempt failed
	Delivered int64 // events
	Failed    int64 // attempts
}

// Metrics are the numbers that need a memory of their own, and the rest by way
// of Handler. Its methods are safe for concurrent use, and take well below a microsecond.
type Metrics struct {
	registry *prometheus.Registry
	delay    prometheus.Histogram
	commit   prometheus.Histogram
	failed   prometheus.Counter
	changes  *prometheus.CounterVec
	calls    *prometheus.CounterVec
}

// New returns Metrics that have counted nothing.
func New() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		delay: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "heddle_map_change_seconds", Help: "Time from when the writer took up a change until a device was sent it, the commit included; one observation for each device and message.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "heddle_commit_seconds", Help: "Time that the database took for a commit, failed ones included.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "heddle_commit_errors_total", Help: "Commits that failed.",
		}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "heddle_changes_total", Help: "Changes that were stored, by the action of their audit entry.",
		}, []string{"action"}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "heddle_api_calls_total", Help: "Calls of the admin API that were answered, by gRPC code.",
		}, []string{"code"}),
	}
	m.registry.MustRegister(m.delay, m.commit, m.failed, m.changes, m.calls,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Delay observes how long a change took to a device.
func (m *Metrics) Delay(d time.Duration) { m.delay.Observe(d.Seconds()) }

// Writer is what the writer of the state reports to.
func (m *Metrics) Writer() tailnet.Count {
	return tailnet.Count{
		Commit: func(took time.Duration, err error) {
			m.commit.Observe(took.Seconds())
			if err != nil {
				m.failed.Inc()
			}
		},
		Change: func(action string) { m.changes.WithLabelValues(action).Inc() },
	}
}

// Call counts a call of the admin API. There are as many codes as gRPC has.
func (m *Metrics) Call(code string) { m.calls.WithLabelValues(code).Inc() }

// Handler serves everything in Prometheus' text format, or as what a scraper
// negotiates. It must be called once.
func (m *Metrics) Handler(from Sources) http.Handler {
	m.registry.MustRegister(newReader(from))
	// A number that cannot be collected is our mistake; the others are shown all the same.
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4})
}
