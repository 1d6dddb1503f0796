package control_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"heddle/control/controltest"
	"heddle/control/tailnet"

	"tailscale.com/control/controlclient"
	_ "tailscale.com/feature/c2n"
	"tailscale.com/hostinfo"
	"tailscale.com/net/netmon"
	"tailscale.com/net/tsdial"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/types/netmap"
	"tailscale.com/util/eventbus/eventbustest"
)

// netmaps is what a stock client makes of its map stream.
type netmaps chan *netmap.NetworkMap

func (n netmaps) UpdateFullNetmap(nm *netmap.NetworkMap) { n <- nm }

// await returns the first netmap that cond likes.
func (n netmaps) await(t *testing.T, what string, cond func(*netmap.NetworkMap) bool) *netmap.NetworkMap {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		select {
		case nm := <-n:
			if cond(nm) {
				return nm
			}
		case <-limit:
			t.Fatalf("no netmap: %s", what)
		}
	}
}

// newDirect returns the part of a stock client that talks to control servers.
func newDirect(t *testing.T, serverURL string) *controlclient.Direct {
	t.Helper()
	bus := eventbustest.NewBus(t)
	dialer := tsdial.NewDialer(netmon.NewStatic())
	dialer.SetBus(bus)
	host := hostinfo.New()
	host.Hostname, host.BackendLogID = "stock", "test"
	machine := key.NewMachine()
	direct, err := controlclient.NewDirect(controlclient.Options{
		ServerURL: serverURL, Hostinfo: host, Dialer: dialer, Bus: bus,
		DiscoPublicKey:       key.NewDisco().Public(),
		GetMachinePrivateKey: func() (key.MachinePrivate, error) { return machine, nil },
		C2NHandler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }),
		Logf:                 func(string, ...any) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { direct.Close() })
	return direct
}

// TestStockClient drives the login and map code of the real client, over TCP.
func TestStockClient(t *testing.T) {
	s := controltest.Start(t, controltest.Config{})
	web := httptest.NewServer(s.Handler)
	defer web.Close()
	alice := s.User("alice")
	other := s.Client("other").Join(s.AuthKey(tailnet.AuthKeySpec{Owner: alice}))

	direct := newDirect(t, web.URL)
	ctx := t.Context()

	authURL, err := direct.TryLogin(ctx, controlclient.LoginDefault)
	if err != nil || authURL == "" {
		t.Fatalf("login: %q, %v", authURL, err)
	}
	id := authURL[strings.LastIndex(authURL, "/")+1:]
	if _, err := s.Control.CompleteLogin(ctx, tailnet.Actor{Kind: tailnet.LocalCLI}, id, alice, tailnet.ByCLI); err != nil {
		t.Fatal(err)
	}
	if again, err := direct.WaitLoginURL(ctx, authURL); err != nil || again != "" {
		t.Fatalf("after the approval: %q, %v", again, err)
	}
	if got := direct.GetPersist().UserProfile().LoginName(); got != "alice@" {
		t.Errorf("logged in as %q", got)
	}

	maps := make(netmaps, 100)
	polling, stop := context.WithCancel(ctx)
	polled := make(chan error, 1)
	go func() { polled <- direct.PollNetMap(polling, maps) }()
	nm := maps.await(t, "first", func(*netmap.NetworkMap) bool { return true })
	if nm.SelfNode.Name() != "stock.tail.test." || len(nm.Peers) != 1 {
		t.Errorf("self %q, %d peers", nm.SelfNode.Name(), len(nm.Peers))
	}

	direct.SetEndpoints([]tailcfg.Endpoint{{Addr: netip.MustParseAddrPort("192.0.2.44:41641"), Type: tailcfg.EndpointLocal}})
	if err := direct.SendUpdate(ctx); err != nil {
		t.Fatal(err)
	}
	if n := s.Node("stock"); len(n.Report.Endpoints) != 1 || n.Report.Disco.IsZero() {
		t.Errorf("after the update: %+v", n.Report)
	}
	other.MustStream()
	maps.await(t, "the peer comes online", func(nm *netmap.NetworkMap) bool { return nm.Peers[0].Online().Get() })

	node := s.Node("stock").ID
	req, _ := http.NewRequest("POST", "/echo", strings.NewReader("hello"))
	res, err := s.Control.C2N(ctx, node, req)
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(res.Body); string(body) != "hello" {
		t.Errorf("c2n: %q", body)
	}

	if err := direct.SetDeviceAttrs(ctx, tailcfg.AttrUpdate{"custom:tier": "gold"}); err == nil || !strings.Contains(err.Error(), "403") || !strings.Contains(err.Error(), "attrConfig") {
		t.Errorf("an attribute that the policy says nothing of: %v", err)
	}
	setPolicy(t, s, `{"attrConfig": {"custom:tier": {"type": "string", "allowSetByNode": true}}}`)
	if err := direct.SetDeviceAttrs(ctx, tailcfg.AttrUpdate{"custom:tier": "gold"}); err != nil || s.Node("stock").Attributes()["custom:tier"] != "gold" {
		t.Errorf("%v; the attributes are %v", err, s.Node("stock").Attributes())
	}

	s.Update(func(tx *tailnet.Tx) error { return tx.DeleteNode(node) })
	maps.await(t, "the client learns that it was deleted", func(nm *netmap.NetworkMap) bool {
		e := nm.SelfKeyExpiry()
		return !e.IsZero() && e.Before(time.Now())
	})
	stop()
	<-polled
	if err := direct.TryLogout(ctx); err != nil {
		t.Errorf("logout of a deleted node: %v", err)
	}
}

// TestStockClientOfAServerSetUpAnew: the real client, logged in and with a map, meets a server that
// has lost all it knew. It must learn that its login is over.
func TestStockClientOfAServerSetUpAnew(t *testing.T) {
	machine := key.NewMachine()
	s := controltest.Start(t, controltest.Config{NoiseKey: machine})
	var serving atomic.Pointer[controltest.Server]
	serving.Store(s)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serving.Load().Handler.ServeHTTP(w, r) }))
	defer web.Close()
	direct := newDirect(t, web.URL)
	authURL, err := direct.TryLogin(t.Context(), controlclient.LoginDefault)
	if err != nil {
		t.Fatal(err)
	}
	id := authURL[strings.LastIndex(authURL, "/")+1:]
	if _, err := s.Control.CompleteLogin(t.Context(), tailnet.Actor{Kind: tailnet.LocalCLI}, id, s.User("alice"), tailnet.ByCLI); err != nil {
		t.Fatal(err)
	}
	if _, err := direct.WaitLoginURL(t.Context(), authURL); err != nil {
		t.Fatal(err)
	}
	poll := func(what string, cond func(*netmap.NetworkMap) bool) {
		t.Helper()
		ctx, stop := context.WithCancel(t.Context())
		maps := make(netmaps, 100)
		var polling sync.WaitGroup
		polling.Go(func() {
			for ctx.Err() == nil { // the first may use a connection that has just ended
				direct.PollNetMap(ctx, maps)
			}
		})
		maps.await(t, what, cond)
		stop()
		polling.Wait()
	}
	poll("running", func(nm *netmap.NetworkMap) bool { return nm.SelfKeyExpiry().After(time.Now()) })
	serving.Store(controltest.Start(t, controltest.Config{NoiseKey: machine}))
	s.Stop()
	poll("the login is over", func(nm *netmap.NetworkMap) bool {
		e := nm.SelfKeyExpiry()
		return !e.IsZero() && e.Before(time.Now()) && nm.NodeKey == direct.GetPersist().PublicNodeKey()
	})
}
