package rest

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	v1 "heddle/proto/heddle/v1"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
)

// A Problem is what is sent instead of an answer (RFC 7807).
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	// Code is one of the kinds below; it never changes its meaning.
	Code string `json:"code"`
	// Message is the same as Detail, for programs that look for this name.
	Message string `json:"message"`
	// Problems are those of a policy.
	Problems []json.RawMessage `json:"problems,omitempty"`
}

type kind struct {
	status int
	code   string
	means  string // for the page
}

// kinds is the table of gRPC codes on this wire.
var kinds = map[codes.Code]kind{
	codes.InvalidArgument:    {http.StatusBadRequest, "invalid", "The request itself is wrong."},
	codes.OutOfRange:         {http.StatusBadRequest, "invalid", ""},
	codes.Unauthenticated:    {http.StatusUnauthorized, "unauthenticated", "There is no valid API key, or it came over an unencrypted connection."},
	codes.PermissionDenied:   {http.StatusForbidden, "denied", "The API key may not do that."},
	codes.NotFound:           {http.StatusNotFound, "not_found", "There is no such thing, or no such path."},
	codes.AlreadyExists:      {http.StatusConflict, "conflict", ""},
	codes.FailedPrecondition: {http.StatusConflict, "conflict", "It exists already, or something has to be done first."},
	codes.Aborted:            {http.StatusPreconditionFailed, "changed", "It is not what if_match or If-Match says: read it again."},
	codes.ResourceExhausted:  {http.StatusTooManyRequests, "exhausted", "Too many calls, or a limit is reached."},
	codes.Unimplemented:      {http.StatusNotImplemented, "unimplemented", "This server cannot do that."},
	codes.Internal:           {http.StatusInternalServerError, "internal", "A fault of the server, whose log has more."},
	codes.Unavailable:        {http.StatusServiceUnavailable, "unavailable", "A part of the server is down; trying again may help."},
	codes.DeadlineExceeded:   {http.StatusGatewayTimeout, "timeout", "It took too long; it may have happened all the same."},
	codes.Canceled:           {499, "canceled", ""}, // whom nobody reads any more
}

// Kinds that only HTTP has.
var (
	methodNotAllowed = kind{http.StatusMethodNotAllowed, "method_not_allowed", "The path knows other methods than this one."}
	contentTooLarge  = kind{http.StatusRequestEntityTooLarge, "too_large", "The body of the request has more than 6 MiB."}
)

// tooLarge stands for contentTooLarge.
var tooLarge = status.Error(codes.OutOfRange, "the body of the request has more than 6 MiB")

// Refuse answers with an error, which is a gRPC status.
func Refuse(w http.ResponseWriter, err error) {
	st := status.Convert(err)
	k, ok := kinds[st.Code()]
	switch {
	case err == tooLarge:
		k = contentTooLarge
	case !ok:
		k = kinds[codes.Internal]
	}
	switch k.status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Bearer realm="heddle"`)
	case http.StatusTooManyRequests:
		w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
	}
	write(w, k, problemOf(k, st))
}

// retryAfter is when to try again after too many calls, in seconds.
const retryAfter = 5

func problemOf(k kind, st *status.Status) Problem {
	text := Redact(st.Message())
	p := Problem{Type: docsPath + "#" + k.code, Title: http.StatusText(k.status), Status: k.status, Detail: text, Code: k.code, Message: text}
	for _, d := range st.Details() {
		list, ok := d.(*v1.PolicyProblems)
		if !ok {
			continue
		}
		for _, one := range list.GetProblems() {
			if text, err := (protojson.MarshalOptions{EmitUnpopulated: true}).Marshal(one); err == nil {
				p.Problems = append(p.Problems, text)
			}
		}
	}
	return p
}

func write(w http.ResponseWriter, k kind, p Problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(k.status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(p) // the client is gone
}

// unrouted answers where there is no method.
func unrouted(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, code int) {
	switch code {
	case http.StatusMethodNotAllowed:
		write(w, methodNotAllowed, problemOf(methodNotAllowed, status.New(codes.Unimplemented, r.Method+" is not what this path knows; see "+docsPath)))
	case http.StatusBadRequest:
		Refuse(w, status.Error(codes.InvalidArgument, "the path is not valid"))
	default:
		Refuse(w, status.Error(codes.NotFound, "there is nothing at this path; see "+docsPath))
	}
}
