//go:build linux

package integration_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"heddle/integration/idp"
	"heddle/integration/lab"
	"heddle/integration/stock"
)

// reloading is a mesh under a service manager, whose configuration changes.
type reloading struct {
	*people
	text      string // of the configuration at the start
	heard     func() string
	anna, ben *stock.Client
	maps      string // a URL with a DERP map
	lines     int    // of the server's log that were looked at
}

// reloaded is what `heddle reload -o json` prints.
type reloaded struct {
	Applied, NeedsRestart []string
	Failed                []struct{ Key, Reason string }
}

// TestReload changes the configuration of a running server, and looks at what its clients make of that.
func TestReload(t *testing.T) {
	r := newReloading(t)
	before := r.lasting(t)
	for _, scenario := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"everything at once", r.testAll},
		{"logins under way", r.testLogins},
		{"needs a restart", r.testRestart},
		{"mistakes", r.testMistakes},
		{"many at once", r.testMany},
	} {
		t.Run(scenario.name, scenario.run)
	}
	after := r.connections(t)
	for conn := range before {
		if !after[conn] {
			t.Errorf("the connection from %s did not last", conn)
		}
	}
	if err := r.server.process.Stop(10 * time.Second); err != nil {
		t.Error(err)
	}
	for heard := ""; heard != "STOPPING=1"; heard = r.heard() {
	}
}

// corp configures the provider, with more keys if given.
func corp(more string) string {
	return "oidc:\n  owners: [olga@example.com]\n  providers: [{name: corp, issuer: '" + idpURL + "', client_id: heddle, client_secret: not-so-secret" + more + "}]\n"
}

func newReloading(t *testing.T) *reloading {
	m := newMesh(t, lastKey+corp(labelled))
	m.server.secrets = append(m.server.secrets, "not-so-secret")
	r := &reloading{people: &people{mesh: m}}
	text, err := os.ReadFile(m.server.config)
	if err != nil {
		t.Fatal(err)
	}
	r.text = string(text)

	r.idp = m.inet.Host("idp", 30)
	cert, key := m.lab.Certificate(idpName, idpAddr)
	r.provider = idp.New(t, idp.Options{
		Addr: idpAddr.String() + ":443", Issuer: idpURL, CertFile: cert, KeyFile: key,
		Clients: []idp.Client{{ID: "heddle", Secret: "not-so-secret", RedirectURIs: []string{serverURL + "/oidc/callback"}}},
		People:  map[string]idp.Claims{"olga": {"email": "olga@example.com", "email_verified": true, "name": "Olga"}},
	})
	r.startProvider(t)
	m.server.host.SetName(idpName, idpAddr)

	// The host of the provider has a DERP map, too.
	ln, err := r.idp.Listen(netip.AddrPortFrom(idpAddr, 8080).String())
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/map" {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, `{"Regions": {"77": {"RegionID": 77, "RegionCode": "url", "Nodes": [{"Name": "77a", "RegionID": 77, "HostName": "relay77.test", "IPv4": "198.51.100.77"}]}}}`)
	})}
	var serving sync.WaitGroup
	serving.Go(func() { srv.Serve(ln) })
	t.Cleanup(func() { srv.Close(); serving.Wait() })
	r.maps = "http://" + ln.Addr().String() + "/map"

	for name, text := range map[string]string{
		"open.hujson":   `{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]}`,
		"closed.hujson": `{"grants": []}`,
		"bad.hujson":    "{\n  \"grants\": [{\"src\": [\"nobody@\"], \"dst\": 7}]\n}",
		"derp.yaml":     "regions:\n  900:\n    regioncode: file\n    nodes: [{name: 900a, hostname: relay900.test, ipv4: 198.51.100.90}]\n",
		"bad.yaml":      "region: 1\n",
		"records.json":  `[{"name": "files.` + baseDomain + `", "type": "A", "value": "203.0.113.98"}]`,
		"bad.json":      "{",
	} {
		if err := os.WriteFile(filepath.Join(m.server.host.Dir(), name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.heard = m.manage(t)
	if got := r.heard(); got != "READY=1" {
		t.Fatalf("the service manager hears %q", got)
	}
	r.anna, r.ben = m.client(t, m.inet.Host("anna", 21)), m.client(t, m.inet.Host("ben", 22))
	m.join(t, r.anna, r.ben)
	return r
}

// write writes the configuration of the start with replacements.
func (r *reloading) write(t *testing.T, oldnew ...string) {
	t.Helper()
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(r.text, oldnew[i]) {
			t.Fatalf("the configuration does not hold %q", oldnew[i])
		}
	}
	if err := os.WriteFile(r.server.config, []byte(strings.NewReplacer(oldnew...).Replace(r.text)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// What write replaces.
const (
	levelKey = "  level: debug\n"
	derpKey  = "derp:\n"
	dnsKey   = "dns:\n"
	lastKey  = "# the last section\n" // after which there are the provider and, later on, the policy
)

const (
	labelled     = ", label: Corp"
	openPolicy   = "policy: {path: open.hujson}\n"
	closedPolicy = "policy: {path: closed.hujson}\n"
)

// hup sends SIGHUP and returns what the log says until the service manager hears that it is over.
func (r *reloading) hup(t *testing.T) string {
	t.Helper()
	r.news(t)
	if err := r.server.process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	r.awaitReload(t)
	return r.news(t)
}

func (r *reloading) awaitReload(t *testing.T) {
	t.Helper()
	if heard := r.heard(); !strings.HasPrefix(heard, "RELOADING=1\nMONOTONIC_USEC=") {
		t.Fatalf("the service manager hears %q", heard)
	}
	if heard := r.heard(); heard != "READY=1" {
		t.Fatalf("the service manager hears %q", heard)
	}
}

// news is what is new in the server's log.
func (r *reloading) news(t *testing.T) string {
	t.Helper()
	log, err := os.ReadFile(r.server.process.Log)
	if err != nil {
		t.Fatal(err)
	}
	lines := slices.Collect(strings.Lines(string(log)))
	fresh := strings.Join(lines[min(r.lines, len(lines)):], "")
	r.lines = len(lines)
	return fresh
}

// local runs the command line, which finds the server by its socket alone, and returns what it prints and its exit code.
func (r *reloading) local(t *testing.T, args ...string) (out string, exit int) {
	t.Helper()
	socket := filepath.Join(r.server.host.Dir(), "data", "heddle.sock")
	out, err := r.server.host.Run(t.Context(), append([]string{programs.heddle, "--socket", socket}, args...)...)
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		exit = failed.ExitCode()
	}
	return out, exit
}

// reload has the configuration loaded anew by the command, and returns what that prints and its exit code.
func (r *reloading) reload(t *testing.T) (out reloaded, exit int) {
	t.Helper()
	text, exit := r.local(t, "reload", "-o", "json")
	r.awaitReload(t)
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatalf("heddle reload prints %q: %v", text, err)
	}
	return out, exit
}

// awaitCLI waits until a command of a client prints all of some texts, and none of others, which begin with !.
func awaitCLI(t *testing.T, c *stock.Client, args []string, texts ...string) {
	t.Helper()
	lab.Await(t, seconds, fmt.Sprintf("%s: tailscale %s has %q", c.Name, strings.Join(args, " "), texts), func() error {
		out, err := c.CLI(t.Context(), args...)
		for _, text := range texts {
			text, not := strings.CutPrefix(text, "!")
			if err == nil && strings.Contains(out, text) == not {
				err = errors.New(out)
			}
		}
		return err
	})
}

var (
	shownRelays = []string{"debug", "derp-map"}
	shownDNS    = []string{"dns", "status"}
)

// testAll changes all that can be changed, by SIGHUP, and takes it back by the command.
func (r *reloading) testAll(t *testing.T) {
	conf := r.server.client.Transport.(*http.Transport).TLSClientConfig
	first := r.serial(t, conf)
	r.lab.Certificate(serverName, serverAddr) // a new one in the same files
	awaitCLI(t, r.anna, shownRelays, "!relay77.test", "!relay900.test")
	r.server.must(t, "dns", "set", "--search", "own.test")
	awaitCLI(t, r.anna, shownDNS, "own.test")
	r.write(t, levelKey, "  level: info\n",
		derpKey, "derp:\n  files: [derp.yaml]\n  urls: ["+r.maps+"]\n",
		dnsKey, "dns:\n  override_local_dns: true\n  nameservers: {global: [198.51.100.53]}\n  search_domains: [corp.test]\n  extra_records_path: records.json\n",
		lastKey+corp(labelled), closedPolicy+corp(", label: Company"))
	log := r.hup(t)
	want := `"configuration loaded anew" applied="[derp.files derp.urls dns.extra_records_path dns.nameservers.global dns.override_local_dns dns.search_domains log.level oidc.providers policy.path]"`
	if !strings.Contains(log, want) || strings.Contains(log, "need a restart") || strings.Contains(log, "level=ERROR") {
		t.Errorf("the log says %s", log)
	}
	if r.serial(t, conf).Cmp(first) == 0 {
		t.Error("the server shows the old certificate")
	}
	r.anna.AwaitGone(t, seconds, "ben")
	awaitCLI(t, r.anna, shownRelays, "relay77.test", "relay900.test")
	awaitCLI(t, r.anna, shownDNS, "198.51.100.53", "corp.test", "!own.test")
	if out := r.server.must(t, "debug", "log-level"); out != "info" {
		t.Errorf("the log level is %s", out)
	}
	if _, exit, err := r.server.cli(t.Context(), "dns", "set", "--nameservers", "198.51.100.54"); exit != 4 || !strings.Contains(err.Error(), "dns.nameservers.global is set in the config file") {
		t.Errorf("a change of what the configuration fixes: exit %d, %v", exit, err)
	}
	if _, exit, err := r.server.cli(t.Context(), "policy", "set", filepath.Join(r.server.host.Dir(), "open.hujson")); exit != 4 || !strings.Contains(err.Error(), "closed.hujson") {
		t.Errorf("a policy instead of the file: exit %d, %v", exit, err)
	}

	r.write(t, lastKey, openPolicy)
	got, exit := r.reload(t)
	if exit != 0 || !slices.Contains(got.Applied, "policy.path") || !slices.Contains(got.Applied, "derp.urls") || len(got.NeedsRestart) > 0 {
		t.Errorf("heddle reload: exit %d, %+v", exit, got)
	}
	r.anna.AwaitOnline(t, seconds, r.ben)
	awaitCLI(t, r.anna, shownRelays, "!relay77.test", "!relay900.test")
	awaitCLI(t, r.anna, shownDNS, "!198.51.100.53", "!corp.test", "own.test")
	entries := r.server.audit(t, "--action", "config.reload")
	if len(entries) != 1 || entries[0].Actor.Kind != "local-cli" {
		t.Errorf("on record is %+v", entries)
	}
}

// browser is a client on a host that resolves the names of the server and of the provider, with a cookie jar.
func (r *reloading) browser(t *testing.T, h *lab.Host) *http.Client {
	t.Helper()
	pem, err := os.ReadFile(r.lab.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := h.HTTP()
	transport := client.Transport.(*http.Transport)
	transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return h.Dial(ctx, network, strings.NewReplacer(serverName, serverAddr.String(), idpName, idpAddr.String()).Replace(addr))
	}
	client.Jar, client.Timeout = jar, 10*time.Second
	return client
}

// page returns what a browser is shown.
func page(t *testing.T, b *http.Client, url string) (status int, text string) {
	t.Helper()
	resp, err := b.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// testLogins changes the provider while people are there.
func (r *reloading) testLogins(t *testing.T) {
	gus := r.client(t, r.inet.Host("gus", 23))
	process, url := r.up(t, gus, gus.UpArgs("")...)
	defer process.Kill()
	b := r.browser(t, gus.Host)
	if _, text := page(t, b, url); !strings.Contains(text, "Log in with Corp<") {
		t.Fatalf("the page says %s", text)
	}
	// begin goes to the provider and back to the door of the server.
	begin := func() (back string) {
		t.Helper()
		there := *b
		there.CheckRedirect = func(req *http.Request, _ []*http.Request) error {
			if strings.HasPrefix(req.URL.String(), serverURL+"/oidc/callback") {
				return http.ErrUseLastResponse
			}
			return nil
		}
		resp, err := r.provider.Visit(t.Context(), &there, url+"/with/corp", idp.Choice{Login: "olga"})
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		at, err := resp.Location()
		if err != nil {
			t.Fatalf("%s: %v", resp.Status, err)
		}
		return at.String()
	}
	back := begin()
	r.write(t, lastKey+corp(labelled), openPolicy+corp(", label: Company, allowed_domains: [example.com]"))
	r.hup(t)
	if status, text := page(t, b, back); status != http.StatusOK || !strings.Contains(text, "Olga") || !strings.Contains(text, "Company") {
		t.Errorf("a login that was under way ends with %d: %s", status, text)
	}

	back = begin()
	r.write(t, lastKey+corp(labelled), openPolicy)
	r.hup(t)
	if status, text := page(t, b, back); status != http.StatusForbidden || !strings.Contains(text, "was changed here while you were there") {
		t.Errorf("a login at a provider that is gone ends with %d: %s", status, text)
	}
	// Whoever is logged in stays so, and can add the device.
	status, text := page(t, b, url)
	if status != http.StatusOK || !strings.Contains(text, "Olga") || strings.Contains(text, "Log in with") {
		t.Errorf("who is logged in sees %d: %s", status, text)
	}
	r.write(t, lastKey, openPolicy)
	r.hup(t)
	if _, text := page(t, r.browser(t, gus.Host), url); !strings.Contains(text, "Log in with Corp<") {
		t.Errorf("the page says %s", text)
	}
}

func (r *reloading) testRestart(t *testing.T) {
	r.write(t, levelKey, "  level: warn\n", lastKey, openPolicy+"netmap: {cache_mb: 32}\nlisten_addr: ':444'\n", "listen_addr: \"[::]:443\"\n", "")
	for _, applied := range []string{"[log.level]", "[]"} {
		got, exit := r.reload(t)
		if exit != 4 || fmt.Sprint(got.Applied) != applied || fmt.Sprint(got.NeedsRestart) != "[listen_addr netmap.cache_mb]" || len(got.Failed) > 0 {
			t.Errorf("heddle reload: exit %d, %+v; want %s", exit, got, applied)
		}
	}
	out, exit, err := r.server.cli(t.Context(), "reload")
	r.awaitReload(t)
	if exit != 4 || !strings.Contains(err.Error(), "changes of listen_addr, netmap.cache_mb wait for a restart of the server") {
		t.Errorf("heddle reload: exit %d, %s, %v", exit, out, err)
	}
	if log := r.news(t); strings.Count(log, `"some changes of the configuration need a restart" keys="[listen_addr netmap.cache_mb]"`) != 3 {
		t.Errorf("the log says %s", log)
	}
	r.write(t, lastKey, openPolicy)
	r.hup(t)
}

// testMistakes has a configuration of each kind that cannot be used, told by the command and by SIGHUP.
func (r *reloading) testMistakes(t *testing.T) {
	inForce := func(t *testing.T) (all string) {
		for _, show := range []string{"derp map -o json", "dns show -o json", "policy get", "debug log-level"} {
			out, exit := r.local(t, strings.Fields(show)...)
			if exit != 0 {
				t.Errorf("heddle %s: exit %d", show, exit)
			}
			all += out
		}
		return all
	}
	before := inForce(t)
	for _, tc := range []struct{ name, key, reason, old, new string }{
		{"unknown key", "nonsense", "unknown key", lastKey, openPolicy + "nonsense: 1\n"},
		{"provider without an issuer", "oidc.providers[0]", "issuer is missing", lastKey + corp(labelled), openPolicy + "oidc: {providers: [{name: x, client_id: y}]}\n"},
		{"policy", "policy.path", "bad.hujson", lastKey, "policy: {path: bad.hujson}\n"},
		{"no policy", "policy.path", "none.hujson: it cannot be read", lastKey, "policy: {path: none.hujson}\n"},
		{"relays", "derp.files", "bad.yaml", derpKey, "derp:\n  files: [derp.yaml, bad.yaml]\n"},
		{"URL of relays", "derp.urls", "gives no DERP map: the answer is 404", derpKey, "derp:\n  urls: [" + r.maps + "/none]\n"},
		{"records", "dns.extra_records_path", "bad.json: ", dnsKey, "dns:\n  nameservers: {global: [198.51.100.53]}\n  extra_records_path: bad.json\n"},
		{"nameserver", "dns.nameservers.global[0]", "nobody", dnsKey, "dns:\n  nameservers: {global: [nobody]}\n"},
		{"certificate", "tls.cert_file", "cannot be used", "  cert_file: ", "  cert_file: /nonexistent"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			edits := []string{tc.old, tc.new, levelKey, "  level: error\n"}
			if !strings.HasPrefix(tc.old, lastKey) {
				edits = append(edits, lastKey, openPolicy)
			}
			r.write(t, edits...)
			got, exit := r.reload(t)
			if exit != 2 || len(got.Failed) != 1 || got.Failed[0].Key != tc.key || !strings.Contains(got.Failed[0].Reason, tc.reason) || len(got.Applied)+len(got.NeedsRestart) > 0 {
				t.Errorf("heddle reload: exit %d, %+v; want %s, %s", exit, got, tc.key, tc.reason)
			}
			log := r.hup(t)
			if !strings.Contains(log, "the configuration is not loaded anew; what was in force stays so") || !strings.Contains(log, tc.key) || strings.Contains(log, "configuration loaded anew") {
				t.Errorf("the log says %s", log)
			}
			if now := inForce(t); now != before {
				t.Errorf("in force is %s, was %s", now, before)
			}
		})
	}
	r.write(t, lastKey, openPolicy)
	r.hup(t)
	r.anna.AwaitOnline(t, seconds, r.ben)
}

// testMany sends signals and commands at the same time.
func (r *reloading) testMany(t *testing.T) {
	r.write(t, lastKey, closedPolicy, dnsKey, "dns:\n  override_local_dns: true\n  nameservers: {global: [198.51.100.55]}\n")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := r.server.process.Signal(syscall.SIGHUP); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			if out, exit, err := r.server.cli(t.Context(), "reload"); exit != 0 || err != nil {
				t.Errorf("heddle reload: exit %d, %s, %v", exit, out, err)
			}
		})
	}
	all.Wait()
	r.anna.AwaitGone(t, seconds, "ben")
	awaitCLI(t, r.anna, shownDNS, "198.51.100.55")
	if log := r.news(t); strings.Contains(log, "level=ERROR") || strings.Count(log, "dns.nameservers.global") != 1 {
		t.Errorf("the log says %s", log)
	}
}

// manage starts the server anew under a service manager and returns what that hears next, signs of
// life left out. There must be some of these.
func (m *mesh) manage(t *testing.T) (next func() string) {
	t.Helper()
	path := filepath.Join(m.server.host.Dir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	m.server.kill()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "300000")
	m.server.start(t)
	os.Unsetenv("NOTIFY_SOCKET")
	os.Unsetenv("WATCHDOG_USEC")
	heard := make(chan string, 1000)
	go func() {
		defer close(heard)
		for buf := make([]byte, 1000); ; {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			if text := string(buf[:n]); text != "WATCHDOG=1" {
				heard <- text
			}
		}
	}()
	return func() string {
		t.Helper()
		select {
		case text, ok := <-heard:
			if ok {
				return text
			}
		case <-time.After(10 * time.Second):
		}
		t.Fatal("the service manager hears nothing")
		panic("unreachable")
	}
}
