// Package rest owns the REST form of the admin API: the paths of proto/rest.yaml,
// its JSON, its errors as problem documents (RFC 7807), its OpenAPI document and
// the page that shows it.
//
// It refuses to know what the methods do and who may call them: it translates
// requests into calls of Methods, the same ones that serve gRPC.
package rest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"regexp"
	"strings"
	"time"

	v1 "heddle/proto/heddle/v1"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Prefix is where the API is on a server.
const Prefix = "/api/v1"

const (
	// maxBody bounds the body of a request: the largest policy (4 MiB), of which JSON
	// may need some more.
	maxBody = 6 << 20
	// bodyTime bounds how long a body may take to arrive.
	bodyTime = 30 * time.Second
)

// Options are what a Handler needs. All are required.
type Options struct {
	Methods *Methods
	// Identify returns the context with which a request calls its method, or why it may
	// not, as a gRPC status.
	Identify func(*http.Request) (context.Context, error)
	// Wait waits for a turn to read something. Its error is a gRPC status.
	Wait func(context.Context) (Turn, error)
}

// A Turn lets something be read.
type Turn interface {
	// Made gives the turn to the next, with an answer of some bytes to be sent. Its error is a gRPC status.
	Made(ctx context.Context, size int) error
	// End says that the answer was sent, or that there is none.
	End()
}

// Handler serves the API.
type Handler struct {
	opts  Options
	mux   *runtime.ServeMux
	pages map[string]page
}

// New makes a Handler. It starts nothing.
func New(o Options) (*Handler, error) {
	h := &Handler{opts: o}
	var err error
	if h.pages, err = documents(); err != nil {
		return nil, err
	}
	h.mux = runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, newCodec()),
		runtime.WithErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
			Refuse(w, err)
		}),
		runtime.WithRoutingErrorHandler(unrouted),
		runtime.WithForwardResponseOption(etag),
		runtime.WithIncomingHeaderMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithDisablePathLengthFallback(), // a POST is no GET
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithUnescapingMode(runtime.UnescapingModeAllCharacters),
	)
	ctx := context.Background() // it is only used for connections that they open themselves
	err = errors.Join(
		v1.RegisterHealthServiceHandlerClient(ctx, h.mux, v1.NewHealthServiceClient(o.Methods)),
		v1.RegisterUserServiceHandlerClient(ctx, h.mux, v1.NewUserServiceClient(o.Methods)),
		v1.RegisterPreAuthKeyServiceHandlerClient(ctx, h.mux, v1.NewPreAuthKeyServiceClient(o.Methods)),
		v1.RegisterNodeServiceHandlerClient(ctx, h.mux, v1.NewNodeServiceClient(o.Methods)),
		v1.RegisterAuthServiceHandlerClient(ctx, h.mux, v1.NewAuthServiceClient(o.Methods)),
		v1.RegisterPolicyServiceHandlerClient(ctx, h.mux, v1.NewPolicyServiceClient(o.Methods)),
		v1.RegisterApiKeyServiceHandlerClient(ctx, h.mux, v1.NewApiKeyServiceClient(o.Methods)),
		v1.RegisterOAuthClientServiceHandlerClient(ctx, h.mux, v1.NewOAuthClientServiceClient(o.Methods)),
		v1.RegisterDNSServiceHandlerClient(ctx, h.mux, v1.NewDNSServiceClient(o.Methods)),
		v1.RegisterSettingsServiceHandlerClient(ctx, h.mux, v1.NewSettingsServiceClient(o.Methods)),
		v1.RegisterDERPServiceHandlerClient(ctx, h.mux, v1.NewDERPServiceClient(o.Methods)),
		v1.RegisterConfigServiceHandlerClient(ctx, h.mux, v1.NewConfigServiceClient(o.Methods)),
		v1.RegisterDebugServiceHandlerClient(ctx, h.mux, v1.NewDebugServiceClient(o.Methods)),
		v1.RegisterAuditServiceHandlerClient(ctx, h.mux, v1.NewAuditServiceClient(o.Methods)),
		v1.RegisterWebhookServiceHandlerClient(ctx, h.mux, v1.NewWebhookServiceClient(o.Methods)),
	)
	return h, err
}

// secret finds API keys and the like, with the part that may be known by its own.
var secret = regexp.MustCompile(`(tskey-[a-z]+-[0-9A-Za-z]+-)[0-9A-Za-z]+`)

// Redact returns a text without the secrets of keys.
func Redact(text string) string { return secret.ReplaceAllString(text, "$1***") }

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Referrer-Policy", "no-referrer")
	if p, ok := h.pages[r.URL.Path]; ok {
		p.serve(w, r)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	ctx, err := h.opts.Identify(r)
	if err != nil {
		Refuse(w, err)
		return
	}
	in, err := readCall(w, r)
	if err != nil {
		Refuse(w, err)
		return
	}
	r = r.Clone(context.WithValue(ctx, callKey{}, in))
	r.Body = in
	r.URL.RawPath = r.URL.EscapedPath() // or the gateway decodes a decoded path once more
	if s, ok := streams[r.URL.Path]; ok && r.Method == http.MethodGet {
		h.stream(w, r, s)
		return
	}
	if r.Method != http.MethodGet || r.URL.Path == Prefix+"/health" || r.URL.Path == Prefix+"/version" {
		h.mux.ServeHTTP(w, r)
		return
	}
	h.read(w, r)
}

// read answers what may be long. It is written once it is complete, so that a slow
// receiver keeps nobody waiting.
func (h *Handler) read(w http.ResponseWriter, r *http.Request) {
	turn, err := h.opts.Wait(r.Context())
	if err != nil {
		Refuse(w, err)
		return
	}
	defer turn.End()
	out := &answer{ResponseWriter: w, status: http.StatusOK}
	h.mux.ServeHTTP(out, r)
	if err := turn.Made(r.Context(), out.body.Len()); err != nil {
		return // nobody reads it
	}
	w.WriteHeader(out.status)
	_, _ = w.Write(out.body.Bytes()) // the client is gone
}

// answer keeps an answer.
type answer struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (a *answer) WriteHeader(status int)         { a.status = status }
func (a *answer) Write(text []byte) (int, error) { return a.body.Write(text) }

// call is what a request says besides what its method is told.
type call struct {
	*bytes.Reader
	query   map[string][]string
	size    int    // of the body
	decoded bool   // whether the body was taken for the method's request
	ifMatch string // the header
}

type callKey struct{}

func (*call) Close() error { return nil }

// readCall reads the whole request, so that no method waits for it.
func readCall(w http.ResponseWriter, r *http.Request) (*call, error) {
	// Not supported by every ResponseWriter; it only bounds a slow sender.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var big *http.MaxBytesError
	switch {
	case errors.As(err, &big):
		return nil, tooLarge
	case err != nil:
		return nil, status.Error(codes.InvalidArgument, "the body of the request did not arrive")
	}
	return &call{Reader: bytes.NewReader(body), query: r.URL.Query(), size: len(body), ifMatch: r.Header.Get("If-Match")}, nil
}

// check refuses what would be ignored otherwise: a call that does something else
// than its caller thinks is worse than none. It also takes over the If-Match header.
func (c *call) check(req proto.Message) error {
	fields := req.ProtoReflect().Descriptor().Fields()
	if c.decoded {
		if len(c.query) > 0 {
			return status.Error(codes.InvalidArgument, "this operation takes its parameters in the body, as JSON, not in the URL's query")
		}
	} else {
		if c.size > 0 && !c.isEmpty() {
			return status.Error(codes.InvalidArgument, "this operation takes its parameters in the URL's query, not in the body")
		}
		for key := range c.query {
			name, _, _ := strings.Cut(key, ".")
			if fields.ByTextName(name) == nil && fields.ByJSONName(name) == nil {
				return status.Errorf(codes.InvalidArgument, "there is no parameter %q", key)
			}
		}
	}
	all(req)
	if c.ifMatch == "" {
		return nil
	}
	f := fields.ByName("if_match")
	if f == nil {
		return status.Error(codes.InvalidArgument, "this operation knows no If-Match")
	}
	if m := req.ProtoReflect(); c.ifMatch != "*" && !m.Has(f) {
		m.Set(f, valueOf(strings.Trim(c.ifMatch, `"`)))
	}
	return nil
}

// all makes a list that has no word of pages as long as it can be: headscale has no
// pages, and so programs made for it do not ask for the next one.
func all(req proto.Message) {
	const most = math.MaxUint32
	switch r := req.(type) {
	case *v1.ListUsersRequest:
		if r.GetPageSize() == 0 && r.GetPageToken() == "" {
			r.PageSize = most
		}
	case *v1.ListNodesRequest:
		if r.GetPageSize() == 0 && r.GetPageToken() == "" {
			r.PageSize = most
		}
	case *v1.ListPreAuthKeysRequest:
		if r.GetPageSize() == 0 && r.GetPageToken() == "" {
			r.PageSize = most
		}
	case *v1.ListApiKeysRequest:
		if r.GetPageSize() == 0 && r.GetPageToken() == "" {
			r.PageSize = most
		}
	case *v1.ListOAuthClientsRequest:
		if r.GetPageSize() == 0 && r.GetPageToken() == "" {
			r.PageSize = most
		}
	}
}

// isEmpty reports whether the body says nothing, as that of programs that
// always send one.
func (c *call) isEmpty() bool {
	text := make([]byte, min(c.size, 64))
	n, _ := c.ReadAt(text, 0)
	switch strings.TrimSpace(string(text[:n])) {
	case "", "{}", "null":
		return c.size <= len(text)
	}
	return false
}

// etag tells the etag of what a method returns also in the header.
func etag(_ context.Context, w http.ResponseWriter, m proto.Message) error {
	if tagged, ok := m.(interface{ GetEtag() string }); ok && tagged.GetEtag() != "" {
		w.Header().Set("ETag", `"`+tagged.GetEtag()+`"`)
	}
	return nil
}
