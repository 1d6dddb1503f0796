//go:build linux

package stock_test

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"heddle/integration/lab"
	"heddle/integration/stock"

	"tailscale.com/derp/derpserver"
	"tailscale.com/net/stunserver"
	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// TestClients proves the lab and the stock clients against Tailscale's own test server, so that
// what fails in the scenarios of package integration is not their fault.
func TestClients(t *testing.T) {
	l := lab.New(t)
	inet := l.Internet()
	server := inet.Host("server", 2)
	anna := inet.Site("anna", 11).Host("anna", 2)
	ben := inet.Site("ben", 12).Host("ben", 2)
	closed := inet.Site("cleo", 13)
	closed.Router.BlockUDP()
	cleo := closed.Host("cleo", 2)
	startTestControl(t, l, server)

	programs, err := stock.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var clients []*stock.Client
	for _, h := range []*lab.Host{anna, ben, cleo} {
		h.SetName("control.test", netip.MustParseAddr("198.51.100.2"))
		c := stock.New(h, programs, "https://control.test", l.CAFile())
		c.Start(t)
		c.Up(t, "")
		clients = append(clients, c)
	}
	a, b, c := clients[0], clients[1], clients[2]
	a.AwaitOnline(t, 10*time.Second, b, c)
	a.AwaitDirect(t, 20*time.Second, b.IPv4(t))
	a.AwaitRelayed(t, 20*time.Second, c.IPv4(t))
	for _, to := range []netip.Addr{b.IPv4(t), b.IPv6(t), c.IPv4(t)} {
		a.MustRun(t, "ping", "-c3", "-i0.2", "-W2", to.String())
	}
	a.Kill()
	a.Start(t)
	a.AwaitState(t, 10*time.Second, "Running")
	a.MustCLI(t, "logout")
	a.AwaitState(t, 10*time.Second, "NeedsLogin")
}

// startTestControl runs Tailscale's test server with a relay and STUN on a host.
func startTestControl(t *testing.T, l *lab.Lab, h *lab.Host) {
	t.Helper()
	relay := derpserver.New(key.NewNode(), logger.Discard)
	t.Cleanup(func() { relay.Close() })
	control := &testcontrol.Server{
		Logf:             logger.Discard,
		ExplicitBaseURL:  "https://control.test",
		AllOnline:        true,
		AllNodesSameUser: true,
		MagicDNSDomain:   "mesh.test",
		DNSConfig:        &tailcfg.DNSConfig{Proxied: true},
		DERPMap: &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{900: {
			RegionID: 900, RegionCode: "lab",
			Nodes: []*tailcfg.DERPNode{{
				Name: "900a", RegionID: 900, HostName: "control.test",
				IPv4: "198.51.100.2", IPv6: "2001:db8:1::2",
			}},
		}}},
	}
	mux := http.NewServeMux()
	mux.Handle("/", control)
	mux.Handle("/derp", derpserver.Handler(relay))
	mux.HandleFunc("/derp/probe", derpserver.ProbeHandler)
	mux.HandleFunc("/derp/latency-check", derpserver.ProbeHandler)

	certFile, keyFile := l.Certificate("control.test", netip.MustParseAddr("198.51.100.2"))
	ln, err := h.Listen("[::]:443")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: mux, ErrorLog: logger.StdLogger(logger.Discard)}
	stun := stunserver.New(t.Context())
	if err := h.Enter(func() error { return stun.Listen("[::]:3478") }); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 2)
	go func() { done <- srv.ServeTLS(ln, certFile, keyFile) }()
	go func() { done <- stun.Serve() }()
	t.Cleanup(func() {
		srv.Close()
		for range cap(done) {
			if err := <-done; err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				t.Errorf("test server: %v", err)
			}
		}
	})
}
