package metrics

import (
	"runtime"

	"heddle/control"
	"heddle/control/netmap"
	"heddle/control/tailnet"
	"heddle/derp"

	"github.com/prometheus/client_golang/prometheus"
)

// A reading is what the parts told for one scrape.
type reading struct {
	Sources
	snap     *tailnet.Snapshot
	nodes    nodeStates
	clients  control.Stats
	maps     netmap.Stats
	relay    *derp.RelayStats // nil: there is none
	stun     *derp.STUNStats  // nil: there is none
	webhooks Webhooks
}

type nodeStates struct{ online, offline, expired int }

func read(from Sources) *reading {
	r := &reading{Sources: from, snap: from.State.Snapshot(), clients: from.Control(), maps: from.Maps()}
	for n := range r.snap.Nodes() { // ten thousand take a millisecond
		switch {
		case n.Status.Expired:
			r.nodes.expired++
		case n.Status.Online:
			r.nodes.online++
		default:
			r.nodes.offline++
		}
	}
	if from.Relay != nil {
		stats := from.Relay()
		r.relay = &stats
	}
	if from.STUN != nil {
		stats := from.STUN()
		r.stun = &stats
	}
	if from.Webhooks != nil {
		r.webhooks = from.Webhooks()
	}
	return r
}

// emit takes one value with the values of its labels.
type emit func(value float64, labels ...string)

// A number is a name and where its values are read.
type number struct {
	name, help string
	labels     []string
	read       func(*reading, emit)
}

// counter reports whether the number only grows, which its name tells as Prometheus wants it.
func (n number) counter() bool { return len(n.name) > 6 && n.name[len(n.name)-6:] == "_total" }

func count[T int | int64 | uint64](v T) float64 { return float64(v) }

// one is a number without labels.
func one[T int | int64 | uint64](name, help string, value func(*reading) T) number {
	return number{name, help, nil, func(r *reading, e emit) { e(count(value(r))) }}
}

// each is a number for each key of a map.
func each(name, help, label string, values func(*reading) map[string]int64) number {
	return number{name, help, []string{label}, func(r *reading, e emit) {
		for key, v := range values(r) {
			e(count(v), key)
		}
	}}
}

var numbers = []number{
	{"heddle_build_info", "Always 1; the labels tell what runs.", []string{"version", "commit", "go_version"}, func(r *reading, e emit) {
		e(1, r.Version, r.Commit, runtime.Version())
	}},

	each("heddle_nodes", "Devices that are known, by state: online, offline, expired.", "state", func(r *reading) map[string]int64 {
		return map[string]int64{"online": int64(r.nodes.online), "offline": int64(r.nodes.offline), "expired": int64(r.nodes.expired)}
	}),
	one("heddle_map_sessions", "Map streams that are open: connected devices.", func(r *reading) int { return r.clients.Streams }),
	each("heddle_map_responses_total", "Messages of map streams, by kind: full (whole maps), delta (changes), keepalive, other.", "kind", func(r *reading) map[string]int64 {
		return sent(r, func(s control.Sent) int64 { return s.Messages })
	}),
	each("heddle_map_response_bytes_total", "Their bytes, compressed, before encryption.", "kind", func(r *reading) map[string]int64 {
		return sent(r, func(s control.Sent) int64 { return s.Bytes })
	}),
	each("heddle_map_sessions_ended_total", "Map streams that the server ended, by reason: slow (the device did not read), replaced (it opened another).", "reason", func(r *reading) map[string]int64 {
		return map[string]int64{"slow": r.clients.Slow, "replaced": r.clients.Replaced}
	}),
	one("heddle_map_sessions_held_total", "Map streams that had to wait because two devices use the keys of one node.", func(r *reading) int64 { return r.clients.Held }),
	one("heddle_routers_silent_total", "Times that a subnet router with a standby stopped answering.", func(r *reading) int64 { return r.clients.Unheard }),

	each("heddle_queue_length", "What waits or is under way, by queue: updates (for the writer), full_maps, auth_key_logins, pending_logins (for a person), client_requests.", "queue", func(r *reading) map[string]int64 {
		return map[string]int64{
			"updates": int64(r.State.Queued()), "full_maps": int64(r.clients.Maps), "auth_key_logins": int64(r.clients.Joining),
			"pending_logins": int64(r.clients.Pending), "client_requests": int64(r.clients.Calls),
		}
	}),
	{"heddle_store_trouble", "1 while nothing can be stored, otherwise 0.", nil, func(r *reading, e emit) {
		if r.State.Trouble() != nil {
			e(1)
			return
		}
		e(0)
	}},

	one("heddle_frame_cache_hits_total", "Encoded parts of maps that were found in the cache.", func(r *reading) uint64 { return r.maps.Hits }),
	one("heddle_frame_cache_misses_total", "Encoded parts of maps that had to be made.", func(r *reading) uint64 { return r.maps.Misses }),
	one("heddle_frame_cache_evicted_total", "Parts that had to leave the cache, to keep it within its limit.", func(r *reading) uint64 { return r.maps.Evicted }),
	one("heddle_frame_cache_bytes", "Size of the cache.", func(r *reading) int { return r.maps.Bytes }),
	one("heddle_frame_cache_limit_bytes", "Most that the cache may hold (netmap.cache_mb).", func(r *reading) int { return r.maps.Limit }),
	one("heddle_frame_cache_items", "Parts in the cache.", func(r *reading) int { return r.maps.Items }),

	one("heddle_connections", "Connections of devices.", func(r *reading) int { return r.clients.Noise.Open }),
	one("heddle_connections_strangers", "Those of them whose device has not joined.", func(r *reading) int { return r.clients.Noise.Strangers }),
	each("heddle_handshakes_total", "Connections that devices asked for, by result: accepted, refused.", "result", func(r *reading) map[string]int64 {
		return map[string]int64{"accepted": r.clients.Noise.Accepted, "refused": r.clients.Noise.Refused}
	}),
	one("heddle_connections_evicted_total", "Connections that were closed to make room for others.", func(r *reading) int64 { return r.clients.Noise.Evicted }),
	each("heddle_logins_total", "Logins, by result: auth_key and approved (both admitted), waiting (sent to a page), refused.", "result", func(r *reading) map[string]int64 { return r.clients.Logins }),
	each("heddle_client_errors_total", "Requests of devices that were answered with an error, by code.", "code", func(r *reading) map[string]int64 { return r.clients.Failed }),

	relayed("heddle_derp_connections", "Open connections to the embedded relay.", func(s *derp.RelayStats) int64 { return s.Connections }),
	relayed("heddle_derp_accepted_total", "Connections that began the relay's handshake.", func(s *derp.RelayStats) int64 { return s.Accepted }),
	relayed("heddle_derp_refused_total", "Handshakes of devices that may not use the relay.", func(s *derp.RelayStats) int64 { return s.Refused }),
	relayed("heddle_derp_evicted_total", "Connections that were cut because their device may not use the relay any more.", func(s *derp.RelayStats) int64 { return s.Evicted }),
	relayed("heddle_derp_overloaded_total", "Requests that were refused because too many handshakes were under way.", func(s *derp.RelayStats) int64 { return s.Overloaded }),
	{"heddle_derp_packets_total", "Packets of the relay, by direction: received, sent.", []string{"direction"}, func(r *reading, e emit) {
		if r.relay != nil {
			e(count(r.relay.PacketsReceived), "received")
			e(count(r.relay.PacketsSent), "sent")
		}
	}},
	{"heddle_derp_bytes_total", "Bytes of the relay, by direction: received, sent.", []string{"direction"}, func(r *reading, e emit) {
		if r.relay != nil {
			e(count(r.relay.BytesReceived), "received")
			e(count(r.relay.BytesSent), "sent")
		}
	}},
	{"heddle_stun_packets_total", "Packets to the STUN server, by result: answered, ignored (no STUN), failed.", []string{"result"}, func(r *reading, e emit) {
		if r.stun != nil {
			e(count(r.stun.Answered), "answered")
			e(count(r.stun.Ignored), "ignored")
			e(count(r.stun.Failed), "failed")
		}
	}},

	one("heddle_webhook_endpoints", "Webhooks.", func(r *reading) int { return r.webhooks.Endpoints }),
	one("heddle_webhook_endpoints_failing", "Webhooks whose last attempt failed.", func(r *reading) int { return r.webhooks.Failing }),
	one("heddle_webhook_events_total", "Events that webhooks took.", func(r *reading) int64 { return r.webhooks.Delivered }),
	one("heddle_webhook_failures_total", "Attempts to deliver events that failed.", func(r *reading) int64 { return r.webhooks.Failed }),
}

func sent(r *reading, value func(control.Sent) int64) map[string]int64 {
	out := map[string]int64{}
	for kind, s := range r.clients.Sent {
		out[kind] = value(s)
	}
	return out
}

// relayed is a number of the embedded relay.
func relayed(name, help string, value func(*derp.RelayStats) int64) number {
	return number{name, help, nil, func(r *reading, e emit) {
		if r.relay != nil {
			e(count(value(r.relay)))
		}
	}}
}

// reader reads the numbers when Prometheus asks.
type reader struct {
	from  Sources
	descs []*prometheus.Desc // of numbers, in their order
}

func newReader(from Sources) *reader {
	r := &reader{from: from}
	for _, n := range numbers {
		r.descs = append(r.descs, prometheus.NewDesc(n.name, n.help, n.labels, nil))
	}
	return r
}

// Describe implements prometheus.Collector.
func (r *reader) Describe(to chan<- *prometheus.Desc) {
	for _, d := range r.descs {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (r *reader) Collect(to chan<- prometheus.Metric) {
	now := read(r.from)
	for i, n := range numbers {
		kind := prometheus.GaugeValue
		if n.counter() {
			kind = prometheus.CounterValue
		}
		n.read(now, func(value float64, labels ...string) {
			to <- prometheus.MustNewConstMetric(r.descs[i], kind, value, labels...)
		})
	}
}
