package derp

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// maxHosts bounds the answer without a question, which holds all names.
	maxHosts = 32
	// maxAddrs bounds what one look-up adds to the answers.
	maxAddrs = 16

	lookupTimeout = 30 * time.Second
	lookupEvery   = 10 * time.Minute
	lookupRetry   = time.Minute
)

// bootstrap answers clients whose own DNS is broken with the addresses of the
// names that it was told. It is no resolver: a request reads a map.
type bootstrap struct {
	fixed  map[string][]netip.Addr // names with literal addresses
	names  []string                // names to look up
	lookup func(context.Context, string) ([]netip.Addr, error)
	log    *slog.Logger
	known  atomic.Pointer[map[string][]netip.Addr] // read-only once stored
}

func newBootstrap(hosts map[string][]netip.Addr, lookup func(context.Context, string) ([]netip.Addr, error), log *slog.Logger) (*bootstrap, error) {
	if len(hosts) > maxHosts {
		return nil, fmt.Errorf("derp: %d names for /bootstrap-dns; %d is the most", len(hosts), maxHosts)
	}
	if lookup == nil {
		lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	b := &bootstrap{fixed: map[string][]netip.Addr{}, lookup: lookup, log: log}
	for host, addrs := range hosts {
		host = canonicalHost(host)
		if len(addrs) == 0 {
			b.names = append(b.names, host)
			continue
		}
		b.fixed[host] = addrs
	}
	known := maps.Clone(b.fixed)
	b.known.Store(&known)
	return b, nil
}

func canonicalHost(host string) string {
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// run looks the names up until ctx is done. A failed look-up keeps the addresses
// that were known.
func (b *bootstrap) run(ctx context.Context) {
	if len(b.names) == 0 {
		return
	}
	for ctx.Err() == nil {
		wait := lookupEvery
		if !b.refresh(ctx) {
			wait = lookupRetry
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (b *bootstrap) refresh(ctx context.Context) (ok bool) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	known := maps.Clone(*b.known.Load())
	ok = true
	for _, name := range b.names {
		addrs, err := b.lookup(ctx, name)
		if err != nil || len(addrs) == 0 {
			ok = false
			b.log.Debug("bootstrap name not resolved", "name", name, "err", err)
			continue
		}
		plain := make([]netip.Addr, 0, maxAddrs)
		for _, a := range addrs[:min(len(addrs), maxAddrs)] {
			plain = append(plain, a.Unmap())
		}
		known[name] = plain
	}
	b.known.Store(&known)
	return ok
}

// serve answers /bootstrap-dns?q=NAME with a JSON object of names and their
// addresses; it is empty if NAME is not one of ours. Without q it holds all.
func (b *bootstrap) serve(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "Only GET and HEAD work here.", http.StatusMethodNotAllowed)
		return
	}
	answer := *b.known.Load()
	if q := req.URL.Query().Get("q"); q != "" {
		addrs, ok := answer[canonicalHost(q)]
		answer = map[string][]netip.Addr{}
		if ok {
			answer[q] = addrs // under the name as asked: that is where clients look
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Connection", "close") // a client asks once
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		b.log.Debug("bootstrap answer not sent", "err", err)
	}
}
