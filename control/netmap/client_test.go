package netmap_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"heddle/control/netmap"

	"tailscale.com/control/controlclient"
	"tailscale.com/health"
	"tailscale.com/net/netmon"
	"tailscale.com/net/tsdial"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
	stock "tailscale.com/types/netmap"
	"tailscale.com/types/views"
	"tailscale.com/util/eventbus"
	"tailscale.com/wgengine/filter"
)

// stockClient is the stock client's protocol code, fed with messages.
type stockClient struct {
	t    *testing.T
	body *io.PipeWriter

	mu    sync.Mutex
	nm    *stock.NetworkMap // as rebuilt last
	peers map[tailcfg.NodeID]*tailcfg.Node
	bad   []string
	delta bool // take deltas without rebuilding
	fast  int  // messages handled so
	full  int
	users map[tailcfg.UserID]tailcfg.UserProfileView
	rules views.Slice[tailcfg.FilterRule]
}

// newStockClient starts a client. With delta it applies deltas as the newest
// clients' backends do, else it rebuilds its map after each message.
func newStockClient(t *testing.T, delta bool) *stockClient {
	t.Helper()
	c := &stockClient{t: t, delta: delta}
	bus := eventbus.New()
	t.Cleanup(bus.Close)
	dialer := tsdial.NewDialer(netmon.NewStatic())
	dialer.SetBus(bus)
	machine := key.NewMachine()
	body, w := io.Pipe()
	c.body = w
	transport := roundTripper(func(r *http.Request) (*http.Response, error) {
		answer := func(v any) (*http.Response, error) {
			text, err := json.Marshal(v)
			return &http.Response{StatusCode: 200, Body: io.NopCloser(bytes.NewReader(text)), Request: r}, err
		}
		switch r.URL.Path {
		case "/key":
			return answer(tailcfg.OverTLSPublicKeyResponse{LegacyPublicKey: machine.Public(), PublicKey: machine.Public()})
		case "/machine/register":
			return answer(tailcfg.RegisterResponse{MachineAuthorized: true, User: tailcfg.User{ID: 1}, Login: tailcfg.Login{ID: 1, LoginName: "x@"}})
		case "/machine/map":
			return &http.Response{StatusCode: 200, Body: body, Request: r}, nil
		}
		return nil, fmt.Errorf("unexpected request for %s", r.URL)
	})
	client := &http.Client{Transport: transport}
	direct, err := controlclient.NewDirect(controlclient.Options{
		ServerURL: "https://heddle.test", Hostinfo: &tailcfg.Hostinfo{BackendLogID: "log", Hostname: "x"}, Dialer: dialer, Bus: bus,
		GetMachinePrivateKey: func() (key.MachinePrivate, error) { return machine, nil },
		HTTPTestClient:       client, NoiseTestClient: client, Logf: logger.Discard, HealthTracker: health.NewTracker(bus),
		SkipStartForTests: true, AuthKey: "tskey-auth-x-y",
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := direct.TryLogin(ctx, controlclient.LoginDefault); err != nil {
		t.Fatal(err)
	}
	var updater controlclient.NetmapUpdater = rebuilder{c}
	if delta {
		updater = applier{rebuilder{c}}
	}
	done := make(chan error, 1)
	go func() { done <- direct.PollNetMap(ctx, updater) }()
	t.Cleanup(func() {
		w.CloseWithError(io.EOF)
		cancel()
		<-done
		direct.Close()
	})
	return c
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// take gives the client a message and waits until it is applied.
func (c *stockClient) take(m netmap.Message) {
	c.t.Helper()
	e := netmap.NewEncoder(netmap.Options{})
	var v netmap.Viewer
	// The client hands messages one by one to another goroutine: when the
	// message after an empty one is read, the one before it has been applied.
	for _, m := range []netmap.Message{m, e.Extra(v, netmap.Extra{}), e.KeepAlive(v), e.KeepAlive(v)} {
		if _, err := c.body.Write(m.AppendTo(nil)); err != nil {
			c.t.Fatalf("the client hung up: %v", err)
		}
	}
}

func (c *stockClient) state() (nm *stock.NetworkMap, peers map[tailcfg.NodeID]*tailcfg.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.bad {
		c.t.Error(b)
	}
	c.bad = nil
	return c.nm, c.peers
}

// rebuilder takes whole maps only.
type rebuilder struct{ *stockClient }

func (c rebuilder) UpdateFullNetmap(nm *stock.NetworkMap) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nm = nm
	c.full++
	c.users = nm.UserProfiles
	c.rules = nm.PacketFilterRules
	c.peers = map[tailcfg.NodeID]*tailcfg.Node{}
	for _, p := range nm.Peers {
		c.peers[p.ID()] = p.AsStruct()
	}
}

// applier takes deltas like the backend of the newest clients.
type applier struct{ rebuilder }

func (c applier) UpdateNetmapDelta(muts []stock.NodeMutation) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fast++
	for _, m := range muts {
		id := m.NodeIDBeingMutated()
		switch m := m.(type) {
		case stock.NodeMutationUpsert:
			c.peers[id] = m.Node.AsStruct()
			continue
		case stock.NodeMutationRemove:
			if c.peers[id] == nil {
				c.bad = append(c.bad, fmt.Sprintf("removes unknown peer %d", id))
			}
			delete(c.peers, id)
			continue
		}
		p := c.peers[id]
		if p == nil {
			c.bad = append(c.bad, fmt.Sprintf("patches unknown peer %d", id))
			return false
		}
		m.Apply(p)
	}
	return true
}

func (c applier) UpdatePacketFilter(rules views.Slice[tailcfg.FilterRule], _ []filter.Match) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rules = rules
	return true
}

func (c applier) UpdateUserProfiles(p map[tailcfg.UserID]tailcfg.UserProfileView) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, up := range p {
		if c.users == nil {
			c.users = map[tailcfg.UserID]tailcfg.UserProfileView{}
		}
		c.users[id] = up
	}
	return true
}

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
