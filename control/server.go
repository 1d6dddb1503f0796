package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"heddle/control/check"
	"heddle/control/idtoken"
	pages "heddle/control/login"
	"heddle/control/netmap"
	"heddle/control/noise"
	"heddle/control/oidc"
	"heddle/control/pending"
	"heddle/control/tailnet"
	"heddle/control/tailnet/site"

	"github.com/go-chi/chi/v5"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// MinVersion is the oldest capability version that may log in: Tailscale v1.80
// of January 2025. Older clients need message forms that heddle does not speak.
const MinVersion tailcfg.CapabilityVersion = 113

// Limits bound what clients may cost. Zero fields take the defaults.
type Limits struct {
	Noise   noise.Limits
	Pending pending.Limits

	// Body bounds a request's body. A Hostinfo rarely has 10 KB; the default
	// of 256 KB leaves room for an app connector with thousands of routes.
	Body int64
	// StrangerBody bounds that of a machine that owns no node. Decoded it can take
	// fourteen times as much. Default 32 KB.
	StrangerBody int64
	// Decoding is how many bodies are decoded at a time, of machines that own a node and
	// of strangers each. Default 64.
	Decoding int
	// Write is how long the client may take to accept a map message, before
	// what its size adds. Default 30 s; then the stream ends and is counted.
	Write time.Duration
	// PageRate is how many requests for login pages one address (IPv6: one /64) may make in a
	// minute, and how many devices that nobody knows are told so there. Default 600.
	PageRate int
}

func (l Limits) withDefaults() Limits {
	l.Body = cmp.Or(l.Body, 256<<10)
	l.StrangerBody = cmp.Or(l.StrangerBody, 32<<10)
	l.Decoding = cmp.Or(l.Decoding, 64)
	l.Write = cmp.Or(l.Write, 30*time.Second)
	l.PageRate = cmp.Or(l.PageRate, 600)
	return l
}

// Options are what a Server needs.
type Options struct {
	State     *tailnet.State
	Maps      *netmap.Encoder
	NoiseKey  key.MachinePrivate
	ServerURL *url.URL         // where clients reach the server; no path
	Providers *oidc.Providers  // at which people log in; nil: only admins let devices join
	Tokens    *idtoken.Issuer  // for `tailscale id-token`; nil: there are none
	Log       *slog.Logger     // nil discards
	Now       func() time.Time // nil means time.Now
	Limits    Limits
	// Delay is told, for each change that a stream sends, how long that took since the writer
	// took the change up; nil: nobody asks.
	Delay func(time.Duration)
}

// Server is the clients' side of heddle. Make one with New, mount its Routes,
// and let Run run as long as it serves.
type Server struct {
	state *tailnet.State
	maps  *netmap.Encoder
	url   *url.URL
	identity
	log    *slog.Logger
	now    func() time.Time
	limits Limits

	noise *noise.Server
	waiting
	hub      *hub
	calls    calls
	intake   intake
	throttle throttle
	counts   counters
	pings    sync.WaitGroup // writes of pings, which may block until their connection ends
}

// identity is how the server itself is known.
type identity struct {
	public key.MachinePublic
	tokens *idtoken.Issuer
}

// waiting is what waits for people.
type waiting struct {
	pending *pending.Table
	checks  *check.Table
	pages   *pages.Pages
}

// throttle counts what one cause may do only so often.
type throttle struct {
	pages  *limiter[netip.Prefix] // requests for login pages, by address
	ghosts *limiter[netip.Prefix] // map requests of devices that nobody knows, by address
	logins *limiter[netip.Prefix] // log lines about new logins, by address
	told   *limiter[string]       // log lines, by what they are about
	faults *limiter[string]       // log lines about our own faults, by path

	// A change of one node costs the writer and all that see it something, and a map
	// of the whole tailnet costs its encoding: so one machine alone must not
	// keep the others busy. Devices report about once a minute at worst.
	changes *limiter[key.MachinePublic] // reports with news
	maps    *limiter[key.MachinePublic] // full maps
	reports *limiter[key.MachinePublic] // entries for the audit log
	tokens  *limiter[key.MachinePublic] // identity tokens, a millisecond of CPU each
}

func newThrottle(l Limits, now func() time.Time) throttle {
	pageEvery := time.Minute / time.Duration(l.PageRate)
	return throttle{
		pages:   newLimiter[netip.Prefix](l.PageRate, pageEvery, now),
		ghosts:  newLimiter[netip.Prefix](l.PageRate, pageEvery, now),
		logins:  newLimiter[netip.Prefix](20, 30*time.Second, now),
		told:    newLimiter[string](1, 10*time.Minute, now),
		faults:  newLimiter[string](10, 6*time.Second, now),
		changes: newLimiter[key.MachinePublic](20, time.Second, now),
		maps:    newLimiter[key.MachinePublic](20, time.Second, now),
		reports: newLimiter[key.MachinePublic](20, time.Minute, now),
		tokens:  newLimiter[key.MachinePublic](20, time.Second, now),
	}
}

// New returns a Server. It starts nothing.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	l := o.Limits.withDefaults()
	s := &Server{
		state:    o.State,
		maps:     o.Maps,
		url:      o.ServerURL,
		identity: identity{o.NoiseKey.Public(), o.Tokens},
		log:      o.Log,
		now:      o.Now,
		limits:   l,
		waiting:  waiting{pending: pending.New(l.Pending, o.Now), checks: check.New(o.Now)},
		hub:      newHub(o.State, o.Maps.News),
		intake:   newIntake(l.Decoding),
		throttle: newThrottle(l, o.Now),
	}
	if s.counts.delay = o.Delay; o.Delay == nil {
		s.counts.delay = func(time.Duration) {}
	}
	if o.Providers == nil {
		o.Providers = oidc.New(oidc.Options{})
	}
	s.pages = pages.New(pages.Options{
		State: o.State, Devices: s, Connections: s, Providers: o.Providers, ServerURL: o.ServerURL, Now: o.Now, Log: o.Log,
	})
	s.noise = noise.New(noise.Options{
		Key:     o.NoiseKey,
		Handler: s.machineRoutes(),
		Known:   func(m key.MachinePublic) bool { return len(s.state.Snapshot().NodesByMachine(m)) > 0 },
		Log:     o.Log,
		Limits:  l.Noise,
	})
	return s
}

// Routes mounts what the outside reaches without Noise.
func (s *Server) Routes(r chi.Router) {
	r.Get("/key", s.serveKey)
	r.Post("/ts2021", s.noise.ServeHTTP)
	r.Get("/ts2021", s.noise.ServeHTTP) // WebSocket
	r.Post("/verify", s.serveVerify)
	r.Get("/health", s.serveHealth)
	if s.tokens != nil {
		r.Get(idtoken.ConfigurationPath, s.tokens.ServeConfiguration)
		r.Get(idtoken.KeysPath, s.tokens.ServeKeys)
	}
	s.pages.Routes(r.With(s.limitPages))
}

// limitPages bounds how often one address may ask for pages.
func (s *Server) limitPages(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ap, _ := netip.ParseAddrPort(r.RemoteAddr)
		if s.throttle.pages.allow(site.Of(ap.Addr())) {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Retry-After", "60")
		http.Error(w, "too many requests from your address; wait a minute", http.StatusTooManyRequests)
	})
}

// Run owns the server's goroutines. When ctx ends all streams end, a few
// seconds apart in all, and Run returns.
func (s *Server) Run(ctx context.Context) error {
	var running sync.WaitGroup
	running.Go(func() { s.probeRouters(ctx) })
	running.Go(func() { s.hub.feed.run(ctx) })
	running.Go(func() { s.hub.wheel.run(ctx) })
	running.Go(func() { s.pages.Run(ctx) })
	running.Go(func() {
		// From now on the end of one client's stream is no news for the others.
		<-ctx.Done()
		s.hub.close()
	})
	err := s.noise.Run(ctx)
	running.Wait()
	s.hub.wait()
	s.pings.Wait()
	return err
}

// serveKey tells the Noise key that clients must find at the other end.
func (s *Server) serveKey(w http.ResponseWriter, r *http.Request) {
	// A client asks for the key again at each login as long as the legacy key
	// is zero, although no client that may log in uses it.
	writeJSON(w, tailcfg.OverTLSPublicKeyResponse{LegacyPublicKey: s.public, PublicKey: s.public})
}

// Admit reports whether a node key belongs to a node whose login is valid and that does not wait for
// approval, and so may use the tailnet's relays.
func (s *Server) Admit(k key.NodePublic) bool {
	n := s.state.Snapshot().NodeByKey(k)
	return n != nil && !n.Pending && !s.expired(n)
}

// expired does not wait for the timer that sets Status.Expired.
func (s *Server) expired(n *tailnet.Node) bool {
	return n.Status.Expired || !n.Expiry.IsZero() && !s.now().Before(n.Expiry)
}

// serveVerify answers relays of other hosts that ask whether a client is ours.
func (s *Server) serveVerify(w http.ResponseWriter, r *http.Request) {
	var req tailcfg.DERPAdmitClientRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10)).Decode(&req); err != nil {
		http.Error(w, "the body must be a JSON DERPAdmitClientRequest of at most 4 KB", http.StatusBadRequest)
		return
	}
	writeJSON(w, tailcfg.DERPAdmitClientResponse{Allow: s.Admit(req.NodePublic)})
}

// serveHealth says whether changes can happen. It asks without waiting: strangers may
// ask as often as they like, also while a commit hangs.
func (s *Server) serveHealth(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/health+json")
	if s.state.Trouble() != nil || s.hub.stopping() {
		w.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(w, `{"status":"fail"}`+"\n")
		return
	}
	io.WriteString(w, `{"status":"pass"}`+"\n")
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) // an error means that the client has left
}

// gone reports whether err only says that the client has left.
func gone(ctx context.Context, err error) bool {
	return ctx.Err() != nil && errors.Is(err, ctx.Err())
}
