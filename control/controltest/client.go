package controltest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"tailscale.com/control/controlbase"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// Client speaks the control protocol for one device. Fields may be changed
// between requests. A request is made with the current values.
type Client struct {
	Machine  key.MachinePrivate
	Node     key.NodePrivate
	OldNode  key.NodePrivate // zero unless the node key was renewed
	Hostinfo *tailcfg.Hostinfo
	Version  tailcfg.CapabilityVersion

	t    testing.TB
	s    *Server
	from netip.Addr
	http *http.Client

	mu    sync.Mutex
	gate  *gate   // of the connections to come
	gates []*gate // all
	conns []net.Conn
}

// gate stops the reads of connections while it is shut.
type gate struct {
	mu   sync.Mutex
	shut chan struct{} // not nil while shut; closed to open it
}

func (g *gate) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case shut && g.shut == nil:
		g.shut = make(chan struct{})
	case !shut && g.shut != nil:
		close(g.shut)
		g.shut = nil
	}
}

func (g *gate) pass() {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if shut != nil {
		<-shut
	}
}

// gated is a connection behind a gate.
type gated struct {
	net.Conn
	gate *gate
}

func (c gated) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.gate.pass()
	return n, err
}

// Client returns a new device of that hostname. Its connections end with the test.
func (s *Server) Client(hostname string) *Client {
	c := &Client{
		Machine:  key.NewMachine(),
		Node:     key.NewNode(),
		Hostinfo: &tailcfg.Hostinfo{Hostname: hostname, OS: "linux", IPNVersion: "1.102.5", BackendLogID: "x"},
		Version:  tailcfg.CurrentCapabilityVersion,
		t:        s.t, s: s, from: netip.MustParseAddr("198.51.100.7"),
	}
	c.Reconnect()
	s.t.Cleanup(c.Kill)
	return c
}

// From lets the client's later connections come from an address.
func (c *Client) From(a string) *Client { c.from = netip.MustParseAddr(a); return c }

// Clone returns another device with the same keys.
func (c *Client) Clone() *Client {
	twin := c.s.Client(c.Hostinfo.Hostname)
	twin.Machine, twin.Node, twin.OldNode = c.Machine, c.Node, c.OldNode
	return twin
}

// Reconnect makes later requests use a new connection, like a restart of the client.
func (c *Client) Reconnect() {
	tr := &http.Transport{Protocols: new(http.Protocols), MaxConnsPerHost: 1}
	tr.Protocols.SetUnencryptedHTTP2(true)
	tr.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) { return c.dial(ctx) }
	c.http = &http.Client{Transport: tr}
}

// Kill closes all connections, as the kernel does for a killed process.
func (c *Client) Kill() {
	c.mu.Lock()
	conns, gates := c.conns, c.gates
	c.conns = nil
	c.mu.Unlock()
	for _, g := range gates {
		g.set(false)
	}
	for _, conn := range conns {
		conn.Close()
	}
	c.http.CloseIdleConnections()
}

// Freeze stops the client from reading, as SIGSTOP does: what it is sent piles up in buffers.
func (c *Client) Freeze() { c.currentGate().set(true) }

// Thaw ends a Freeze.
func (c *Client) Thaw() { c.currentGate().set(false) }

// Lose makes the client use new connections, and the server hear nothing of
// the old ones, not even their end: as when a phone changes networks.
func (c *Client) Lose() {
	c.Freeze()
	c.mu.Lock()
	c.gate = nil
	c.mu.Unlock()
	c.Reconnect()
}

func (c *Client) currentGate() *gate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gate == nil {
		c.gate = new(gate)
		c.gates = append(c.gates, c.gate)
	}
	return c.gate
}

// dial opens a Noise connection.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	raw, err := c.s.Dial(ctx, c.from)
	if err != nil {
		return nil, err
	}
	init, finish, err := controlbase.ClientDeferred(c.Machine, c.s.Key, uint16(c.Version))
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(raw, "POST /ts2021 HTTP/1.1\r\nHost: heddle.test\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\nX-Tailscale-Handshake: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(init))
	br := bufio.NewReader(raw)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		raw.Close()
		return nil, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(res.Body)
		raw.Close()
		return nil, fmt.Errorf("upgrade: %s: %s", res.Status, body)
	}
	conn, err := finish(ctx, gated{buffered{raw, br}, c.currentGate()})
	if err != nil {
		raw.Close()
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = append(c.conns, raw)
	return conn, nil
}

type buffered struct {
	net.Conn
	r *bufio.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// Do sends a request over Noise; body is encoded as JSON unless it is []byte or nil.
func (c *Client) Do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	raw, ok := body.([]byte)
	if !ok && body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://heddle.test"+path, bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	return c.http.Do(req)
}

// Upload sends a request whose body is still being made.
func (c *Client) Upload(ctx context.Context, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, "POST", "https://heddle.test"+path, body)
	if err != nil {
		return nil, err
	}
	return c.http.Do(req)
}

// StatusError is an answer other than 200.
type StatusError struct {
	Status int
	Body   string
	Header http.Header
}

func (e *StatusError) Error() string { return fmt.Sprintf("http %d: %s", e.Status, e.Body) }

// post sends a request and decodes the answer.
func (c *Client) post(ctx context.Context, path string, body, into any) error {
	res, err := c.Do(ctx, "POST", path, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(res.Body)
		return &StatusError{res.StatusCode, string(text), res.Header}
	}
	if into == nil {
		_, err := io.Copy(io.Discard, res.Body)
		return err
	}
	return json.NewDecoder(res.Body).Decode(into)
}

// Register sends a register request after change (which may be nil) has had its way with it.
func (c *Client) Register(ctx context.Context, change func(*tailcfg.RegisterRequest)) (*tailcfg.RegisterResponse, error) {
	req := &tailcfg.RegisterRequest{Version: c.Version, NodeKey: c.Node.Public(), Hostinfo: c.Hostinfo}
	if !c.OldNode.IsZero() {
		req.OldNodeKey = c.OldNode.Public()
	}
	if change != nil {
		change(req)
	}
	var resp tailcfg.RegisterResponse
	if err := c.post(ctx, "/machine/register", req, &resp); err != nil {
		return nil, err
	}
	return &resp, nil
}

// WithKey is a change for Register: it adds an auth key.
func WithKey(secret string) func(*tailcfg.RegisterRequest) {
	return func(r *tailcfg.RegisterRequest) { r.Auth = &tailcfg.RegisterResponseAuth{AuthKey: secret} }
}

// Logout is a change for Register: it ends the login.
func Logout(r *tailcfg.RegisterRequest) { r.Expiry = time.Unix(123, 0) }

// Renew gives the client a new node key, as an interactive login does.
func (c *Client) Renew() { c.OldNode, c.Node = c.Node, key.NewNode() }

// Join logs in with an auth key; it must succeed.
func (c *Client) Join(secret string) *Client {
	c.t.Helper()
	resp, err := c.Register(context.Background(), WithKey(secret))
	if err != nil {
		c.t.Fatalf("%s: register: %v", c.Hostinfo.Hostname, err)
	}
	if resp.Error != "" || resp.AuthURL != "" || resp.NodeKeyExpired || !resp.MachineAuthorized {
		c.t.Fatalf("%s: register: %+v", c.Hostinfo.Hostname, resp)
	}
	return c
}

// MapRequest returns a request as this client would send it.
func (c *Client) MapRequest() *tailcfg.MapRequest {
	return &tailcfg.MapRequest{
		Version: c.Version, KeepAlive: true, Compress: "zstd",
		NodeKey: c.Node.Public(), Hostinfo: c.Hostinfo,
	}
}

// Report sends a lite update after change (which may be nil) has had its way with it.
func (c *Client) Report(ctx context.Context, change func(*tailcfg.MapRequest)) error {
	req := c.MapRequest()
	req.OmitPeers = true
	if change != nil {
		change(req)
	}
	return c.post(ctx, "/machine/map", req, nil)
}

// Advertise offers routes by a lite update; it must succeed.
func (c *Client) Advertise(routes ...string) {
	c.t.Helper()
	h := c.Hostinfo.Clone()
	h.RoutableIPs = nil
	for _, r := range routes {
		h.RoutableIPs = append(h.RoutableIPs, netip.MustParsePrefix(r))
	}
	c.Hostinfo = h
	if err := c.Report(context.Background(), nil); err != nil {
		c.t.Fatal(err)
	}
}

// Stream opens a map stream after change (which may be nil) has had its way
// with the request. It ends with the test or with Close.
func (c *Client) Stream(change func(*tailcfg.MapRequest)) (*Stream, error) {
	req := c.MapRequest()
	req.Stream = true
	if change != nil {
		change(req)
	}
	ctx, cancel := context.WithCancel(context.Background())
	res, err := c.Do(ctx, "POST", "/machine/map", req)
	if err == nil && res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(res.Body)
		err = &StatusError{res.StatusCode, string(text), res.Header}
	}
	if err != nil {
		cancel()
		return nil, err
	}
	st := newStream(res.Body, req.Compress == "zstd", cancel)
	c.t.Cleanup(st.Close)
	return st, nil
}

// MustStream is Stream, and waits for the first full map.
func (c *Client) MustStream() *Stream {
	c.t.Helper()
	st, err := c.Stream(nil)
	if err != nil {
		c.t.Fatalf("%s: map: %v", c.Hostinfo.Hostname, err)
	}
	if !st.Await(func(n *Netmap) bool { return n.Self != nil }) {
		c.t.Fatalf("%s: map: no self node: %v", c.Hostinfo.Hostname, st.Err())
	}
	return st
}
