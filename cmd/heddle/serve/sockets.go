package serve

import (
	"context"
	"encoding/json"
	"errors"
	"expvar"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

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
)

// sockets are the listeners, opened before anything runs so that a mistake in
// the config is an error at the start.
type sockets struct {
	public, grpc, metrics, unix net.Listener // nil: not wanted
	cert                        *certificate // nil without TLS
	files                       files
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
	if tls := s.cfg.TLS; tls.On() {
		var extra []byte
		if s.relay != nil {
			extra = s.relay.MetaCert()
		}
		if s.sockets.cert, err = loadCertificate(tls.CertFile, tls.KeyFile, extra); err != nil {
			return fmt.Errorf("tls.cert_file, tls.key_file: %s", strings.TrimPrefix(err.Error(), "tls: "))
		}
	}
	for _, l := range []struct {
		key, addr string
		to        *net.Listener
	}{
		{"listen_addr", s.cfg.Listen.Addr, &s.sockets.public},
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
	s.sockets.unix, err = listenUnix(s.cfg.Listen.Socket, s.cfg.Listen.SocketMode)
	return err
}

// openSources reads the DERP files.
func (s *server) openSources() (err error) {
	cfg := derp.SourcesConfig{
		Files: s.cfg.DERP.Files, Interval: s.cfg.DERP.UpdateInterval,
		CacheFile: s.dataFile("derpmap.json"), Log: s.Log,
	}
	for _, u := range s.cfg.DERP.URLs {
		cfg.URLs = append(cfg.URLs, u.String())
	}
	if s.relay != nil {
		cfg.Embedded = &s.relay.region
	}
	s.sources, err = derp.NewSources(cfg)
	return err
}

func (s *server) closeSockets() {
	for _, l := range []net.Listener{s.sockets.public, s.sockets.grpc, s.sockets.metrics, s.sockets.unix} {
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
	var handler http.Handler = public
	if s.sockets.grpc == nil {
		handler = s.api.Handler(public)
	} else {
		s.serve(ctx, g, s.sockets.grpc, s.api.Handler(http.NotFoundHandler()))
	}
	s.serve(ctx, g, s.sockets.public, handler)
	if s.sockets.metrics != nil {
		s.serve(ctx, g, s.sockets.metrics, s.debugHandler())
	}
	if s.sockets.cert != nil {
		g.Go(func() error { return s.sockets.cert.run(ctx, s.Log) })
	}
	g.Go(func() error { return s.api.ServeSocket(ctx, s.sockets.unix) })
}

// serve runs one HTTP server until ctx ends. The public ones speak TLS if there
// is a certificate; the private one never does.
func (s *server) serve(ctx context.Context, g *errgroup.Group, l net.Listener, h http.Handler) {
	guard := newGuard(s.cfg.TrustedProxies, s.Log)
	srv := &http.Server{
		Handler:           guard.behindProxies(h),
		ConnState:         guard.connState,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       bodyTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug), // strangers' broken handshakes
	}
	g.Go(func() error {
		if s.sockets.cert != nil && l != s.sockets.metrics {
			srv.TLSConfig = s.sockets.cert.config()
			return stopped(srv.ServeTLS(l, "", ""))
		}
		return stopped(srv.Serve(l))
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

const debugIndex = `heddle's private listener. It has no authentication: keep it private.

/debug/vars     memory, clients, relay and caches in numbers, as JSON (expvar)
/debug/pprof/   profiles, for go tool pprof
`

// debugHandler serves what only operators may see.
func (s *server) debugHandler() http.Handler {
	r := chi.NewRouter()
	r.Get("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		io.WriteString(w, debugIndex)
	})
	r.HandleFunc("/debug/pprof/*", pprof.Index)
	r.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	r.HandleFunc("/debug/pprof/profile", pprof.Profile)
	r.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	r.HandleFunc("/debug/pprof/trace", pprof.Trace)
	r.HandleFunc("/debug/vars", s.serveVars)
	return r
}

// serveVars serves the process's variables in expvar's form, and heddle's own.
// Those are not published globally, since a process may run several servers.
func (s *server) serveVars(w http.ResponseWriter, r *http.Request) {
	vars := map[string]any{}
	expvar.Do(func(kv expvar.KeyValue) {
		if text := kv.Value.String(); text != `"MultiLabelMap"` { // tailscale.com/metrics has no value for it here
			vars[kv.Key] = json.RawMessage(text)
		}
	})
	vars["version"] = s.Version.Version // not that of a library
	vars["heddle_netmap_cache"], vars["heddle_clients"] = s.maps.Stats(), s.control.Stats()
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(vars)
}
