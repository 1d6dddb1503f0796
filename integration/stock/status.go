//go:build linux

package stock

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"heddle/integration/lab"

	"tailscale.com/ipn/ipnstate"
	"tailscale.com/tailcfg"
)

// Status is what `tailscale status --json` prints, asked for at the socket that it asks.
func (c *Client) Status(t testing.TB) *ipnstate.Status {
	t.Helper()
	st, err := c.API.Status(t.Context())
	if err != nil {
		t.Fatalf("%s: status: %v", c.Name, err)
	}
	return st
}

// Await waits until the client's status passes check and tells how long that took.
func (c *Client) Await(t testing.TB, within time.Duration, what string, check func(*ipnstate.Status) error) time.Duration {
	t.Helper()
	return lab.Await(t, within, c.Name+": "+what, func() error {
		st, err := c.API.Status(t.Context())
		if err != nil {
			return err
		}
		return check(st)
	})
}

// AwaitState waits until the client is in a state: Running, NeedsLogin, Stopped, …
func (c *Client) AwaitState(t testing.TB, within time.Duration, state string) time.Duration {
	t.Helper()
	return c.Await(t, within, "state "+state, func(st *ipnstate.Status) error {
		if st.BackendState != state {
			return fmt.Errorf("the state is %s, health %q", st.BackendState, st.Health)
		}
		return nil
	})
}

// AwaitOnline waits until the client sees all the others as online and knows how to reach them: a
// node's home relay comes a moment after the node, with the first report of its client.
func (c *Client) AwaitOnline(t testing.TB, within time.Duration, others ...*Client) {
	t.Helper()
	c.Await(t, within, "sees the others online", func(st *ipnstate.Status) error {
		for _, other := range others {
			p := Peer(st, other.Name)
			switch {
			case p == nil:
				return fmt.Errorf("%s is not among %s", other.Name, PeerNames(st))
			case !p.Online:
				return fmt.Errorf("%s is offline", other.Name)
			case p.Relay == "":
				return fmt.Errorf("%s has no home relay", other.Name)
			}
		}
		return nil
	})
}

// AwaitGone waits until the client has no peer of that name.
func (c *Client) AwaitGone(t testing.TB, within time.Duration, name string) time.Duration {
	t.Helper()
	return c.Await(t, within, name+" is gone", func(st *ipnstate.Status) error {
		if Peer(st, name) != nil {
			return fmt.Errorf("%s is still a peer", name)
		}
		return nil
	})
}

// Peer finds a peer by the first label of its MagicDNS name; nil means there is none.
func Peer(st *ipnstate.Status, name string) *ipnstate.PeerStatus {
	for _, p := range st.Peer {
		if label, _, _ := strings.Cut(p.DNSName, "."); label == name {
			return p
		}
	}
	return nil
}

// PeerNames lists the MagicDNS names of the peers, sorted.
func PeerNames(st *ipnstate.Status) []string {
	var names []string
	for _, p := range st.Peer {
		names = append(names, p.DNSName)
	}
	slices.Sort(names)
	return names
}

// AwaitDirect pings until the answer comes over a direct path and returns the peer's endpoint.
func (c *Client) AwaitDirect(t testing.TB, within time.Duration, peer netip.Addr) netip.AddrPort {
	t.Helper()
	var endpoint netip.AddrPort
	lab.Await(t, within, fmt.Sprintf("%s: direct path to %s", c.Name, peer), func() error {
		pong, err := c.ping(t.Context(), peer)
		if err != nil {
			return err
		}
		if pong.Endpoint == "" {
			return fmt.Errorf("the path is relayed by region %d", pong.DERPRegionID)
		}
		endpoint, err = netip.ParseAddrPort(pong.Endpoint)
		return err
	})
	return endpoint
}

// AwaitRelayed pings until an answer comes through the relay.
func (c *Client) AwaitRelayed(t testing.TB, within time.Duration, peer netip.Addr) {
	t.Helper()
	lab.Await(t, within, fmt.Sprintf("%s: relayed path to %s", c.Name, peer), func() error {
		pong, err := c.ping(t.Context(), peer)
		if err == nil && pong.DERPRegionID == 0 {
			err = fmt.Errorf("the path is direct, to %s", pong.Endpoint)
		}
		return err
	})
}

// ping is one disco ping, which is what `tailscale ping` sends.
func (c *Client) ping(ctx context.Context, peer netip.Addr) (*ipnstate.PingResult, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	pong, err := c.API.Ping(ctx, peer, tailcfg.PingDisco)
	if err != nil {
		return nil, err
	}
	if pong.Err != "" {
		return nil, fmt.Errorf("ping %s: %s", peer, pong.Err)
	}
	return pong, nil
}
