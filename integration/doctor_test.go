//go:build linux

package integration_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"heddle/integration/lab"

	"golang.org/x/sys/unix"
)

// clinic is a heddle that gets ill, and an outsider who looks at it.
type clinic struct {
	*mesh
	out    *lab.Host
	config string // of the healthy server
	data   string
}

// TestDoctor breaks one thing after the other and has heddle doctor name it.
func TestDoctor(t *testing.T) {
	m := newMesh(t)
	c := &clinic{mesh: m, out: m.inet.Host("out", 30), data: filepath.Join(m.server.host.Dir(), "data")}
	m.server.host.SetName(serverName, serverAddr)
	c.out.SetName(serverName, serverAddr)
	text, err := os.ReadFile(m.server.config)
	if err != nil {
		t.Fatal(err)
	}
	c.config = string(text)
	for _, scenario := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"health", c.testHealth},
		{"names", c.testNames},
		{"certificates", c.testCertificates},
		{"limits", c.testLimits},
		{"proxies", c.testProxies},
		{"stun", c.testSTUN},
		{"end", c.testEnd},
	} {
		t.Run(scenario.name, scenario.run)
	}
}

// ill is a finding that is expected: what is broken, and words of the reason.
type ill struct{ name, reason string }

// inside and outside ask the doctor and assert that just these things are broken.
func (c *clinic) inside(t *testing.T, want ...ill) {
	t.Helper()
	c.diagnose(t, c.server.host, []string{"--config", c.server.config, "--ca-file", c.lab.CAFile()}, want)
}

func (c *clinic) outside(t *testing.T, want ...ill) {
	t.Helper()
	c.diagnose(t, c.out, []string{"--url", serverURL, "--ca-file", c.lab.CAFile()}, want)
}

func (c *clinic) diagnose(t *testing.T, h *lab.Host, args []string, want []ill) {
	t.Helper()
	out, err := h.Run(t.Context(), append([]string{programs.heddle, "doctor", "-o", "json"}, args...)...)
	var findings []struct{ Name, Verdict, Reason, Next string }
	if err := json.Unmarshal([]byte(out), &findings); err != nil {
		t.Fatalf("heddle doctor says %q: %v", out, err)
	}
	if (err != nil) != (len(want) > 0) {
		t.Errorf("%d things should be broken, and the command ends with %v", len(want), err)
	}
	missing := want
	for _, f := range findings {
		if f.Reason == "" || f.Verdict == "broken" && f.Next == "" {
			t.Errorf("%s: %s without a reason or a next step", f.Name, f.Verdict)
		}
		if f.Verdict != "broken" {
			continue
		}
		expected := false
		for i, w := range missing {
			if expected = w.name == f.Name && strings.Contains(f.Reason, w.reason); expected {
				missing = append(append([]ill(nil), missing[:i]...), missing[i+1:]...)
				break
			}
		}
		if !expected {
			t.Errorf("broken is %s: %s (→ %s)", f.Name, f.Reason, f.Next)
		}
	}
	if len(missing) > 0 {
		t.Errorf("not found: %v in\n%s", missing, out)
	}
}

// restart starts the server with another configuration.
func (c *clinic) restart(t *testing.T, replace ...string) {
	t.Helper()
	c.server.kill()
	text := strings.NewReplacer(replace...).Replace(c.config)
	if len(replace) > 0 && text == c.config {
		t.Fatalf("the configuration does not hold what is to be replaced: %v", replace)
	}
	if err := os.WriteFile(c.server.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c.server.start(t)
}

func (c *clinic) testHealth(t *testing.T) {
	c.inside(t)
	c.outside(t)
}

func (c *clinic) testNames(t *testing.T) {
	stranger := c.inet.Host("stranger", 31)
	c.diagnose(t, stranger, []string{"--url", serverURL}, []ill{{"dns", "cannot be looked up"}})
	// An AAAA record from the time of another server.
	stranger.SetName(serverName, serverAddr)
	stranger.SetName(serverName, netip.MustParseAddr("2001:db8:1::99"))
	c.diagnose(t, stranger, []string{"--url", serverURL, "--ca-file", c.lab.CAFile()}, []ill{{"port", "2001:db8:1::99"}, {"relay", "2001:db8:1::99"}})

	bad := filepath.Join(c.server.host.Dir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte(strings.Replace(c.config, "base_domain: "+baseDomain, "base_domain: test", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	c.diagnose(t, c.server.host, []string{"--config", bad}, []ill{{"base domain", "control.test of server_url lies in test"}})
}

func (c *clinic) testCertificates(t *testing.T) {
	c.diagnose(t, c.out, []string{"--url", serverURL}, []ill{{"certificate", "nobody known here has signed"}, {"relay", "nobody known here has signed"}})
	other, key := c.lab.Certificate("other.test", serverAddr)
	cert, certKey := c.lab.Certificate(serverName, serverAddr)
	trusted := c.server.client
	c.server.client = trusting(t, c.server.host, c.lab.CAFile(), "other.test")
	c.restart(t, cert, other, certKey, key)
	c.server.client = trusted
	c.outside(t, ill{"certificate", "is for other.test, not for control.test"}, ill{"relay", "is for other.test"})
	c.restart(t, "    enabled: true", "    enabled: true\n    hostname: relay.test")
	c.inside(t, ill{"relay", "not for relay.test"})
	c.restart(t)
}

func (c *clinic) testLimits(t *testing.T) {
	if err := os.Chmod(c.data, 0o755); err != nil {
		t.Fatal(err)
	}
	c.inside(t, ill{"data directory", "mode 0755"})
	if err := os.Chmod(c.data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(c.data, "noise.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.inside(t, ill{"data directory", "noise.key (mode 0644)"})
	if err := os.Chmod(filepath.Join(c.data, "noise.key"), 0o600); err != nil {
		t.Fatal(err)
	}

	// A small disk, and few files.
	small := filepath.Join(c.server.host.Dir(), "small")
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=64m,mode=700"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(small, unix.MNT_DETACH)
	wrapped := filepath.Join(c.server.host.Dir(), "few-files.sh")
	if err := os.WriteFile(wrapped, []byte("#!/bin/sh\nulimit -n 512\nexec "+programs.heddle+" \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	heddle := programs.heddle
	programs.heddle = wrapped
	c.restart(t, c.data, small)
	programs.heddle = heddle
	c.inside(t, ill{"disk", "MB are free"}, ill{"open files", "the server may have 512"})
	c.restart(t)
}

// testProxies puts an nginx in front that lacks what docs/reverse-proxy.md says.
func (c *clinic) testProxies(t *testing.T) {
	if _, err := exec.LookPath("nginx"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("%v: install Debian's package nginx-light", err)
	}
	front := c.inet.Host("front", 32)
	cert, key := c.lab.Certificate("front.test", netip.MustParseAddr("198.51.100.32"))
	front.SetName(serverName, serverAddr)
	c.out.SetName("front.test", netip.MustParseAddr("198.51.100.32"))
	for _, tc := range []struct {
		name, location string
		want           []ill
	}{
		{"headers are dropped", "proxy_pass https://control.test;", []ill{
			{"upgrade", "nginx does not pass on the headers Upgrade and Connection of POST"},
			{"websocket", "nginx does not pass on the headers Upgrade and Connection of WebSocket"},
			{"relay", "nginx answers GET /derp with 426"}}},
		{"only WebSockets", `proxy_pass https://control.test; proxy_http_version 1.1; if ($request_method = POST) { return 405; }
			proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;`, []ill{
			{"upgrade", "nginx answers POST /ts2021 with 405"}}},
		{"another site", "return 200 hello;", []ill{{"answer", "nginx answers GET /key with 200"}, {"relay", "nginx answers GET /derp with 200"}}},
	} {
		dir := filepath.Join(front.Dir(), strings.ReplaceAll(tc.name, " ", "-"))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		config := fmt.Sprintf(`daemon off; user root; pid %[1]s/pid; error_log stderr; events {}
			http { access_log off; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
				server { listen 443 ssl; ssl_certificate %[2]s; ssl_certificate_key %[3]s; location / { %[4]s } } }`, dir, cert, key, tc.location)
		file := filepath.Join(dir, "nginx.conf")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		nginx, err := front.Start("nginx", nil, "nginx", "-c", file, "-e", "stderr")
		if err != nil {
			t.Fatal(err)
		}
		lab.Await(t, seconds, "nginx answers", func() error {
			conn, err := front.Dial(t.Context(), "tcp", "127.0.0.1:443")
			if err == nil {
				conn.Close()
			}
			return err
		})
		c.diagnose(t, c.out, []string{"--url", "https://front.test", "--ca-file", c.lab.CAFile()}, tc.want)
		if err := nginx.Stop(seconds); err != nil {
			t.Error(err)
		}
	}
}

func (c *clinic) testSTUN(t *testing.T) {
	h := c.server.host
	rules := func(text string) { h.MustRun(t, "nft", text) }
	// A firewall before the public address.
	rules("table ip ill { chain in { type filter hook input priority -10; ip daddr " + serverAddr.String() + " udp dport 3478 drop\n}\n}")
	c.inside(t, ill{"stun", "UDP is blocked on the way"})
	c.outside(t) // where it is a warning: which port STUN has is not known there
	rules("delete table ip ill")
	// Something that rewrites packets, as Docker's userland proxy does.
	rules("table ip ill { chain in { type nat hook input priority 100; udp dport 3478 snat to 172.17.0.1\n}\n}")
	c.outside(t, ill{"stun", "tells us the address 172.17.0.1"})
	rules("delete table ip ill")
	c.outside(t)
}

func (c *clinic) testEnd(t *testing.T) {
	c.server.kill()
	c.inside(t, ill{"server", "it does not answer"}, ill{"port", "nothing listens at 198.51.100.2:443"})
	c.outside(t, ill{"port", "nothing listens at 198.51.100.2:443"})
}
