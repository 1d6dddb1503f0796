package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"heddle/api/callers"
	"heddle/api/hosted"
	"heddle/api/news"
	"heddle/api/rest"
	"heddle/control/tailnet"
	v1 "heddle/proto/heddle/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
)

const (
	// maxRequest bounds a request: the largest policy (4 MiB) with room to spare.
	maxRequest = 5 << 20
	// maxStreams bounds the calls that one connection has under way.
	maxStreams = 64
	// deadline bounds a call: the longest waits for one commit.
	deadline = 30 * time.Second
	// stopGrace is how long Serve lets calls finish when it is to stop.
	stopGrace = 3 * time.Second
)

// Part is one part of the server in a health report.
type Part struct {
	Name    string // "database", "derp", …
	OK      bool
	Message string // for people; may be empty
}

// Version is what GetVersion tells.
type Version struct {
	Version   string
	Commit    string // empty if unknown
	MinClient string // the oldest client that may connect
}

// Options are what a Server needs. State is required.
type Options struct {
	State *tailnet.State
	// Pending is nil where no login can wait.
	Pending Pending
	// Logins returns the devices that wait, the newest first and at most most of
	// them, and how many there are more. Nil where no login can wait.
	Logins func(most int) (list []Login, more int)
	// PolicyFile returns the file that fixes the policy at present, nil if the API may set it. Nil if it
	// always may.
	PolicyFile func() *PolicyFile
	// History has the earlier policies; nil: there are none.
	History History
	// Health reports on the parts of the server; nil means that there is
	// nothing to say.
	Health func(context.Context) []Part
	// Streams returns the open map streams; nil means that there are none.
	Streams func() []Stream
	// Reload loads the server's configuration anew; nil: it cannot be.
	Reload func(context.Context) (*Reloaded, error)
	Debug  Debug
	// Audit has what was changed; nil: nothing is known.
	Audit AuditLog
	// Deliveries tells how the receiver of a webhook does, by its ID; nil where nothing is delivered.
	Deliveries func(id string) Delivery
	Version    Version
	Log        *slog.Logger     // nil discards
	Now        func() time.Time // nil means time.Now
}

// Server serves the admin API.
type Server struct {
	opts   Options
	log    *slog.Logger
	gate   *callers.Gate
	health *health.Server
	remote *grpc.Server // for Handler; owns no listener
	// streams are the methods that go on until the caller has enough.
	streams  map[string]bool
	watchers chan struct{} // turns of streams
	places   *news.Places

	// ending ends when the server is to stop, and with it the streams: calls
	// end by themselves.
	ending context.Context
	end    context.CancelFunc
}

// New makes a Server. It starts nothing: see ServeSocket and Handler.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.PolicyFile == nil {
		o.PolicyFile = func() *PolicyFile { return nil }
	}
	s := &Server{opts: o, log: o.Log, health: health.NewServer()}
	s.watchers, s.places = make(chan struct{}, maxWatchers), news.NewPlaces()
	s.gate = callers.NewGate(o.State, o.Now, o.Log)
	s.ending, s.end = context.WithCancel(context.Background())
	s.remote = s.newGRPC(callers.Known)
	s.streams = map[string]bool{}
	for service, info := range s.remote.GetServiceInfo() {
		for _, m := range info.Methods {
			s.streams["/"+service+"/"+m.Name] = m.IsServerStream
		}
	}
	return s
}

func (s *Server) newGRPC(identify identifier, opts ...grpc.ServerOption) *grpc.Server {
	g := grpc.NewServer(append(opts,
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.UnaryInterceptor(s.unary(identify, true)),
		grpc.StreamInterceptor(s.stream(identify)),
	)...)
	s.register(g)
	healthv1.RegisterHealthServer(g, s.health)
	reflection.Register(g)
	return g
}

// register adds the services of the contract.
func (s *Server) register(to grpc.ServiceRegistrar) {
	v1.RegisterUserServiceServer(to, users{Server: s})
	v1.RegisterNodeServiceServer(to, nodes{Server: s})
	v1.RegisterPreAuthKeyServiceServer(to, preAuthKeys{Server: s})
	v1.RegisterApiKeyServiceServer(to, apiKeys{Server: s})
	v1.RegisterOAuthClientServiceServer(to, oauthClients{Server: s})
	v1.RegisterAuthServiceServer(to, auth{Server: s})
	v1.RegisterPolicyServiceServer(to, policies{Server: s})
	v1.RegisterDNSServiceServer(to, dns{Server: s})
	v1.RegisterSettingsServiceServer(to, settings{Server: s})
	v1.RegisterDERPServiceServer(to, derp{Server: s})
	v1.RegisterHealthServiceServer(to, healthOf{Server: s})
	v1.RegisterConfigServiceServer(to, configOf{Server: s})
	v1.RegisterDebugServiceServer(to, debugOf{Server: s})
	v1.RegisterAuditServiceServer(to, audit{Server: s})
	v1.RegisterWebhookServiceServer(to, webhooks{Server: s})
	v1.RegisterWatchServiceServer(to, watches{Server: s})
}

// ServeSocket serves l, a unix socket, until ctx ends, and closes it. Whoever
// can connect to it is an administrator; so it refuses any other listener. The
// end of ctx also ends the streams of Handler.
func (s *Server) ServeSocket(ctx context.Context, l net.Listener) error {
	if l.Addr().Network() != "unix" {
		l.Close()
		return fmt.Errorf("admin API: %s is not a unix socket: local trust is for those only", l.Addr())
	}
	g := s.newGRPC(callers.Local, grpc.Creds(callers.SocketCreds(s.log)))
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	s.end()
	force := time.AfterFunc(stopGrace, g.Stop)
	defer force.Stop()
	g.GracefulStop()
	if err := <-served; !errors.Is(err, grpc.ErrServerStopped) { // which is no news if it was stopped before it began
		return err
	}
	return nil
}

// Handler serves remote callers, who need an API key, as part of an
// http.Server with HTTP/2; what is not gRPC goes to next. A request counts
// as private if its TLS is set or its RemoteAddr is loopback (a proxy on the same machine).
func (s *Server) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor < 2 || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			next.ServeHTTP(w, r)
			return
		}
		// grpc reads the whole message before its interceptors run, which is too
		// much to do for a stranger.
		id, err := s.gate.Identify(r)
		if err != nil {
			refuse(w, s.status(r.URL.Path, id.Actor, err))
			return
		}
		// Not supported by every ResponseWriter; it only bounds a slow sender.
		rc := http.NewResponseController(w)
		_ = rc.SetReadDeadline(time.Now().Add(deadline))
		if s.streams[r.URL.Path] {
			_, _ = rc.SetReadDeadline(time.Time{}), rc.SetWriteDeadline(time.Time{})
		}
		s.remote.ServeHTTP(w, r.WithContext(callers.With(r.Context(), id)))
	})
}

// REST returns the handler of the paths below rest.Prefix, for the same callers and
// with the same answers.
func (s *Server) REST() (http.Handler, error) {
	methods := &rest.Methods{Unary: s.unary(callers.Known, false), Stream: s.stream(callers.Known)}
	s.register(methods)
	wait := func(ctx context.Context) (rest.Turn, error) { return s.gate.Reading(ctx) }
	return rest.New(rest.Options{Methods: methods, Wait: wait, Identify: func(r *http.Request) (context.Context, error) {
		id, err := s.gate.Identify(r)
		if err != nil {
			return nil, s.status(r.URL.Path, id.Actor, err)
		}
		ctx := callers.With(r.Context(), id)
		if reason := r.Header.Get(reasonHeader); reason != "" {
			ctx = metadata.NewIncomingContext(ctx, metadata.Pairs(reasonHeader, reason))
		}
		return ctx, nil
	}})
}

// Hosted returns the handler of the paths below hosted.Prefix, for the same callers.
func (s *Server) Hosted() http.Handler {
	o := hosted.Options{State: s.opts.State, Gate: s.gate, Audit: s.opts.Audit, Log: s.log, Now: s.opts.Now}
	o.PolicyFile = func() string {
		if f := s.opts.PolicyFile(); f != nil {
			return f.Path
		}
		return ""
	}
	return hosted.New(o)
}

// refuse answers with an error alone, which gRPC calls Trailers-Only.
func refuse(w http.ResponseWriter, err error) {
	st := status.Convert(err)
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Grpc-Status", strconv.Itoa(int(st.Code())))
	w.Header().Set("Grpc-Message", percentEncode(st.Message()))
	w.WriteHeader(http.StatusOK)
}

// percentEncode encodes a message for the Grpc-Message header: all but
// printable ASCII.
func percentEncode(msg string) string {
	var b strings.Builder
	for _, c := range []byte(msg) {
		if c < ' ' || c > '~' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

func (s *Server) snapshot() *tailnet.Snapshot { return s.opts.State.Snapshot() }

// update runs fn as the actor of ctx.
func (s *Server) update(ctx context.Context, fn func(*tailnet.Tx) error) (*tailnet.Snapshot, error) {
	return s.opts.State.Update(ctx, actorOf(ctx), fn)
}
