package controltest

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"heddle/control"
	"heddle/control/idtoken"
	"heddle/control/netmap"
	"heddle/control/oidc"
	"heddle/control/tailnet"
	"heddle/control/tailnet/tailnettest"

	"github.com/go-chi/chi/v5"
	"tailscale.com/net/memnet"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// Bubble runs a test with a clock of its own (testing/synctest).
func Bubble(t *testing.T, fn func(*testing.T)) {
	t.Helper()
	// HTTP/2 keeps channels in a sync.Pool, and one that was made in a bubble is
	// fatal outside of it. Two collections empty every pool.
	defer runtime.GC()
	defer runtime.GC()
	synctest.Test(t, fn)
}

// Config changes how a Server is made. Zero fields take defaults fit for tests.
type Config struct {
	Store     tailnet.Store   // default: in memory
	Tailnet   tailnet.Options // default: grace 10 s, ephemeral nodes live 1 h, keys 180 days
	Tokens    *idtoken.Issuer // default: none
	Limits    control.Limits
	Providers *oidc.Providers
	Log       *slog.Logger // default: discards
	NoiseKey  key.MachinePrivate
	Delay     func(time.Duration)
}

// Server is a control server with everything below it.
type Server struct {
	State   *tailnet.State
	Control *control.Server
	Maps    *netmap.Encoder
	Handler http.Handler // what the outside reaches
	Key     key.MachinePublic

	t      testing.TB
	config Config
	ln     *listener
	stop   func() error
}

var serverURL = &url.URL{Scheme: "http", Host: "heddle.test"}

// Start runs a server until the test ends.
func Start(t testing.TB, c Config) *Server {
	t.Helper()
	if c.Store == nil {
		c.Store = new(tailnettest.Store)
	}
	if c.NoiseKey.IsZero() {
		c.NoiseKey = key.NewMachine()
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	o := &c.Tailnet
	o.OnlineGrace = cmp.Or(o.OnlineGrace, 10*time.Second)
	o.EphemeralTimeout = cmp.Or(o.EphemeralTimeout, time.Hour)
	o.KeyExpiry = cmp.Or(o.KeyExpiry, 180*24*time.Hour)
	o.Log = c.Log
	o.SSHCheckURL = control.SSHCheckURL(serverURL)
	s := &Server{t: t, config: c, Key: c.NoiseKey.Public()}
	s.start()
	t.Cleanup(s.Stop)
	return s
}

func (s *Server) start() {
	s.t.Helper()
	state, err := tailnet.Open(context.Background(), s.config.Store, s.config.Tailnet)
	if err != nil {
		s.t.Fatal(err)
	}
	u := serverURL
	s.Maps = netmap.NewEncoder(netmap.Options{ServerURL: u.String(), Log: s.config.Log})
	ctl := control.New(control.Options{
		State:     state,
		Maps:      s.Maps,
		NoiseKey:  s.config.NoiseKey,
		ServerURL: u,
		Tokens:    s.config.Tokens,
		Log:       s.config.Log,
		Limits:    s.config.Limits,
		Providers: s.config.Providers,
		Delay:     s.config.Delay,
	})
	r := chi.NewRouter()
	ctl.Routes(r)
	s.State, s.Control, s.Handler = state, ctl, r
	s.ln = &listener{conns: make(chan net.Conn), closed: make(chan struct{})}

	// As in the real server, clients are let go before the state stops.
	var writer, clients, web sync.WaitGroup
	stateCtx, stopState := context.WithCancel(context.Background())
	ctlCtx, stopControl := context.WithCancel(context.Background())
	srv := &http.Server{Handler: r, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	ln := s.ln
	writer.Go(func() { state.Run(stateCtx) })
	clients.Go(func() { ctl.Run(ctlCtx) })
	web.Go(func() { srv.Serve(ln) })
	s.stop = sync.OnceValue(func() error {
		srv.Close()
		web.Wait()
		stopControl()
		clients.Wait()
		stopState()
		writer.Wait()
		return nil
	})
	s.Update(func(tx *tailnet.Tx) error {
		tx.SetDNSPins(tailnet.DNSPins{BaseDomain: "tail.test"})
		return tx.SetDERPMap(&tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{
			900: {RegionID: 900, RegionCode: "test", Nodes: []*tailcfg.DERPNode{{Name: "900a", RegionID: 900, HostName: "derp.test"}}},
		}})
	})
}

// Stop stops the server gently, as a signal would. It is safe to call twice.
func (s *Server) Stop() { s.stop() }

// Restart stops the server and starts it again on the same store.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	s.start()
}

// Update changes the tailnet as the local administrator; it must succeed.
func (s *Server) Update(fn func(*tailnet.Tx) error) *tailnet.Snapshot {
	s.t.Helper()
	snap, err := s.State.Update(context.Background(), tailnet.Actor{Kind: tailnet.LocalCLI, Name: "test"}, fn)
	if err != nil {
		s.t.Fatal(err)
	}
	return snap
}

// User makes a user.
func (s *Server) User(name string) tailnet.UserID {
	s.t.Helper()
	var id tailnet.UserID
	s.Update(func(tx *tailnet.Tx) error {
		u, err := tx.CreateUser(tailnet.User{Name: name})
		if err == nil {
			id = u.ID
		}
		return err
	})
	return id
}

// AuthKey makes an auth key and returns its secret. Without an expiry it is good for an hour.
func (s *Server) AuthKey(spec tailnet.AuthKeySpec) string {
	s.t.Helper()
	var secret string
	s.Update(func(tx *tailnet.Tx) error {
		if spec.Expires.IsZero() {
			spec.Expires = tx.Now().Add(time.Hour)
		}
		var err error
		secret, _, err = tx.CreateAuthKey(spec)
		return err
	})
	return secret
}

// Node returns the node of that name; it must exist.
func (s *Server) Node(name string) *tailnet.Node {
	s.t.Helper()
	n := s.State.Snapshot().NodeByName(name)
	if n == nil {
		s.t.Fatalf("no node %q", name)
	}
	return n
}

// Approve replaces the approved routes of a node.
func (s *Server) Approve(name string, routes ...string) {
	s.t.Helper()
	var set []netip.Prefix
	for _, r := range routes {
		set = append(set, netip.MustParsePrefix(r))
	}
	id := s.Node(name).ID
	s.Update(func(tx *tailnet.Tx) error {
		return tx.ApproveRoutes(id, tailnet.RouteEdit{Replace: true, Set: set})
	})
}

// Dial opens a connection to the server from an address.
func (s *Server) Dial(ctx context.Context, from netip.Addr) (net.Conn, error) {
	local, remote := memnet.NewTCPConn(netip.AddrPortFrom(from, 40000), netip.MustParseAddrPort("192.0.2.1:80"), 64<<10)
	select {
	case s.ln.conns <- remote:
		return local, nil
	case <-s.ln.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// listener accepts what Dial makes.
type listener struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *listener) Addr() net.Addr { return &net.TCPAddr{} }
