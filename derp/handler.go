package derp

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/coder/websocket"
	"tailscale.com/derp"
	"tailscale.com/derp/derpserver"
	"tailscale.com/net/wsconn"
)

// Paths are the paths that the relay's Handler answers, for a server that
// shares its listener between several handlers. /generate_204 is asked for on
// plain HTTP port 80, the others on HTTPS.
var Paths = []string{"/derp", "/derp/probe", "/derp/latency-check", "/generate_204", "/bootstrap-dns"}

// maxWebSocketMessage bounds one message of a WebSocket client, which may hold a
// whole DERP frame.
const maxWebSocketMessage = 2 * derp.MaxPacketSize

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// Handler returns the handler for Paths. /derp takes over its connection, so it
// works over HTTP/1.1 only. It needs neither read nor write timeouts of the
// http.Server, nor minds them.
func (r *Relay) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/derp", r.serveDERP)
	mux.HandleFunc("/derp/probe", derpserver.ProbeHandler)
	mux.HandleFunc("/derp/latency-check", derpserver.ProbeHandler)
	mux.HandleFunc("/generate_204", derpserver.ServeNoContent)
	mux.HandleFunc("/bootstrap-dns", r.boot.serve)
	return mux
}

func (r *Relay) serveDERP(w http.ResponseWriter, req *http.Request) {
	switch upgrade := strings.ToLower(req.Header.Get("Upgrade")); {
	case upgrade == "derp":
		r.serveUpgrade(w, req)
	case upgrade == "websocket" && strings.Contains(req.Header.Get("Sec-Websocket-Protocol"), "derp"):
		r.serveWebSocket(w, req)
	default:
		http.Error(w, "This is a DERP relay: it needs an upgrade of the connection to DERP or to a WebSocket with the subprotocol derp.", http.StatusUpgradeRequired)
	}
}

// serveUpgrade serves native clients.
func (r *Relay) serveUpgrade(w http.ResponseWriter, req *http.Request) {
	nc, brw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "DERP needs HTTP/1.1.", http.StatusHTTPVersionNotSupported)
		return
	}
	in, err := buffered(brw.Reader, nc)
	if err != nil {
		nc.Close()
		return
	}
	c := r.newConn(req)
	c.r = in
	c.abort = func() { nc.SetDeadline(longAgo) }
	if !r.enter(c) {
		nc.SetDeadline(time.Now().Add(time.Second))
		fmt.Fprintf(nc, "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		nc.Close()
		return
	}
	defer r.conns.remove(c)
	brw.Reader.Reset(c)
	// A client that learned the key from MetaCert does not wait for an answer.
	if req.Header.Get(derp.FastStartHeader) != "1" {
		fmt.Fprintf(brw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n"+
			"Derp-Version: %d\r\nDerp-Public-Key: %s\r\n\r\n", derp.ProtocolVersion, r.PublicKey().UntypedHexString())
	}
	ctx := c.ctx
	if ideal := req.Header.Get(derp.IdealNodeHeader); ideal != "" {
		ctx = derpserver.IdealNodeContextKey.WithValue(ctx, ideal)
	}
	r.server.Accept(ctx, nc, brw, nc.RemoteAddr().String())
}

// serveWebSocket serves clients in browsers. Any web page may connect: what
// counts is the node key.
func (r *Relay) serveWebSocket(w http.ResponseWriter, req *http.Request) {
	ws, err := websocket.Accept(w, req, &websocket.AcceptOptions{
		Subprotocols:    []string{"derp"},
		OriginPatterns:  []string{"*"},
		CompressionMode: websocket.CompressionDisabled, // packets are encrypted
	})
	if err != nil {
		return // Accept has answered
	}
	defer ws.CloseNow()
	ws.SetReadLimit(maxWebSocketMessage)
	if ws.Subprotocol() != "derp" {
		ws.Close(websocket.StatusPolicyViolation, "the subprotocol must be derp")
		return
	}
	c := r.newConn(req)
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	nc := wsconn.NetConn(ctx, ws, websocket.MessageBinary, req.RemoteAddr)
	c.r = nc
	// Cancelling closes the connection. A deadline in the past does not do: it
	// is lost if no read is under way.
	c.abort = cancel
	if !r.enter(c) {
		ws.Close(websocket.StatusTryAgainLater, "too many connections")
		return
	}
	defer r.conns.remove(c)
	brw := bufio.NewReadWriter(bufio.NewReader(c), bufio.NewWriter(nc))
	r.server.Accept(ctx, nc, brw, req.RemoteAddr)
}

// newConn returns a conn for a request; the caller sets r and abort.
func (r *Relay) newConn(req *http.Request) *conn {
	c := &conn{ctx: req.Context(), relay: r}
	if ap, err := netip.ParseAddrPort(req.RemoteAddr); err == nil {
		c.src = ap.Addr().Unmap()
	}
	return c
}

func (r *Relay) enter(c *conn) bool {
	surplus, ok := r.conns.add(c)
	if surplus != nil {
		surplus.cut()
	}
	if surplus != nil || !ok {
		r.overloaded.Add(1)
	}
	return ok
}
