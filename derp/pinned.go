package derp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// PinnedConfig configures a Pinned listener.
type PinnedConfig struct {
	// Addr is the TCP address to listen on, such as 127.0.0.1:0.
	Addr string

	// Hosts are the names and IP addresses that clients know the listener by:
	// the HostName, IPv4 and IPv6 of its node in the DERP map.
	Hosts []string

	// File holds the certificate and its key in PEM (mode 0600); it is made if
	// it is missing, and replaced if it is damaged, about to expire, or lacks a
	// host. Its directory must exist.
	File string

	// Handler serves the requests, normally Relay.Handler.
	Handler http.Handler

	// MetaCert is that of the Relay, or nil.
	MetaCert []byte

	// ConnState hears of connections like that of an http.Server, to bound those of
	// strangers; it may close them. Required.
	ConnState func(net.Conn, http.ConnState)

	Now func() time.Time // nil means time.Now
	Log *slog.Logger     // nil discards
}

// Pinned is a TLS listener of the relay's own, with a certificate that it makes
// itself. Clients always reach a relay by TLS, but a server on plain HTTP has no
// certificate; they accept this one because the DERP map pins its hash.
type Pinned struct {
	cfg   PinnedConfig
	log   *slog.Logger
	ln    net.Listener
	hosts []string
	cert  atomic.Pointer[certificate]
}

const renewCheckEvery = 12 * time.Hour

// ListenPinned loads or makes the certificate and opens the listener.
func ListenPinned(cfg PinnedConfig) (*Pinned, error) {
	if cfg.Handler == nil || cfg.ConnState == nil {
		return nil, errors.New("derp: the pinned listener has no handler, or nothing that bounds connections")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	p := &Pinned{cfg: cfg, log: cfg.Log, hosts: slices.Clone(cfg.Hosts)}
	if _, err := p.renew(); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("derp: pinned listener: %w", err)
	}
	p.ln = ln
	return p, nil
}

// Addr is the address of the listener; its port is the node's DERPPort.
func (p *Pinned) Addr() netip.AddrPort {
	return p.ln.Addr().(*net.TCPAddr).AddrPort()
}

// Pin is the CertName of the listener's node in the DERP map.
func (p *Pinned) Pin() string { return p.cert.Load().pin() }

// Close closes the listener, for callers that do not get as far as Run.
func (p *Pinned) Close() error { return p.ln.Close() }

// Run serves until ctx is done, then closes the listener. Connections that
// became DERP connections belong to the Relay. When the certificate is renewed,
// Run calls renewed with the new Pin, so that the DERP map can follow; clients
// that have the old map cannot connect until they get the new one. renewed may
// be nil.
func (p *Pinned) Run(ctx context.Context, renewed func(pin string)) error {
	server := &http.Server{
		Handler:           p.cfg.Handler,
		ConnState:         p.cfg.ConnState,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       10 * time.Second, // of requests that are no DERP: those may bring a body that nobody wants
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
	// Without NextProtos there is no HTTP/2, in which DERP cannot take over the
	// connection.
	ln := tls.NewListener(p.ln, &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: p.getCertificate,
	})
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	check := time.NewTicker(renewCheckEvery)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			err := server.Close()
			<-served
			return err
		case err := <-served:
			return fmt.Errorf("derp: pinned listener: %w", err)
		case <-check.C:
			changed, err := p.renew()
			if err != nil {
				p.log.Error("relay certificate not renewed", "err", err)
			} else if changed && renewed != nil {
				renewed(p.Pin())
			}
		}
	}
}

// renew loads or replaces the certificate. It reports whether it changed.
func (p *Pinned) renew() (changed bool, err error) {
	now := p.cfg.Now()
	if c := p.cert.Load(); c != nil && c.usable(p.hosts, now) == nil {
		return false, nil
	}
	c, err := loadCertificate(p.cfg.File)
	if err == nil {
		err = c.usable(p.hosts, now)
	}
	if err != nil {
		reason := err.Error()
		if errors.Is(err, fs.ErrNotExist) {
			reason = "there is none yet"
		}
		p.log.Info("making a relay certificate", "file", p.cfg.File, "reason", reason)
		if c, err = newCertificate(p.hosts, now); err != nil {
			return false, err
		}
		if err := c.save(p.cfg.File); err != nil {
			return false, err
		}
	}
	p.cert.Store(c)
	return true, nil
}

func (p *Pinned) getCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c := p.cert.Load().tls // a copy
	if p.cfg.MetaCert != nil {
		// The only further certificate that a pinning client tolerates
		// (tlsdial.SetConfigExpectedCertHash).
		c.Certificate = append(slices.Clip(c.Certificate), p.cfg.MetaCert)
	}
	return &c, nil
}
