//go:build linux

package integration_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"heddle/integration/lab"
	"heddle/integration/stock"

	"tailscale.com/ipn/ipnstate"
)

// TestPaths is the mesh itself: who reaches whom, by which path, under which name, and what
// survives a change of the network.
func TestPaths(t *testing.T) {
	m := newMesh(t)
	annaSite := m.inet.Site("anna", 11)
	anna := m.client(t, annaSite.Host("anna", 2))
	ben := m.client(t, m.inet.Site("ben", 12).Host("ben", 2))
	closed := m.inet.Site("cleo", 13)
	closed.Router.BlockUDP()
	cleo := m.client(t, closed.Host("cleo", 2))
	dave := m.client(t, m.inet.Host("dave", 21))
	dora := m.client(t, m.inet.Host("dora", 22))
	// Clients choose the faster path; with IPv4 broken between these two, only IPv6 is left.
	dora.Drop(netip.MustParseAddr("198.51.100.21"))
	all := []*stock.Client{anna, ben, cleo, dave, dora}
	m.join(t, all...)

	t.Run("the server lists all", func(t *testing.T) {
		nodes := m.server.nodes(t)
		for _, c := range all {
			if n := nodes[c.Name]; !n.Online || len(n.Addresses) != 2 {
				t.Errorf("nodes list says of %s: %+v", c.Name, n)
			}
		}
	})
	t.Run("direct between two NATs", func(t *testing.T) {
		if at := anna.AwaitDirect(t, 20*time.Second, ben.IPv4(t)); at.Addr() != netip.MustParseAddr("198.51.100.12") {
			t.Errorf("anna reaches ben at %s, want the address of ben's router", at)
		}
		ben.AwaitDirect(t, 20*time.Second, anna.IPv4(t))
		m.reach(t, anna, ben)
	})
	t.Run("relayed to the host without UDP", func(t *testing.T) {
		anna.AwaitRelayed(t, 20*time.Second, cleo.IPv4(t))
		cleo.AwaitRelayed(t, 20*time.Second, anna.IPv4(t))
		m.reach(t, anna, cleo)
		m.reach(t, cleo, dave)
		anna.AwaitRelayed(t, 3*time.Second, cleo.IPv4(t))
	})
	t.Run("IPv6 between dual-stack hosts", func(t *testing.T) {
		if at := dave.AwaitDirect(t, 20*time.Second, dora.IPv4(t)); at.Addr() != netip.MustParseAddr("2001:db8:1::22") {
			t.Errorf("dave reaches dora at %s, want dora's IPv6 address", at)
		}
		m.reach(t, dave, dora)
	})
	t.Run("MagicDNS", func(t *testing.T) { testMagicDNS(t, anna, ben) })
	t.Run("Taildrop", func(t *testing.T) { testTaildrop(t, anna, ben) })
	t.Run("change of address under a transfer", func(t *testing.T) {
		tr := startTransfer(t, ben, anna)
		tr.awaitMore(t, 10*time.Second, 100)
		anna.DelAddr(annaSite.LAN, annaSite.Addr(2))
		anna.AddAddr(annaSite.LAN, annaSite.Addr(3))
		anna.Gateway(annaSite.Addr(1).Addr())
		tr.awaitMore(t, 30*time.Second, 300)
		t.Logf("the longest stall of the transfer was %v", tr.longestStall())
		anna.AwaitDirect(t, 20*time.Second, ben.IPv4(t))
	})
	t.Run("health", func(t *testing.T) {
		for _, c := range all {
			if health := c.Status(t).Health; len(health) > 0 {
				t.Errorf("%s complains: %q", c.Name, health)
			}
		}
	})
}

// reach asserts that packets of both families go through the tunnel, there and back. It gives the
// first packet time: if a handshake is lost, because one side knows the other a moment earlier,
// WireGuard sends the next after five seconds.
func (m *mesh) reach(t *testing.T, from, to *stock.Client) {
	t.Helper()
	for _, pair := range [][2]*stock.Client{{from, to}, {to, from}} {
		took := lab.Await(t, 10*time.Second, pair[0].Name+" pings "+pair[1].Name, func() error {
			_, err := pair[0].Run(t.Context(), "ping", "-c1", "-W1", pair[1].IPv4(t).String())
			return err
		})
		if took > time.Second {
			t.Logf("%s reached %s after %v", pair[0].Name, pair[1].Name, took)
		}
		for _, addr := range []netip.Addr{pair[1].IPv4(t), pair[1].IPv6(t)} {
			pair[0].MustRun(t, "ping", "-c3", "-i0.2", "-W3", addr.String())
		}
	}
}

func testMagicDNS(t *testing.T, anna, ben *stock.Client) {
	for _, tc := range []struct{ database, name, want string }{
		{"ahostsv4", "ben", ben.IPv4(t).String()},
		{"ahostsv4", "ben." + baseDomain, ben.IPv4(t).String()},
		{"ahostsv4", "wiki." + baseDomain, "203.0.113.99"},
	} {
		out := anna.MustRun(t, "getent", tc.database, tc.name)
		if got, _, _ := strings.Cut(out, " "); got != tc.want {
			t.Errorf("getent %s %s: %q, want %s", tc.database, tc.name, out, tc.want)
		}
	}
	if out, err := anna.Run(t.Context(), "getent", "hosts", "nobody."+baseDomain); err == nil {
		t.Errorf("a name that no node has resolves: %q", out)
	}
	suffix := anna.Status(t).MagicDNSSuffix
	if suffix != baseDomain {
		t.Errorf("the MagicDNS suffix is %q, want %q", suffix, baseDomain)
	}
}

func testTaildrop(t *testing.T, anna, ben *stock.Client) {
	const content = "a letter for ben\n"
	file := filepath.Join(anna.Dir(), "letter.txt")
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	anna.Await(t, 10*time.Second, "may send files to ben", func(st *ipnstate.Status) error {
		if p := stock.Peer(st, "ben"); p == nil || p.TaildropTarget != ipnstate.TaildropTargetAvailable {
			return fmt.Errorf("ben is no target: %+v", p)
		}
		return nil
	})
	anna.MustCLI(t, "file", "cp", file, "ben:")
	ben.MustCLI(t, "file", "get", "--wait", ben.Dir())
	got, err := os.ReadFile(filepath.Join(ben.Dir(), "letter.txt"))
	if err != nil || string(got) != content {
		t.Errorf("ben got %q, %v", got, err)
	}
}
