package derp

import (
	"context"
	"errors"
	"expvar"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"tailscale.com/derp/derpserver"
	"tailscale.com/metrics"
	"tailscale.com/types/key"
)

const (
	// admitTimeout bounds one call of Admit. derpserver gives a client 10 s for
	// the whole handshake.
	admitTimeout = 5 * time.Second

	// recheckInterval is how often Run asks Admit again about everybody who is
	// connected. Keys that expire do so by the clock, without an event that
	// could call Evict.
	recheckInterval = 3 * time.Second

	// stopTimeout bounds the end of Run. A connection whose peer does not read
	// takes up to 2 s for a write of derpserver and 5 s for TLS to close.
	stopTimeout = 8 * time.Second
)

// RelayConfig configures a Relay.
type RelayConfig struct {
	// Key is the relay's own identity. The caller keeps it: clients notice a
	// change, and reconnect.
	Key key.NodePrivate

	// Admit reports whether the owner of node, which connects from src, may use
	// the relay. It must be quick, safe for concurrent calls, and answer false
	// when in doubt. It is called for each new connection before the client is
	// told anything but the relay's public key, and again every few seconds.
	// src is the zero Addr if it is unknown. Required.
	Admit func(ctx context.Context, node key.NodePublic, src netip.Addr) bool

	// Hosts are the names that /bootstrap-dns answers for, and nothing else:
	// those of the control server and of the relay. A name without addresses is
	// looked up by Run, now and then; requests never cause a look-up.
	Hosts map[string][]netip.Addr

	// Lookup resolves a name of Hosts; nil means the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)

	// Log gets what an admin should know; nil discards.
	Log *slog.Logger
}

// Relay is an embedded DERP relay. It opens no listener: requests come in
// through Handler. Only clients that Admit accepts can connect; those that it
// accepts no longer are cut off. There is no mesh key, so nobody can ask the
// relay who is connected.
type Relay struct {
	admit  func(context.Context, key.NodePublic, netip.Addr) bool
	log    *slog.Logger
	server *derpserver.Server
	vars   *metrics.Set
	conns  *connTable
	boot   *bootstrap

	refused    atomic.Int64
	evicted    atomic.Int64
	overloaded atomic.Int64
}

// NewRelay returns a relay that serves until its Run ends.
func NewRelay(cfg RelayConfig) (*Relay, error) {
	if cfg.Key.IsZero() {
		return nil, errors.New("derp: the relay has no key")
	}
	if cfg.Admit == nil {
		return nil, errors.New("derp: the relay has no Admit function")
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	server := derpserver.New(cfg.Key, func(format string, args ...any) {
		log.Debug("derp server says", "text", fmt.Sprintf(format, args...))
	})
	vars, ok := server.ExpVar(false).(*metrics.Set)
	if !ok {
		return nil, errors.New("derp: derpserver's counters are of an unknown type")
	}
	boot, err := newBootstrap(cfg.Hosts, cfg.Lookup, log)
	if err != nil {
		return nil, err
	}
	return &Relay{
		admit:  cfg.Admit,
		log:    log,
		server: server,
		vars:   vars,
		conns:  newConnTable(),
		boot:   boot,
	}, nil
}

// PublicKey is the relay's public key.
func (r *Relay) PublicKey() key.NodePublic { return r.server.PublicKey() }

// MetaCert is a DER certificate that carries the relay's public key. A TLS
// server that sends it after its own chain saves DERP clients one round trip.
func (r *Relay) MetaCert() []byte { return r.server.MetaCert() }

// Run rechecks connected clients and refreshes the bootstrap addresses until ctx
// is done, then cuts all connections, refuses new ones, and waits for them a few
// seconds at most. It returns an error only if some were still open then.
func (r *Relay) Run(ctx context.Context) error {
	lookups := make(chan struct{})
	go func() {
		defer close(lookups)
		r.boot.run(ctx)
	}()
	defer func() { <-lookups }()
	tick := time.NewTicker(recheckInterval)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			r.Recheck(ctx)
		}
	}
	idle := r.conns.close()
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	select {
	case <-idle:
	case <-timeout.C:
		return fmt.Errorf("derp: %d relay connections did not close within %v", r.conns.len(), stopTimeout)
	}
	return nil
}

// Evict cuts the connections of the given keys and returns how many there were.
// It does not block on the network. Call it after Admit began to refuse the
// keys, or else the clients are back at once.
func (r *Relay) Evict(keys ...key.NodePublic) int {
	return r.cut(r.conns.of(keys))
}

// Recheck asks Admit about every connected client and cuts those that it no
// longer accepts. It returns how many connections it cut.
func (r *Relay) Recheck(ctx context.Context) int {
	var gone []*conn
	for _, c := range r.conns.claimed() {
		admitted := r.ask(ctx, c.key, c.src)
		if ctx.Err() != nil {
			break // a cancelled Admit says nothing about the client
		}
		if !admitted {
			gone = append(gone, c)
		}
	}
	return r.cut(gone)
}

func (r *Relay) cut(conns []*conn) int {
	n := 0
	for _, c := range conns {
		if c.cut() {
			n++
		}
	}
	if n > 0 {
		r.evicted.Add(int64(n))
		r.log.Info("cut relay connections", "connections", n)
	}
	return n
}

func (r *Relay) ask(ctx context.Context, k key.NodePublic, src netip.Addr) bool {
	ctx, cancel := context.WithTimeout(ctx, admitTimeout)
	defer cancel()
	return r.admit(ctx, k, src)
}

// RelayStats are the relay's counters since it was made; Connections is the
// present number.
type RelayStats struct {
	Connections     int64 // open and past the handshake
	Accepted        int64 // connections that began the handshake
	Refused         int64 // handshakes that ended because of Admit
	Evicted         int64 // connections cut by Evict or Recheck
	Overloaded      int64 // requests refused since too many handshakes were under way
	PacketsReceived int64
	PacketsSent     int64
	BytesReceived   int64
	BytesSent       int64
}

// Stats returns the counters.
func (r *Relay) Stats() RelayStats {
	return RelayStats{
		Connections:     r.counter("gauge_current_connections"),
		Accepted:        r.counter("accepts"),
		Refused:         r.refused.Load(),
		Evicted:         r.evicted.Load(),
		Overloaded:      r.overloaded.Load(),
		PacketsReceived: r.counter("packets_received"),
		PacketsSent:     r.counter("packets_sent"),
		BytesReceived:   r.counter("bytes_received"),
		BytesSent:       r.counter("bytes_sent"),
	}
}

func (r *Relay) counter(name string) int64 {
	if v, ok := r.vars.Get(name).(*expvar.Int); ok {
		return v.Value()
	}
	return 0
}

// ExpVar returns all counters of the DERP server underneath.
func (r *Relay) ExpVar() expvar.Var { return r.vars }
