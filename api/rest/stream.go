package rest

import (
	"encoding/json"
	"io"
	"net/http"
	"time"

	v1 "heddle/proto/heddle/v1"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// sendTime bounds how long a receiver may take to take a message of a stream.
const sendTime = 30 * time.Second

// A stream is a method that answers with many messages.
type stream struct {
	method  string
	request func() proto.Message
}

// streams are the streams by their paths, which the gateway could not serve within
// the process.
var streams = map[string]stream{
	Prefix + "/audit/tail": {v1.AuditService_TailAuditEntries_FullMethodName, func() proto.Message { return &v1.TailAuditEntriesRequest{} }},
	Prefix + "/watch":      {v1.WatchService_Watch_FullMethodName, func() proto.Message { return &v1.WatchRequest{} }},
}

// stream streams messages as lines of JSON: {"result": …}, or {"error": …} at the end.
func (h *Handler) stream(w http.ResponseWriter, r *http.Request, s stream) {
	in := r.Context().Value(callKey{}).(*call)
	req := s.request()
	err := in.check(req)
	if err == nil {
		if err = runtime.PopulateQueryParameters(req, r.URL.Query(), utilities.NewDoubleArray(nil)); err != nil {
			err = status.Error(codes.InvalidArgument, err.Error())
		}
	}
	if err != nil {
		Refuse(w, err)
		return
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{}) // nothing more is read; where it is not supported, the stream ends early
	begun := false
	err = h.opts.Methods.Receive(r.Context(), s.method, req, func(m proto.Message) error {
		text, err := newCodec().Marshal(m)
		if err != nil {
			return err
		}
		if !begun {
			w.Header().Set("Content-Type", "application/x-ndjson")
			begun = true
		}
		return sendLine(w, rc, "result", text)
	})
	if !begun {
		Refuse(w, err)
		return
	}
	if st := status.Convert(err); st.Code() != codes.OK && st.Code() != codes.Canceled {
		if text, err := json.Marshal(problemOf(kinds[st.Code()], st)); err == nil {
			_ = sendLine(w, rc, "error", text) // the receiver is gone
		}
	}
}

func sendLine(w http.ResponseWriter, rc *http.ResponseController, name string, text []byte) error {
	_ = rc.SetWriteDeadline(time.Now().Add(sendTime)) // where it is not supported, the server's holds
	for _, part := range []string{`{"` + name + `":`, string(text), "}\n"} {
		if _, err := io.WriteString(w, part); err != nil {
			return err
		}
	}
	err := rc.Flush()
	_ = rc.SetWriteDeadline(time.Time{}) // HTTP/2 ends a stream at its deadline even if nobody writes
	return err
}
