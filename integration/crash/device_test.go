package crash_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"

	"tailscale.com/control/controlbase"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// A device speaks the clients' protocol. It knows no more than its keys.
type device struct {
	s       *server
	machine key.MachinePrivate
	node    key.NodePrivate
	host    *tailcfg.Hostinfo
	http    *http.Client
}

func (s *server) device(name string) *device {
	d := &device{
		s: s, machine: key.NewMachine(), node: key.NewNode(),
		host: &tailcfg.Hostinfo{Hostname: name, OS: "linux", IPNVersion: "1.102.5", BackendLogID: "x"},
	}
	tr := &http.Transport{Protocols: new(http.Protocols), MaxConnsPerHost: 1}
	tr.Protocols.SetUnencryptedHTTP2(true)
	tr.DialTLSContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return d.dial(ctx) }
	d.http = &http.Client{Transport: tr}
	return d
}

func (d *device) close() { d.http.CloseIdleConnections() }

// dial opens a Noise connection.
func (d *device) dial(ctx context.Context) (_ net.Conn, err error) {
	var dialer net.Dialer
	raw, err := dialer.DialContext(ctx, "tcp", d.s.addr)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			raw.Close()
		}
	}()
	init, finish, err := controlbase.ClientDeferred(d.machine, d.s.key, uint16(tailcfg.CurrentCapabilityVersion))
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(raw, "POST /ts2021 HTTP/1.1\r\nHost: %s\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\nX-Tailscale-Handshake: %s\r\n\r\n",
		d.s.addr, base64.StdEncoding.EncodeToString(init))
	br := bufio.NewReader(raw)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("upgrade: %s", res.Status)
	}
	return finish(ctx, buffered{raw, br})
}

type buffered struct {
	net.Conn
	r *bufio.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

func (d *device) post(ctx context.Context, path string, body any) (*http.Response, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, "POST", "https://"+d.s.addr+path, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	res, err := d.http.Do(req)
	if err == nil && res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(res.Body)
		res.Body.Close()
		err = fmt.Errorf("%s: %s: %s", path, res.Status, text)
	}
	return res, err
}

// login logs in with an auth key.
func (d *device) login(ctx context.Context, secret string) error {
	res, err := d.post(ctx, "/machine/register", &tailcfg.RegisterRequest{
		Version: tailcfg.CurrentCapabilityVersion, NodeKey: d.node.Public(), Hostinfo: d.host,
		Auth: &tailcfg.RegisterResponseAuth{AuthKey: secret},
	})
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var resp tailcfg.RegisterResponse
	if err := json.NewDecoder(res.Body).Decode(&resp); err != nil {
		return err
	}
	if resp.Error != "" || !resp.MachineAuthorized {
		return fmt.Errorf("register: %q, authorized %t", resp.Error, resp.MachineAuthorized)
	}
	return nil
}

// A stream is an open map stream.
type stream struct {
	body   io.ReadCloser
	cancel context.CancelFunc
}

func (d *device) stream(ctx context.Context) (*stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	res, err := d.post(ctx, "/machine/map", &tailcfg.MapRequest{
		Version: tailcfg.CurrentCapabilityVersion, KeepAlive: true, Stream: true, NodeKey: d.node.Public(), Hostinfo: d.host,
	})
	if err != nil {
		cancel()
		return nil, err
	}
	return &stream{res.Body, cancel}, nil
}

// next reads the next message.
func (s *stream) next() (*tailcfg.MapResponse, error) {
	var size [4]byte
	if _, err := io.ReadFull(s.body, size[:]); err != nil {
		return nil, err
	}
	text := make([]byte, binary.LittleEndian.Uint32(size[:]))
	if _, err := io.ReadFull(s.body, text); err != nil {
		return nil, err
	}
	m := new(tailcfg.MapResponse)
	return m, json.Unmarshal(text, m)
}

func (s *stream) close() { s.cancel(); s.body.Close() }

// self opens a map stream for long enough to learn what the server says of this device.
func (d *device) self(ctx context.Context) (*tailcfg.Node, error) {
	st, err := d.stream(ctx)
	if err != nil {
		return nil, err
	}
	defer st.close()
	m, err := st.next()
	if err == nil && m.Node == nil {
		err = fmt.Errorf("the first map has no node")
	}
	if err != nil {
		return nil, err
	}
	return m.Node, nil
}

// advertise offers a route by a report.
func (d *device) advertise(ctx context.Context, route netip.Prefix) error {
	d.host = d.host.Clone()
	d.host.RoutableIPs = []netip.Prefix{route}
	res, err := d.post(ctx, "/machine/map", &tailcfg.MapRequest{
		Version: tailcfg.CurrentCapabilityVersion, OmitPeers: true, NodeKey: d.node.Public(), Hostinfo: d.host,
	})
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return err
}
