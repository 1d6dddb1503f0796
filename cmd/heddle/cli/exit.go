package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"heddle/cmd/heddle/cli/dial"
	"heddle/cmd/heddle/cli/profile"
	"heddle/cmd/heddle/config"
	"heddle/control/tailnet"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	v1 "heddle/proto/heddle/v1"
)

// Exit codes.
const (
	exitOK       = 0
	exitFailed   = 1
	exitUsage    = 2
	exitNotFound = 3
	exitConflict = 4
	exitDenied   = 5
)

// exitCodes is the table of gRPC codes as exit codes; the others are exitFailed.
var exitCodes = map[codes.Code]int{
	codes.InvalidArgument:    exitUsage,
	codes.NotFound:           exitNotFound,
	codes.FailedPrecondition: exitConflict,
	codes.AlreadyExists:      exitConflict,
	codes.Aborted:            exitConflict,
	codes.PermissionDenied:   exitDenied,
	codes.Unauthenticated:    exitDenied,
}

// usageError is a command line that cannot be meant.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// inputError is about what the command line names, which its help does not mend.
type inputError struct{ error }

func (e inputError) Unwrap() error { return e.error }

// misused reports whether err is about the command line itself.
func misused(err error) bool {
	var dialed *dial.Error
	return errors.As(err, &usageError{}) || errors.As(err, &dialed) && dialed.Kind == dial.Usage
}

// exitCode returns the exit code for err.
func exitCode(err error) int {
	var dialed *dial.Error
	var conf *config.LoadError
	switch {
	case errors.Is(err, profile.ErrUnknown):
		return exitNotFound
	case misused(err), errors.As(err, &inputError{}), errors.As(err, &conf):
		return exitUsage
	case errors.As(err, &dialed):
		return map[dial.Kind]int{dial.Input: exitUsage, dial.Denied: exitDenied, dial.Unreachable: exitFailed}[dialed.Kind]
	}
	if st, ok := status.FromError(err); ok {
		if code, ok := exitCodes[st.Code()]; ok {
			return code
		}
	}
	return exitFailed
}

// report tells the person what went wrong, and returns the exit code.
func (a *app) report(ctx context.Context, cmd *cobra.Command, err error) int {
	if a.dial.explains(err) {
		err = a.dial.last()
	}
	code := exitCode(err)
	a.hint("heddle: %s", message(ctx, err))
	if misused(err) {
		a.hint("Run '%s --help' for help.", cmd.CommandPath())
	}
	return code
}

// lost is what people are told where a server does not answer any more.
const lost = "the server stopped or the connection broke; see that it runs (`heddle health`)"

// broke reports whether err, of a call, says that the server, or the way to it, went away: the
// status was made here by grpc, which tells only by the words, or by a server that stops.
func broke(err error) bool {
	st, ok := status.FromError(err)
	if !ok || st.Code() == codes.Canceled {
		return ok
	}
	return st.Code() == codes.Unavailable && slices.ContainsFunc([]string{
		"error reading from server", "connection error: ", "closing transport", "transport is closing", "the connection is draining",
		"the connection is closing", "connection closed", "unexpected HTTP status",
	}, func(words string) bool { return strings.Contains(st.Message(), words) })
}

// message returns the text of err for people. ctx is that of the command.
func message(ctx context.Context, err error) string {
	switch {
	case ctx.Err() != nil && (errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled):
		return "interrupted"
	case broke(err):
		return lost
	}
	st, ok := status.FromError(err)
	if !ok {
		return err.Error()
	}
	switch st.Code() {
	case codes.DeadlineExceeded:
		return "the server did not answer in time; look at its log, or try again"
	case codes.Unimplemented:
		return "the server does not know this command: is it older than this program? (" + st.Message() + ")"
	}
	return st.Message()
}

// problemsOf returns the problems of a policy that err tells of.
func problemsOf(err error) []*v1.PolicyProblem {
	for _, d := range status.Convert(err).Details() {
		if p, ok := d.(*v1.PolicyProblems); ok {
			return p.GetProblems()
		}
	}
	return nil
}

// Coded gives an error of a command that works without the server the code by which the
// exit code is chosen.
func Coded(err error) error {
	var known *tailnet.Error
	if !errors.As(err, &known) {
		return err
	}
	code, ok := map[tailnet.Code]codes.Code{
		tailnet.Invalid: codes.InvalidArgument, tailnet.NotFound: codes.NotFound,
		tailnet.Conflict: codes.FailedPrecondition, tailnet.Denied: codes.PermissionDenied,
	}[known.Code]
	if !ok {
		return err
	}
	return status.Error(code, known.Msg)
}
