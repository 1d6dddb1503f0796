//go:build linux

package integration_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"heddle/integration/lab"
	"heddle/integration/pebble"
	"heddle/integration/stock"
)

const (
	authorityName = "acme.test"
	// certificateLife is short, so that the test sees renewals. Certificates are renewed in their last third.
	certificateLife = 45 * time.Second
)

var authorityAddr = netip.MustParseAddr("198.51.100.3")

// TestACME starts heddle with nothing but server_url and an e-mail address (and the place of a
// certificate authority on the lab's internet), for each way of proof that needs no DNS.
func TestACME(t *testing.T) {
	dependOnSources(t)
	for _, tc := range []struct{ way, more string }{
		{"http-01", "tls: {acme: {challenges: [http-01], %s}}"},
		{"tls-alpn-01", "http_listen_addr: \"\"\ntls: {acme: {%s}}"},
	} {
		t.Run(tc.way, func(t *testing.T) {
			l := lab.New(t)
			m := &mesh{lab: l, inet: l.Internet()}
			rootFile := startAuthority(t, m, serverName, certificateLife)
			acme := fmt.Sprintf("email: admin@example.com, directory: 'https://%s%s', ca_file: %s, check_interval: 1s",
				authorityName, pebble.Directory, l.CAFile())
			m.testACME(t, rootFile, tc.way, fmt.Sprintf(tc.more, acme))
		})
	}
}

// startAuthority starts a certificate authority, which finds the server under a name, and returns
// the file of its root.
func startAuthority(t *testing.T, m *mesh, name string, life time.Duration) (rootFile string) {
	t.Helper()
	program, err := pebble.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ca := m.inet.Host("ca", 3)
	ca.SetName(name, serverAddr)
	a := pebble.Authority{
		Listen: netip.AddrPortFrom(authorityAddr, 443), Management: netip.AddrPortFrom(authorityAddr, 15000),
		HTTP: 80, TLS: 443, Life: life,
	}
	a.Cert, a.Key = m.lab.Certificate(authorityName, authorityAddr)
	args, env, err := a.Command(program, ca.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Start("pebble", env, args...); err != nil {
		t.Fatal(err)
	}
	client := trusting(t, ca, m.lab.CAFile(), authorityName)
	rootFile = filepath.Join(m.lab.Dir(), "acme-root.pem")
	lab.Await(t, 10*time.Second, "the authority answers", func() error {
		root, err := a.Root(client)
		if err != nil {
			return err
		}
		return os.WriteFile(rootFile, root, 0o600)
	})
	return rootFile
}

func (m *mesh) testACME(t *testing.T, rootFile, way, config string) {
	h := m.inet.Host("server", 2)
	m.server = &server{host: h, config: filepath.Join(h.Dir(), "heddle.yaml")}
	h.SetName(authorityName, authorityAddr)
	text := fmt.Sprintf("server_url: %s\n%s\ndata_dir: %s\nderp: {embedded: {ipv4: %s}}\ndns: {base_domain: %s}\nlog: {level: debug}\n",
		serverURL, config, filepath.Join(h.Dir(), way), serverAddr, baseDomain)
	if err := os.WriteFile(m.server.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	m.server.client = trusting(t, h, rootFile, serverName)
	conf := m.server.client.Transport.(*http.Transport).TLSClientConfig
	defer m.server.checkLog(t)
	m.server.start(t)
	defer m.server.process.Kill()
	m.server.must(t, "users", "create", "alice")

	var clients []*stock.Client
	for i, name := range []string{"anna", "ben"} {
		host := m.inet.Host(name, 21+i)
		host.SetName(serverName, serverAddr)
		c := stock.New(host, programs.stock, serverURL, rootFile)
		c.Start(t)
		clients = append(clients, c)
	}
	m.join(t, clients...)
	m.reach(t, clients[0], clients[1])
	m.testPlainPort(t, way)
	m.testPageHeaders(t)

	before := m.lasting(t)
	if len(before) < 2*len(clients) {
		t.Errorf("the clients hold %d connections, want one to the control server and one to the relay each: %v", len(before), before)
	}
	first := m.serial(t, conf)
	lab.Await(t, certificateLife, "the certificate is renewed", func() error {
		if m.serial(t, conf).Cmp(first) == 0 {
			return errors.New("it is still the first")
		}
		return nil
	})
	after := m.connections(t)
	for conn := range before {
		if !after[conn] {
			t.Errorf("the connection from %s did not survive the renewal", conn)
		}
	}
	m.reach(t, clients[1], clients[0])
	if out := m.server.must(t, "health"); !strings.Contains(out, "valid until") {
		t.Errorf("heddle health does not tell of the certificate: %s", out)
	}
}

// testPlainPort looks at port 80.
func (m *mesh) testPlainPort(t *testing.T, way string) {
	t.Helper()
	client := *m.server.client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Get("http://" + serverAddr.String() + "/register/abc?x=1")
	if way == "tls-alpn-01" {
		if err == nil {
			t.Errorf("port 80 answers although it is turned off: %s", resp.Status)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if to := resp.Header.Get("Location"); resp.StatusCode != http.StatusPermanentRedirect || to != serverURL+"/register/abc?x=1" {
		t.Errorf("port 80 answers %s and sends to %q", resp.Status, to)
	}
	// The control connection comes here first.
	if n := len(slices.DeleteFunc(slices.Collect(maps.Keys(m.connections(t))), func(c string) bool { return !strings.Contains(c, ":80 ") })); n < 2 {
		t.Errorf("%d control connections came through port 80, want those of both clients: %v", n, m.connections(t))
	}
}

// testPageHeaders asserts that pages are for HTTPS alone, and that what is no page does not say so.
func (m *mesh) testPageHeaders(t *testing.T) {
	t.Helper()
	for _, tc := range []struct {
		path, accept string
		strict       bool
	}{
		{"/", "text/html,*/*", true},
		{"/register/abc", "text/html,*/*", true},
		{"/key?v=140", "", false},
		{"/health", "*/*", false},
	} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+serverAddr.String()+tc.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", tc.accept)
		resp, err := m.server.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if strict := resp.Header.Get("Strict-Transport-Security") != ""; strict != tc.strict {
			t.Errorf("%s: HSTS %v, want %v", tc.path, strict, tc.strict)
		}
		if resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: browsers may guess its type", tc.path)
		}
	}
}

// serial is that of the certificate that the server shows.
func (m *mesh) serial(t *testing.T, conf *tls.Config) *big.Int {
	t.Helper()
	conn, err := m.server.host.Dial(t.Context(), "tcp", netip.AddrPortFrom(serverAddr, 443).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := tls.Client(conn, conf.Clone())
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c.ConnectionState().PeerCertificates[0].SerialNumber
}

// connections are the TCP connections that clients hold to the server, as "LOCAL PEER".
func (m *mesh) connections(t *testing.T) map[string]bool {
	t.Helper()
	out := m.server.host.MustRun(t, "ss", "-Htn", "state", "established", "( sport = :80 or sport = :443 )")
	all := map[string]bool{}
	for line := range strings.Lines(out) {
		f := strings.Fields(line) // Recv-Q Send-Q LOCAL PEER
		if len(f) < 4 {
			continue
		}
		if peer, err := netip.ParseAddrPort(f[3]); err == nil && peer.Addr().Unmap() != serverAddr { // the test itself
			all[f[2]+" "+f[3]] = true
		}
	}
	return all
}

// lasting are the connections that are there for a while: clients also make some that end by themselves.
func (m *mesh) lasting(t *testing.T) map[string]bool {
	t.Helper()
	all := m.connections(t)
	lab.Hold(t, 5*time.Second, "connections that last", func() error {
		now := m.connections(t)
		maps.DeleteFunc(all, func(c string, _ bool) bool { return !now[c] })
		return nil
	})
	return all
}
