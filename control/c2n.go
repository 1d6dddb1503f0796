package control

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"heddle/control/netmap"
	"heddle/control/noise"
	"heddle/control/tailnet"

	"github.com/go-chi/chi/v5"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

const (
	// maxCalls bounds the requests to clients that wait for an answer.
	maxCalls = 1024
	// maxReply bounds an answer: heap profiles and netmaps of large tailnets are megabytes.
	maxReply = 16 << 20
	// callTime is how long clients themselves take at most.
	callTime = time.Minute
)

// calls are the requests to clients that wait for their answers.
type calls struct {
	mu      sync.Mutex
	waiting map[string]*c2nCall // by the last element of the URL
}

type c2nCall struct {
	machine key.MachinePublic // who may answer
	reply   chan []byte       // capacity 1
}

// C2N sends a request to a node's client and returns its response, whose body is
// in memory. The request travels in the node's map stream, the response comes
// as a request of the client's. What paths there are depends on the client;
// every one since v1.80 has /echo. The error is Unavailable if the node is not connected or does not
// answer within ctx and one minute.
func (s *Server) C2N(ctx context.Context, id tailnet.NodeID, req *http.Request) (*http.Response, error) {
	n := s.state.Snapshot().Node(id)
	if n == nil {
		return nil, tailnet.Errorf(tailnet.NotFound, "no node with ID %d", id)
	}
	var payload bytes.Buffer
	if err := req.Write(&payload); err != nil {
		return nil, tailnet.Errorf(tailnet.Invalid, "the request cannot be encoded: %v", err)
	}
	// Clients ignore a URL that they have seen, and open another connection
	// for each host: so it is one of a kind, on the host that they know.
	call := &c2nCall{machine: n.Machine, reply: make(chan []byte, 1)}
	token := strings.ToLower(rand.Text())
	if !s.calls.add(token, call) {
		return nil, errBusy
	}
	defer s.calls.remove(token)
	err := s.sendExtra(id, netmap.Extra{PingRequest: &tailcfg.PingRequest{
		URL:   "https://" + s.url.Host + "/machine/c2n/" + token,
		Types: "c2n", Payload: payload.Bytes(),
	}})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	select {
	case reply := <-call.reply:
		resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(reply)), req)
		if err != nil {
			return nil, &tailnet.Error{Code: tailnet.Unavailable, Msg: "the node's answer is not an HTTP response", Err: err}
		}
		return resp, nil
	case <-ctx.Done():
		return nil, &tailnet.Error{Code: tailnet.Unavailable, Msg: "the node did not answer in time", Err: ctx.Err()}
	}
}

func (c *calls) add(token string, call *c2nCall) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) >= maxCalls {
		return false
	}
	if c.waiting == nil {
		c.waiting = map[string]*c2nCall{}
	}
	c.waiting[token] = call
	return true
}

func (c *calls) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting)
}

func (c *calls) remove(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, token)
}

// take returns the call that a machine may answer, once.
func (c *calls) take(token string, m key.MachinePublic) *c2nCall {
	c.mu.Lock()
	defer c.mu.Unlock()
	call := c.waiting[token]
	if call == nil || call.machine != m {
		return nil
	}
	delete(c.waiting, token)
	return call
}

// serveC2NReply takes a client's answer, which may come by another connection
// than its map stream.
func (s *Server) serveC2NReply(w http.ResponseWriter, r *http.Request) {
	call := s.calls.take(chi.URLParam(r, "id"), noise.FromContext(r.Context()).Peer())
	if call == nil {
		http.Error(w, "nobody waits for this answer from this device", http.StatusNotFound)
		return
	}
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(callTime))
	reply, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReply))
	if err != nil {
		s.log.Info("answer to a control-to-node request failed", "machine", call.machine.ShortString(), "err", err)
		http.Error(w, "the answer is too large or did not arrive", http.StatusBadRequest)
		return
	}
	call.reply <- reply
	w.WriteHeader(http.StatusOK)
}
