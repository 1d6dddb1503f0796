package serve

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Bounds on connections that the HTTP server still holds: those on which a
// request is awaited or answered. What clients keep open for long has been taken over and
// counts in the bounds of its own part.
const (
	maxOpen       = 8192 // in all
	maxOpenByAddr = 512  // of one address: a company behind one NAT comes back at once after a restart
)

// guard keeps strangers from holding all connections.
type guard struct {
	proxies []netip.Prefix
	log     *slog.Logger

	mu     sync.Mutex
	open   map[net.Conn]netip.Addr
	byAddr map[netip.Addr]int
	warned time.Time
}

func newGuard(proxies []netip.Prefix, log *slog.Logger) *guard {
	return &guard{proxies: proxies, log: log, open: map[net.Conn]netip.Addr{}, byAddr: map[netip.Addr]int{}}
}

// connState is the http.Server's hook.
func (g *guard) connState(c net.Conn, state http.ConnState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch state {
	case http.StateNew:
		addr := group(c.RemoteAddr().String())
		if len(g.open) >= maxOpen || g.byAddr[addr] >= maxOpenByAddr && !g.trusts(addr) {
			c.Close()
			g.warnLocked(addr)
			return
		}
		g.open[c] = addr
		g.byAddr[addr]++
	case http.StateHijacked, http.StateClosed:
		addr, ok := g.open[c]
		if !ok {
			return
		}
		delete(g.open, c)
		if g.byAddr[addr]--; g.byAddr[addr] == 0 {
			delete(g.byAddr, addr)
		}
	}
}

// warnLocked tells now and then that connections are refused.
func (g *guard) warnLocked(addr netip.Addr) {
	if now := time.Now(); now.Sub(g.warned) > time.Minute {
		g.warned = now
		g.log.Warn("too many connections without a request: refusing more", "open", len(g.open), "remote", addr)
	}
}

// group is what counts as one address: for IPv6 the /64 that one customer has.
func group(remote string) netip.Addr {
	ap, _ := netip.ParseAddrPort(remote)
	addr := ap.Addr().Unmap()
	if addr.Is6() {
		p, _ := addr.WithZone("").Prefix(64)
		return p.Addr()
	}
	return addr
}

func (g *guard) trusts(addr netip.Addr) bool {
	return slices.ContainsFunc(g.proxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// behindProxies tells the handlers who is behind a trusted reverse proxy:
// RemoteAddr becomes the last address in X-Forwarded-For that is not a
// trusted proxy's, and a request that reached the proxy by TLS counts as such.
// What anybody else says in these headers is ignored.
func (g *guard) behindProxies(next http.Handler) http.Handler {
	if len(g.proxies) == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ap, err := netip.ParseAddrPort(r.RemoteAddr)
		if err == nil && g.trusts(ap.Addr().Unmap()) {
			r = r.Clone(r.Context())
			if client := g.client(r.Header.Values("X-Forwarded-For")); client.IsValid() {
				r.RemoteAddr = netip.AddrPortFrom(client, 0).String()
			}
			if r.TLS == nil && strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") {
				r.TLS = &tls.ConnectionState{HandshakeComplete: true}
			}
		}
		next.ServeHTTP(w, r)
	})
}

// client returns the nearest address that no trusted proxy has; zero if there
// is none, or if a trusted proxy wrote what is not an address.
func (g *guard) client(headers []string) netip.Addr {
	hops := strings.Split(strings.Join(headers, ","), ",")
	for _, hop := range slices.Backward(hops) {
		addr, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			return netip.Addr{}
		}
		if addr = addr.Unmap(); !g.trusts(addr) {
			return addr
		}
	}
	return netip.Addr{}
}
