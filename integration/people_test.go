//go:build linux

package integration_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"heddle/integration/browser"
	"heddle/integration/idp"
	"heddle/integration/lab"
	"heddle/integration/stock"

	"tailscale.com/ipn/ipnstate"
)

const (
	idpName = "idp.test"
	idpURL  = "https://" + idpName
)

var idpAddr = netip.MustParseAddr("198.51.100.30")

// people is a mesh whose users log in at a real identity provider, in a real browser.
type people struct {
	*mesh
	provider *idp.Provider
	running  *lab.Process // of the provider
	idp      *lab.Host
	web      *browser.Browser
	gus, dot *stock.Client // gus is forgotten between scenarios
	asked    int           // programs that sent somebody to a page
}

// TestPeople is how people and their devices join, and how they leave.
func TestPeople(t *testing.T) {
	p := newPeople(t)
	for _, scenario := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"first login", p.testFirst},
		{"new node key", p.testReauth},
		{"expiry", p.testExpiry},
		{"logout and login", p.testLogout},
		{"another owner", p.testAnotherOwner},
		{"second account", p.testSecondAccount},
		{"tags", p.testTags},
		{"approval of the device", p.testDeviceApproval},
		{"SSH check", p.testSSHCheck},
		{"strangers", p.testStrangers},
		{"provider is away", p.testProviderAway},
		{"suspension", p.testSuspension},
	} {
		t.Run(scenario.name, func(t *testing.T) {
			p.gus.Forget(t)
			p.gus.Start(t)
			p.web.For(t)
			p.web.Forget()
			defer func() {
				for name := range p.server.nodes(t) {
					if strings.HasPrefix(name, "gus") {
						p.server.must(t, "nodes", "delete", name, "--yes")
					}
				}
			}()
			scenario.run(t)
		})
	}
}

func newPeople(t *testing.T) *people {
	secret := filepath.Join(t.TempDir(), "corp.secret")
	if err := os.WriteFile(secret, []byte("not-so-secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &people{mesh: newMesh(t, fmt.Sprintf(`
oidc:
  owners: [olga@example.com]
  providers:
    - name: corp
      label: Example Corp
      issuer: %s
      client_id: heddle
      client_secret_file: %s
      scopes: [profile, email, groups]
      groups_claim: groups
      allowed_domains: [example.com]
`, idpURL, secret))}
	p.server.secrets = append(p.server.secrets, "not-so-secret")
	person := func(name, mail string, groups ...string) idp.Claims {
		return idp.Claims{"sub": "id-of-" + name, "name": name, "email": mail, "email_verified": true, "groups": groups}
	}
	p.idp = p.inet.Host("idp", 30)
	cert, key := p.lab.Certificate(idpName, idpAddr)
	p.provider = idp.New(t, idp.Options{
		Addr: idpAddr.String() + ":443", Issuer: idpURL, CertFile: cert, KeyFile: key,
		Clients: []idp.Client{{ID: "heddle", Secret: "not-so-secret", RedirectURIs: []string{serverURL + "/oidc/callback"}}},
		Scopes:  map[string][]string{"groups": {"groups"}},
		People: map[string]idp.Claims{
			"anna": person("Anna Adams", "anna@example.com", "staff"), "ben": person("Ben", "ben@example.com"),
			"eve": person("Eve", "eve@example.org"), "olga": person("Olga", "olga@example.com"),
		},
	})
	p.startProvider(t)
	desk := p.inet.Host("desk", 40)
	for _, h := range []*lab.Host{p.server.host, desk} {
		h.SetName(idpName, idpAddr)
	}
	desk.SetName(serverName, serverAddr)
	p.web = browser.Start(t, desk, cert, filepath.Join(p.lab.Dir(), serverName+".crt"))
	p.gus = p.client(t, p.inet.Host("gus", 22))
	p.dot = p.client(t, p.inet.Host("dot", 23))
	return p
}

func (p *people) startProvider(t *testing.T) {
	t.Helper()
	process, err := p.idp.Start("idp", nil, p.provider.Args...)
	if err != nil {
		t.Fatal(err)
	}
	p.running = process
	client := trusting(t, p.idp, p.lab.CAFile(), idpName)
	lab.Await(t, 20*time.Second, "the identity provider answers", func() error {
		resp, err := client.Get("https://" + idpAddr.String() + "/.well-known/openid-configuration")
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
}

// up starts a command that logs a client in, and returns it and the address that it shows.
func (p *people) up(t *testing.T, c *stock.Client, args ...string) (*lab.Process, string) {
	t.Helper()
	return p.ask(t, c, c.CommandLine(args...)...)
}

// ask starts a program that sends its person to a page, and returns it and the page's address.
func (p *people) ask(t *testing.T, c *stock.Client, args ...string) (*lab.Process, string) {
	t.Helper()
	p.asked++
	process, err := c.Host.Start(fmt.Sprintf("ask-%d", p.asked), nil, args...)
	if err != nil {
		t.Fatal(err)
	}
	var url string
	lab.Await(t, 10*time.Second, "the person is sent to a page", func() error {
		out := lab.Tail(process.Log, 20)
		if url = urlLine.FindString(out); url == "" {
			return fmt.Errorf("it printed %q", out)
		}
		return nil
	})
	return process, url
}

// logIn goes on from a page with a button for the provider, as a person of whom the provider
// knows nothing yet.
func (p *people) logIn(t *testing.T, person string) {
	t.Helper()
	p.web.Click("Log in with Example Corp")
	p.web.Await(idpName, "Sign-in")
	p.web.Fill("login", person)
	p.web.Fill("password", "any")
	p.web.Click("Sign-in")
	if shown := p.web.AwaitOne(serverURL, "Authorize"); strings.Contains(shown, "Authorize") {
		p.web.Click("Continue")
	}
	p.web.Await(serverURL)
}

// done waits until a command that waited for a person ends well.
func done(t *testing.T, process *lab.Process) {
	t.Helper()
	select {
	case <-process.Done():
	case <-time.After(2 * seconds):
		t.Fatalf("it still waits: %s", lab.Tail(process.Log, 20))
	}
	if err := process.Err(); err != nil {
		t.Errorf("%v: %s", err, lab.Tail(process.Log, 20))
	}
}

// joinAs logs a client in from the browser, for a person.
func (p *people) joinAs(t *testing.T, c *stock.Client, person string, flags ...string) {
	t.Helper()
	process, url := p.up(t, c, c.UpArgs("", flags...)...)
	p.web.Forget()
	p.web.Open(url)
	p.logIn(t, person)
	p.web.Await("You are logged in as", c.Name)
	p.web.Click("Add device")
	p.web.Await("Device added", "has joined the network")
	done(t, process)
	c.AwaitState(t, seconds, "Running")
}

// loginName is as whom a client says that it is logged in.
func loginName(st *ipnstate.Status) string { return st.User[st.Self.UserID].LoginName }

func (p *people) testFirst(t *testing.T) {
	process, url := p.up(t, p.gus, p.gus.UpArgs("")...)
	if !strings.HasPrefix(url, "https://") {
		t.Errorf("clients do not open %s", url)
	}
	p.web.Open(url)
	p.web.Await("Add a device", "gus", "Linux", "198.51.100.22", "just now", "Log in with Example Corp")
	p.web.Shoot("device")
	p.logIn(t, "anna")
	p.web.Await("You are logged in as Anna Adams (anna@example.com) through Example Corp", "gus", "198.51.100.22", "Use another account")
	p.web.Shoot("consent")
	select {
	case <-process.Done():
		t.Fatal("the device joined without consent")
	default:
	}
	p.web.Click("Add device as anna@example.com")
	p.web.Await("Device added", "gus has joined the network as yours")
	p.web.Shoot("added")
	done(t, process)
	p.gus.AwaitState(t, seconds, "Running")
	if name := loginName(p.gus.Status(t)); name != "anna@example.com" {
		t.Errorf("the client is logged in as %q", name)
	}
	p.web.Reload()
	p.web.Await("Device added", "as yours")
	p.web.Open(url)
	p.web.Await("Device added", "as yours")
	if problems := p.web.Problems(serverURL); len(problems) > 0 {
		t.Errorf("the browser complains: %q", problems)
	}
	var users []struct {
		Name   string   `json:"name"`
		Role   string   `json:"role"`
		Groups []string `json:"groups"`
	}
	if err := json.Unmarshal([]byte(p.server.must(t, "users", "list", "-o", "json")), &users); err != nil {
		t.Fatal(err)
	}
	for _, u := range users {
		if u.Name == "anna@example.com" && (!slices.Equal(u.Groups, []string{"staff"}) || strings.Contains(strings.ToLower(u.Role), "owner")) {
			t.Errorf("%+v", u)
		}
	}
	p.joinAs(t, p.dot, "ben")
	p.gus.AwaitOnline(t, 10*time.Second, p.dot)
}

// same asserts that a node is what it was, but for its key.
func (p *people) same(t *testing.T, c *stock.Client, name string, before node) {
	t.Helper()
	after, ok := p.server.nodes(t)[name]
	if !ok || after.ID != before.ID || !slices.Equal(after.Addresses, before.Addresses) || after.Expired {
		t.Errorf("%s was %+v and is %+v", name, before, after)
	}
	if got := c.IPv4(t).String(); !slices.Contains(before.Addresses, got) {
		t.Errorf("the client has the address %s, it had %v", got, before.Addresses)
	}
}

func (p *people) testReauth(t *testing.T) {
	p.joinAs(t, p.gus, "anna")
	before, key := p.server.nodes(t)["gus"], p.gus.Status(t).Self.PublicKey
	again := func(url string) {
		t.Helper()
		p.web.Open(url)
		p.web.Await("You are logged in as Anna Adams", "It is yours already and logs in again")
		p.web.Click("Add device")
		p.web.Await("Device added")
		p.gus.Await(t, seconds, "has a new key", func(st *ipnstate.Status) error {
			if st.BackendState != "Running" || st.Self.PublicKey == key {
				return fmt.Errorf("it is %s with the key %s", st.BackendState, st.Self.PublicKey)
			}
			return nil
		})
		p.gus.AwaitOnline(t, seconds, p.dot)
		p.same(t, p.gus, "gus", before)
		key = p.gus.Status(t).Self.PublicKey
	}
	process, url := p.up(t, p.gus, p.gus.UpArgs("", "--force-reauth")...)
	again(url)
	done(t, process)

	// As applications do it: until their person has decided, the device goes on with its old key.
	if err := p.gus.API.StartLoginInteractive(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.gus.Await(t, seconds, "has a page for its person", func(st *ipnstate.Status) error {
		if url = st.AuthURL; url == "" {
			return fmt.Errorf("it is %s", st.BackendState)
		}
		return nil
	})
	p.reach(t, p.gus, p.dot)
	again(url)
}

func (p *people) testExpiry(t *testing.T) {
	p.joinAs(t, p.gus, "anna")
	before := p.server.nodes(t)["gus"]
	p.server.must(t, "nodes", "expire", "gus")
	p.gus.AwaitState(t, seconds, "NeedsLogin")
	p.joinAs(t, p.gus, "anna")
	p.same(t, p.gus, "gus", before)
}

func (p *people) testLogout(t *testing.T) {
	p.joinAs(t, p.gus, "anna")
	before := p.server.nodes(t)["gus"]
	p.gus.MustCLI(t, "logout")
	p.gus.AwaitState(t, seconds, "NeedsLogin")
	if n := p.server.nodes(t)["gus"]; !n.Expired {
		t.Errorf("after the logout the server says %+v", n)
	}
	p.joinAs(t, p.gus, "anna")
	p.same(t, p.gus, "gus", before)
}

// testAnotherOwner: whoever takes a device over gets a new node, and the old login ends.
func (p *people) testAnotherOwner(t *testing.T) {
	p.joinAs(t, p.gus, "anna")
	before := p.server.nodes(t)["gus"]
	process, url := p.up(t, p.gus, p.gus.UpArgs("", "--force-reauth")...)
	p.web.Open(url)
	p.web.Click("Use another account")
	p.logIn(t, "ben")
	p.web.Await("You are logged in as Ben", "logged in as somebody else now")
	p.web.Shoot("takeover")
	p.web.Click("Add device")
	p.web.Await("Device added")
	done(t, process)
	p.gus.AwaitState(t, seconds, "Running")
	st := p.gus.Status(t)
	if loginName(st) != "ben@example.com" || st.Self.DNSName != "gus-1."+baseDomain+"." {
		t.Errorf("it is %s of %s", st.Self.DNSName, loginName(st))
	}
	if old := p.server.nodes(t)["gus"]; old.ID != before.ID || !old.Expired {
		t.Errorf("the old node is %+v", old)
	}
	p.dot.AwaitOnline(t, seconds, &stock.Client{Host: &lab.Host{Name: "gus-1"}})
}

// testSecondAccount: one device, two profiles, of which one is in use.
func (p *people) testSecondAccount(t *testing.T) {
	p.joinAs(t, p.gus, "anna")
	before := p.server.nodes(t)["gus"]
	process, url := p.up(t, p.gus, "login", "--timeout=40s", "--login-server="+serverURL, "--hostname=gus")
	p.web.Open(url)
	p.web.Click("Use another account")
	p.logIn(t, "ben")
	p.web.Await("You are logged in as Ben")
	p.web.Click("Add device")
	p.web.Await("Device added")
	done(t, process)
	p.gus.Await(t, seconds, "is Ben's", func(st *ipnstate.Status) error {
		if st.BackendState != "Running" || loginName(st) != "ben@example.com" {
			return fmt.Errorf("it is %s as %s", st.BackendState, loginName(st))
		}
		return nil
	})
	p.gus.MustCLI(t, "switch", "anna@example.com")
	p.gus.Await(t, 2*seconds, "is Anna's again", func(st *ipnstate.Status) error {
		if st.BackendState != "Running" || loginName(st) != "anna@example.com" {
			return fmt.Errorf("it is %s as %s", st.BackendState, loginName(st))
		}
		return nil
	})
	p.same(t, p.gus, "gus", before)
}

func (p *people) setPolicy(t *testing.T, policy string) {
	t.Helper()
	file := filepath.Join(p.server.host.Dir(), "policy.hujson")
	if err := os.WriteFile(file, []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	p.server.must(t, "policy", "set", file)
}

const allowAll = `"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]`

func (p *people) testTags(t *testing.T) {
	p.setPolicy(t, `{"tagOwners": {"tag:web": ["group:staff"]}, `+allowAll+`}`)
	process, url := p.up(t, p.gus, p.gus.UpArgs("", "--advertise-tags=tag:web")...)
	p.web.Open(url)
	p.logIn(t, "ben")
	p.web.Await("tag:web", "devices with its tags")
	p.web.Click("Add device")
	p.web.Await("tag:web", "tagOwners", "Nothing was changed")
	p.web.Shoot("refused")
	p.web.Click("Try again")
	p.logIn(t, "anna")
	p.web.Click("Add device")
	p.web.Await("Device added")
	done(t, process)
	p.gus.AwaitState(t, seconds, "Running")
	if st := p.gus.Status(t); loginName(st) != "tagged-devices" || st.Self.Tags == nil {
		t.Errorf("it belongs to %s", loginName(st))
	}
	// It stays the same node when it logs in again.
	before := p.server.nodes(t)["gus"]
	process, url = p.up(t, p.gus, p.gus.UpArgs("", "--advertise-tags=tag:web", "--force-reauth")...)
	p.web.Open(url)
	p.web.Click("Add device")
	p.web.Await("Device added")
	done(t, process)
	p.same(t, p.gus, "gus", before)
}

func (p *people) testDeviceApproval(t *testing.T) {
	p.server.must(t, "settings", "set", "device-approval", "on")
	defer p.server.must(t, "settings", "set", "device-approval", "off")
	_, url := p.up(t, p.gus, p.gus.UpArgs("")...)
	p.web.Open(url)
	p.logIn(t, "anna")
	p.web.Click("Add device")
	p.web.Await("Almost there", "An administrator has to approve the device")
	p.web.Shoot("waits")
	p.gus.AwaitState(t, seconds, "NeedsMachineAuth")
	p.server.must(t, "nodes", "approve", "gus")
	p.gus.AwaitState(t, seconds, "Running")
	p.gus.AwaitOnline(t, seconds, p.dot)
	p.web.Await("Device added", "as yours") // by itself
}

// testStrangers: whom the provider knows and heddle does not want.
func (p *people) testStrangers(t *testing.T) {
	_, url := p.up(t, p.gus, p.gus.UpArgs("")...)
	p.web.Open(url)
	p.logIn(t, "eve")
	p.web.Await("eve@example.org may not join", "Nothing was changed")
	p.web.Reload()
	p.web.Await("eve@example.org may not join")
	p.web.Click("Try again")
	p.web.Await("Log in with Example Corp")
	if out := p.server.must(t, "users", "list"); strings.Contains(out, "eve") {
		t.Errorf("she is a user:\n%s", out)
	}
	p.web.Open(serverURL + "/register/nonsense")
	p.web.Await("This link is not valid", "tailscale up")
	p.web.Shoot("unknown")
	p.web.Open(serverURL + "/")
	p.web.Await("heddle runs here")
	p.web.Shoot("home")
}

// testProviderAway: who is logged in stays so, and administrators can help others.
func (p *people) testProviderAway(t *testing.T) {
	p.running.Kill()
	// As after a restart while the provider is away: heddle remembers nothing of it.
	p.server.kill()
	p.server.start(t)
	p.dot.AwaitState(t, seconds, "Running")
	process, url := p.up(t, p.gus, p.gus.UpArgs("")...)
	p.web.Open(url)
	p.web.Click("Log in with Example Corp")
	p.web.Await("Logging in is not possible just now", "Nothing was changed")
	p.web.Shoot("away")
	p.web.Click("Try again")
	p.web.Await("did not answer the last time", "Log in with Example Corp")
	p.web.Shoot("trouble")
	p.server.must(t, "auth", "register", "--user", "anna@example.com", url)
	p.web.Await("Device added") // the page watches
	done(t, process)
	p.gus.AwaitOnline(t, 20*time.Second, p.dot)
	p.startProvider(t)
	p.gus.MustCLI(t, "logout")
	_, url = p.up(t, p.gus, p.gus.UpArgs("")...)
	lab.Await(t, time.Minute, "the provider is asked again", func() error {
		p.web.Open(url)
		p.web.Click("Log in with Example Corp")
		if shown := p.web.AwaitOne("Sign-in", "Logging in is not possible"); !strings.Contains(shown, "Sign-in") {
			return fmt.Errorf("it shows %s", shown)
		}
		return nil
	})
}

// testSuspension: within seconds nothing of a suspended user's works.
func (p *people) testSuspension(t *testing.T) {
	p.joinAs(t, p.gus, "olga")
	p.gus.AwaitOnline(t, 10*time.Second, p.dot)
	p.server.must(t, "users", "suspend", "olga@example.com")
	took := p.gus.AwaitState(t, seconds, "NeedsLogin")
	t.Logf("a suspended user's device was out after %v", took)
	_, url := p.up(t, p.gus, p.gus.UpArgs("")...)
	p.web.Open(url)
	p.web.Click("Log in with Example Corp") // the session in the browser is over, too; that at the provider is not
	p.web.Await("is suspended here", "Nothing was changed")
	p.web.Shoot("suspended")
	p.server.must(t, "users", "restore", "olga@example.com")
	if n := p.server.nodes(t)["gus"]; !n.Expired {
		t.Errorf("restoring the user brought back %+v", n)
	}
	p.joinAs(t, p.gus, "olga")
}

// testSSHCheck: a session opens once its person has logged in anew.
func (p *people) testSSHCheck(t *testing.T) {
	localAccounts(t, p.dot.Host)
	p.setPolicy(t, `{`+allowAll+`, "ssh": [{"action": "check", "checkPeriod": "always", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["sam"]}]}`)
	p.dot.MustCLI(t, "set", "--ssh")
	defer p.dot.MustCLI(t, "set", "--ssh=false")
	p.joinAs(t, p.gus, "ben")
	awaitHostKeys(t, p.gus, "dot")
	connect := func() (*lab.Process, string) {
		t.Helper()
		return p.ask(t, p.gus, sshCommand(p.gus, "sam@dot", "id -un")...)
	}
	session, url := connect()
	p.web.Open(url)
	p.web.Await("Confirm an SSH connection", "gus", "dot", "sam")
	p.web.Shoot("ssh")
	// The session that the browser has is not enough, and nobody else's is.
	p.logIn(t, "anna")
	p.web.Await("Only the owner of the device that connects can confirm")
	p.web.Click("Try again")
	p.logIn(t, "ben")
	p.web.Await("You are logged in as Ben", "sam", "dot")
	p.web.Shoot("ssh-confirm")
	p.web.Click("Open the connection")
	p.web.Await("Connection confirmed")
	done(t, session)
	if out := lab.Tail(session.Log, 1); !strings.Contains(out, "sam") {
		t.Errorf("it said %q", out)
	}
	session, url = connect()
	p.web.Open(url)
	p.logIn(t, "ben")
	p.web.Click("Refuse it")
	p.web.Await("Connection refused")
	select {
	case <-session.Done():
	case <-time.After(2 * seconds):
		t.Fatal("the session that was refused goes on")
	}
	if session.Err() == nil {
		t.Error("the session that was refused succeeded")
	}
}
