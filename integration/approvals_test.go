//go:build linux

package integration_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"heddle/integration/lab"
	"heddle/integration/stock"

	"tailscale.com/client/tailscale/apitype"
	"tailscale.com/ipn/ipnstate"
)

// approvals is a mesh with one lasting member, anna, and a guest machine.
type approvals struct{ *logins }

// TestApprovals is what people see of approvals, lifetimes and offboarding, at stock clients.
func TestApprovals(t *testing.T) {
	m := newMesh(t)
	a := &approvals{&logins{
		mesh: m,
		anna: m.client(t, m.inet.Host("anna", 21)),
		gus:  m.client(t, m.inet.Host("gus", 22)),
	}}
	m.server.host.SetName(serverName, serverAddr)
	m.server.must(t, "users", "create", "bob", "--display-name", "Bob the Builder", "--picture-url", "https://id.example.com/bob.png")
	m.join(t, a.anna)
	for _, scenario := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"approval of a device", a.testApproval},
		{"rejection of a device", a.testRejection},
		{"key that needs no approval", a.testPreauthorized},
		{"rejection of a login", a.testRejectedLogin},
		{"warning before the end", a.testWarning},
		{"expiry off and on", a.testExpirySwitch},
		{"tagged device", a.testTagged},
		{"whois", a.testWhois},
		{"suspension", a.testSuspension},
	} {
		t.Run(scenario.name, func(t *testing.T) {
			a.gus.Forget(t)
			a.gus.Start(t)
			scenario.run(t)
			m.server.must(t, "settings", "set", "device-approval=off", "user-approval=off", "key-expiry=default")
			if _, ok := m.server.nodes(t)["gus"]; ok {
				m.server.must(t, "nodes", "delete", "gus", "--yes")
				a.anna.AwaitGone(t, seconds, "gus")
			}
		})
	}
}

// begin lets gus log in by `tailscale up`, which may not return for long.
func (a *approvals) begin(t *testing.T, key string) *lab.Process {
	t.Helper()
	up, err := a.gus.Host.Start("up", nil, a.gus.CommandLine(a.gus.UpArgs(key)...)...)
	if err != nil {
		t.Fatal(err)
	}
	return up
}

// finish waits until `tailscale up` has ended well.
func (a *approvals) finish(t *testing.T, up *lab.Process) {
	t.Helper()
	select {
	case <-up.Done():
	case <-time.After(2 * seconds):
		t.Fatalf("tailscale up still waits: %s", lab.Tail(up.Log, 20))
	}
	if err := up.Err(); err != nil {
		t.Errorf("tailscale up: %v: %s", err, lab.Tail(up.Log, 20))
	}
}

// awaitWarning waits until the client warns, or no longer warns, of something.
func awaitWarning(t *testing.T, c *stock.Client, text string, want bool) {
	t.Helper()
	c.Await(t, 2*seconds, fmt.Sprintf("warning with %q: %v", text, want), func(st *ipnstate.Status) error {
		if has := slices.ContainsFunc(st.Health, func(h string) bool { return strings.Contains(h, text) }); has != want {
			return fmt.Errorf("the health is %q", st.Health)
		}
		return nil
	})
}

func (a *approvals) testApproval(t *testing.T) {
	a.server.must(t, "settings", "set", "device-approval", "on")
	first := a.begin(t, a.server.authKey(t, "alice"))
	a.gus.AwaitState(t, 2*seconds, "NeedsMachineAuth")
	awaitWarning(t, a.gus, "waits for approval", true)
	if out, _ := a.gus.CLI(t.Context(), "status"); !strings.Contains(out, "not yet approved") {
		t.Errorf("tailscale status says %q", out)
	}
	if st := a.gus.Status(t); len(st.Peer) > 0 {
		t.Errorf("it knows %s", stock.PeerNames(st))
	}
	if st := a.anna.Status(t); stock.Peer(st, "gus") != nil {
		t.Error("anna knows it")
	}
	if n := a.server.nodes(t)["gus"]; !n.Waits {
		t.Errorf("the server says %+v", n)
	}
	if out := a.server.must(t, "nodes", "list"); !strings.Contains(out, "needs approval") {
		t.Errorf("nodes list says %s", out)
	}
	a.gus.Kill()
	first.Kill()
	a.gus.Start(t)
	a.gus.AwaitState(t, 2*seconds, "NeedsMachineAuth")
	again := a.begin(t, "")
	a.server.must(t, "nodes", "approve", "gus")
	took := a.gus.AwaitState(t, seconds, "Running")
	t.Logf("an approved device runs after %v", took)
	a.finish(t, again)
	a.greet(t)
	awaitWarning(t, a.gus, "waits for approval", false)
}

func (a *approvals) testRejection(t *testing.T) {
	a.server.must(t, "settings", "set", "device-approval", "on")
	up := a.begin(t, a.server.authKey(t, "alice"))
	defer up.Kill()
	a.gus.AwaitState(t, 2*seconds, "NeedsMachineAuth")
	a.server.must(t, "nodes", "reject", "gus")
	took := a.gus.AwaitState(t, seconds, "NeedsLogin")
	t.Logf("a rejected device knows it after %v", took)
	if n, ok := a.server.nodes(t)["gus"]; ok {
		t.Errorf("the server still has %+v", n)
	}
}

func (a *approvals) testPreauthorized(t *testing.T) {
	a.server.must(t, "settings", "set", "device-approval", "on")
	a.gus.Up(t, a.server.authKey(t, "alice", "--preauthorized"))
	a.greet(t)
}

// registerPage is the page of a device that waits for a person.
var registerPage = regexp.MustCompile(serverURL + `/register/([a-z0-9]+)`)

// testRejectedLogin turns a device away that has shown its person a URL.
func (a *approvals) testRejectedLogin(t *testing.T) {
	up := a.begin(t, "")
	var id string
	lab.Await(t, 2*seconds, "tailscale up prints a URL", func() error {
		out := lab.Tail(up.Log, 20)
		shown := registerPage.FindStringSubmatch(out)
		if shown == nil {
			return fmt.Errorf("it printed %q", out)
		}
		id = shown[1]
		return nil
	})
	a.server.must(t, "auth", "reject", id)
	select {
	case <-up.Done():
	case <-time.After(2 * seconds):
		up.Kill()
		t.Fatalf("tailscale up still waits: %s", lab.Tail(up.Log, 20))
	}
	if out := lab.Tail(up.Log, 20); !strings.Contains(out, "turned this device away") {
		t.Errorf("tailscale up says %s", out)
	}
	if out := a.server.must(t, "auth", "list", "-o", "json"); strings.Contains(out, `"gus"`) {
		t.Errorf("there still waits %s", out)
	}
}

func (a *approvals) testWarning(t *testing.T) {
	a.server.must(t, "settings", "set", "key-expiry", "48h")
	a.gus.Up(t, a.server.authKey(t, "alice"))
	a.greet(t)
	awaitWarning(t, a.gus, "expires soon", true)
	ends, err := time.Parse(time.RFC3339, a.server.nodes(t)["gus"].Expiry)
	if left := time.Until(ends); err != nil || left < 47*time.Hour || left > 48*time.Hour {
		t.Errorf("gus expires in %v: %v", left, err)
	}
	awaitWarning(t, a.gus, ends.UTC().Format("2 January 2006 15:04"), true)
	awaitWarning(t, a.gus, "--force-reauth", true)
	a.server.must(t, "nodes", "expiry", "gus", "30d")
	awaitWarning(t, a.gus, "expires soon", false)

	// An expired device comes back by itself when its end is put off.
	a.server.must(t, "nodes", "expire", "gus")
	a.gus.AwaitState(t, seconds, "NeedsLogin")
	a.server.must(t, "nodes", "expiry", "gus", "90d")
	a.gus.AwaitState(t, seconds, "Running")
	a.greet(t)
}

func (a *approvals) testExpirySwitch(t *testing.T) {
	a.server.must(t, "settings", "set", "key-expiry", "48h")
	a.gus.Up(t, a.server.authKey(t, "alice"))
	awaitWarning(t, a.gus, "expires soon", true)
	a.server.must(t, "nodes", "expiry", "gus", "off")
	awaitWarning(t, a.gus, "expires soon", false)
	a.gus.Up(t, a.server.authKey(t, "alice"), "--force-reauth")
	if n := a.server.nodes(t)["gus"]; n.Expiry != "" {
		t.Errorf("after a new login gus expires %s", n.Expiry)
	}
	a.gus.Await(t, seconds, "has a key that does not expire", func(st *ipnstate.Status) error {
		if st.Self.KeyExpiry != nil {
			return fmt.Errorf("it expires %v", st.Self.KeyExpiry)
		}
		return nil
	})
	a.server.must(t, "nodes", "expiry", "gus", "on")
	awaitWarning(t, a.gus, "expires soon", true)
}

func (a *approvals) testTagged(t *testing.T) {
	a.server.must(t, "settings", "set", "key-expiry", "48h")
	a.gus.Up(t, a.server.authKey(t, "alice", "--tags", "tag:web"))
	a.greet(t)
	if n := a.server.nodes(t)["gus"]; n.Expiry != "" {
		t.Errorf("a tagged device expires %s", n.Expiry)
	}
	if _, exit, err := a.server.cli(t.Context(), "nodes", "expiry", "gus", "on"); exit != 4 {
		t.Errorf("exit code %d: %v", exit, err)
	}
	awaitWarning(t, a.gus, "expires soon", false)
}

func (a *approvals) testWhois(t *testing.T) {
	a.gus.Up(t, a.server.authKey(t, "bob"))
	a.greet(t)
	address := a.gus.IPv4(t).String()
	var who apitype.WhoIsResponse
	if err := json.Unmarshal([]byte(a.anna.MustCLI(t, "whois", "--json", address)), &who); err != nil {
		t.Fatal(err)
	}
	if u := who.UserProfile; u == nil || u.DisplayName != "Bob the Builder" || u.ProfilePicURL != "https://id.example.com/bob.png" || u.LoginName != "bob@" {
		t.Errorf("whois says %+v", u)
	}
	if out := a.anna.MustCLI(t, "whois", address); !strings.Contains(out, "bob@") {
		t.Errorf("whois says %s", out)
	}
}

func (a *approvals) testSuspension(t *testing.T) {
	a.server.must(t, "users", "role", "bob", "admin")
	key := a.server.authKey(t, "bob", "--reusable")
	file := filepath.Join(a.server.host.Dir(), "bob.key")
	secret := a.server.must(t, "apikeys", "create", "--user", "bob")
	a.server.secrets = append(a.server.secrets, secret)
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		_, err := a.server.host.Run(t.Context(), programs.heddle, "--address", serverName, "--api-key-file", file, "--ca-file", a.lab.CAFile(), "nodes", "list")
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	a.gus.Up(t, key)
	a.greet(t)
	address := a.gus.IPv4(t)
	a.server.must(t, "users", "suspend", "bob")
	took := a.gus.AwaitState(t, seconds, "NeedsLogin")
	t.Logf("a suspended user's device knows it after %v", took)
	a.anna.Await(t, seconds, "sees that gus is out", func(st *ipnstate.Status) error {
		if peer := stock.Peer(st, "gus"); peer != nil && !peer.Expired {
			return fmt.Errorf("gus is still there")
		}
		return nil
	})
	if out, err := a.anna.Run(t.Context(), "ping", "-c2", "-W1", address.String()); err == nil {
		t.Errorf("it still answers: %s", out)
	}
	if err := ask(); err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("the API key: %v", err)
	}
	a.refused(t, key, "revoked")

	// Restoring the user brings nothing back by itself.
	a.server.must(t, "users", "restore", "bob")
	if err := ask(); err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("the API key of the restored user: %v", err)
	}
	a.refused(t, key, "revoked")
	a.gus.Kill() // or it goes on to try the old key, and blames the new one
	a.gus.Start(t)
	a.gus.Up(t, a.server.authKey(t, "bob"))
	a.greet(t)
}
