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

func TestForwardedHeadersCountOnlyFromTrustedProxies(t *testing.T) {
	g := newGuard([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("127.0.0.1/32")}, slog.New(slog.DiscardHandler))
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
	g := newGuard(nil, slog.New(slog.DiscardHandler))
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
	for range maxOpenByAddr - 1 {
		dial()
	}
	if ask(dial()) == nil {
		t.Error("one connection too many was served")
	}
	if err := ask(first); err != nil {
		t.Errorf("an earlier connection was cut: %v", err)
	}
}
