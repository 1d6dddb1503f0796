package doctor

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/coder/websocket"
	"tailscale.com/control/controlbase"
	"tailscale.com/net/netutil"
	"tailscale.com/net/wsconn"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// What a device says when it opens its control connection.
const (
	controlProtocol = "tailscale-control-protocol"
	handshakeHeader = "X-Tailscale-Handshake"
)

// upgrade opens a control connection by POST, as devices do, and does the handshake in it.
func (e *exam) upgrade(ctx context.Context, control key.MachinePublic) {
	const name = "upgrade"
	init, proceed, err := controlbase.ClientDeferred(key.NewMachine(), control, uint16(tailcfg.CurrentCapabilityVersion))
	if err != nil {
		e.broken(name, "", "%v", err)
		return
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url.String()+"/ts2021", nil)
	if err != nil {
		e.broken(name, "", "%v", err)
		return
	}
	req.Header.Set("Upgrade", controlProtocol)
	req.Header.Set("Connection", "upgrade")
	req.Header.Set(handshakeHeader, base64.StdEncoding.EncodeToString(init))
	conn, resp, err := e.switchTo(ctx, req)
	if err != nil {
		e.broken(name, proxyDoc, "%s", blame("POST", resp, err))
		return
	}
	defer conn.Close()
	e.greet(ctx, name, "POST", resp, conn, proceed)
}

// webSocket does the same as clients in browsers do.
func (e *exam) webSocket(ctx context.Context, control key.MachinePublic) {
	const name = "websocket"
	ctx, cancel := within(ctx)
	defer cancel()
	init, proceed, err := controlbase.ClientDeferred(key.NewMachine(), control, uint16(tailcfg.CurrentCapabilityVersion))
	if err != nil {
		e.broken(name, "", "%v", err)
		return
	}
	at := e.url.String() + "/ts2021?" + url.Values{handshakeHeader: {base64.StdEncoding.EncodeToString(init)}}.Encode()
	client := e.client()
	client.Timeout = 0 // the connection is to outlive the request
	ws, resp, err := websocket.Dial(ctx, at, &websocket.DialOptions{HTTPClient: client, Subprotocols: []string{controlProtocol}})
	if err != nil {
		if resp != nil && resp.Body != nil {
			body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
			err = errRefused{resp.StatusCode, string(body)}
		}
		e.broken(name, proxyDoc+"; devices other than browsers do not need it", "%s", blame("WebSocket", resp, err))
		return
	}
	defer ws.CloseNow()
	e.greet(ctx, name, "WebSocket", resp, wsconn.NetConn(ctx, ws, websocket.MessageBinary, ""), proceed)
}

// greet does the handshake inside an upgraded connection.
func (e *exam) greet(ctx context.Context, name, way string, resp *http.Response, conn net.Conn, proceed controlbase.HandshakeContinuation) {
	ctx, cancel := within(ctx)
	defer cancel()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := proceed(ctx, conn); err != nil {
		e.broken(name, proxyDoc, "%s was upgraded, but what comes then is not what heddle sends (%s): %s changes it", way, cause(err), between(resp))
		return
	}
	e.fine(name, "a control connection by %s comes through", way)
}

// switchTo sends a request that asks for another protocol and returns the connection that speaks it.
func (e *exam) switchTo(ctx context.Context, req *http.Request) (net.Conn, *http.Response, error) {
	ctx, cancel := within(ctx)
	defer cancel()
	conn, err := reach(ctx, "tcp", net.JoinHostPort(req.URL.Hostname(), port(req.URL.Scheme, req.URL.Port())))
	if err != nil {
		return nil, nil, err
	}
	if req.URL.Scheme == "https" {
		conf := e.tls()
		conf.ServerName = req.URL.Hostname()
		conn = tls.Client(conn, conf)
	}
	conn.SetDeadline(time.Now().Add(patience))
	if err := req.Write(conn); err != nil {
		conn.Close()
		return nil, nil, err
	}
	buffer := bufio.NewReader(conn)
	resp, err := http.ReadResponse(buffer, req)
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		err = errRefused{resp.StatusCode, string(body)}
	}
	if err != nil {
		conn.Close()
		return nil, resp, err
	}
	conn.SetDeadline(time.Time{})
	return netutil.NewDrainBufConn(conn, buffer), resp, nil
}

// errRefused is an answer other than the switch that was asked for.
type errRefused struct {
	code int
	body string
}

func (e errRefused) Error() string { return fmt.Sprintf("%d %s", e.code, http.StatusText(e.code)) }

// blame says who ate an upgrade. heddle itself tells when a request came without the headers.
func blame(way string, resp *http.Response, err error) string {
	var refused errRefused
	switch {
	case resp == nil:
		return fmt.Sprintf("no answer to %s /ts2021: %s", way, cause(err))
	case errors.As(err, &refused) && strings.Contains(refused.body, "Tailscale control protocol"):
		return fmt.Sprintf("%s does not pass on the headers Upgrade and Connection of %s /ts2021: heddle got it without them", between(resp), way)
	}
	return fmt.Sprintf("%s answers %s /ts2021 with %s instead of passing it on", between(resp), way, resp.Status)
}
