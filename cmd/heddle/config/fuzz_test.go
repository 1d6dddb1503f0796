package config_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"heddle/cmd/heddle/config"
)

// FuzzParse: whatever is written, there is a configuration that keeps its
// promises, or there are problems that each say something.
func FuzzParse(f *testing.F) {
	f.Add([]byte(""), "")
	f.Add(config.Example(), "HEDDLE_LOG_LEVEL=debug")
	f.Add([]byte(strings.ReplaceAll(string(config.Example()), "#", "")), "")
	f.Add([]byte(uncommented(config.Example())), "HEDDLE_DERP_FILES=a,b\nHEDDLE_TLS_CERT_FILE=")
	f.Add([]byte("a: &a [*a]\n<<: *a"), "HEDDLE_DNS_EXTRA_RECORDS=[{name: a}]")
	f.Add([]byte("listen_addr: :0\nserver_url: http://[::1]:80/"), "HEDDLE_X=1\nHEDDLE_PORT=tcp://x")
	f.Add([]byte("nodes: {key_expiry: 99999d9999999h}\n"), "HEDDLE_DNS_NAMESERVERS_SPLIT={a: [1.1.1.1]}")
	f.Fuzz(func(t *testing.T, text []byte, environ string) {
		cfg, err := config.Parse("f.yaml", text, append(strings.Split(environ, "\n"), "HOME=/home/ada"))
		if err != nil {
			problems, ok := err.(config.Errors)
			if !ok || len(problems) == 0 || cfg != nil {
				t.Fatalf("got %v, %#v", cfg, err)
			}
			for _, p := range problems {
				if p.Msg == "" || p.Place == "" && p.Key == "" {
					t.Errorf("a problem says too little: %#v", p)
				}
			}
			return
		}
		if cfg.ServerURL == nil || cfg.ServerURL.Host == "" || cfg.ServerURL.Path != "" || cfg.DataDir == "" || cfg.Listen.Socket == "" || cfg.Set == nil {
			t.Errorf("something is missing: %+v", cfg)
		}
		for _, r := range []struct{ in, all netip.Prefix }{
			{cfg.Addresses.IPv4, netip.MustParsePrefix("100.64.0.0/10")},
			{cfg.Addresses.IPv6, netip.MustParsePrefix("fd7a:115c:a1e0::/48")},
		} {
			if r.in.Masked() != r.in || !r.all.Overlaps(r.in) || r.in.Bits() < r.all.Bits() {
				t.Errorf("addresses %v", r.in)
			}
		}
		host, base := cfg.ServerURL.Hostname(), cfg.DNS.BaseDomain
		if base == "" || base != strings.ToLower(base) || host == base || strings.HasSuffix(host, "."+base) {
			t.Errorf("base domain %q of %q", base, host)
		}
		if cfg.Nodes.EphemeralTimeout < time.Second || cfg.Nodes.OnlineGrace < 0 || cfg.Nodes.KeyExpiry < 0 || cfg.DERP.UpdateInterval < time.Minute {
			t.Errorf("durations %+v %v", cfg.Nodes, cfg.DERP.UpdateInterval)
		}
		if e := cfg.DERP.Embedded; e.RegionID < 1 || e.Hostname == "" || e.Port < 0 || e.Port > 65535 || e.Port == 0 && cfg.ServerURL.Scheme == "https" {
			t.Errorf("relay %+v", e)
		}
	})
}

// uncommented sets all keys of an example.
func uncommented(example []byte) string {
	lines := strings.Split(string(example), "\n")
	for i, line := range lines {
		if rest, ok := strings.CutPrefix(strings.TrimLeft(line, " "), "#"); ok && !strings.HasPrefix(rest, " ") {
			lines[i] = strings.Replace(line, "#", "", 1)
		}
	}
	return strings.Join(lines, "\n")
}
