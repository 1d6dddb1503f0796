package serve

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
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"heddle/api/hosted"
	"heddle/api/rest"
	"heddle/cmd/heddle/config"
	"heddle/cmd/heddle/serve/certs"
	"heddle/cmd/heddle/serve/zones"
	"heddle/derp"

	"github.com/go-chi/chi/v5"
	"golang.org/x/sync/errgroup"
)

// Bounds on the public HTTP server. What clients keep open for long (map
// streams, relayed connections) has left it by then and has bounds of its own.
const (
	headerTimeout = 10 * time.Second
	bodyTimeout   = 30 * time.Second
	answerTimeout = time.Minute
	idleTimeout   = 2 * time.Minute
	maxHeader     = 32 << 10

	// Those of HTTP/2, which browsers and the remote command line speak.
	maxRequests = 64        // under way on one connection
	maxReceive  = 128 << 10 // bytes that one connection may send before somebody reads them
	pingAfter   = time.Minute
)

// sockets are the listeners, opened before anything runs so that a mistake in
// the config is an error at the start.
type sockets struct {
	public, http, grpc, metrics, unix net.Listener // nil: not wanted
	cert                              certificate  // nil without TLS
	files                             files
}

// certificate is where the public listeners' certificate comes from.
type certificate interface {
	Get(*tls.ClientHelloInfo) (*tls.Certificate, error)
	Health(now time.Time) (fine string, err error)
	Run(context.Context) error
}

func (s *server) openSockets() (err error) {
	defer func() {
		if err != nil {
			s.closeSockets()
		}
	}()
	if err := s.openSources(); err != nil {
		return err
	}
	for _, l := range []struct {
		key, addr string
		to        *net.Listener
	}{
		{"listen_addr", s.cfg.Listen.Addr, &s.sockets.public},
		{"http_listen_addr", s.cfg.Listen.HTTP, &s.sockets.http},
		{"grpc_listen_addr", s.cfg.Listen.GRPC, &s.sockets.grpc},
		{"metrics_listen_addr", s.cfg.Listen.Metrics, &s.sockets.metrics},
	} {
		if l.addr == "" {
			continue
		}
		if *l.to, err = net.Listen("tcp", l.addr); err != nil {
			return listenError(l.key, l.addr, err)
		}
	}
	if s.sockets.unix, err = listenUnix(s.cfg.Listen.Socket, s.cfg.Listen.SocketMode); err != nil {
		return err
	}
	return s.openCertificate()
}

// openCertificate reads the certificate, or prepares to obtain it.
func (s *server) openCertificate() (err error) {
	switch cfg := s.cfg.TLS; {
	case cfg.Automatic():
		if s.sockets.cert, err = s.newACME(); err != nil {
			return fmt.Errorf("tls.acme: %w", err)
		}
	case cfg.On():
		if s.sockets.cert, err = certs.FromFiles(cfg.CertFile, cfg.KeyFile, s.cfg.Fits, s.Log); err != nil {
			return fmt.Errorf("tls.cert_file, tls.key_file: %s", strings.TrimPrefix(err.Error(), "tls: "))
		}
	}
	return nil
}

func (s *server) newACME() (*certs.ACME, error) {
	cfg := s.cfg.TLS.ACME
	o := certs.ACMEOptions{
		Names: []string{s.cfg.ServerURL.Hostname()}, Email: cfg.Email, Dir: s.dataFile("acme"),
		CAFile: cfg.CAFile, CheckEvery: cfg.CheckInterval, Log: s.Log,
	}
	if cfg.Directory != nil {
		o.Directory = cfg.Directory.String()
	}
	relay := s.cfg.DERP.Embedded.Hostname
	if _, err := netip.ParseAddr(relay); s.relay != nil && err != nil && relay != o.Names[0] {
		o.Names = append(o.Names, relay)
	}
	o.Host, _, _ = net.SplitHostPort(s.cfg.Listen.Addr)
	for _, way := range cfg.Challenges {
		switch way {
		case config.HTTP01:
			o.HTTP = portOf(s.sockets.http)
		case config.TLSALPN01:
			o.TLSALPN = portOf(s.sockets.public)
		case config.DNS01:
			provider, err := keeperOf(cfg.DNS)
			if err != nil {
				return nil, fmt.Errorf("dns: %w", err)
			}
			o.DNS = &certs.DNS{Provider: provider, Zone: cfg.DNS.Zone, Record: cfg.DNS.Record}
		}
	}
	return certs.NewACME(o)
}

// keeperOf is where the zone is kept that names are proven in.
func keeperOf(cfg config.ACMEDNS) (certs.Provider, error) {
	switch cfg.Provider {
	case config.Cloudflare:
		return zones.NewCloudflare(cfg.Token.Reveal(), "", nil), nil
	case config.Route53:
		return zones.NewRoute53(context.Background(), zones.Route53Options{AccessKeyID: cfg.AccessKeyID, SecretAccessKey: cfg.SecretAccessKey.Reveal()})
	}
	return &zones.Updates{
		Server: cfg.Server, Zone: cfg.Zone, KeyName: cfg.KeyName, Key: cfg.Key.Reveal(), Algorithm: cfg.Algorithm,
	}, nil
}

func portOf(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

// tlsConfig is that of the public listeners; nil without TLS.
func (s *server) tlsConfig() *tls.Config {
	var further []byte
	if s.relay != nil {
		further = s.relay.MetaCert()
	}
	switch c := s.sockets.cert.(type) {
	case nil:
		return nil
	case *certs.ACME:
		return certs.Config(c.Get, further, certs.Challenge)
	default:
		return certs.Config(c.Get, further)
	}
}

// openSources reads the DERP files.
func (s *server) openSources() (err error) {
	cfg := derp.SourcesConfig{
		Files: s.cfg.DERP.Files, URLs: texts(s.cfg.DERP.URLs), Interval: s.cfg.DERP.UpdateInterval,
		CacheFile: s.dataFile("derpmap.json"), Log: s.Log,
	}
	if s.relay != nil {
		cfg.Embedded = &s.relay.region
	}
	s.sources, err = derp.NewSources(cfg)
	return err
}

func (s *server) closeSockets() {
	for _, l := range []net.Listener{s.sockets.public, s.sockets.http, s.sockets.grpc, s.sockets.metrics, s.sockets.unix} {
		if l != nil {
			l.Close()
		}
	}
	if s.relay != nil {
		if s.relay.pinned != nil {
			s.relay.pinned.Close()
		}
		if s.relay.stun != nil {
			s.relay.stun.Close()
		}
	}
}

// listenError says in the words of the config why nothing can listen at addr.
func listenError(key, addr string, err error) error {
	var call *os.SyscallError
	var op *net.OpError
	switch {
	case errors.As(err, &call):
		err = call.Err
	case errors.As(err, &op):
		err = op.Err
	}
	hint := ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		hint = " by another program: stop that, or choose another port"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		hint = ": choose an address of this machine, or none for all of them"
	case errors.Is(err, fs.ErrPermission):
		hint = ": only root may use the ports below 1024, or who has CAP_NET_BIND_SERVICE"
	}
	return fmt.Errorf("%s: cannot listen at %s: %w%s", key, addr, err, hint)
}

// listenUnix opens the socket of the local command line. The database's lock
// says that no other server uses this data directory, so a socket that is there
// is a dead server's, unless the config points two servers at one.
func listenUnix(path string, mode fs.FileMode) (net.Listener, error) {
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("unix_socket: another server answers at %s", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("unix_socket: %w", err)
	}
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("unix_socket: %s exists and is no socket; choose another path, or remove it", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("unix_socket: %w", err)
	}
	umask := syscall.Umask(0o177) // nobody else gets in before the mode is set
	l, err := net.Listen("unix", path)
	syscall.Umask(umask)
	if err != nil {
		return nil, listenError("unix_socket", path, err)
	}
	if err := os.Chmod(path, mode); err != nil {
		l.Close()
		return nil, fmt.Errorf("unix_socket_mode: %w", err)
	}
	return l, nil
}

// serveSockets serves every listener.
func (s *server) serveSockets(ctx context.Context, g *errgroup.Group) {
	public := chi.NewRouter()
	s.control.Routes(public)
	if s.relay != nil {
		for _, path := range derp.Paths {
			public.Handle(path, s.relay.Handler())
		}
	}
	public.Handle(rest.Prefix, s.rest)
	public.Handle(rest.Prefix+"/*", s.rest)
	public.Handle(hosted.Prefix+"/*", s.api.Hosted())
	conf := s.tlsConfig()
	handler := s.pageHeaders(public)
	if s.sockets.grpc == nil {
		handler = s.api.Handler(handler)
	} else {
		s.serve(ctx, g, listener{s.sockets.grpc, conf, forStrangers}, s.api.Handler(http.NotFoundHandler()))
	}
	s.serve(ctx, g, listener{s.sockets.public, conf, forStrangers}, handler)
	if s.sockets.http != nil {
		s.serve(ctx, g, listener{s.sockets.http, nil, forStrangers}, s.plainHandler(public))
	}
	if s.sockets.metrics != nil {
		s.serve(ctx, g, listener{s.sockets.metrics, nil, forOperators}, s.debugHandler())
	}
	if s.sockets.cert != nil {
		g.Go(func() error { return s.sockets.cert.Run(ctx) })
	}
	local := guarded{s.sockets.unix, newGuard(forOperators, nil, s.Log)}
	g.Go(func() error { return s.api.ServeSocket(ctx, local) })
}

// proxies are the reverse proxies that are trusted at present.
func (s *server) proxies() []netip.Prefix { return s.config().TrustedProxies }

// listener is what one HTTP server serves.
type listener struct {
	net.Listener
	tls    *tls.Config // nil: without TLS
	bounds bounds
}

// serve runs one HTTP server until ctx ends.
func (s *server) serve(ctx context.Context, g *errgroup.Group, l listener, h http.Handler) {
	guard := newGuard(l.bounds, s.proxies, s.Log)
	srv := &http.Server{
		Handler:           guard.behindProxies(h),
		ConnState:         guard.connState,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       bodyTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxRequests,
			MaxReceiveBufferPerConnection: maxReceive,
			MaxReceiveBufferPerStream:     maxReceive,
			SendPingTimeout:               pingAfter,
			PingTimeout:                   headerTimeout,
			WriteByteTimeout:              bodyTimeout,
		},
		ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug), // strangers' broken handshakes
	}
	if l.tls == nil && len(s.cfg.TrustedProxies) > 0 { // the remote command line's HTTP/2 comes without TLS from a proxy
		srv.Protocols = new(http.Protocols)
		srv.Protocols.SetHTTP1(true)
		srv.Protocols.SetUnencryptedHTTP2(true)
	}
	g.Go(func() error {
		if l.tls != nil {
			srv.TLSConfig = l.tls.Clone()
			return stopped(srv.ServeTLS(l.Listener, "", ""))
		}
		return stopped(srv.Serve(l.Listener))
	})
	g.Go(func() error {
		<-ctx.Done()
		// Connections that were taken over are not this server's any more; the
		// others get a moment, then they are cut.
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			srv.Close()
		}
		return nil
	})
}
