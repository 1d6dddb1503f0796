//go:build linux

package integration_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"heddle/integration/lab"
	"heddle/integration/stock"

	"tailscale.com/ipn/ipnstate"
	"tailscale.com/tailcfg"
)

// policyMesh is two people's devices, a server, and a site with two subnet routers. Tests give it
// policies and watch what that means to the clients.
type policyMesh struct {
	*mesh
	anna *stock.Client // of alice
	ben  *stock.Client // of bert
	dave *stock.Client // tag:server; offers to be an exit node and a peer relay
	ruth *stock.Client // tag:east; routes to the site, and offers to be an exit node
	rob  *stock.Client // tag:west; routes to the site
	site *lab.Site
}

const (
	// policyHead begins every policy of these tests.
	policyHead = `{
	"tagOwners": {"tag:server": ["alice@"], "tag:east": ["alice@"], "tag:west": ["alice@"]},
	"autoApprovers": {
		"routes": {"10.14.0.0/24": ["tag:east", "tag:west"]},
		"exitNode": ["tag:server", "tag:east"],
	},
`
	// amongNodes is a grant that lets all nodes reach each other, but nothing behind them.
	amongNodes = `{"src": ["autogroup:member", "autogroup:tagged"], "dst": ["autogroup:member", "autogroup:tagged"], "ip": ["*"]}`
)

// TestPolicy edits the policy and asserts what stock clients make of it.
func TestPolicy(t *testing.T) {
	m := newMesh(t)
	m.server.must(t, "users", "create", "bert")
	serveWeb(t, m.inet.Elsewhere("outside"), outside.Port())
	site := m.inet.Site("work", 14)
	p := &policyMesh{
		mesh: m,
		site: site,
		anna: m.client(t, m.inet.Host("anna", 21)),
		ben:  m.client(t, m.inet.Host("ben", 22)),
		dave: m.client(t, m.inet.Host("dave", 23)),
		ruth: m.client(t, site.Host("ruth", 11)),
		rob:  m.client(t, site.Host("rob", 12)),
	}
	serveWeb(t, site.Host("box", 80), p.box().Port())
	for _, router := range []*stock.Client{p.dave, p.ruth, p.rob} {
		router.Forward()
	}
	p.grant(t, amongNodes)
	p.joinAll(t)

	t.Run("access", p.testAccess)
	t.Run("capabilities and attributes", p.testCapabilities)
	t.Run("via", p.testVia)
	t.Run("exit node", p.testExitNode)
	t.Run("SSH", p.testSSH)
	t.Run("Taildrive", p.testTaildrive)
	t.Run("counters", p.testCounters)
	t.Run("peer relay", p.testPeerRelay)
}

// joinAll logs all clients in, each as who it is.
func (p *policyMesh) joinAll(t *testing.T) {
	t.Helper()
	logins := []struct {
		client *stock.Client
		key    string
	}{
		{p.anna, p.server.authKey(t, "alice")},
		{p.ben, p.server.authKey(t, "bert")},
		{p.dave, p.server.authKey(t, "alice", "--tags", "tag:server")},
		{p.ruth, p.server.authKey(t, "alice", "--tags", "tag:east")},
		{p.rob, p.server.authKey(t, "alice", "--tags", "tag:west")},
	}
	var wg sync.WaitGroup
	errs := make([]error, len(logins))
	for i, l := range logins {
		wg.Go(func() { _, errs[i] = l.client.CLI(t.Context(), l.client.UpArgs(l.key)...) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*stock.Client{p.anna, p.ben} {
		c.AwaitOnline(t, 10*time.Second, p.dave, p.ruth, p.rob)
	}
}

// setPolicy puts a policy in force: policyHead and more sections.
func (p *policyMesh) setPolicy(t *testing.T, sections string) {
	t.Helper()
	file := filepath.Join(p.server.host.Dir(), "policy.hujson")
	if err := os.WriteFile(file, []byte(policyHead+sections+"\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.server.must(t, "policy", "set", file)
}

// grant puts a policy in force that has just these grants.
func (p *policyMesh) grant(t *testing.T, grants ...string) {
	t.Helper()
	p.setPolicy(t, `"grants": [`+strings.Join(grants, ",\n")+`],`)
}

// refused asserts that a web server cannot be reached: soon, and from then on.
func (p *policyMesh) refused(t *testing.T, from *stock.Client, addr netip.AddrPort) {
	t.Helper()
	try := func() error {
		if seen, err := fetch(from.Host, addr, 250*time.Millisecond); err == nil {
			return fmt.Errorf("it answers, to %s", seen)
		}
		return nil
	}
	what := fmt.Sprintf("%s cannot fetch http://%s", from.Name, addr)
	lab.Await(t, seconds, what, try)
	lab.Hold(t, time.Second, what, try)
}

// explains asserts what the server says of a flow.
func (p *policyMesh) explains(t *testing.T, src, dst string, allowed bool) {
	t.Helper()
	var answer struct {
		Allowed bool `json:"allowed"`
	}
	out := p.server.must(t, "policy", "explain", src, dst, "-o", "json")
	if err := json.Unmarshal([]byte(out), &answer); err != nil || answer.Allowed != allowed {
		t.Errorf("policy explain %s %s: want allowed=%t, got %v: %s", src, dst, allowed, err, out)
	}
}

// testAccess opens and closes ports of one device to another.
func (p *policyMesh) testAccess(t *testing.T) {
	serveWeb(t, p.ben.Host, 80)
	serveWeb(t, p.ben.Host, 81)
	ben80, ben81 := netip.AddrPortFrom(p.ben.IPv4(t), 80), netip.AddrPortFrom(p.ben.IPv4(t), 81)
	anna := p.anna.IPv4(t)
	awaitFetch(t, 10*time.Second, p.anna.Host, ben80, anna)
	awaitFetch(t, seconds, p.anna.Host, ben81, anna)

	p.grant(t, `{"src": ["alice@"], "dst": ["bert@"], "ip": ["tcp:80"]}`)
	p.refused(t, p.anna, ben81)
	awaitFetch(t, seconds, p.anna.Host, ben80, anna)
	p.explains(t, "anna", "ben:80", true)
	p.explains(t, "anna", "ben:81", false)
	p.explains(t, "ben", "anna:80", false)

	p.grant(t, `{"src": ["alice@"], "dst": ["bert@"], "ip": ["tcp:81"]}`)
	took := awaitFetch(t, seconds, p.anna.Host, ben81, anna)
	t.Logf("a port opened %v after the edit", took)
	p.refused(t, p.anna, ben80)
	p.explains(t, "anna", "ben:80", false)
	p.explains(t, "anna", "ben:81", true)

	// Who may only from another operating system, may not.
	posture := func(os string) {
		t.Helper()
		p.setPolicy(t, `
	"postures": {"posture:theirs": ["node:os == '`+os+`'"]},
	"grants": [{"src": ["alice@"], "dst": ["bert@"], "ip": ["tcp:80"], "srcPosture": ["posture:theirs"]}],`)
	}
	posture("linux")
	awaitFetch(t, seconds, p.anna.Host, ben80, anna)
	posture("windows")
	p.refused(t, p.anna, ben80)
	p.explains(t, "anna", "ben:80", false)

	// Who may reach nothing of each other does not even know of each other.
	p.grant(t, `{"src": ["alice@"], "dst": ["tag:server"], "ip": ["*"]}`)
	took = p.anna.AwaitGone(t, seconds, "ben")
	t.Logf("the peer was gone %v after the edit", took)
	p.ben.AwaitGone(t, seconds, "anna")
	p.refused(t, p.anna, ben81)

	p.grant(t, amongNodes)
	p.anna.AwaitOnline(t, seconds, p.ben)
	awaitFetch(t, 10*time.Second, p.anna.Host, ben80, anna)
}

// testCapabilities follows node attributes and app capabilities to the client.
func (p *policyMesh) testCapabilities(t *testing.T) {
	const wiki = "example.com/cap/wiki"
	p.setPolicy(t, `
	"grants": [`+amongNodes+`,
		{"src": ["alice@"], "dst": ["bert@"], "app": {"`+wiki+`": [{"role": "editor"}]}},
	],
	"nodeAttrs": [
		{"target": ["alice@"], "attr": ["randomize-client-port"]},
		{"target": ["bert@"], "app": {"example.com/cap/menu": [{"soup": true}]}},
	],`)
	const port = string(tailcfg.NodeAttrRandomizeClientPort)
	lab.Await(t, seconds, "the clients have their attributes", func() error {
		anna, err := selfCaps(t, p.anna)
		if err != nil {
			return err
		}
		ben, err := selfCaps(t, p.ben)
		if err != nil {
			return err
		}
		_, annas := anna[port]
		_, bens := ben[port]
		if menu := fmt.Sprint(ben["example.com/cap/menu"]); !annas || bens || menu != "[map[soup:true]]" {
			return fmt.Errorf("randomize-client-port: anna %t, ben %t; ben's menu is %s", annas, bens, menu)
		}
		return nil
	})
	lab.Await(t, seconds, "ben's whois tells anna's capability", func() error {
		caps, err := whoisCaps(t, p.ben, p.anna)
		if got := fmt.Sprint(caps[wiki]); err == nil && got != "[map[role:editor]]" {
			err = fmt.Errorf("it tells %v", caps)
		}
		return err
	})
	if caps, err := whoisCaps(t, p.anna, p.ben); err != nil || caps[wiki] != nil {
		t.Errorf("anna's whois tells a capability of ben's that nobody granted: %v, %v", caps, err)
	}
	p.grant(t, amongNodes)
	lab.Await(t, seconds, "what was granted is gone", func() error {
		caps, err := whoisCaps(t, p.ben, p.anna)
		if err == nil && caps[wiki] != nil {
			err = fmt.Errorf("whois tells %v", caps)
		}
		self, selfErr := selfCaps(t, p.anna)
		if _, has := self[port]; has {
			selfErr = errors.New("anna has the attribute")
		}
		return errors.Join(err, selfErr)
	})
}

// selfCaps is what a client says that its node may do.
func selfCaps(t *testing.T, c *stock.Client) (map[string][]any, error) {
	out, err := c.CLI(t.Context(), "debug", "netmap")
	if err != nil {
		return nil, err
	}
	var nm struct {
		SelfNode struct{ CapMap map[string][]any }
	}
	err = json.Unmarshal([]byte(out), &nm)
	return nm.SelfNode.CapMap, err
}

// whoisCaps is what c says that a peer may do on it.
func whoisCaps(t *testing.T, c, peer *stock.Client) (map[string][]any, error) {
	out, err := c.CLI(t.Context(), "whois", "--json", peer.IPv4(t).String())
	if err != nil {
		return nil, err
	}
	var who struct{ CapMap map[string][]any }
	err = json.Unmarshal([]byte(out), &who)
	return who.CapMap, err
}

// box is the address of the web server at the site.
func (p *policyMesh) box() netip.AddrPort { return netip.AddrPortFrom(p.site.Addr(80).Addr(), 80) }

// testVia has two routers for one prefix: the policy steers one user to one of them.
func (p *policyMesh) testVia(t *testing.T) {
	viaRuth, viaRob := p.site.Addr(11).Addr(), p.site.Addr(12).Addr()
	route := p.site.Prefix.String()
	for _, c := range []*stock.Client{p.anna, p.ben} {
		c.MustCLI(t, "set", "--accept-routes")
	}
	p.ruth.MustCLI(t, "set", "--advertise-routes="+route)
	carries := func(n node) bool { return slices.Contains(n.SubnetRoutes, route) }
	p.server.awaitNode(t, seconds, "ruth", "it carries the site", carries)
	p.rob.MustCLI(t, "set", "--advertise-routes="+route)

	toSite := func(user, via string) string {
		return fmt.Sprintf(`{"src": [%q], "dst": [%q], "ip": ["*"]%s}`, user, route, via)
	}
	p.grant(t, amongNodes, toSite("alice@", `, "via": ["tag:west"]`), toSite("bert@", ""))
	awaitFetch(t, 10*time.Second, p.anna.Host, p.box(), viaRob)
	awaitFetch(t, 10*time.Second, p.ben.Host, p.box(), viaRuth)
	p.explains(t, "anna", p.box().String(), true)

	// The other way round, while the primary stays.
	p.grant(t, amongNodes, toSite("alice@", `, "via": ["tag:east"]`), toSite("bert@", `, "via": ["tag:west"]`))
	awaitFetch(t, seconds, p.anna.Host, p.box(), viaRuth)
	awaitFetch(t, seconds, p.ben.Host, p.box(), viaRob)

	p.grant(t, amongNodes, toSite("bert@", ""))
	p.refused(t, p.anna, p.box())
	awaitFetch(t, seconds, p.ben.Host, p.box(), viaRuth)
	p.explains(t, "anna", p.box().String(), false)
}

// testExitNode grants the internet to one user, and then to the other by way of one exit node.
func (p *policyMesh) testExitNode(t *testing.T) {
	anna, ben := netip.MustParseAddr("198.51.100.21"), netip.MustParseAddr("198.51.100.22")
	dave := netip.MustParseAddr("198.51.100.23")
	for _, c := range []*stock.Client{p.dave, p.ruth} {
		c.MustCLI(t, "set", "--advertise-exit-node")
	}
	p.grant(t, amongNodes, `{"src": ["alice@"], "dst": ["autogroup:internet"], "ip": ["*"]}`)
	p.anna.Await(t, seconds, "may use both exit nodes", exitNodes("dave", "ruth"))
	p.ben.Await(t, seconds, "may use no exit node", exitNodes())
	p.explains(t, "anna", outside.String(), true)
	p.explains(t, "ben", outside.String(), false)
	p.anna.MustCLI(t, "set", "--exit-node=dave")
	awaitFetch(t, 10*time.Second, p.anna.Host, outside, dave)
	if _, err := p.ben.CLI(t.Context(), "set", "--exit-node=dave"); err == nil {
		t.Error("ben's client takes an exit node that he may not use")
		p.ben.MustCLI(t, "set", "--exit-node=")
	}
	awaitFetch(t, seconds, p.ben.Host, outside, ben)

	p.grant(t, amongNodes, `{"src": ["bert@"], "dst": ["autogroup:internet"], "ip": ["*"], "via": ["tag:server"]}`)
	p.ben.Await(t, seconds, "may use the exit node that the grant leads to", exitNodes("dave"))
	if out := p.ben.MustCLI(t, "exit-node", "suggest"); !strings.Contains(out, "dave") {
		t.Errorf("ben's client suggests %q, want dave", out)
	}
	p.ben.MustCLI(t, "set", "--exit-node=dave")
	awaitFetch(t, 10*time.Second, p.ben.Host, outside, dave)

	// Who still asks for an exit node that he may not use any more leaks nothing.
	p.anna.Await(t, seconds, "may use no exit node any more", exitNodes())
	p.refused(t, p.anna, outside)
	for _, c := range []*stock.Client{p.anna, p.ben} {
		c.MustCLI(t, "set", "--exit-node=")
	}
	awaitFetch(t, seconds, p.anna.Host, outside, anna)
}

// exitNodes checks that just these peers may be used as exit nodes.
func exitNodes(names ...string) func(*ipnstate.Status) error {
	return func(st *ipnstate.Status) error {
		var got []string
		for _, peer := range st.Peer {
			if peer.ExitNodeOption {
				label, _, _ := strings.Cut(peer.DNSName, ".")
				got = append(got, label)
			}
		}
		if slices.Sort(got); !slices.Equal(got, names) {
			return fmt.Errorf("the exit nodes are %q", got)
		}
		return nil
	}
}

// testPeerRelay takes the direct path between anna and ben away: dave may relay for them. It is
// the last test, for the path stays away.
func (p *policyMesh) testPeerRelay(t *testing.T) {
	for _, family := range []string{"198.51.100.%d", "2001:db8:1::%d"} {
		p.anna.Drop(netip.MustParseAddr(fmt.Sprintf(family, 22)))
		p.ben.Drop(netip.MustParseAddr(fmt.Sprintf(family, 21)))
	}
	p.dave.MustCLI(t, "set", "--relay-server-port=40000")
	p.anna.AwaitRelayed(t, 20*time.Second, p.ben.IPv4(t))
	p.grant(t, amongNodes, `{"src": ["alice@", "bert@"], "dst": ["tag:server"], "app": {"tailscale.com/cap/relay": []}}`)
	for _, pair := range [][2]*stock.Client{{p.anna, p.ben}, {p.ben, p.anna}} {
		from, to := pair[0], pair[1]
		took := lab.Await(t, 60*time.Second, from.Name+" reaches "+to.Name+" through a peer relay", func() error {
			pong, err := from.API.Ping(t.Context(), to.IPv4(t), tailcfg.PingDisco)
			if err != nil {
				return err
			}
			if at, _, _ := strings.Cut(pong.PeerRelay, ":vni:"); !strings.HasSuffix(at, ":40000") {
				return fmt.Errorf("the path is %+v", pong)
			}
			return nil
		})
		t.Logf("%s had a path through the peer relay after %v", from.Name, took)
	}
	if out := p.anna.MustCLI(t, "ping", "--c=1", "--until-direct=false", "ben"); !strings.Contains(out, "via peer-relay(") {
		t.Errorf("tailscale ping says %q", out)
	}
	p.reach(t, p.anna, p.ben)
	sessions, err := p.dave.API.DebugPeerRelaySessions(t.Context())
	if err != nil || len(sessions.Sessions) == 0 {
		t.Errorf("dave relays for nobody: %+v, %v", sessions, err)
	}
}
