package serve

import (
	"crypto/tls"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"heddle/control/tailnet/site"
)

// bounds are on connections that a server still holds: those on which a
// request is awaited or answered. What clients keep open for long has been taken over and
// counts in the bounds of its own part.
type bounds struct {
	open   int // in all
	byAddr int // of one address
}

var (
	// forStrangers holds for each public listener. A company behind one NAT comes back at once after a restart.
	forStrangers = bounds{open: 8192, byAddr: 512}
	// forOperators holds for the private listener and for the unix socket. Who uses them comes from one
	// address, so nobody is refused for the crowd there: the oldest goes. 256 may follow the news (api).
	forOperators = bounds{open: 512, byAddr: math.MaxInt}
)

// guard keeps strangers from holding all connections: one address gets no more than its share,
// and when all are taken the address that holds most of them loses its oldest one, so
// that whoever comes next has a chance, however many addresses a flood comes from.
type guard struct {
	bounds
	proxies func() []netip.Prefix // that are trusted at present; nil: none ever
	log     *slog.Logger

	mu     sync.Mutex
	conns  map[net.Conn]opened
	of     map[netip.Prefix][]net.Conn // oldest first
	warned time.Time
}

type opened struct {
	from netip.Prefix
	at   time.Time
}

func newGuard(b bounds, proxies func() []netip.Prefix, log *slog.Logger) *guard {
	return &guard{bounds: b, proxies: proxies, log: log, conns: map[net.Conn]opened{}, of: map[netip.Prefix][]net.Conn{}}
}

// connState is the http.Server's hook.
func (g *guard) connState(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if out := g.enter(c); out != nil {
			cut(out)
		}
	case http.StateHijacked, http.StateClosed:
		g.leave(c)
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
	from := site.Of(remote)
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.of[from]) >= g.byAddr && !g.trusts(remote) {
		g.warnLocked(from)
		return c
	}
	if len(g.conns) >= g.open {
		g.warnLocked(from)
		out = g.crowdedLocked()[0]
		g.leaveLocked(out)
	}
	g.conns[c] = opened{from, time.Now()}
	g.of[from] = append(g.of[from], c)
	return out
}

// crowdedLocked returns the connections of the address that has most of them; of several
// such that with the oldest one.
func (g *guard) crowdedLocked() (most []net.Conn) {
	for _, conns := range g.of {
		if len(conns) > len(most) || len(conns) == len(most) && g.conns[conns[0]].at.Before(g.conns[most[0]].at) {
			most = conns
		}
	}
	return most
}

// leave counts a connection no more; one that is not counted is none of its business.
func (g *guard) leave(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leaveLocked(c)
}

func (g *guard) leaveLocked(c net.Conn) {
	o, ok := g.conns[c]
	if !ok {
		return
	}
	delete(g.conns, c)
	conns := g.of[o.from]
	i := slices.Index(conns, c)
	if conns = slices.Delete(conns, i, i+1); len(conns) == 0 {
		delete(g.of, o.from)
	} else {
		g.of[o.from] = conns
	}
}

// warnLocked tells now and then that connections are refused or cut.
func (g *guard) warnLocked(from netip.Prefix) {
	if now := time.Now(); now.Sub(g.warned) > time.Minute {
		g.warned = now
		g.log.Warn("too many connections without a request: some are refused or cut", "open", len(g.conns), "remote", from)
	}
}

// guarded has a guard count the connections of a listener whose server tells nobody about them.
type guarded struct {
	net.Listener
	guard *guard
}

// Accept implements net.Listener.
func (l guarded) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	counted := &counted{c, l.guard}
	if out := l.guard.enter(counted); out != nil {
		out.Close()
	}
	return counted, nil
}

// counted is a connection of a guarded listener.
type counted struct {
	net.Conn
	guard *guard
}

// NetConn is what is counted, for those who ask the system about it.
func (c *counted) NetConn() net.Conn { return c.Conn }

// Close implements net.Conn.
func (c *counted) Close() error {
	c.guard.leave(c)
	return c.Conn.Close()
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

func (g *guard) trusts(addr netip.Addr) bool {
	if g.proxies == nil {
		return false
	}
	return slices.ContainsFunc(g.proxies(), func(p netip.Prefix) bool { return p.Contains(addr) })
}

// behindProxies tells the handlers who is behind a trusted reverse proxy:
// RemoteAddr becomes the last address in X-Forwarded-For that is not a
// trusted proxy's, and a request that reached the proxy by TLS counts as such.
// What anybody else says in these headers is ignored.
func (g *guard) behindProxies(next http.Handler) http.Handler {
	if g.proxies == nil {
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
