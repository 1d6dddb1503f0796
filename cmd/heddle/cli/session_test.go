package cli_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"heddle/api"
	"heddle/cmd/heddle/cli"
	"heddle/control/tailnet"
	"heddle/control/tailnet/tailnettest"
	"heddle/policy"
	v1 "heddle/proto/heddle/v1"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

var update = flag.Bool("update", false, "write what the commands print into testdata/sessions")

func TestMain(m *testing.M) {
	for _, v := range os.Environ() { // nobody's own settings
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "HEDDLE_") {
			os.Unsetenv(name)
		}
	}
	time.Local = time.UTC
	os.Exit(m.Run())
}

// A world is a tailnet with its admin API on a socket.
type world struct {
	t      *testing.T
	clock  clock
	store  *tailnettest.Store
	state  *tailnet.State
	api    *api.Server
	socket string
	parts  []api.Part // what health says
	logins map[string]tailnet.Registration
}

// clock is a clock that only pass moves.
type clock struct{ ns atomic.Int64 }

func (c *clock) now() time.Time       { return time.Unix(0, c.ns.Load()).UTC() }
func (c *clock) pass(d time.Duration) { c.ns.Add(int64(d)) }

var admin = tailnet.Actor{Kind: tailnet.LocalCLI, Name: "test"}

// editedFile is the policy file of a world that has one.
const editedFile = "{\n\t\"acls\": [{\"action\": \"deny\"}],\n}\n"

func newWorld(t *testing.T, edit ...func(*api.Options)) *world {
	t.Helper()
	w := &world{
		t:      t,
		logins: map[string]tailnet.Registration{"c0ffee": registration("tablet")},
		parts:  []api.Part{{Name: "database", OK: true}, {Name: "derp", OK: true, Message: "2 regions"}},
	}
	w.clock.pass(time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC).Sub(time.Unix(0, 0)))
	var err error
	w.store = new(tailnettest.Store)
	w.state, err = tailnet.Open(t.Context(), w.store, tailnet.Options{
		OnlineGrace: time.Minute, EphemeralTimeout: time.Hour, KeyExpiry: 180 * 24 * time.Hour, Now: w.clock.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	o := api.Options{
		State: w.state, Pending: w, Logins: w.waiting, Now: w.clock.now, History: w.store,
		Health: func(context.Context) []api.Part { return w.parts },
		Streams: func() []api.Stream {
			return []api.Stream{{Node: 1, CapVer: 142, Version: w.state.Snapshot().Version(), BytesSent: 12345}, {Node: 2, CapVer: 113}}
		},
		Version: api.Version{Version: "v9.9.9", Commit: "0123456789abcdef", MinClient: "v1.80"},
	}
	for _, e := range edit {
		e(&o)
	}
	w.api = api.New(o)
	dir, err := os.MkdirTemp("", "cli") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w.socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", w.socket)
	if err != nil {
		t.Fatal(err)
	}
	run(t, w.state.Run)
	run(t, func(ctx context.Context) error { return w.api.ServeSocket(ctx, l) })
	w.must(func(tx *tailnet.Tx) error {
		if err := tx.SetDERPMap(testMap); err != nil {
			return err
		}
		return tx.SetDNSPins(tailnet.DNSPins{
			BaseDomain: "tailnet.internal", Search: []string{"corp.example.com"},
			Records: []tailnet.DNSRecord{{Name: "pinned.example.com", Type: "A", Value: "192.0.2.1"}},
		})
	})
	return w
}

var testMap = &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{
	999: {RegionID: 999, RegionCode: "heddle", RegionName: "heddle", Nodes: []*tailcfg.DERPNode{
		{Name: "999a", RegionID: 999, HostName: "vpn.example.com", IPv4: "198.51.100.1", IPv6: "2001:db8::1", DERPPort: 8443},
		{Name: "999b", RegionID: 999, HostName: "stun.example.com", STUNOnly: true, STUNPort: 3479},
	}},
	900: {RegionID: 900, RegionCode: "a", RegionName: "A", Nodes: []*tailcfg.DERPNode{
		{Name: "900a", RegionID: 900, HostName: "derp.example.com", STUNPort: -1},
	}},
}}

// run runs a part of the server until the test ends.
func run(t *testing.T, part func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- part(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (w *world) must(fn func(*tailnet.Tx) error) {
	w.t.Helper()
	if _, err := w.state.Update(w.t.Context(), admin, fn); err != nil {
		w.t.Fatal(err)
	}
}

func registration(host string, routes ...string) tailnet.Registration {
	h := &tailcfg.Hostinfo{Hostname: host, OS: "linux", IPNVersion: "1.90.1"}
	for _, r := range routes {
		h.RoutableIPs = append(h.RoutableIPs, netip.MustParsePrefix(r))
	}
	return tailnet.Registration{Machine: key.NewMachine().Public(), Key: key.NewNode().Public(), Hostinfo: tailnet.CleanHostinfo(h), CapVer: 142}
}

// populate adds users and nodes: laptop (online) and gateway of alice, and the tagged web.
func (w *world) populate() {
	w.t.Helper()
	w.must(func(tx *tailnet.Tx) error {
		alice, err := tx.CreateUser(tailnet.User{Name: "alice", DisplayName: "Alice", Email: "alice@example.com"})
		if err != nil {
			return err
		}
		if _, err := tx.CreateUser(tailnet.User{Name: "bob@example.com"}); err != nil {
			return err
		}
		laptop, err := tx.RegisterForUser(registration("Laptop"), alice.ID, tailnet.ByCLI)
		if err != nil {
			return err
		}
		if _, err := tx.RegisterForUser(registration("gateway", "192.168.1.0/24", "10.0.0.0/8", "0.0.0.0/0", "::/0"), alice.ID, tailnet.ByCLI); err != nil {
			return err
		}
		secret, _, err := tx.CreateAuthKey(tailnet.AuthKeySpec{Tags: []string{"tag:web"}, Expires: tx.Now().Add(time.Hour)})
		if err != nil {
			return err
		}
		if _, err := tx.RegisterWithAuthKey(registration("web\x1b[31m"), secret); err != nil {
			return err
		}
		return tx.Connect(laptop.ID)
	})
}

// letWait turns approvals on, and lets carol log in with a device.
func (w *world) letWait() {
	w.t.Helper()
	w.must(func(tx *tailnet.Tx) error {
		return tx.SetAdmission(tailnet.Admission{DeviceApproval: true, UserApproval: true})
	})
	login := tailnet.Actor{Kind: tailnet.ByUser, Name: "carol"}
	boss := tailnet.Profile{Identity: tailnet.Identity{Issuer: "https://id.example.com", Subject: "1"}, Email: "boss@example.com"}
	carol := tailnet.Profile{
		Identity: tailnet.Identity{Issuer: "https://id.example.com", Subject: "2"}, Email: "carol@example.com",
		DisplayName: "Carol C.", PictureURL: "https://id.example.com/carol.png", Groups: []string{"engineers", "climbers"},
	}
	for _, p := range []tailnet.Profile{boss, carol} {
		_, err := w.state.Update(w.t.Context(), login, func(tx *tailnet.Tx) error {
			u, err := tx.LogIn(p)
			if err == nil {
				login.User = u.ID
			}
			return err
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
	if _, err := w.state.Update(w.t.Context(), login, func(tx *tailnet.Tx) error {
		_, err := tx.RegisterForUser(registration("pad"), login.User, tailnet.ByOIDC)
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
}

// CompleteLogin makes world the pending logins: one device waits.
func (w *world) CompleteLogin(ctx context.Context, a tailnet.Actor, id string, user tailnet.UserID, m tailnet.Method) (*tailnet.Node, error) {
	r, ok := w.logins[id]
	if !ok {
		return nil, tailnet.Errorf(tailnet.NotFound, "no device waits under the ID %q", id)
	}
	var n *tailnet.Node
	_, err := w.state.Update(ctx, a, func(tx *tailnet.Tx) (err error) {
		n, err = tx.RegisterForUser(r, user, m)
		return err
	})
	if err == nil {
		delete(w.logins, id)
	}
	return n, err
}

func (w *world) RejectLogin(_ context.Context, _ tailnet.Actor, id string) error {
	if _, ok := w.logins[id]; !ok {
		return tailnet.Errorf(tailnet.NotFound, "no device waits under the ID %q", id)
	}
	delete(w.logins, id)
	return nil
}

func (w *world) DecideSSH(_ context.Context, _ tailnet.Actor, id string, _ bool) error {
	if id != "55aacc" {
		return tailnet.Errorf(tailnet.NotFound, "no connection waits under the ID %q", id)
	}
	return nil
}

// waiting are the devices of CompleteLogin that wait.
func (w *world) waiting(most int) (list []api.Login, more int) {
	for id, r := range w.logins {
		list = append(list, api.Login{
			ID: id, Hostname: r.Hostinfo.Hostname, OS: r.Hostinfo.OS, Machine: "[abcde]",
			From: netip.MustParseAddr("192.0.2.7"), Started: w.clock.now().Add(-90 * time.Second),
		})
	}
	return list, 0
}

// result is what one command line did.
type result struct {
	out, err string
	code     int
}

// heddle runs a command line against the world's socket.
func (w *world) heddle(args ...string) result {
	w.t.Helper()
	return heddleAt(w.t, w.clock.now, "", append([]string{"--socket", w.socket}, args...)...)
}

func heddle(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	return heddleAt(t, nil, stdin, args...)
}

func heddleAt(t *testing.T, now func() time.Time, stdin string, args ...string) result {
	t.Helper()
	var out, errOut bytes.Buffer
	code := cli.Run(t.Context(), args, cli.Env{In: strings.NewReader(stdin), Out: &out, Err: &errOut, Now: now})
	return result{out.String(), errOut.String(), code}
}

// A session is a text file of commands and of what they print: lines from the
// standard error start with "! ", and an exit code other than 0 stands in brackets.
func TestSessions(t *testing.T) {
	files, err := filepath.Glob("testdata/sessions/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no sessions", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			w := newWorld(t, func(o *api.Options) {
				if filepath.Base(file) == "policyfile.txt" {
					_, bad := policy.Parse([]byte(editedFile))
					edited := &api.PolicyFile{Path: "/etc/heddle/policy.hujson", Refused: func() ([]byte, error) { return []byte(editedFile), bad }}
					o.PolicyFile = func() *api.PolicyFile { return edited }
				}
				turn := 0
				o.Reload = func(context.Context) (*api.Reloaded, error) {
					turn++
					return reloads[(turn-1)%len(reloads)], nil
				}
			})
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for line := range strings.Lines(string(text)) {
				switch {
				case strings.HasPrefix(line, "#"):
					if b.Len() > 0 {
						b.WriteByte('\n')
					}
					b.WriteString(line)
					switch line {
					case "# populated\n":
						w.populate()
					case "# with somebody who waits\n":
						w.letWait()
					}
				case strings.HasPrefix(line, "(later: "):
					b.WriteString(line)
					d, err := time.ParseDuration(strings.TrimSuffix(strings.TrimPrefix(line, "(later: "), ")\n"))
					if err != nil {
						t.Fatal(err)
					}
					w.clock.pass(d)
				case strings.HasPrefix(line, "$ heddle"):
					b.WriteString(line)
					w.record(&b, words(strings.TrimPrefix(line, "$ heddle")))
				}
			}
			if *update {
				if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(text), b.String()); diff != "" {
				t.Errorf("%s differs (-update writes it anew) (-want +got):\n%s", file, diff)
			}
		})
	}
}

// reloads are what one reload after the other comes to.
var reloads = []*api.Reloaded{
	{Applied: []string{"log.level", "policy.path"}},
	{Applied: []string{"log.level"}, NeedsRestart: []string{"listen_addr", "netmap.cache_mb"}},
	{},
	{Failed: []api.ConfigFailure{{Key: "policy.path", Reason: "p.hujson: line 2: no"}, {Reason: "something else"}}},
}

// TestReloadOfMistakes: the server is not asked, and the answer is the same.
func TestReloadOfMistakes(t *testing.T) {
	const want = "nonsense: f.yaml:1: unknown key: `heddle config example` lists all\nheddle: the configuration is refused; nothing has changed\n"
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	file := filepath.Join(dir, "f.yaml")
	if err := os.WriteFile(file, []byte("nonsense: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := heddle(t, "", "reload", "--config", file)
	if got := strings.ReplaceAll(r.err, dir+"/", ""); r.code != 2 || got != want || r.out != "" {
		t.Errorf("exit %d: %s%s", r.code, r.out, got)
	}
	r = heddle(t, "", "reload", "--config", file, "-o", "json")
	var out v1.ReloadConfigResponse
	if err := protojson.Unmarshal([]byte(r.out), &out); err != nil || r.code != 2 || len(out.GetFailed()) != 1 || out.GetFailed()[0].GetKey() != "nonsense" {
		t.Errorf("exit %d: %v: %s", r.code, err, r.out)
	}
}

func (w *world) record(b *strings.Builder, args []string) {
	r := w.heddle(args...)
	b.WriteString(w.steady(r.out))
	for line := range strings.Lines(w.steady(r.err)) {
		b.WriteString("! " + line)
	}
	if r.code != 0 {
		fmt.Fprintf(b, "[%d]\n", r.code)
	}
}

// What is random in the output, and what stands for it.
var random = []struct {
	from *regexp.Regexp
	to   string
}{
	{regexp.MustCompile(`tskey-(auth|api|client)-[a-z0-9]+-[a-z0-9]+`), "tskey-$1-publicpublic-SECRET"},
	{regexp.MustCompile(`tskey-(auth|api)-[a-z0-9]{12}-\*`), "tskey-$1-publicpublic-*"},
	{regexp.MustCompile(`("(?:prefix|clientId)": ")[a-z0-9]{12}"`), `${1}publicpublic"`},
	{regexp.MustCompile(`(clientId: )[a-z0-9]{12}\n`), "${1}publicpublic\n"},
	{regexp.MustCompile(`(OAuth client \d+ \()[a-z0-9]{12},`), `${1}publicpublic,`},
	{regexp.MustCompile(`(?m)^(\d+ +)[a-z0-9]{12}  `), `${1}publicpublic  `},   // in a table
	{regexp.MustCompile(`(API key \d+ \()[a-z0-9]{12},`), `${1}publicpublic,`}, // in a sentence
	{regexp.MustCompile(`(nodekey|mkey|discokey):[0-9a-f]{64}`), "$1:HEX"},
	{regexp.MustCompile(`\bn[A-Za-z0-9]+CNTRL\b`), "STABLE-ID"},
	{regexp.MustCompile(`go1\.[0-9.]+`), "go1.X"},
	{regexp.MustCompile(`local-cli \S+`), "local-cli WHO"},
}

func (w *world) steady(s string) string {
	s = strings.ReplaceAll(s, w.socket, "SOCKET")
	for _, r := range random {
		s = r.from.ReplaceAllString(s, r.to)
	}
	return s
}

// words splits a line at spaces, outside of single quotes.
func words(line string) []string {
	var out []string
	for i, part := range strings.Split(strings.TrimSpace(line), "'") {
		if i%2 == 1 {
			out = append(out, part)
			continue
		}
		out = append(out, strings.Fields(part)...)
	}
	return slices.Clip(out)
}
