// Package idp runs a real OpenID Connect provider for tests, the npm package oidc-provider, and
// goes through its pages like a person. It refuses to know heddle.
package idp

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Options say how a provider is to be. Only Clients must be given.
type Options struct {
	Addr              string // where it listens; "" is a free port of 127.0.0.1
	Issuer            string // its URL for others; "" is that of Addr
	CertFile, KeyFile string // makes it speak TLS
	Clients           []Client
	People            map[string]Claims // by what they type as login; any password will do

	// Scopes are the claims that each scope gives, beside those of profile and email.
	Scopes map[string][]string
	// IDTokenClaims puts all claims into the ID token, as many providers do;
	// otherwise they are at the userinfo endpoint, as the standard has it.
	IDTokenClaims bool
}

// A Client is a program that people log in to.
type Client struct {
	ID           string   `json:"id"`
	Secret       string   `json:"secret"` // "" for a public client
	RedirectURIs []string `json:"redirect_uris"`
	Auth         string   `json:"auth,omitempty"` // client_secret_post; "" is client_secret_basic, or none without a secret
}

// Claims are what the provider says of a person. The claim sub is the login unless it is given.
type Claims map[string]any

// file is what server.mjs reads.
type file struct {
	Issuer        string              `json:"issuer"`
	Host          string              `json:"host"`
	Port          int                 `json:"port"`
	CertFile      string              `json:"cert_file,omitempty"`
	KeyFile       string              `json:"key_file,omitempty"`
	Clients       []Client            `json:"clients"`
	People        map[string]Claims   `json:"people"`
	Claims        map[string][]string `json:"claims"`
	IDTokenClaims bool                `json:"id_token_claims"`
}

// A Provider is set up to be run.
type Provider struct {
	Issuer string
	Args   []string // the command that runs it, for tests that run it elsewhere, such as in a namespace

	setup file
	path  string // of setup
	cmd   *exec.Cmd
	ended chan struct{}
}

// New sets up a provider without running it. It skips the test if node or npm is missing, or fails it in CI.
func New(t testing.TB, o Options) *Provider {
	t.Helper()
	dir := install(t)
	if o.Addr == "" {
		o.Addr = freeAddr(t)
	}
	host, port, err := net.SplitHostPort(o.Addr)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	if o.Issuer == "" {
		o.Issuer = "http://" + o.Addr
		if o.CertFile != "" {
			o.Issuer = "https://" + o.Addr
		}
	}
	claims := map[string][]string{
		"openid":  {"sub"},
		"profile": {"name", "preferred_username", "picture"},
		"email":   {"email", "email_verified"},
	}
	maps.Copy(claims, o.Scopes)
	p := &Provider{
		Issuer: o.Issuer,
		path:   filepath.Join(t.TempDir(), "idp.json"),
		setup: file{
			Issuer: o.Issuer, Host: host, Port: number, CertFile: o.CertFile, KeyFile: o.KeyFile,
			Clients: o.Clients, People: o.People, Claims: claims, IDTokenClaims: o.IDTokenClaims,
		},
	}
	p.write(t)
	p.Args = []string{"node", filepath.Join(dir, "server.mjs"), p.path}
	return p
}

// Start sets up a provider and runs it until the test ends.
func Start(t testing.TB, o Options) *Provider {
	t.Helper()
	p := New(t, o)
	p.Start(t)
	return p
}

// Start runs a provider that does not run, until Stop or the end of the test. Each start has a new key.
func (p *Provider) Start(t testing.TB) {
	t.Helper()
	cmd := exec.Command(p.Args[0], p.Args[1:]...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaints strings.Builder
	cmd.Stderr = &complaints
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if _, err := lines.ReadString('\n'); err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("the provider does not start: %s", &complaints)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		io.Copy(io.Discard, lines)
		cmd.Wait()
	}()
	p.cmd, p.ended = cmd, ended
	t.Cleanup(p.Stop)
}

// Stop ends it, as if it had crashed. It may be started again.
func (p *Provider) Stop() {
	if p.cmd == nil {
		return
	}
	p.cmd.Process.Kill()
	<-p.ended
	p.cmd = nil
}

// SetPerson changes what is said of a person who logs in from now on.
func (p *Provider) SetPerson(t testing.TB, login string, c Claims) {
	t.Helper()
	people := maps.Clone(p.setup.People)
	if people == nil {
		people = map[string]Claims{}
	}
	people[login] = c
	p.setup.People = people
	p.write(t)
}

func (p *Provider) write(t testing.TB) {
	t.Helper()
	text, err := json.Marshal(p.setup)
	if err == nil {
		err = os.WriteFile(p.path+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(p.path+".new", p.path)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// lack skips a test for want of something, or fails it in CI.
func lack(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// installTime is how long npm may take.
const installTime = 3 * time.Minute

func npm(ctx context.Context, dir string) error {
	cmd := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci: %w: %s", err, out)
	}
	return nil
}
