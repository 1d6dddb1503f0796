package tailnet

import (
	"errors"
	"fmt"
	"strings"
)

// Code sorts errors by what the caller can do about them. The edges map it to
// HTTP status, gRPC code and exit status by one table each.
type Code int

const (
	Internal    Code = iota // our fault: the log has more
	Invalid                 // the request itself is wrong
	NotFound                // what it names does not exist
	Conflict                // it exists already, or a precondition does not hold
	Changed                 // it is not any more what the caller says that it is
	Denied                  // the caller may not
	Exhausted               // a limit is reached; later it may work
	Unavailable             // a part that we need is down; retrying may help
)

func (c Code) String() string {
	names := [...]string{"internal", "invalid", "not_found", "conflict", "changed", "denied", "exhausted", "unavailable"}
	if int(c) < len(names) {
		return names[c]
	}
	return "internal"
}

// Error is an error with a message for the person who can act on it.
type Error struct {
	Code Code
	Msg  string // for the person; names the next step; holds no secret
	Err  error  // for the log; may be nil
}

func (e *Error) Error() string {
	if e.Err != nil && !strings.Contains(e.Msg, e.Err.Error()) {
		return e.Msg + ": " + e.Err.Error()
	}
	return e.Msg
}

func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error; a %w argument becomes Err for errors.Is but its text
// is in Msg, so wrap only errors that are fit for people.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Msg: err.Error()}
}

// CodeOf returns the code of err: Internal for a foreign error.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}

// Message returns what a person may be told of err: a foreign error stays in
// the log.
func Message(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Msg
	}
	return "internal error; the server's log has more"
}
