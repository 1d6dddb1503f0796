package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"

	"heddle/cmd/heddle/config"
	"heddle/derp"

	"golang.org/x/sync/errgroup"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

type derpMap = tailcfg.DERPMap

// relay is the embedded relay with its STUN server and, where the public
// listener has no TLS, a listener of its own.
type relay struct {
	*derp.Relay
	region derp.Region
	pinned *derp.Pinned // nil if the relay is on the public listener
	stun   *derp.STUN   // nil if it is turned off
}

// newRelay makes the relay and opens its own sockets.
func (s *server) newRelay() (*relay, error) {
	cfg := s.cfg.DERP.Embedded
	identity, err := relayKey(s.dataFile("derp.key"))
	if err != nil {
		return nil, err
	}
	_, plain, _ := net.SplitHostPort(s.cfg.Listen.HTTP)
	region := derp.Region{
		ID: cfg.RegionID, Code: cfg.RegionCode, Name: cfg.RegionName,
		HostName: cfg.Hostname, IPv4: cfg.IPv4, IPv6: cfg.IPv6, DERPPort: cfg.Port, STUNPort: -1,
		CanPort80: plain == "80",
	}
	if ip, err := netip.ParseAddr(cfg.Hostname); err == nil {
		// Clients take a literal address for a name unless they are told.
		if ip.Is4() && !region.IPv4.IsValid() {
			region.IPv4, region.NoIPv6 = ip, !region.IPv6.IsValid()
		}
		if ip.Is6() && !region.IPv6.IsValid() {
			region.IPv6, region.NoIPv4 = ip, !region.IPv4.IsValid()
		}
	}
	hosts := map[string][]netip.Addr{cfg.Hostname: nil, s.cfg.ServerURL.Hostname(): nil}
	for _, ip := range []netip.Addr{region.IPv4, region.IPv6} {
		if ip.IsValid() {
			hosts[cfg.Hostname] = append(hosts[cfg.Hostname], ip)
		}
	}
	r := &relay{region: region}
	r.Relay, err = derp.NewRelay(derp.RelayConfig{
		Key:   identity,
		Admit: func(_ context.Context, node key.NodePublic, _ netip.Addr) bool { return s.control.Admit(node) },
		Hosts: hosts,
		Log:   s.Log,
	})
	if err != nil {
		return nil, err
	}
	if !s.cfg.TLS.On() && s.cfg.ServerURL.Scheme == "http" {
		if err := r.openPinned(s); err != nil {
			return nil, err
		}
	}
	if cfg.STUNListenAddr != "" {
		if r.stun, err = derp.ListenSTUN(cfg.STUNListenAddr, s.Log); err != nil {
			return nil, listenError("derp.embedded.stun_listen_addr", cfg.STUNListenAddr+" (UDP)", err)
		}
		r.region.STUNPort = int(r.stun.Addr().Port())
	}
	return r, nil
}

// openPinned gives the relay a listener of its own on the host of the public
// one: clients reach relays by TLS only.
func (r *relay) openPinned(s *server) error {
	host, _, err := net.SplitHostPort(s.cfg.Listen.Addr)
	if err != nil {
		return fmt.Errorf("listen_addr: %w", err)
	}
	names := []string{r.region.HostName}
	for _, ip := range []netip.Addr{r.region.IPv4, r.region.IPv6} {
		if ip.IsValid() {
			names = append(names, ip.String())
		}
	}
	addr := net.JoinHostPort(host, strconv.Itoa(r.region.DERPPort))
	r.pinned, err = derp.ListenPinned(derp.PinnedConfig{
		Addr:      addr,
		Hosts:     names,
		File:      s.dataFile("derp.pem"),
		Handler:   r.Handler(),
		MetaCert:  r.MetaCert(),
		ConnState: newGuard(forStrangers, nil, s.Log).connState,
		Log:       s.Log,
	})
	if err != nil {
		return listenError("derp.embedded.derp_port", addr, err)
	}
	r.region.DERPPort = int(r.pinned.Addr().Port())
	r.region.CertName = r.pinned.Pin()
	return nil
}

// prepareSources reads the files of relays, and fetches the URLs that are new.
func (s *server) prepareSources(ctx context.Context, cfg *config.Config) (c change, err error) {
	c.take, err = s.sources.Plan(ctx, cfg.DERP.Files, texts(cfg.DERP.URLs), cfg.DERP.UpdateInterval)
	var far *derp.URLError
	if errors.As(err, &far) {
		c.blame = "derp.urls"
	}
	return c, err
}

func texts(urls []*url.URL) (out []string) {
	for _, u := range urls {
		out = append(out, u.String())
	}
	return out
}

// start runs the relay's parts.
func (r *relay) start(ctx context.Context, g *errgroup.Group, sources *derp.Sources) {
	g.Go(func() error { return r.Run(ctx) })
	if r.stun != nil {
		g.Go(func() error { return r.stun.Run(ctx) })
	}
	if r.pinned != nil {
		g.Go(func() error {
			return r.pinned.Run(ctx, func(pin string) {
				region := r.region
				region.CertName = pin
				sources.SetEmbedded(&region) // the region was valid with the old pin
			})
		})
	}
}
