//go:build linux

package integration_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"heddle/integration/lab"
	"heddle/integration/stock"

	"tailscale.com/ipn/ipnstate"
)

// The deadlines that the project promises for a failover.
const (
	killedWithin = 3 * time.Second
	frozenWithin = 10 * time.Second
)

// outside is an address that no node's own network holds.
var outside = netip.MustParseAddrPort("203.0.113.80:80")

// TestRoutes is what nodes carry for others: subnets, with a standby, and the whole internet.
func TestRoutes(t *testing.T) {
	m := newMesh(t)
	serveWeb(t, m.inet.Elsewhere("outside"), outside.Port())
	annaSite := m.inet.Site("anna", 11)
	anna := m.client(t, annaSite.Host("anna", 2))
	site := &siteRoutes{mesh: m, anna: anna, site: m.inet.Site("work", 14)}
	serveWeb(t, site.site.Host("box", 80), site.box().Port())
	site.ruth = m.client(t, site.site.Host("ruth", 11))
	site.rob = m.client(t, site.site.Host("rob", 12))
	dave := m.client(t, m.inet.Host("dave", 21))
	for _, router := range []*stock.Client{site.ruth, site.rob, dave} {
		router.Forward()
	}
	m.join(t, anna, site.ruth, site.rob, dave)
	anna.MustCLI(t, "set", "--accept-routes")

	t.Run("admin errors", site.testAdminErrors)
	t.Run("subnet route", site.testApproval)
	t.Run("4via6", site.test4via6)
	t.Run("failover", site.testFailover)
	t.Run("exit node", func(t *testing.T) { testExitNode(t, m, anna, dave) })
}

// siteRoutes is a site with two subnet routers and a plain box, and anna, who is elsewhere.
type siteRoutes struct {
	*mesh
	site            *lab.Site
	anna, ruth, rob *stock.Client
}

// box is the address of the plain box's web server.
func (s *siteRoutes) box() netip.AddrPort { return netip.AddrPortFrom(s.site.Addr(80).Addr(), 80) }

// via is the address that the box sees when router carries the traffic.
func (s *siteRoutes) via(router *stock.Client) netip.Addr {
	if router == s.ruth {
		return s.site.Addr(11).Addr()
	}
	return s.site.Addr(12).Addr()
}

func (s *siteRoutes) testAdminErrors(t *testing.T) {
	for _, tc := range []struct {
		args []string
		exit int
		says string
	}{
		{[]string{"nodes", "approve-routes", "ruth", "192.0.2.0/24"}, 4, "192.0.2.0/24"},
		{[]string{"nodes", "approve-routes", "ruth", "nonsense"}, 2, "nonsense"},
		{[]string{"nodes", "approve-routes", "stranger", "192.0.2.0/24"}, 3, "stranger"},
		{[]string{"users", "create", "alice"}, 4, "alice"},
	} {
		_, exit, err := s.server.cli(t.Context(), tc.args...)
		if exit != tc.exit || err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("heddle %s: exit code %d, want %d and a message that names %q: %v",
				strings.Join(tc.args, " "), exit, tc.exit, tc.says, err)
		}
	}
}

// testApproval advertises the site from both routers: it is useless before an admin approves it.
func (s *siteRoutes) testApproval(t *testing.T) {
	route := s.site.Prefix.String()
	for _, router := range []*stock.Client{s.ruth, s.rob} {
		router.MustCLI(t, "set", "--advertise-routes="+route)
	}
	lab.Await(t, 10*time.Second, "the server knows what the routers advertise", func() error {
		if out := s.server.must(t, "nodes", "list-routes", "-o", "json"); strings.Count(out, route) < 2 {
			return fmt.Errorf("it knows %s", out)
		}
		return nil
	})
	if seen, err := fetch(s.anna.Host, s.box(), time.Second); err == nil {
		t.Fatalf("the box answered before the approval, to %s", seen)
	}
	s.server.must(t, "nodes", "approve-routes", "ruth", route)
	took := awaitFetch(t, 10*time.Second, s.anna.Host, s.box(), s.via(s.ruth))
	t.Logf("the box answered %v after the approval", took)
	s.server.must(t, "nodes", "approve-routes", "rob", route)
	// A second router changes nothing for the first.
	s.steady(t, 2*time.Second, s.ruth)
}

// test4via6 reaches the box by an IPv6 address that stands for its IPv4 address at site 7.
func (s *siteRoutes) test4via6(t *testing.T) {
	route := strings.TrimSpace(s.ruth.MustCLI(t, "debug", "via", "7", s.site.Prefix.String()))
	s.ruth.MustCLI(t, "set", "--advertise-routes="+s.site.Prefix.String()+","+route)
	lab.Await(t, 10*time.Second, "the approval of the 4via6 route", func() error {
		_, _, err := s.server.cli(t.Context(), "nodes", "approve-routes", "ruth", "--add", route)
		return err
	})
	bits := netip.MustParsePrefix(route).Addr().As16()
	box := s.box().Addr().As4()
	copy(bits[12:], box[:])
	awaitFetch(t, 10*time.Second, s.anna.Host, netip.AddrPortFrom(netip.AddrFrom16(bits), 80), s.via(s.ruth))
	name := strings.ReplaceAll(s.box().Addr().String(), ".", "-") + "-via-7."
	if out := s.anna.MustRun(t, "getent", "ahostsv6", name); !strings.HasPrefix(out, netip.AddrFrom16(bits).String()+" ") {
		t.Errorf("%s resolves to %q, want %s", name, out, netip.AddrFrom16(bits))
	}
}

// testFailover takes the routers away in turn and measures how long the box is out of reach.
func (s *siteRoutes) testFailover(t *testing.T) {
	s.warm(t)
	awaitFetch(t, 10*time.Second, s.anna.Host, s.box(), s.via(s.ruth))
	s.ruth.Kill()
	took := awaitFetch(t, killedWithin, s.anna.Host, s.box(), s.via(s.rob))
	t.Logf("MEASURED failover after SIGKILL of the primary: %v", took)

	s.ruth.Start(t)
	s.anna.AwaitOnline(t, 20*time.Second, s.ruth)
	s.steady(t, 5*time.Second, s.rob)
	s.warm(t)

	s.rob.Freeze(t)
	took = awaitFetch(t, frozenWithin, s.anna.Host, s.box(), s.via(s.ruth))
	t.Logf("MEASURED failover after SIGSTOP of the primary: %v", took)
	s.rob.Thaw(t)
	s.anna.AwaitOnline(t, 20*time.Second, s.rob)
	s.steady(t, 5*time.Second, s.ruth)

	// With both gone the first one back carries the route again.
	s.rob.Kill()
	s.ruth.Kill()
	s.ruth.Start(t)
	took = awaitFetch(t, 20*time.Second, s.anna.Host, s.box(), s.via(s.ruth))
	t.Logf("MEASURED return after both were killed, from the start of the first: %v", took)
	s.rob.Start(t)
	s.anna.AwaitOnline(t, 20*time.Second, s.rob)
	s.steady(t, 5*time.Second, s.ruth)
}

// warm makes sure that anna has a path to both routers: what is measured is the server's decision.
func (s *siteRoutes) warm(t *testing.T) {
	t.Helper()
	for _, router := range []*stock.Client{s.ruth, s.rob} {
		s.anna.AwaitDirect(t, 20*time.Second, router.IPv4(t))
	}
}

// steady asserts that the box answers all the time and that one router carries all of it.
func (s *siteRoutes) steady(t *testing.T, during time.Duration, router *stock.Client) {
	t.Helper()
	lab.Hold(t, during, "the route stays with "+router.Name, func() error {
		seen, err := fetch(s.anna.Host, s.box(), 2*time.Second)
		if err == nil && seen != s.via(router) {
			err = fmt.Errorf("the box saw %s", seen)
		}
		return err
	})
}

// testExitNode sends anna's traffic out at dave's, and back to normal.
func testExitNode(t *testing.T, m *mesh, anna, dave *stock.Client) {
	own := netip.MustParseAddr("198.51.100.11") // of anna's router
	exit := netip.MustParseAddr("198.51.100.21")
	if seen, err := fetch(anna.Host, outside, 2*time.Second); err != nil || seen != own {
		t.Fatalf("without an exit node the outside saw %s, %v; want %s", seen, err, own)
	}
	dave.MustCLI(t, "set", "--advertise-exit-node")
	// One family approves both: half an exit node leaks the other half.
	lab.Await(t, 10*time.Second, "the approval of the exit node", func() error {
		_, _, err := m.server.cli(t.Context(), "nodes", "approve-routes", "dave", "0.0.0.0/0")
		return err
	})
	anna.Await(t, 10*time.Second, "sees that dave is an exit node", func(st *ipnstate.Status) error {
		if p := stock.Peer(st, "dave"); p == nil || !p.ExitNodeOption {
			return fmt.Errorf("it says %+v", p)
		}
		return nil
	})
	// Split tunnel: an exit node that nobody chose carries nothing.
	if seen, err := fetch(anna.Host, outside, 2*time.Second); err != nil || seen != own {
		t.Errorf("with an exit node that is not in use the outside saw %s, %v; want %s", seen, err, own)
	}
	anna.MustCLI(t, "set", "--exit-node=dave")
	awaitFetch(t, 10*time.Second, anna.Host, outside, exit)
	six := netip.AddrPortFrom(netip.MustParseAddr("2001:db8:2::80"), 80)
	awaitFetch(t, 10*time.Second, anna.Host, six, netip.MustParseAddr("2001:db8:1::21"))
	anna.MustCLI(t, "set", "--exit-node=")
	awaitFetch(t, 10*time.Second, anna.Host, outside, own)
}
