package api

import (
	"context"
	"errors"
	"runtime/debug"
	"strings"

	"heddle/api/callers"
	"heddle/api/rest"
	"heddle/control/tailnet"
	"heddle/policy"
	v1 "heddle/proto/heddle/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// An identifier tells who makes a call.
type identifier func(context.Context) (callers.Caller, error)

// unary is the one adapter around every method: who calls, deadline, panics,
// errors. Who wants a list waits in line, unless that was done before.
func (s *Server) unary(identify identifier, inLine bool) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
		defer func() { s.called(err) }()
		defer s.recovered(info.FullMethod, &err)
		ctx, cancel := context.WithTimeout(ctx, deadline)
		defer cancel()
		id, err := identify(ctx)
		if err == nil {
			err = s.mayUse(id.Actor, info.FullMethod)
		}
		if err == nil && inLine && id.Key != 0 && strings.Contains(info.FullMethod, "/List") {
			var turn *callers.Turn
			if turn, err = s.gate.Reading(ctx); err == nil {
				defer turn.End()
			}
		}
		if err == nil {
			id.Reason = reasonOf(ctx)
			resp, err = next(callers.With(ctx, id), req)
		}
		if err != nil {
			return nil, s.status(info.FullMethod, id.Actor, err)
		}
		return resp, nil
	}
}

// stream is the same for streams, which have no deadline.
func (s *Server) stream(identify identifier) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
		defer func() { s.called(err) }()
		defer s.recovered(info.FullMethod, &err)
		ctx, cancel := context.WithCancel(stream.Context())
		defer cancel()
		defer context.AfterFunc(s.ending, cancel)()
		id, err := identify(ctx)
		if err == nil {
			err = s.mayUse(id.Actor, info.FullMethod)
		}
		if err == nil {
			err = next(srv, actorStream{stream, callers.With(ctx, id)})
		}
		if err != nil {
			return s.status(info.FullMethod, id.Actor, err)
		}
		return nil
	}
}

// actorStream is a stream with the context of its caller.
type actorStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s actorStream) Context() context.Context { return s.ctx }

// recovered turns a panic into an error: one bad call must not end the server.
func (s *Server) recovered(method string, err *error) {
	if p := recover(); p != nil {
		s.log.Error("admin call panicked", "method", method, "panic", p, "stack", string(debug.Stack()))
		*err = status.Error(codes.Internal, "internal error; the server's log has more")
	}
}

// grpcCodes is the table of tailnet codes on this wire.
var grpcCodes = map[tailnet.Code]codes.Code{
	tailnet.Internal:    codes.Internal,
	tailnet.Invalid:     codes.InvalidArgument,
	tailnet.NotFound:    codes.NotFound,
	tailnet.Conflict:    codes.FailedPrecondition,
	tailnet.Changed:     codes.Aborted,
	tailnet.Denied:      codes.PermissionDenied,
	tailnet.Exhausted:   codes.ResourceExhausted,
	tailnet.Unavailable: codes.Unavailable,
}

// called counts a call that ended with err, a status.
func (s *Server) called(err error) {
	if s.opts.Debug.Called == nil {
		return
	}
	s.opts.Debug.Called(status.Code(err).String())
}

// status makes the error that the caller is told, and logs what is our fault.
func (s *Server) status(method string, actor tailnet.Actor, err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return status.FromContextError(err).Err()
	}
	code := tailnet.CodeOf(err)
	if code == tailnet.Internal {
		s.log.Error("admin call failed", "method", method, "actor", actor, "err", err)
	}
	st := status.New(grpcCodes[code], bounded(rest.Redact(tailnet.Message(err))))
	if problems := problemsOf(err); problems != nil {
		if with, err := st.WithDetails(&v1.PolicyProblems{Problems: problems}); err == nil {
			st = with
		}
	}
	return st.Err()
}

const (
	// maxMessage and maxProblems bound what travels in the trailers of a call,
	// for which HTTP/2 peers have limits.
	maxMessage  = 4 << 10
	maxProblems = 50
)

func bounded(msg string) string {
	if len(msg) <= maxMessage {
		return msg
	}
	return strings.ToValidUTF8(msg[:maxMessage], "") + "…"
}

// problemsOf returns the problems of a policy that err is about; nil if it is
// about something else.
func problemsOf(err error) []*v1.PolicyProblem {
	var all policy.Errors
	if !errors.As(err, &all) {
		return nil
	}
	return protoProblems(all)
}
