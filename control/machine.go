package control

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"heddle/control/noise"
	"heddle/control/tailnet"
	"heddle/control/tailnet/httpcode"
	"heddle/control/tailnet/site"

	"github.com/go-chi/chi/v5"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// machineRoutes are the paths inside Noise. Clients ask for them under several
// host names ("unused" among them), so only the path counts.
func (s *Server) machineRoutes() http.Handler {
	r := chi.NewRouter()
	r.NotFound(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "heddle has no "+r.Method+" "+r.URL.Path, http.StatusNotFound)
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, r.URL.Path+" does not take "+r.Method, http.StatusMethodNotAllowed)
	})
	r.Post("/machine/register", endpoint(s, s.register))
	r.Post("/machine/map", endpoint(s, s.serveMap))
	r.Post("/machine/c2n/{id}", s.serveC2NReply)
	s.sideRoutes(r)
	s.sshRoutes(r)
	return r
}

// call is a request whose machine is known: the Noise connection proves it.
type call struct {
	conn    *noise.Conn
	machine key.MachinePublic
	known   bool              // the machine owned a node when the request came
	snap    *tailnet.Snapshot // as of the start of the request
	w       http.ResponseWriter
	rc      *http.ResponseController
}

// cause is whom limits and log lines count for: a machine that owns a node,
// or else an address, since strangers make up machine keys.
func (c *call) cause() string {
	if c.known {
		return c.machine.String()
	}
	return site.Of(c.conn.Remote()).String()
}

// actor is the client, as the audit log knows it.
func (c *call) actor() tailnet.Actor {
	return tailnet.Actor{Kind: tailnet.ByNode, Name: c.machine.ShortString(), From: c.conn.Remote().String()}
}

// node returns the node that the request claims to come from, if the machine
// may speak for it. The error is NotFound or Denied.
func (c *call) node(k key.NodePublic) (*tailnet.Node, error) {
	n := c.snap.NodeByKey(k)
	switch {
	case n == nil:
		return nil, tailnet.Errorf(tailnet.NotFound, "this device is not known here (node key %s); log in again with `tailscale up`", k.ShortString())
	case n.Machine != c.machine:
		return nil, errOtherMachine(k)
	}
	return n, nil
}

func errOtherMachine(k key.NodePublic) error {
	return tailnet.Errorf(tailnet.Denied, "node key %s does not belong to this device; run `tailscale logout` and log in again", k.ShortString())
}

// retryAfter is what an overloaded server asks of clients, in seconds. They add
// no jitter of their own, but their requests are spread already.
const retryAfter = "10"

var (
	errBusy = tailnet.Errorf(tailnet.Exhausted, "the server is busy; try again in a few seconds")
	// errTooOften is for one who keeps all others busy.
	errTooOften = tailnet.Errorf(tailnet.Exhausted, "this device changes too often; try again in a few seconds")
)

// endpoint adapts a function to HTTP: it decodes the JSON body, says who is
// asking, maps errors to statuses, and logs them once. The function writes its
// answer to c.w unless it fails. While that waits, for days perhaps, nothing holds the
// request and its headers.
func endpoint[Req any](s *Server, serve func(context.Context, *call, *Req) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, path := r.Context(), strings.Clone(r.URL.Path)
		conn := noise.FromContext(ctx)
		c := &call{conn: conn, machine: conn.Peer(), w: w, rc: http.NewResponseController(w)}
		c.known = len(s.state.Snapshot().NodesByMachine(c.machine)) > 0
		var req Req
		err := s.decode(c, r, &req)
		r.Header = nil
		if err == nil {
			c.snap = s.state.Snapshot()
			err = serve(ctx, c, &req)
		}
		if err != nil && !gone(ctx, err) && !errors.Is(err, errGone) {
			s.fail(ctx, c, path, err)
		}
	}
}

// fail answers with an error and logs it. A client that keeps asking the same
// is heard once in ten minutes; our own faults have a limit of their own, which
// nobody else can use up.
func (s *Server) fail(ctx context.Context, c *call, path string, err error) {
	code := tailnet.CodeOf(err)
	s.counts.failed[code].Add(1)
	level, tell := slog.LevelInfo, false
	switch {
	case errors.Is(err, tailnet.ErrStopped):
		level, tell = slog.LevelDebug, true // every client of a server that is told to stop
	case code == tailnet.Internal, code == tailnet.Unavailable:
		level, tell = slog.LevelError, s.throttle.faults.allow(path)
	default:
		tell = s.throttle.told.allow(c.cause() + path + code.String())
	}
	if tell {
		s.log.Log(ctx, level, "request refused", "path", path, "machine", c.machine.ShortString(),
			"remote", c.conn.Remote(), "code", code, "err", err)
	}
	if code == tailnet.Exhausted || code == tailnet.Unavailable {
		c.w.Header().Set("Retry-After", retryAfter)
	}
	http.Error(c.w, tailnet.Message(err), httpcode.Of(err))
}

// tooOld refuses clients that heddle cannot talk to.
func tooOld(v tailcfg.CapabilityVersion, host *tailcfg.Hostinfo) error {
	if v >= MinVersion {
		return nil
	}
	runs := "an older one"
	if host != nil && host.IPNVersion != "" {
		runs = tailnet.CleanHostinfo(host).IPNVersion
	}
	return tailnet.Errorf(tailnet.Invalid, "this server needs Tailscale v1.80 or newer (capability version %d), but this device runs %s (%d); update it from https://tailscale.com/download and log in again", MinVersion, runs, v)
}
