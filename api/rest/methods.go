package rest

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Methods are the methods of gRPC services, called within the process through
// the interceptors of a server: what they answer is the same either way. It is the
// connection of the clients that the gateway uses.
type Methods struct {
	// Unary and Stream are around every call.
	Unary  grpc.UnaryServerInterceptor
	Stream grpc.StreamServerInterceptor

	unary  map[string]unaryMethod
	stream map[string]streamMethod
}

type unaryMethod struct {
	desc grpc.MethodDesc
	impl any
}

type streamMethod struct {
	desc grpc.StreamDesc
	impl any
}

// RegisterService adds a service. It must not be called once there are calls.
func (m *Methods) RegisterService(desc *grpc.ServiceDesc, impl any) {
	if m.unary == nil {
		m.unary, m.stream = map[string]unaryMethod{}, map[string]streamMethod{}
	}
	for _, d := range desc.Methods {
		m.unary["/"+desc.ServiceName+"/"+d.MethodName] = unaryMethod{d, impl}
	}
	for _, d := range desc.Streams {
		m.stream["/"+desc.ServiceName+"/"+d.StreamName] = streamMethod{d, impl}
	}
}

// Invoke calls a method; see grpc.ClientConnInterface.
func (m *Methods) Invoke(ctx context.Context, name string, args, reply any, _ ...grpc.CallOption) error {
	method, ok := m.unary[name]
	in, isMessage := args.(proto.Message)
	if !ok || !isMessage {
		return status.Errorf(codes.Unimplemented, "there is no method %s", strings.TrimPrefix(name, "/"))
	}
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		if err := c.check(in); err != nil {
			return err
		}
	}
	out, err := method.desc.Handler(method.impl, ctx, func(req any) error {
		proto.Merge(req.(proto.Message), in)
		return nil
	}, m.Unary)
	if err != nil {
		return err
	}
	proto.Merge(reply.(proto.Message), out.(proto.Message))
	return nil
}

// NewStream refuses: see Receive.
func (m *Methods) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "streams have no client here")
}

// Receive calls a method that answers with a stream of messages, and hands them to
// send until one of them ends.
func (m *Methods) Receive(ctx context.Context, name string, req proto.Message, send func(proto.Message) error) error {
	method, ok := m.stream[name]
	if !ok {
		return status.Errorf(codes.Unimplemented, "there is no method %s", strings.TrimPrefix(name, "/"))
	}
	info := &grpc.StreamServerInfo{FullMethod: name, IsServerStream: true}
	return m.Stream(method.impl, &serverStream{ctx: ctx, req: req, send: send}, info, method.desc.Handler)
}

// serverStream is a stream of which the one request is there already.
type serverStream struct {
	ctx  context.Context
	req  proto.Message
	send func(proto.Message) error
}

func (s *serverStream) Context() context.Context     { return s.ctx }
func (s *serverStream) SetHeader(metadata.MD) error  { return nil }
func (s *serverStream) SendHeader(metadata.MD) error { return nil }
func (s *serverStream) SetTrailer(metadata.MD)       {}
func (s *serverStream) SendMsg(m any) error          { return s.send(m.(proto.Message)) }

func (s *serverStream) RecvMsg(m any) error {
	proto.Merge(m.(proto.Message), s.req)
	return nil
}
