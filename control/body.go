package control

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"heddle/control/noise"
	"heddle/control/tailnet"
)

// intake bounds the requests that are on their way in.
type intake struct {
	bodies perConn // that are being read or decoded
	ghosts perConn // streams of devices that nobody knows
	// Held while a body is decoded, which waits for nobody.
	known, strangers chan struct{}
}

func newIntake(decoding int) intake {
	return intake{known: make(chan struct{}, decoding), strangers: make(chan struct{}, decoding)}
}

// perConn counts requests by connection.
type perConn struct {
	mu sync.Mutex
	n  map[*noise.Conn]int
}

// enter counts a request, if the connection has fewer than max.
func (p *perConn) enter(c *noise.Conn, max int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.n[c] >= max {
		return false
	}
	if p.n == nil {
		p.n = map[*noise.Conn]int{}
	}
	p.n[c]++
	return true
}

func (p *perConn) leave(c *noise.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.n[c]--; p.n[c] == 0 {
		delete(p.n, c)
	}
}

// allowance is what a body may cost.
type allowance struct {
	size  int64
	time  time.Duration // until it has arrived
	conn  int           // how many of one connection are taken at a time; clients rarely send two
	slots chan struct{} // of the intake
}

// allowance returns what the body of a call may cost. Strangers get less, and have
// slots of their own.
func (s *Server) allowance(c *call) allowance {
	if c.known {
		return allowance{s.limits.Body, 30 * time.Second, 8, s.intake.known}
	}
	return allowance{s.limits.StrangerBody, 5 * time.Second, 2, s.intake.strangers}
}

// decode reads the body, in bounded time and space.
func (s *Server) decode(c *call, r *http.Request, into any) error {
	a := s.allowance(c)
	if !s.intake.bodies.enter(c.conn, a.conn) {
		return errBusy
	}
	defer s.intake.bodies.leave(c.conn)
	c.rc.SetReadDeadline(time.Now().Add(a.time))
	body, err := io.ReadAll(http.MaxBytesReader(c.w, r.Body, a.size))
	c.rc.SetReadDeadline(time.Time{})
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(err, &tooBig):
		return &tailnet.Error{Code: tailnet.Invalid, Msg: "the request's body is too large", Err: err}
	case err != nil:
		return &tailnet.Error{Code: tailnet.Invalid, Msg: "the request's body did not arrive", Err: err}
	}
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-r.Context().Done():
		return r.Context().Err()
	}
	if err := json.Unmarshal(body, into); err != nil {
		return &tailnet.Error{Code: tailnet.Invalid, Msg: "the request's body is not the JSON that was expected", Err: err}
	}
	return nil
}
