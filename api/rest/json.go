package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
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
