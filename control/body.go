package control

import (
	"context"
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
	of map[*noise.Conn]*tally
}

type tally struct {
	n    int
	free chan struct{} // closed when the next one leaves
}

// enter counts a request, if the connection has fewer than max; if not, free is
// closed when it is time to try again.
func (p *perConn) enter(c *noise.Conn, max int) (ok bool, free <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of == nil {
		p.of = map[*noise.Conn]*tally{}
	}
	t := p.of[c]
	if t == nil {
		t = &tally{free: make(chan struct{})}
		p.of[c] = t
	}
	if t.n >= max {
		return false, t.free
	}
	t.n++
	return true, nil
}

func (p *perConn) leave(c *noise.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.of[c]
	close(t.free)
	if t.n--; t.n == 0 {
		delete(p.of, c)
		return
	}
	t.free = make(chan struct{})
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

// bodyPatience is how long a request waits until others of its connection have
// arrived.
const bodyPatience = 3 * time.Second

// place lets a request wait for its turn to be read. Leave with intake.bodies.
func (s *Server) place(ctx context.Context, c *call, max int) error {
	busy := time.NewTimer(bodyPatience)
	defer busy.Stop()
	for {
		ok, free := s.intake.bodies.enter(c.conn, max)
		if ok {
			return nil
		}
		select {
		case <-free:
		case <-busy.C:
			return errBusy
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// decode reads the body, in bounded time and space.
func (s *Server) decode(c *call, r *http.Request, into any) error {
	a := s.allowance(c)
	if err := s.place(r.Context(), c, a.conn); err != nil {
		return err
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
