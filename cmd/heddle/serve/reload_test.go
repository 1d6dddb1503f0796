package serve

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"heddle/api"
	"heddle/cmd/heddle/config"
	"heddle/cmd/heddle/serve/certs"
	"heddle/control/tailnet"
	"heddle/control/tailnet/tailnettest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestEveryLiveKeyHasAPart compares what the reference promises with what is done.
func TestEveryLiveKeyHasAPart(t *testing.T) {
	var keys []string
	for _, p := range new(server).parts() {
		keys = append(keys, p.keys...)
	}
	slices.Sort(keys)
	if diff := cmp.Diff(config.LiveKeys(), keys); diff != "" {
		t.Errorf("keys marked live, and those of the parts (-marked +parts):\n%s", diff)
	}
}

// reloadable is a server that serves nobody, and whose configuration can change.
type reloadable struct {
	*server
	t   *testing.T
	dir string
	web string // a URL with a DERP map; below /none there is nothing
}

const derpMapJSON = `{"Regions": {"1": {"RegionID": 1, "Nodes": [{"Name": "1a", "RegionID": 1, "HostName": "one.example"}]}}}`

func newReloadable(t *testing.T) *reloadable {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/none" {
			http.NotFound(w, r)
			return
		}
		w.Write([]byte(derpMapJSON))
	}))
	t.Cleanup(web.Close)
	r := &reloadable{t: t, dir: t.TempDir(), web: web.URL}
	r.certificate("cert", "key")
	r.certificate("cert2", "key2")
	r.certificateFor("other.example.com", time.Hour, "cert3", "key3")
	r.certificateFor("vpn.example.com", -time.Hour, "cert4", "key4")
	for name, text := range map[string]string{
		"p1.hujson": goodPolicy, "p2.hujson": "// another\n" + goodPolicy, "bad.hujson": badPolicy,
		"derp.yaml": "regions:\n  900:\n    nodes: [{name: 900a, hostname: nine.example}]\n", "bad.yaml": "region: 1\n",
		"r1.json": `[{"name": "one.example", "type": "A", "value": "192.0.2.1"}]`, "bad.json": `[{"name": "x", "type": "MX", "value": "y"}]`,
		"secret": "s3cret\n",
	} {
		r.file(name, text)
	}
	r.configure("")
	load := func() (*config.Config, error) {
		return config.Load(filepath.Join(r.dir, "heddle.yaml"), []string{"HOME=" + r.dir})
	}
	cfg, err := load()
	if err != nil {
		t.Fatal(err)
	}
	r.server = &server{
		Options: Options{Config: cfg, Log: slog.New(slog.DiscardHandler), Level: new(slog.LevelVar), Load: load},
		cfg:     cfg, inForce: newInForce(cfg),
	}
	if r.state, err = tailnet.Open(t.Context(), new(tailnettest.Store), tailnet.Options{}); err != nil {
		t.Fatal(err)
	}
	r.idp = r.newProviders()
	if err := r.openSources(); err != nil {
		t.Fatal(err)
	}
	if r.sockets.cert, err = certs.FromFiles(cfg.TLS.CertFile, cfg.TLS.KeyFile, cfg.Fits, r.Log); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var parts sync.WaitGroup
	for _, run := range []func(context.Context) error{
		r.state.Run,
		func(ctx context.Context) error {
			return r.sources.Run(ctx, func(m *derpMap) {
				r.try(ctx, "DERP map", func(tx *tailnet.Tx) error { return tx.SetDERPMap(m) })
			})
		},
		func(ctx context.Context) error { return r.watch(ctx, policyPath, r.setPolicy) },
		func(ctx context.Context) error { return r.watch(ctx, recordsPath, r.setRecords) },
	} {
		parts.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(parts.Wait)
	t.Cleanup(cancel)
	return r
}

func (r *reloadable) file(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// configure writes the configuration with more lines, in which DIR and WEB are replaced.
func (r *reloadable) configure(more string) {
	r.t.Helper()
	text := "server_url: https://vpn.example.com\ndata_dir: DIR\n" + more
	if !strings.Contains(more, "tls:") {
		text += "\ntls: {cert_file: cert, key_file: key}\n"
	}
	r.file("heddle.yaml", strings.NewReplacer("DIR", r.dir, "WEB", r.web).Replace(text))
}

func (r *reloadable) certificate(certFile, keyFile string) {
	r.t.Helper()
	r.certificateFor("vpn.example.com", time.Hour, certFile, keyFile)
}

// certificateFor makes one that is valid for some time from now on.
func (r *reloadable) certificateFor(name string, life time.Duration, certFile, keyFile string) {
	r.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		r.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: serial, DNSNames: []string{name}, NotAfter: time.Now().Add(life)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		r.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		r.t.Fatal(err)
	}
	r.file(certFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	r.file(keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}

func (r *reloadable) must() *api.Reloaded {
	r.t.Helper()
	out, err := r.reload(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// sum says what is in force, in few words.
func (r *reloadable) sum() string {
	snap := r.state.Snapshot()
	dns := snap.DNS()
	cert, _ := r.sockets.cert.Get(nil)
	var names []string
	for _, p := range r.idp.List() {
		names = append(names, p.Name+"="+p.Label)
	}
	regions := []int{}
	for id := range r.sources.Map().Regions {
		regions = append(regions, id)
	}
	slices.Sort(regions)
	first, _, _ := strings.Cut(snap.Policy().Source, "\n")
	file := ""
	if f := r.policyFile(); f != nil {
		file = filepath.Base(f.Path)
	}
	return fmt.Sprint(r.Level.Level(), regions, dns.Nameservers, dns.Split, dns.Search, dns.MagicDNS, dns.OverrideLocal, dns.Records,
		names, " policy ", file, len(first), r.config().Audit.Retention, cert.Leaf.SerialNumber)
}

const corp = "oidc: {owners: [a@example.com], providers: [{name: corp, label: Corp, issuer: 'https://idp.example', client_id: x, client_secret_file: secret}]}\n"

func TestReload(t *testing.T) {
	r := newReloadable(t)
	steps := []struct {
		config           string
		applied, restart []string
		holds            string // what is in force then
	}{
		{"", nil, nil, "INFO [] [] map[] [] true false [] [] policy 0"},
		{"log: {level: debug}\n", []string{"log.level"}, nil, "DEBUG "},
		{"derp: {files: [derp.yaml], urls: [WEB], update_interval: 2h}\n", []string{"derp.files", "derp.update_interval", "derp.urls", "log.level"}, nil, "INFO [1 900]"},
		{"derp: {urls: [WEB]}\n", []string{"derp.files", "derp.update_interval"}, nil, "[1]"},
		{"dns: {magic_dns: true, nameservers: {global: [192.0.2.53], split: {corp.example: [192.0.2.54]}}, search_domains: [a.example]}\n",
			[]string{"derp.urls", "dns.magic_dns", "dns.nameservers.global", "dns.nameservers.split", "dns.search_domains"}, nil,
			"[192.0.2.53] map[corp.example:[192.0.2.54]] [a.example] true"},
		{"dns: {override_local_dns: true, nameservers: {global: [192.0.2.53]}, extra_records: [{name: x.example, type: A, value: 192.0.2.9}], extra_records_path: r1.json}\n",
			[]string{"dns.extra_records", "dns.extra_records_path", "dns.magic_dns", "dns.nameservers.split", "dns.override_local_dns", "dns.search_domains"}, nil,
			"true true [{x.example A 192.0.2.9} {one.example A 192.0.2.1}]"},
		{"policy: {path: p1.hujson}\n", []string{"dns.extra_records", "dns.extra_records_path", "dns.nameservers.global", "dns.override_local_dns", "policy.path"}, nil, "policy p1.hujson"},
		{"policy: {path: p2.hujson}\n", []string{"policy.path"}, nil, "policy p2.hujson"},
		{"", []string{"policy.path"}, nil, "policy "},
		{corp, []string{"oidc.owners", "oidc.providers"}, nil, "[corp=Corp]"},
		{strings.Replace(corp, "Corp", "Company", 1), []string{"oidc.providers"}, nil, "[corp=Company]"},
		{"tls: {cert_file: cert2, key_file: key2}\naudit: {retention: 48h}\n", []string{"audit.retention", "oidc.owners", "oidc.providers", "tls.cert_file", "tls.key_file"}, nil, "48h0m0s"},
		// What needs a restart is told each time, and keeps what it had.
		{"netmap: {cache_mb: 32}\nlisten_addr: ':444'\nlog: {level: warn}\n", []string{"audit.retention", "log.level", "tls.cert_file", "tls.key_file"}, []string{"listen_addr", "netmap.cache_mb"}, "WARN"},
		{"netmap: {cache_mb: 32}\nlisten_addr: ':444'\nlog: {level: warn}\n", nil, []string{"listen_addr", "netmap.cache_mb"}, "WARN"},
		{"trusted_proxies: [192.0.2.0/24]\n", []string{"log.level"}, []string{"trusted_proxies"}, "INFO"}, // there were none
		{"dns: {base_domain: other.example}\n", nil, []string{"dns.base_domain"}, "INFO"},
		{"tls: {acme: {email: a@example.com}}\n", nil, []string{"http_listen_addr", "listen_addr", "tls.acme.challenges", "tls.acme.email", "tls.cert_file", "tls.key_file"}, "INFO"},
		// The certificate of another name waits for that name.
		{"tls: {cert_file: cert2, key_file: key2}\naddresses: {allocation: random}\n", []string{"tls.cert_file", "tls.key_file"}, []string{"addresses.allocation"}, "INFO"},
		{"", []string{"tls.cert_file", "tls.key_file"}, nil, "INFO"},
	}
	for i, step := range steps {
		r.configure(step.config)
		got := r.must()
		want := &api.Reloaded{Applied: step.applied, NeedsRestart: step.restart}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("step %d, %s: (-want +got)\n%s", i, step.config, diff)
		}
		if sum := r.sum(); !strings.Contains(sum, step.holds) {
			t.Errorf("step %d, %s: in force is %s, want %s", i, step.config, sum, step.holds)
		}
	}
}

// TestReloadOfAnotherName: the certificate goes with the URL, which cannot change.
func TestReloadOfAnotherName(t *testing.T) {
	r := newReloadable(t)
	before := r.sum()
	r.file("heddle.yaml", "server_url: https://other.example\ndata_dir: "+r.dir+"\ntls: {cert_file: cert2, key_file: key2}\n")
	want := &api.Reloaded{NeedsRestart: []string{"derp.embedded.hostname", "server_url", "tls.cert_file", "tls.key_file"}}
	if diff := cmp.Diff(want, r.must()); diff != "" {
		t.Error(diff)
	}
	if sum := r.sum(); sum != before {
		t.Errorf("in force is %s, was %s", sum, before)
	}
}

// TestReloadOfProxies: requests are looked at by what is in force when they come.
func TestReloadOfProxies(t *testing.T) {
	r := newReloadable(t)
	r.cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")} // those of the start
	h := newGuard(forStrangers, r.proxies, r.Log).behindProxies(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		fmt.Fprint(w, req.RemoteAddr)
	}))
	for _, tt := range []struct{ proxies, applied, want string }{
		{"192.0.2.2", "[trusted_proxies]", "203.0.113.7:0"},
		{"192.0.2.3", "[trusted_proxies]", "192.0.2.2:99"},
		{"192.0.2.0/24", "[trusted_proxies]", "203.0.113.7:0"},
		{"", "[trusted_proxies]", "192.0.2.2:99"},
	} {
		r.configure("trusted_proxies: [" + tt.proxies + "]\n")
		if got := r.must(); fmt.Sprint(got.Applied) != tt.applied || got.NeedsRestart != nil {
			t.Errorf("%s: %+v", tt.proxies, got)
		}
		req, w := httptest.NewRequest("GET", "/", nil), httptest.NewRecorder()
		req.RemoteAddr = "192.0.2.2:99"
		req.Header.Set("X-Forwarded-For", "203.0.113.7")
		h.ServeHTTP(w, req)
		if got := w.Body.String(); got != tt.want {
			t.Errorf("with %s trusted the request comes from %s, want %s", tt.proxies, got, tt.want)
		}
	}
}

// TestReloadRefused: whatever is wrong with a configuration, nothing of it is in force.
func TestReloadRefused(t *testing.T) {
	r := newReloadable(t)
	r.configure("policy: {path: p1.hujson}\n" + corp)
	r.must()
	// Each comes with changes that are good.
	const good = "log: {level: debug}\nnetmap: {cache_mb: 64}\n"
	for _, tt := range []struct{ name, config, key, reason string }{
		{"no YAML", "log: [", "", "heddle.yaml:"},
		{"unknown key", good + "nonsense: 1\n", "nonsense", "heddle.yaml:5: unknown key"},
		{"wrong value", good + "dns: {nameservers: {global: [nobody]}}\n", "dns.nameservers.global[0]", "heddle.yaml:5: "},
		{"provider without an issuer", good + "oidc: {providers: [{name: corp, client_id: x}]}\n", "oidc.providers[0]", "issuer is missing"},
		{"secret that is not there", good + "oidc: {providers: [{name: corp, issuer: 'https://idp.example', client_id: x, client_secret_file: none}]}\n", "oidc.providers[0].client_secret_file", "cannot read the secret"},
		{"policy with a mistake", good + "policy: {path: bad.hujson}\n", "policy.path", "/bad.hujson: line 3, column 1: "},
		{"policy that is not there", good + "policy: {path: none.hujson}\n", "policy.path", "none.hujson: it cannot be read"},
		{"relays with a mistake", good + "derp: {files: [derp.yaml, bad.yaml]}\n", "derp.files", "bad.yaml"},
		{"URL without a map", good + "derp: {urls: [WEB/none]}\n", "derp.urls", "gives no DERP map: the answer is 404"},
		{"records with a mistake", good + "dns: {extra_records_path: bad.json}\n", "dns.extra_records_path", "bad.json: "},
		{"records that are not there", good + "dns: {extra_records_path: none.json}\n", "dns.extra_records_path", "none.json: it cannot be read"},
		{"key of another certificate", good + "tls: {cert_file: cert, key_file: key2}\n", "tls.cert_file", "private key does not match public key"},
		{"certificate that is not there", good + "tls: {cert_file: none, key_file: key}\n", "tls.cert_file", "no such file"},
		{"certificate of another name", good + "tls: {cert_file: cert3, key_file: key3}\n", "tls.cert_file", "the certificate is for other.example.com, not for vpn.example.com"},
		{"expired certificate", good + "tls: {cert_file: cert4, key_file: key4}\n", "tls.cert_file", "the certificate expired at "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before, cfg, version := r.sum(), r.config(), r.state.Snapshot().Policy()
			r.configure(tt.config)
			got := r.must()
			if len(got.Failed) != 1 || got.Failed[0].Key != tt.key || !strings.Contains(got.Failed[0].Reason, tt.reason) || got.Applied != nil || got.NeedsRestart != nil {
				t.Errorf("got %+v; want %s: %s", got, tt.key, tt.reason)
			}
			if sum := r.sum(); sum != before || r.config() != cfg || r.state.Snapshot().Policy() != version {
				t.Errorf("in force is %s, was %s", sum, before)
			}
		})
	}
	t.Run("several", func(t *testing.T) {
		r.configure("policy: {path: bad.hujson}\nderp: {files: [bad.yaml]}\ntls: {cert_file: none, key_file: key}\n")
		var keys []string
		for _, f := range r.must().Failed {
			keys = append(keys, f.Key)
		}
		if diff := cmp.Diff([]string{"tls.cert_file", "derp.files", "policy.path"}, keys); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("nothing to load from", func(t *testing.T) {
		load := r.Load
		defer func() { r.Load = load }()
		r.Load = nil
		if got := r.must(); len(got.Failed) != 1 {
			t.Errorf("got %+v", got)
		}
	})
}

// TestReloadsAtOnce: of many reloads, while the files change under them, each is of one configuration as a whole, and
// in the end the last one is in force.
func TestReloadsAtOnce(t *testing.T) {
	r := newReloadable(t)
	variants := []string{
		"policy: {path: p1.hujson}\ndns: {nameservers: {global: [192.0.2.1]}}\nderp: {files: [derp.yaml]}\n" + corp,
		"policy: {path: p2.hujson}\ndns: {nameservers: {global: [192.0.2.2]}}\nderp: {urls: [WEB]}\n",
		"policy: {path: bad.hujson}\ndns: {nameservers: {global: [192.0.2.3]}}\n",
	}
	var swap sync.Mutex // a file that is half written is another matter
	load := r.Load
	r.Load = func() (*config.Config, error) {
		swap.Lock()
		defer swap.Unlock()
		return load()
	}
	var all sync.WaitGroup
	for n := range 6 {
		all.Go(func() {
			for i := range 10 {
				swap.Lock()
				r.configure(variants[(n+i)%len(variants)])
				swap.Unlock()
				if _, err := r.reload(t.Context()); err != nil {
					t.Error(err)
				}
				if snap := r.state.Snapshot(); slices.Contains(snap.DNS().Nameservers, "192.0.2.3") {
					t.Error("a configuration whose policy is refused is in force")
				} else if second := strings.HasPrefix(snap.Policy().Source, "//"); second != slices.Contains(snap.DNS().Nameservers, "192.0.2.2") {
					t.Errorf("DNS %v goes with the policy %q", snap.DNS().Nameservers, snap.Policy().Source)
				}
				r.policyFile()
				r.policyHealth(r.state.Snapshot().Policy())
			}
		})
	}
	all.Wait()
	for i, want := range []string{"policy p1.hujson", "policy p2.hujson"} {
		r.configure(variants[i])
		if got := r.must(); got.Failed != nil || !strings.Contains(r.sum(), want) {
			t.Errorf("in the end: %+v, %s", got, r.sum())
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	end, err := r.inForce.begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.reload(ctx); err == nil {
		t.Error("who leaves while another reload is under way gets no error")
	}
	end()
}
