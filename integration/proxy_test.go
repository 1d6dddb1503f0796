//go:build linux

package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	"heddle/integration/pebble"
	"heddle/integration/stock"
)

// proxyName is the server's name in docs/reverse-proxy.md.
const (
	proxyName = "vpn.example.com"
	proxyURL  = "https://" + proxyName
)

// A proxied mesh is one whose server stands behind a reverse proxy on the same machine.
type proxied struct {
	*mesh
	rootFile string // what clients trust
	snippets map[string]string
}

// TestReverseProxies puts real proxies before heddle, with the very configuration that
// docs/reverse-proxy.md gives, and real clients before these.
func TestReverseProxies(t *testing.T) {
	dependOnSources(t)
	for _, tc := range []struct {
		program string
		file    string // of the snippet
		start   func(*proxied, *testing.T)
	}{
		{"nginx", "/etc/nginx/conf.d/heddle.conf", (*proxied).startNginx},
		{"haproxy", "/etc/haproxy/haproxy.cfg", (*proxied).startHAProxy},
		{"caddy", "/etc/caddy/Caddyfile", (*proxied).startCaddy},
	} {
		t.Run(tc.program, func(t *testing.T) {
			if _, err := exec.LookPath(tc.program); err != nil {
				if os.Getenv("CI") != "" {
					t.Fatal(err)
				}
				t.Skipf("%v: install Debian's package %s", err, tc.program)
			}
			l := lab.New(t)
			p := &proxied{mesh: &mesh{lab: l, inet: l.Internet()}, snippets: snippets(t)}
			p.rootFile = l.CAFile()
			h := p.inet.Host("server", 2)
			p.server = &server{host: h, config: filepath.Join(h.Dir(), "etc/heddle/config.yaml")}
			p.install(t, "/etc/heddle/config.yaml", "\ndns: {base_domain: "+baseDomain+"}\nlog: {level: debug}\n")
			p.install(t, tc.file, "")
			// The document has the data where a machine has it; here that would be the same for all hosts.
			text, err := os.ReadFile(p.server.config)
			if err != nil {
				t.Fatal(err)
			}
			text = []byte(strings.Replace(string(text), "/var/lib/heddle", filepath.Join(h.Dir(), "data"), 1))
			if err := os.WriteFile(p.server.config, text, 0o600); err != nil {
				t.Fatal(err)
			}
			tc.start(p, t)
			p.run(t)
		})
	}
}

var snippet = regexp.MustCompile("(?s)<!-- file: (\\S+) -->\n```[a-z]+\n(.*?)```")

// snippets are the files that the document gives.
func snippets(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../docs/reverse-proxy.md")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, m := range snippet.FindAllStringSubmatch(string(text), -1) {
		files[m[1]] = m[2]
	}
	return files
}

// install writes a file of the document, and what the lab adds to it, where it belongs on the server.
func (p *proxied) install(t *testing.T, path, more string) {
	t.Helper()
	text, ok := p.snippets[path]
	if !ok {
		t.Fatalf("docs/reverse-proxy.md gives no file %s", path)
	}
	p.write(t, path, text+more)
}

func (p *proxied) write(t *testing.T, path, text string) {
	t.Helper()
	file := filepath.Join(p.server.host.Dir(), path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// certificate puts a certificate of the lab's authority where the document has it.
func (p *proxied) certificate(t *testing.T) {
	t.Helper()
	cert, key := p.lab.Certificate(proxyName, serverAddr)
	chain, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	private, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	const dir = "/etc/ssl/" + proxyName
	p.write(t, dir+"/fullchain.pem", string(chain))
	p.write(t, dir+"/privkey.pem", string(private))
	p.write(t, dir+"/haproxy.pem", string(chain)+string(private))
}

func (p *proxied) startProxy(t *testing.T, env []string, args ...string) {
	t.Helper()
	if _, err := p.server.host.Start(filepath.Base(args[0]), env, args...); err != nil {
		t.Fatal(err)
	}
}

func (p *proxied) startNginx(t *testing.T) {
	p.certificate(t)
	dir := filepath.Join(p.server.host.Dir(), "nginx")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p.write(t, "/etc/nginx/nginx.conf", fmt.Sprintf(`
		daemon off;
		user root;
		pid %[1]s/pid;
		error_log stderr;
		events {}
		http {
			access_log off;
			client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi;
			uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
			include /etc/nginx/conf.d/*.conf;
		}`, dir))
	p.startProxy(t, nil, "nginx", "-c", "/etc/nginx/nginx.conf", "-e", "stderr")
}

func (p *proxied) startHAProxy(t *testing.T) {
	p.certificate(t)
	p.startProxy(t, nil, "haproxy", "-db", "-f", "/etc/haproxy/haproxy.cfg")
}

// startCaddy lets Caddy get its certificate from an authority of the lab: no more than where that is
// stands before the document's Caddyfile.
func (p *proxied) startCaddy(t *testing.T) {
	h := p.server.host
	p.rootFile = startAuthority(t, p.mesh, proxyName, time.Hour)
	h.SetName(authorityName, authorityAddr)
	p.write(t, "/etc/caddy/Caddyfile", fmt.Sprintf("{\n\tacme_ca https://%s%s\n\tacme_ca_root %s\n}\n", authorityName, pebble.Directory, p.lab.CAFile())+
		p.snippets["/etc/caddy/Caddyfile"])
	dir := filepath.Join(h.Dir(), "caddy")
	p.startProxy(t, []string{"HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}, "caddy", "run", "--config", "/etc/caddy/Caddyfile")
}

// client makes a stock client that knows the server by its public name.
func (p *proxied) client(t *testing.T, h *lab.Host) *stock.Client {
	t.Helper()
	h.SetName(proxyName, serverAddr)
	c := stock.New(h, programs.stock, proxyURL, p.rootFile)
	c.Start(t)
	return c
}

func (p *proxied) run(t *testing.T) {
	defer p.server.checkLog(t)
	p.server.client = trusting(t, p.server.host, p.rootFile, proxyName)
	p.server.start(t)
	defer p.server.process.Kill()
	p.server.must(t, "users", "create", "alice")
	anna := p.client(t, p.inet.Host("anna", 21))
	// Without UDP all of ben's packets go through the relay, and so through the proxy.
	site := p.inet.Site("ben", 12)
	site.Router.BlockUDP()
	ben := p.client(t, site.Host("ben", 2))
	p.join(t, anna, ben)
	anna.AwaitRelayed(t, 20*time.Second, ben.IPv4(t))
	p.reach(t, anna, ben)
	p.testAddresses(t)
	p.testRemoteCLI(t)

	// The map stream is alive: a change arrives.
	p.server.must(t, "nodes", "rename", "ben", "benjamin")
	anna.AwaitOnline(t, seconds, &stock.Client{Host: named(ben.Host, "benjamin")})
}

// named is a host under another name.
func named(h *lab.Host, name string) *lab.Host {
	other := *h
	other.Name = name
	return &other
}

// testAddresses asserts that heddle knows where a device comes from, whatever that claims.
func (p *proxied) testAddresses(t *testing.T) {
	cleo := p.client(t, p.inet.Host("cleo", 23))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		cleo.CLI(ctx, cleo.UpArgs("")...)
	}()
	defer func() { cancel(); <-done }()
	lab.Await(t, 20*time.Second, "cleo's login waits", func() error {
		var logins []struct{ From, Hostname string }
		out := p.server.must(t, "auth", "list", "-o", "json")
		if err := json.Unmarshal([]byte(out), &logins); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		for _, l := range logins {
			if l.Hostname != "cleo" {
				continue
			}
			if l.From != "198.51.100.23" {
				t.Fatalf("cleo's login comes from %s, says heddle", l.From)
			}
			return nil
		}
		return errors.New(out)
	})

	// A header of one's own changes nothing.
	web := trusting(t, cleo.Host, p.rootFile, proxyName)
	req, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+netip.AddrPortFrom(serverAddr, 443).String()+"/ts2021", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = proxyName
	req.Header.Set("X-Forwarded-For", "203.0.113.7")
	resp, err := web.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	lab.Await(t, seconds, "heddle tells of a bad request", func() error {
		log, err := os.ReadFile(p.server.process.Log)
		if err != nil {
			return err
		}
		if strings.Contains(string(log), "203.0.113.7") {
			t.Fatal("heddle believes an address that a client wrote")
		}
		if !regexp.MustCompile(`handshake refused.*remote=198\.51\.100\.23:`).Match(log) {
			return errors.New("nothing of that kind in its log")
		}
		return nil
	})
}

// testRemoteCLI uses the command line from another machine.
func (p *proxied) testRemoteCLI(t *testing.T) {
	t.Helper()
	key := p.server.must(t, "apikeys", "create")
	p.server.secrets = append(p.server.secrets, key)
	h := p.inet.Host("admin", 24)
	h.SetName(proxyName, serverAddr)
	file := filepath.Join(h.Dir(), "key")
	if err := os.WriteFile(file, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := h.Run(t.Context(), programs.heddle, "--address", proxyName, "--api-key-file", file, "--ca-file", p.rootFile, "nodes", "list")
	if err != nil || !strings.Contains(out, "anna") {
		t.Errorf("the remote command line says %q, %v", out, err)
	}
}
