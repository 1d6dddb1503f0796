package serve

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

var quiet = slog.New(slog.DiscardHandler)

func TestForwardedHeadersCountOnlyFromTrustedProxies(t *testing.T) {
	g := newGuard(forStrangers, trusting("10.0.0.0/8", "127.0.0.1/32"), quiet)
	for _, c := range []struct {
		remote, forwarded, proto string
		want                     string
		tls                      bool
	}{
		{remote: "198.51.100.9:4000", forwarded: "1.2.3.4", proto: "https", want: "198.51.100.9:4000"},
		{remote: "127.0.0.1:4000", want: "127.0.0.1:4000"},
		{remote: "127.0.0.1:4000", forwarded: "garbage", want: "127.0.0.1:4000"},
		{remote: "127.0.0.1:4000", forwarded: "1.2.3.4", proto: "https", want: "1.2.3.4:0", tls: true},
		{remote: "127.0.0.1:4000", forwarded: "6.6.6.6, 1.2.3.4, 10.1.1.1", proto: "http", want: "1.2.3.4:0"}, // the first was claimed by the client
		{remote: "[::ffff:10.0.0.1]:4000", forwarded: "2001:db8::7", want: "[2001:db8::7]:0"},
		{remote: "127.0.0.1:4000", forwarded: "1.2.3.4:5678", want: "1.2.3.4:0"}, // as some clouds write it
		{remote: "127.0.0.1:4000", forwarded: "[2001:db8::7]:5678", want: "[2001:db8::7]:0"},
		{remote: "127.0.0.1:4000", forwarded: "1.2.3.4, unknown", want: "127.0.0.1:4000"},
		{remote: "10.0.0.1:4000", forwarded: "10.0.0.2", want: "10.0.0.1:4000"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr, r.TLS = c.remote, nil
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		r.Header.Set("X-Forwarded-Proto", c.proto)
		g.behindProxies(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.RemoteAddr != c.want || (r.TLS != nil) != c.tls {
				t.Errorf("%+v: remote %s, TLS %v", c, r.RemoteAddr, r.TLS != nil)
			}
		})).ServeHTTP(httptest.NewRecorder(), r)
	}
}

func TestOneAddressCannotHoldAllConnections(t *testing.T) {
	g := newGuard(forStrangers, nil, quiet)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }))
	srv.Config.ConnState = g.connState
	srv.Start()
	defer srv.Close()
	addr := strings.TrimPrefix(srv.URL, "http://")
	var idle []net.Conn
	defer func() {
		for _, c := range idle {
			c.Close()
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, c)
		return c
	}
	ask := func(c net.Conn) error {
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err
		}
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil {
			res.Body.Close()
		}
		return err
	}
	first := dial()
	if err := ask(first); err != nil {
		t.Fatal(err)
	}
	for range forStrangers.byAddr - 1 {
		dial()
	}
	if ask(dial()) == nil {
		t.Error("one connection too many was served")
	}
	if err := ask(first); err != nil {
		t.Errorf("an earlier connection was cut: %v", err)
	}
}

// TestFloodFromManyAddresses fills all connections from as many addresses as there are connections:
// whoever comes next is let in, and the oldest goes. One address that has more than the others
// pays first.
func TestFloodFromManyAddresses(t *testing.T) {
	g := newGuard(forStrangers, trusting("2001:db8:ffff::1/128"), quiet)
	var conns []*pretended
	come := func(from string) *pretended {
		c := &pretended{from: from}
		conns = append(conns, c)
		g.connState(c, http.StateNew)
		return c
	}
	for i := range forStrangers.open - 2 {
		come(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 1).String())
	}
	greedy := come("[2001:db8:1:2::1]:1")
	come("[2001:db8:1:2::2]:1") // the same customer
	client := come("198.51.100.1:1")
	if !greedy.closed || client.closed {
		t.Error("the address with most connections does not make room")
	}
	come("198.51.100.2:1")
	if !conns[0].closed || client.closed {
		t.Error("the oldest connection does not make room")
	}
	g.connState(client, http.StateHijacked)
	g.connState(client, http.StateClosed)
	if open := len(g.conns); open != forStrangers.open-1 {
		t.Errorf("%d connections are counted", open)
	}
	for range forStrangers.byAddr {
		come("[2001:db8:ffff::1]:1")
	}
	if come("[2001:db8:ffff::1]:1").closed {
		t.Error("a trusted proxy is held to the share of one address")
	}
	n := 0
	for _, c := range conns {
		if !c.closed {
			n++
		}
	}
	if n-1 != forStrangers.open || len(g.conns) != forStrangers.open { // one has left
		t.Errorf("%d connections are open and %d counted, want %d", n-1, len(g.conns), forStrangers.open)
	}
	for _, c := range conns {
		g.connState(c, http.StateClosed)
	}
	if len(g.conns)+len(g.of) > 0 {
		t.Errorf("%d connections of %d addresses are counted although all are closed", len(g.conns), len(g.of))
	}
}

// pretended is a connection from anywhere.
type pretended struct {
	net.Conn
	from   string
	closed bool
}

func (p *pretended) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(p.from))
}
func (p *pretended) Close() error { p.closed = true; return nil }

func trusting(prefixes ...string) func() []netip.Prefix {
	var all []netip.Prefix
	for _, p := range prefixes {
		all = append(all, netip.MustParsePrefix(p))
	}
	return func() []netip.Prefix { return all }
}
