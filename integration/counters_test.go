//go:build linux

package integration_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"heddle/integration/lab"
	"heddle/integration/stock"

	"tailscale.com/ipn/ipnstate"
	"tailscale.com/types/key"
)

// counts is what a client counted of the messages from its server.
type counts struct {
	deltas   int // messages that it applied to what it had
	rebuilds int // messages that made it build everything anew
}

func countsOf(t *testing.T, c *stock.Client) counts {
	t.Helper()
	metrics, err := c.API.DaemonMetrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var n counts
	for lines := bufio.NewScanner(bytes.NewReader(metrics)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		var into *int
		switch name {
		case "controlclient_map_response_handled_incrementally":
			into = &n.deltas
		case "controlclient_map_response_handled_full_rebuild":
			into = &n.rebuilds
		default:
			continue
		}
		if _, err := fmt.Sscan(value, into); err != nil {
			t.Fatalf("%s: %q: %v", c.Name, lines.Text(), err)
		}
	}
	if n.rebuilds == 0 {
		t.Fatalf("%s has not counted its first map: %s", c.Name, metrics)
	}
	return n
}

// testCounters lets things happen that a tailnet sees all day. Clients apply them to what they
// have; building everything anew costs them work that grows with the tailnet.
func (p *policyMesh) testCounters(t *testing.T) {
	extra := netip.MustParsePrefix("198.51.100.122/24")
	gus := p.client(t, p.inet.Host("gus", 24))
	var ben known
	for _, event := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"a peer changes its endpoints", func(t *testing.T) {
			p.ben.AddAddr(p.inet.Switch, extra)
			p.ben.MustCLI(t, "debug", "restun")
			ben = awaitKnown(t, p.anna, "ben", "his new address", func(k known) bool {
				return slices.ContainsFunc(k.Endpoints, func(e netip.AddrPort) bool { return e.Addr() == extra.Addr() })
			})
		}},
		{"a peer goes offline", func(t *testing.T) {
			p.ben.Stop(t)
			p.anna.Await(t, onlineGrace+seconds, "sees ben offline", benOnline(false))
		}},
		{"a peer comes online", func(t *testing.T) {
			p.ben.Start(t)
			p.anna.Await(t, 2*seconds, "sees ben online", benOnline(true))
			awaitKnown(t, p.anna, "ben", "the key of his new process", func(k known) bool { return k.DiscoKey != ben.DiscoKey })
		}},
		{"a peer joins", func(t *testing.T) {
			gus.Up(t, p.server.authKey(t, "alice"))
			p.anna.AwaitOnline(t, 2*seconds, gus)
			awaitKnown(t, p.anna, "gus", "a key", func(k known) bool { return !k.DiscoKey.IsZero() })
		}},
		{"a peer is removed", func(t *testing.T) {
			p.server.must(t, "nodes", "delete", "gus", "--yes")
			p.anna.AwaitGone(t, seconds, "gus")
		}},
		{"an edit of the policy", func(t *testing.T) {
			p.grant(t, `{"src": ["alice@"], "dst": ["tag:server"], "ip": ["*"]}`)
			p.anna.AwaitGone(t, seconds, "ben")
			p.grant(t, amongNodes)
			p.anna.AwaitOnline(t, seconds, p.ben)
		}},
	} {
		t.Run(event.name, func(t *testing.T) {
			before := countsOf(t, p.anna)
			event.run(t)
			// A client shows what a message says a moment before it counts the message.
			var after counts
			lab.Await(t, seconds, "anna's client counts what it was sent", func() error {
				if after = countsOf(t, p.anna); after == before {
					return fmt.Errorf("still %+v", after)
				}
				return nil
			})
			if after.deltas == before.deltas || after.rebuilds != before.rebuilds {
				t.Errorf("anna's client counted %+v before and %+v after; want more deltas and no rebuild", before, after)
			}
			t.Logf("deltas: %d", after.deltas-before.deltas)
		})
	}
}

// known is what a client knows of where and who a peer is.
type known struct {
	Name      string
	DiscoKey  key.DiscoPublic
	Endpoints []netip.AddrPort
}

// awaitKnown waits until what a client knows of a peer passes check, and returns it.
func awaitKnown(t *testing.T, c *stock.Client, peer, what string, check func(known) bool) known {
	t.Helper()
	var found known
	lab.Await(t, 2*seconds, fmt.Sprintf("%s knows %s: %s", c.Name, peer, what), func() error {
		out, err := c.CLI(t.Context(), "debug", "netmap")
		if err != nil {
			return err
		}
		var nm struct{ Peers []known }
		if err := json.Unmarshal([]byte(out), &nm); err != nil {
			return err
		}
		for _, found = range nm.Peers {
			if strings.HasPrefix(found.Name, peer+".") && check(found) {
				return nil
			}
		}
		return fmt.Errorf("it knows %+v", nm.Peers)
	})
	return found
}

func benOnline(want bool) func(*ipnstate.Status) error {
	return func(st *ipnstate.Status) error {
		if p := stock.Peer(st, "ben"); p == nil || p.Online != want {
			return fmt.Errorf("it says %+v", p)
		}
		return nil
	}
}
