package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	v1 "heddle/proto/heddle/v1"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// codec is protojson with zero values, as headscale has it. What it does not
// know in a request is an error.
type codec struct{ runtime.JSONPb }

func newCodec() *codec {
	return &codec{runtime.JSONPb{MarshalOptions: protojson.MarshalOptions{EmitUnpopulated: true}}}
}

// NewDecoder returns a decoder of one message, which is all that r has.
func (c *codec) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		m, ok := v.(proto.Message)
		if !ok {
			return errors.New("not a message")
		}
		if in, ok := r.(*call); ok {
			in.decoded = true
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(data)) == 0 {
			return nil
		}
		return Unmarshal(data, m)
	})
}

// Unmarshal reads a request; its error is for the caller. Where the message has text, a number will do: users are
// named by IDs too, and some programs write those without quotes.
func Unmarshal(data []byte, m proto.Message) error {
	err := protojson.Unmarshal(data, m)
	if err == nil {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var fields map[string]any
	if dec.Decode(&fields) == nil && dec.Decode(new(any)) == io.EOF && numbersAsText(fields, m.ProtoReflect().Descriptor().Fields()) {
		if again, marshalErr := json.Marshal(fields); marshalErr == nil {
			proto.Reset(m)
			err = protojson.Unmarshal(again, m)
		}
	}
	if err != nil {
		_, text, _ := strings.Cut(err.Error(), ":") // "proto:" and a blank of changing width
		return errors.New("the body of the request is not valid: " + strings.TrimSpace(strings.ReplaceAll(text, "\u00a0", " ")))
	}
	return nil
}

// numbersAsText makes numbers text where the message has text, and reports
// whether there were any. It looks at the top level only, where references are.
func numbersAsText(fields map[string]any, known protoreflect.FieldDescriptors) bool {
	found := false
	for name, value := range fields {
		f := known.ByJSONName(name)
		if f == nil {
			f = known.ByTextName(name)
		}
		if n, ok := value.(json.Number); ok && f != nil && f.Kind() == protoreflect.StringKind && !f.IsList() {
			fields[name], found = n.String(), true
		}
	}
	return found
}

func valueOf(s string) protoreflect.Value { return protoreflect.ValueOfString(s) }

// unescaped returns a query as it reads; what is not escaped well is as it is.
func unescaped(query string) string {
	if text, err := url.QueryUnescape(query); err == nil {
		return text
	}
	return query
}

// sendTime bounds how long a receiver may take to take a message of a stream.
const sendTime = 30 * time.Second

// watch streams news as lines of JSON: {"result": …}, or {"error": …} at the end.
func (h *Handler) watch(w http.ResponseWriter, r *http.Request) {
	in := r.Context().Value(callKey{}).(*call)
	req := &v1.WatchRequest{}
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
	err = h.opts.Methods.Receive(r.Context(), v1.WatchService_Watch_FullMethodName, req, func(m proto.Message) error {
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
	return rc.Flush()
}
