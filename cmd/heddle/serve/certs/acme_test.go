package certs_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"heddle/cmd/heddle/serve/certs"
	"heddle/integration/pebble"
)

const (
	host  = "vpn.example.com"
	relay = "derp.example.com"
)

// authority is a running ACME server.
type authority struct {
	pebble.Authority
	names  *names
	caFile string         // for its web server
	roots  *x509.CertPool // of the certificates that it issues
}

// startAuthority starts one that connects to the given ports for proofs.
func startAuthority(t *testing.T, life time.Duration, http, tls int) *authority {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("the ACME server is built by the test: %v", err)
	}
	program, err := pebble.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	a := &authority{names: startNames(t)}
	a.Authority = pebble.Authority{Listen: freePort(t), Management: freePort(t), HTTP: http, TLS: tls, Life: life, DNS: a.names.addr}
	a.Cert, a.Key = selfSigned(t, dir)
	a.caFile = a.Cert
	args, env, err := a.Command(program, dir)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "pebble.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), env...), log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("the authority's log:\n%s", text)
		}
		log.Close()
	})
	client := &web{roots: pool(t, a.caFile)}
	await(t, "the authority answers", func() error {
		root, err := a.Root(client.client())
		if err != nil {
			return err
		}
		a.roots = x509.NewCertPool()
		a.roots.AppendCertsFromPEM(root)
		return nil
	})
	return a
}

// web is a web client that trusts some roots.
type web struct{ roots *x509.CertPool }

func (c *web) client() *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.roots}}, Timeout: 5 * time.Second}
}

// site is a web site whose certificate comes by ACME.
type site struct {
	acme        *certs.ACME
	plain, tls  net.Listener
	HTTP, HTTPS int
}

// listen opens the site's ports, which the authority must know beforehand.
func listen(t *testing.T) *site {
	t.Helper()
	s := &site{}
	for _, l := range []*net.Listener{&s.plain, &s.tls} {
		var err error
		if *l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	s.HTTP, s.HTTPS = s.plain.Addr().(*net.TCPAddr).Port, s.tls.Addr().(*net.TCPAddr).Port
	return s
}

// serve serves the site until the test ends.
func (s *site) serve(t *testing.T, o certs.ACMEOptions) {
	t.Helper()
	o.Email, o.Host, o.CheckEvery = "admin@example.com", "127.0.0.1", time.Second
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	var err error
	if s.acme, err = certs.NewACME(o); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.acme.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	plain := &http.Server{Handler: s.acme.AnswerHTTP(http.NotFoundHandler())}
	secure := &http.Server{
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }),
		TLSConfig: certs.Config(s.acme.Get, nil, certs.Challenge), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0),
	}
	running.Go(func() { plain.Serve(s.plain) })
	running.Go(func() { secure.ServeTLS(s.tls, "", "") })
	t.Cleanup(func() {
		stop()
		plain.Close()
		secure.Close()
		running.Wait()
	})
}

// dial makes a connection to the site, as a visitor who trusts the authority.
func (s *site) dial(a *authority, name string) (*tls.Conn, error) {
	return tls.Dial("tcp", s.tls.Addr().String(), &tls.Config{RootCAs: a.roots, ServerName: name, InsecureSkipVerify: false})
}

// leaf is the certificate that a visitor sees.
func (s *site) leaf(a *authority, name string) (*x509.Certificate, error) {
	c, err := s.dial(a, name)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0], nil
}

func (a *authority) options() certs.ACMEOptions {
	return certs.ACMEOptions{Names: []string{host}, Directory: "https://" + a.Listen.String() + pebble.Directory, CAFile: a.caFile}
}

func TestChallenges(t *testing.T) {
	s := map[string]*site{}
	for _, way := range []string{"http-01", "tls-alpn-01", "dns-01 rfc2136", "dns-01 cloudflare", "dns-01 route53"} {
		t.Run(way, func(t *testing.T) {
			s[way] = listen(t)
			a := startAuthority(t, time.Hour, s[way].HTTP, s[way].HTTPS)
			o := a.options()
			o.Names = append(o.Names, relay)
			switch way {
			case "http-01":
				o.HTTP = s[way].HTTP
			case "tls-alpn-01":
				o.TLSALPN = s[way].HTTPS
			default:
				o.DNS = &certs.DNS{Provider: keepers[strings.TrimPrefix(way, "dns-01 ")](t, a.names, false).Provider}
			}
			s[way].serve(t, o)
			for _, name := range o.Names {
				await(t, name+" has a certificate", func() error { _, err := s[way].leaf(a, name); return err })
			}
			if fine, err := s[way].acme.Health(time.Now()); err != nil || !strings.HasPrefix(fine, "valid until ") {
				t.Errorf("health: %q, %v", fine, err)
			}
			if _, err := s[way].acme.Health(time.Now().Add(2 * time.Hour)); err == nil || !strings.Contains(err.Error(), "expired") {
				t.Errorf("health of an expired certificate: %v", err)
			}
			if n := a.names.proofs(); n != 0 {
				t.Errorf("%d records are left", n)
			}
		})
	}
}

// TestRenewal holds a connection open over a renewal.
func TestRenewal(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits for a certificate to come to its last third")
	}
	s := listen(t)
	a := startAuthority(t, 12*time.Second, s.HTTP, s.HTTPS)
	o := a.options()
	o.HTTP, o.TLSALPN = s.HTTP, s.HTTPS
	s.serve(t, o)
	var first *x509.Certificate
	await(t, "there is a certificate", func() (err error) { first, err = s.leaf(a, host); return err })
	open, err := s.dial(a, host)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	await(t, "there is a newer certificate", func() error {
		next, err := s.leaf(a, host)
		if err == nil && next.SerialNumber.Cmp(first.SerialNumber) == 0 {
			err = errors.New("it is still the first")
		}
		return err
	})
	open.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(open, "GET / HTTP/1.0\r\n\r\n")
	if answer, err := io.ReadAll(open); err != nil || !strings.Contains(string(answer), "hello") {
		t.Errorf("the connection from before the renewal: %q, %v", answer, err)
	}
}

func TestStrangers(t *testing.T) {
	s := listen(t)
	a := startAuthority(t, time.Hour, s.HTTP, s.HTTPS)
	o := a.options()
	o.HTTP, o.TLSALPN = s.HTTP, s.HTTPS
	s.serve(t, o)
	await(t, "there is a certificate", func() error { _, err := s.leaf(a, host); return err })

	// Who names another host, or none, gets the first one's certificate.
	for _, name := range []string{"", "other.example.com", "127.0.0.1"} {
		c, err := tls.Dial("tcp", s.tls.Addr().String(), &tls.Config{InsecureSkipVerify: true, ServerName: name})
		if err != nil {
			t.Errorf("as %q: %v", name, err)
			continue
		}
		if err := c.ConnectionState().PeerCertificates[0].VerifyHostname(host); err != nil {
			t.Errorf("as %q: %v", name, err)
		}
		c.Close()
	}
	// Nobody gets a proof that the authority did not ask for.
	for _, name := range []string{host, "other.example.com"} {
		if _, err := tls.Dial("tcp", s.tls.Addr().String(), &tls.Config{InsecureSkipVerify: true, ServerName: name, NextProtos: []string{certs.Challenge}}); err == nil {
			t.Errorf("a proof for %s is given away", name)
		}
		req, err := http.NewRequest("GET", "http://"+s.plain.Addr().String()+"/.well-known/acme-challenge/abc", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = name
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("a proof for %s: %s", name, resp.Status)
		}
	}
	if _, err := tls.Dial("tcp", s.tls.Addr().String(), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		conf := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite.ID}}
		if c, err := tls.Dial("tcp", s.tls.Addr().String(), conf); err == nil {
			c.Close()
			if !strings.Contains(suite.Name, "_ECDHE_") || strings.Contains(suite.Name, "_CBC_") {
				t.Errorf("%s is spoken", suite.Name)
			}
		}
	}
}

// TestRefusal asks an authority that finds no proof: the reason is told, and there is no certificate.
func TestRefusal(t *testing.T) {
	s, elsewhere := listen(t), listen(t)
	elsewhere.plain.Close()
	elsewhere.tls.Close()
	a := startAuthority(t, time.Hour, elsewhere.HTTP, elsewhere.HTTPS)
	o := a.options()
	o.HTTP = s.HTTP
	s.serve(t, o)
	await(t, "the failure is told", func() error {
		_, err := s.acme.Health(time.Now())
		if err == nil || !strings.Contains(err.Error(), host+": ") || !strings.Contains(err.Error(), "onnection") {
			return fmt.Errorf("health says %v", err)
		}
		return nil
	})
	if _, err := s.leaf(a, host); err == nil {
		t.Error("there is a certificate all the same")
	}
}

// await calls check until it returns nil: other processes have no event to wait for.
func await(t *testing.T, what string, check func() error) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); ; <-tick.C {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not within a minute: %v", what, err)
		}
	}
}

func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func selfSigned(t *testing.T, dir string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

func pool(t *testing.T, file string) *x509.CertPool {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(text)
	return p
}
