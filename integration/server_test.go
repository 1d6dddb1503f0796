//go:build linux

package integration_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"heddle/integration/lab"
)

const (
	serverName = "control.test"
	serverURL  = "https://" + serverName
	baseDomain = "mesh.test"

	// ephemeralTimeout is short, so that the test of it is.
	ephemeralTimeout = 4 * time.Second
)

var serverAddr = netip.MustParseAddr("198.51.100.2")

// server is one heddle, which keeps its data over restarts.
type server struct {
	host    *lab.Host
	config  string
	env     []string     // which certificates heddle trusts
	client  *http.Client // trusts the lab's authority; connections leave from the server's host
	process *lab.Process
	secrets []string // keys that were made, none of which may appear in the log
}

// newServer makes heddle's host, configures heddle, with more sections if given, and starts it.
func newServer(t *testing.T, l *lab.Lab, inet *lab.Internet, more ...string) *server {
	t.Helper()
	s := &server{host: inet.Host("server", 2), env: []string{"SSL_CERT_FILE=" + l.CAFile(), "SSL_CERT_DIR=/nonexistent"}}
	s.config = filepath.Join(s.host.Dir(), "heddle.yaml")
	cert, key := l.Certificate(serverName, serverAddr)
	config := fmt.Sprintf(`
server_url: %s
listen_addr: "[::]:443"
data_dir: %s
tls:
  cert_file: %s
  key_file: %s
derp:
  embedded:
    enabled: true
    ipv4: %s
    ipv6: 2001:db8:1::2
dns:
  base_domain: %s
  extra_records:
    - {name: wiki.%[6]s, type: A, value: 203.0.113.99}
nodes:
  ephemeral_timeout: %v
log:
  level: debug
`, serverURL, filepath.Join(s.host.Dir(), "data"), cert, key, serverAddr, baseDomain, ephemeralTimeout) + strings.Join(more, "\n")
	if err := os.WriteFile(s.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	s.client = trustingClient(t, l, s.host)
	t.Cleanup(func() { s.checkLog(t) })
	s.start(t)
	return s
}

// checkLog asserts that the server did not die by itself and kept its secrets.
func (s *server) checkLog(t *testing.T) {
	if s.process == nil {
		return
	}
	log, err := os.ReadFile(s.process.Log)
	if err != nil {
		t.Fatal(err)
	}
	for _, alarm := range []string{"panic:", "fatal error:", "DATA RACE"} {
		if strings.Contains(string(log), alarm) {
			t.Errorf("the server's log says %q", alarm)
		}
	}
	for _, shape := range secretShapes {
		if found := shape.Find(log); found != nil {
			t.Errorf("the server's log holds a secret: %s", found)
		}
	}
	for _, secret := range append(s.secrets, s.privateKeys(t)...) {
		if strings.Contains(string(log), secret) {
			t.Errorf("the server's log holds the key %s", secret)
		}
	}
}

// secretShapes are what secrets look like: keys with more than their public part, private keys, and
// what browsers keep for a session.
var secretShapes = []*regexp.Regexp{
	regexp.MustCompile(`tskey-[a-z]+-[0-9a-zA-Z]+-[0-9a-zA-Z]{16,}`),
	regexp.MustCompile(`privkey:[0-9a-f]{16,}`),
	regexp.MustCompile(`PRIVATE KEY-----`),
	regexp.MustCompile(`(?i)(set-)?cookie"?[:=]`),
	regexp.MustCompile(`(?i)bearer [0-9a-z]`),
}

// privateKeys are those in the server's data directory.
func (s *server) privateKeys(t *testing.T) (keys []string) {
	t.Helper()
	err := filepath.WalkDir(s.host.Dir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || filepath.Ext(path) != ".key" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			line = strings.TrimPrefix(strings.TrimSpace(line), "privkey:")
			if len(line) >= 32 && !strings.HasPrefix(line, "-----") {
				keys = append(keys, line)
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	return keys
}

// trustingClient is a web client on a host that resolves the server's name and trusts the lab's
// authority.
func trustingClient(t *testing.T, l *lab.Lab, h *lab.Host) *http.Client {
	t.Helper()
	return trusting(t, h, l.CAFile(), serverName)
}

// trusting is a web client on a host that takes every address for one of the named server, and
// trusts the roots of a file.
func trusting(t *testing.T, h *lab.Host, rootFile, name string) *http.Client {
	t.Helper()
	pem, err := os.ReadFile(rootFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := h.HTTP()
	transport := client.Transport.(*http.Transport)
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, ServerName: name}
	client.Timeout = 5 * time.Second
	return client
}

// start starts heddle and waits until it answers.
func (s *server) start(t *testing.T) {
	t.Helper()
	process, err := s.host.Start("heddle", s.env, programs.heddle, "serve", "--config", s.config)
	if err != nil {
		t.Fatal(err)
	}
	s.process = process
	lab.Await(t, 15*time.Second, "heddle answers", func() error {
		select {
		case <-process.Done():
			t.Fatalf("heddle ended: %v", process.Err())
		default:
		}
		resp, err := s.client.Get("https://" + serverAddr.String() + "/health")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
}

// kill ends heddle by SIGKILL.
func (s *server) kill() { s.process.Kill() }

// cli runs heddle's command line and tells its exit code and what it said on stderr.
func (s *server) cli(ctx context.Context, args ...string) (stdout string, exit int, err error) {
	stdout, err = s.host.Run(ctx, append([]string{programs.heddle, "--config", s.config}, args...)...)
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		exit = failed.ExitCode()
	}
	return stdout, exit, err
}

// must runs a command that has to succeed and returns what it printed, without the final newline.
func (s *server) must(t *testing.T, args ...string) string {
	t.Helper()
	out, _, err := s.cli(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(out, "\n")
}

// authKey makes a pre-auth key.
func (s *server) authKey(t *testing.T, user string, flags ...string) string {
	t.Helper()
	args := append([]string{"preauthkeys", "create", "--user", user, "--expiration", "24h"}, flags...)
	key := s.must(t, args...)
	if !strings.HasPrefix(key, "tskey-auth-") || strings.ContainsAny(key, " \n") {
		t.Fatalf("preauthkeys create printed %q, want just a key", key)
	}
	s.secrets = append(s.secrets, key)
	return key
}

// node is what the tests read of one element of `heddle nodes list -o json`.
type node struct {
	ID           string   `json:"id"`
	Name         string   `json:"givenName"` // in the tailnet
	Addresses    []string `json:"ipAddresses"`
	Online       bool     `json:"online"`
	Expired      bool     `json:"expired"`
	Expiry       string   `json:"expiry"` // of its key; empty: never
	Waits        bool     `json:"pendingApproval"`
	Tags         []string `json:"tags"`
	SubnetRoutes []string `json:"subnetRoutes"` // those it carries now
}

// nodes is what `heddle nodes list` tells, by name.
func (s *server) nodes(t *testing.T) map[string]node {
	t.Helper()
	var list []node
	out := s.must(t, "nodes", "list", "-o", "json")
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("nodes list: %v: %s", err, out)
	}
	byName := make(map[string]node, len(list))
	for _, n := range list {
		byName[n.Name] = n
	}
	return byName
}

// awaitNode waits until the server lists a node that passes check.
func (s *server) awaitNode(t *testing.T, within time.Duration, name, what string, check func(node) bool) {
	t.Helper()
	lab.Await(t, within, "the server says of "+name+": "+what, func() error {
		n, ok := s.nodes(t)[name]
		if !ok || !check(n) {
			return fmt.Errorf("it says %+v", n)
		}
		return nil
	})
}
