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

// guard keeps strangers from holding all connections: one address gets no more than its share,
// and when all are taken the address that holds most of them loses its oldest one, so
// that whoever comes next has a chance, however many addresses a flood comes from.
type guard struct {
	proxies []netip.Prefix
	log     *slog.Logger

	mu     sync.Mutex
	open   map[net.Conn]opened
	byAddr map[netip.Addr][]net.Conn // oldest first
	warned time.Time
}

type opened struct {
	from netip.Addr
	at   time.Time
}

func newGuard(proxies []netip.Prefix, log *slog.Logger) *guard {
	return &guard{proxies: proxies, log: log, open: map[net.Conn]opened{}, byAddr: map[netip.Addr][]net.Conn{}}
}

// connState is the http.Server's hook.
func (g *guard) connState(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if out := g.enter(c); out != nil {
			cut(out)
		}
	case http.StateHijacked, http.StateClosed:
		g.mu.Lock()
		defer g.mu.Unlock()
		g.leaveLocked(c)
	}
}

// cut closes a connection without a word: to end TLS in an orderly way can take seconds.
func cut(c net.Conn) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	c.Close()
}

// enter counts a connection and returns the one that must end for it, which may be itself.
func (g *guard) enter(c net.Conn) (out net.Conn) {
	remote := address(c.RemoteAddr().String())
	from := group(remote)
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.byAddr[from]) >= maxOpenByAddr && !g.trusts(remote) {
		g.warnLocked(from)
		return c
	}
	if len(g.open) >= maxOpen {
		g.warnLocked(from)
		out = g.crowdedLocked()[0]
		g.leaveLocked(out)
	}
	g.open[c] = opened{from, time.Now()}
	g.byAddr[from] = append(g.byAddr[from], c)
	return out
}

// crowdedLocked returns the connections of the address that has most of them; of several
// such that with the oldest one.
func (g *guard) crowdedLocked() (most []net.Conn) {
	for _, conns := range g.byAddr {
		if len(conns) > len(most) || len(conns) == len(most) && g.open[conns[0]].at.Before(g.open[most[0]].at) {
			most = conns
		}
	}
	return most
}

func (g *guard) leaveLocked(c net.Conn) {
	o, ok := g.open[c]
	if !ok {
		return
	}
	delete(g.open, c)
	conns := g.byAddr[o.from]
	i := slices.Index(conns, c)
	if conns = slices.Delete(conns, i, i+1); len(conns) == 0 {
		delete(g.byAddr, o.from)
	} else {
		g.byAddr[o.from] = conns
	}
}

// warnLocked tells now and then that connections are refused.
func (g *guard) warnLocked(addr netip.Addr) {
	if now := time.Now(); now.Sub(g.warned) > time.Minute {
		g.warned = now
		g.log.Warn("too many connections without a request: refusing more", "open", len(g.open), "remote", addr)
	}
}

// address is the IP address of an http.Request's RemoteAddr, and of what a proxy writes, with or
// without a port; the invalid one if there is none.
func address(text string) netip.Addr {
	if ap, err := netip.ParseAddrPort(text); err == nil {
		return ap.Addr().Unmap().WithZone("")
	}
	addr, _ := netip.ParseAddr(text)
	return addr.Unmap().WithZone("")
}

// group is what counts as one address: for IPv6 the /64 that one customer has.
func group(addr netip.Addr) netip.Addr {
	if addr.Is6() {
		p, _ := addr.Prefix(64)
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
		if g.trusts(address(r.RemoteAddr)) {
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
		if addr := address(strings.TrimSpace(hop)); !g.trusts(addr) {
			return addr
		}
	}
	return netip.Addr{}
}
