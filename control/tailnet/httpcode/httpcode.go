// Package httpcode owns which HTTP status stands for which error of the tailnet, to whomever it is told:
// devices, browsers, programs. It refuses to know in what words and in what form.
package httpcode

import (
	"net/http"

	"heddle/control/tailnet"
)

var statuses = map[tailnet.Code]int{
	tailnet.Invalid:     http.StatusBadRequest,
	tailnet.NotFound:    http.StatusNotFound,
	tailnet.Conflict:    http.StatusConflict,
	tailnet.Changed:     http.StatusPreconditionFailed,
	tailnet.Denied:      http.StatusForbidden,
	tailnet.Exhausted:   http.StatusTooManyRequests,
	tailnet.Unavailable: http.StatusServiceUnavailable,
}

// Of returns the status for an error, which is not nil: 500 for our own faults, and for errors of others.
func Of(err error) int {
	if status, ok := statuses[tailnet.CodeOf(err)]; ok {
		return status
	}
	return http.StatusInternalServerError
}
