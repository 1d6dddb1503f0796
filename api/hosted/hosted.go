// Package hosted owns the admin API in the shape of the hosted service's (/api/v2), so that
// programs made for that manage heddle: the Terraform provider, the Kubernetes operator,
// clients that log in with an OAuth client or a workload's ID token.
//
// It refuses to know what heddle's own API looks like, and has no rules of its own: it
// translates.
package hosted

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"heddle/api/callers"
	"heddle/control/tailnet"
	"heddle/control/tailnet/httpcode"
	"heddle/policy"

	"github.com/go-chi/chi/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Prefix is where the API is on a server.
const Prefix = "/api/v2"

const (
	// maxBody bounds the body of a request: the largest policy (4 MiB), of which JSON
	// may need some more.
	maxBody = 6 << 20
	// bodyTime bounds how long a body may take to arrive.
	bodyTime = 30 * time.Second
)

// Options are what a Server needs.
type Options struct {
	State *tailnet.State
	Gate  *callers.Gate
	// PolicyFile returns the file that fixes the policy at present, "" if the API may set it; nil always
	// returns that.
	PolicyFile func() string
	Audit      AuditLog
	HTTP       *http.Client // to the issuers of federated identities; nil means one with sane bounds
	Log        *slog.Logger
	Now        func() time.Time
}

// Server serves the API. It is an http.Handler for the paths below Prefix.
type Server struct {
	Options
	routes  chi.Router
	issuers *issuers
}

// New makes a Server. It starts nothing.
func New(o Options) *Server {
	if o.PolicyFile == nil {
		o.PolicyFile = func() string { return "" }
	}
	s := &Server{Options: o, routes: chi.NewRouter(), issuers: newIssuers(o.HTTP, o.Now)}
	s.routes.NotFound(func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, "there is nothing at this path", nil)
	})
	s.routes.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusMethodNotAllowed, r.Method+" is not what this path knows", nil)
	})
	s.routes.Route(Prefix, func(r chi.Router) {
		r.Post("/oauth/token", s.stranger(s.token))
		r.Post("/oauth/token-exchange", s.stranger(s.exchange))
		r.Route("/tailnet/{tailnet}", func(r chi.Router) {
			r.Get("/devices", s.admin(tailnet.Read(tailnet.AreaDevices), s.listDevices))
			r.Get("/users", s.admin(tailnet.Read(tailnet.AreaUsers), s.listUsers))
			r.Get("/settings", s.admin(tailnet.Read(tailnet.AreaSettings), s.getSettings))
			r.Patch("/settings", s.admin(tailnet.Write(tailnet.AreaSettings), s.setSettings))
			r.Patch("/device-attributes", s.admin(tailnet.Write(tailnet.AreaPosture), s.setAttributes))
			r.Get("/webhooks", s.admin(tailnet.Read(tailnet.AreaWebhooks), s.listWebhooks))
			r.Post("/webhooks", s.admin(tailnet.Write(tailnet.AreaWebhooks), s.createWebhook))
			r.Get("/logging/configuration", s.admin(tailnet.Read(tailnet.AreaLogs), s.listLogs))
			s.emptyRoutes(r)
			s.contactRoutes(r)
			s.keyRoutes(r)
			s.dnsRoutes(r)
			s.aclRoutes(r)
		})
		s.deviceRoutes(r)
		s.userRoutes(r)
		s.webhookRoutes(r)
		s.absentRoutes(r)
	})
	return s
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	// Not supported by every ResponseWriter; it only bounds a slow sender.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	s.routes.ServeHTTP(w, r)
}

// call is a request whose caller is known.
type call struct {
	*http.Request
	server *Server
	actor  tailnet.Actor
	header http.Header // of the answer
}

// An answer is what a handler sends: a value, as JSON.
type handler func(*call) (answer any, err error)

// admin adapts a handler for those who have a right; the zero Right is everybody's with a key. What changes
// something asks again, in the update.
func (s *Server) admin(right tailnet.Right, h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c := &call{Request: r, server: s, header: w.Header()}
		caller, err := s.Gate.Identify(r)
		if err != nil {
			fail(w, s.Log, r, err)
			return
		}
		c.actor = caller.Actor
		if name := chi.URLParam(r, "tailnet"); name != "" && name != "-" && name != tailnet.Default && name != c.snapshot().DNS().BaseDomain {
			refuse(w, http.StatusNotFound, "there is no tailnet of that name here; - is the one there is", nil)
			return
		}
		if right.Area != "" && !c.snapshot().Can(c.actor, right) {
			refuse(w, http.StatusForbidden, "this key may not do that: it takes the scope "+right.String(), nil)
			return
		}
		if r.Method == http.MethodGet {
			c.read(w, h)
			return
		}
		c.do(w, h)
	}
}

// do answers what changes something, or works for those who brought another secret.
func (c *call) do(w http.ResponseWriter, h handler) {
	answer, err := c.answer(h)
	if err != nil {
		fail(w, c.server.Log, c.Request, err)
		return
	}
	answer.send(w)
}

// read answers what is only read, and may be long, in a turn of those who read. It is sent once it is complete.
func (c *call) read(w http.ResponseWriter, h handler) {
	turn, err := c.server.Gate.Reading(c.Context())
	if err != nil {
		fail(w, c.server.Log, c.Request, err)
		return
	}
	defer turn.End()
	answer, err := c.answer(h)
	if err == nil {
		err = turn.Made(c.Context(), len(answer.text))
	}
	if err != nil {
		fail(w, c.server.Log, c.Request, err)
		return
	}
	answer.send(w)
}

// answer is the whole of what a handler answers.
func (c *call) answer(h handler) (*raw, error) {
	v, err := h(c)
	if err != nil {
		return nil, err
	}
	return encode(v)
}

// working waits for a turn to do work that takes long; done ends it.
func (c *call) working() (done func(), err error) {
	return c.server.Gate.Working(c.Context(), c.actor)
}

// stranger adapts a handler for those who bring a secret of another sort.
func (s *Server) stranger(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		(&call{Request: r, server: s, header: w.Header()}).do(w, h)
	}
}

func (c *call) snapshot() *tailnet.Snapshot { return c.server.State.Snapshot() }

// update changes the tailnet as the caller.
func (c *call) update(fn func(*tailnet.Tx) error) (*tailnet.Snapshot, error) {
	return c.server.State.Update(c.Context(), c.actor, fn)
}

// body reads a JSON body. Fields that it does not know it ignores, as the hosted service does: its clients
// send what is new there.
func (c *call) body(into any) error {
	text, err := c.text()
	if err != nil {
		return err
	}
	return decode(text, into)
}

func decode(text []byte, into any) error {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return tailnet.Errorf(tailnet.Invalid, "the body is not what this path takes: %v", err)
	}
	return nil
}

func (c *call) text() ([]byte, error) {
	text, err := io.ReadAll(c.Request.Body)
	var big *http.MaxBytesError
	switch {
	case errors.As(err, &big):
		return nil, tailnet.Errorf(tailnet.Invalid, "the body has more than %d bytes", big.Limit)
	case err != nil:
		return nil, tailnet.Errorf(tailnet.Invalid, "the body did not arrive")
	}
	return text, nil
}

// accepts reports whether the caller asks for a media type first of all.
func (c *call) accepts(mediaType string) bool {
	first, _, _ := strings.Cut(c.Header.Get("Accept"), ",")
	got, _, err := mime.ParseMediaType(strings.TrimSpace(first))
	return err == nil && got == mediaType
}

// A raw answer is sent as it is.
type raw struct {
	mediaType string
	text      []byte
}

func (r *raw) send(w http.ResponseWriter) {
	w.Header().Set("Content-Type", r.mediaType)
	w.Write(r.text) // an error means that the caller has left
}

// encode makes the answer of what a handler returns; nil is an empty object.
func encode(v any) (*raw, error) {
	switch v := v.(type) {
	case *raw:
		return v, nil
	case nil:
		return &raw{mediaJSON, []byte("{}\n")}, nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, &tailnet.Error{Code: tailnet.Internal, Msg: "the answer cannot be written down", Err: err}
	}
	return &raw{mediaJSON, append(text, '\n')}, nil
}

const mediaJSON = "application/json"

// problem is the body of every error: clients decode it whatever the status.
type problem struct {
	Message string        `json:"message"`
	Data    []problemData `json:"data,omitempty"`
	Status  int           `json:"status"`
}

type problemData struct {
	User   string   `json:"user"`
	Errors []string `json:"errors"`
}

func refuse(w http.ResponseWriter, code int, message string, data []problemData) {
	h := w.Header()
	h.Set("Content-Type", mediaJSON)
	switch code {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="heddle"`)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		h.Set("Retry-After", strconv.Itoa(5))
	}
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(problem{Message: message, Data: data, Status: code})
}

// gateStatuses is the table of what the gate refuses.
var gateStatuses = map[codes.Code]int{
	codes.InvalidArgument:   http.StatusBadRequest,
	codes.Unauthenticated:   http.StatusUnauthorized,
	codes.PermissionDenied:  http.StatusForbidden,
	codes.ResourceExhausted: http.StatusTooManyRequests,
	codes.Unavailable:       http.StatusServiceUnavailable,
}

func fail(w http.ResponseWriter, log *slog.Logger, r *http.Request, err error) {
	if errors.Is(err, context.Canceled) || r.Context().Err() != nil {
		return // nobody reads it
	}
	if st, ok := status.FromError(err); ok {
		if code := gateStatuses[st.Code()]; code != 0 {
			refuse(w, code, st.Message(), nil)
			return
		}
	}
	code := httpcode.Of(err)
	if code >= http.StatusInternalServerError {
		log.Error("api call failed", "path", r.URL.Path, "err", err)
	}
	var problems policy.Errors
	if errors.As(err, &problems) {
		refuse(w, code, tailnet.Message(err), dataOf(problems))
		return
	}
	refuse(w, code, tailnet.Message(err), nil)
}
