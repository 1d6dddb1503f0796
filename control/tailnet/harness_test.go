package tailnet_test

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"heddle/control/tailnet"
	"heddle/control/tailnet/tailnettest"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// cli is the admin of these tests.
var cli = tailnet.Actor{Kind: tailnet.LocalCLI, Name: "test"}

// device is a client's side of a node.
type device struct {
	machine key.MachinePrivate
	key     key.NodePrivate
	host    *tailcfg.Hostinfo
}

func newDevice(hostname string) *device {
	return &device{key.NewMachine(), key.NewNode(), &tailcfg.Hostinfo{Hostname: hostname, OS: "linux"}}
}

func (d *device) registration() tailnet.Registration {
	return tailnet.Registration{Machine: d.machine.Public(), Key: d.key.Public(), Hostinfo: d.host, CapVer: 142}
}

// rotated is a registration under a new key that replaces the device's.
func (d *device) rotated() tailnet.Registration {
	old := d.key.Public()
	d.key = key.NewNode()
	r := d.registration()
	r.OldKey = old
	return r
}

// world is a running State in a synctest bubble.
type world struct {
	t     *testing.T
	store *tailnettest.Store
	state *tailnet.State
	stop  func() error
}

var options = tailnet.Options{
	OnlineGrace:      10 * time.Second,
	EphemeralTimeout: 30 * time.Minute,
	KeyExpiry:        180 * 24 * time.Hour,
}

// inWorld runs a test in a bubble with a fresh tailnet.
func inWorld(t *testing.T, fn func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, store: new(tailnettest.Store)}
		w.start(options)
		w.must(func(tx *tailnet.Tx) error { return tx.SetDNSPins(tailnet.DNSPins{BaseDomain: "example.net"}) })
		fn(w)
		if err := w.stop(); err != nil {
			t.Errorf("last flush: %v", err)
		}
	})
}

func (w *world) start(o tailnet.Options) { w.t.Helper(); w.startOn(w.store, o) }

func (w *world) startOn(store tailnet.Store, o tailnet.Options) {
	w.t.Helper()
	state, err := tailnet.Open(w.t.Context(), store, o)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- state.Run(ctx) }()
	w.state = state
	w.stop = func() error { cancel(); return <-done }
}

// restart stops the server and starts it on the same store.
func (w *world) restart() {
	w.t.Helper()
	if err := w.stop(); err != nil {
		w.t.Fatal(err)
	}
	w.start(options)
}

func (w *world) snap() *tailnet.Snapshot { return w.state.Snapshot() }

func (w *world) update(fn func(tx *tailnet.Tx) error) error {
	_, err := w.state.Update(context.Background(), cli, fn)
	return err
}

func (w *world) must(fn func(tx *tailnet.Tx) error) {
	w.t.Helper()
	if err := w.update(fn); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) user(name string) *tailnet.User {
	w.t.Helper()
	var u *tailnet.User
	w.must(func(tx *tailnet.Tx) (err error) {
		u, err = tx.CreateUser(tailnet.User{Name: name})
		return err
	})
	return u
}

// authKey makes a key; zero fields of spec get usual values.
func (w *world) authKey(spec tailnet.AuthKeySpec) string {
	w.t.Helper()
	var secret string
	w.must(func(tx *tailnet.Tx) (err error) {
		if spec.Expires.IsZero() {
			spec.Expires = tx.Now().Add(time.Hour)
		}
		secret, _, err = tx.CreateAuthKey(spec)
		return err
	})
	return secret
}

func (w *world) register(r tailnet.Registration, secret string) (*tailnet.Node, error) {
	var n *tailnet.Node
	node := tailnet.Actor{Kind: tailnet.ByNode, Name: r.Machine.ShortString()}
	snap, err := w.state.Update(context.Background(), node, func(tx *tailnet.Tx) (err error) {
		n, err = tx.RegisterWithAuthKey(r, secret)
		return err
	})
	if err != nil {
		return nil, err
	}
	return snap.Node(n.ID), nil
}

func (w *world) mustRegister(r tailnet.Registration, secret string) *tailnet.Node {
	w.t.Helper()
	n, err := w.register(r, secret)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *world) connect(id tailnet.NodeID) {
	w.t.Helper()
	w.must(func(tx *tailnet.Tx) error { return tx.Connect(id) })
}

func (w *world) disconnect(id tailnet.NodeID) {
	w.t.Helper()
	w.must(func(tx *tailnet.Tx) error { tx.Disconnect(id); return nil })
}

// router registers a connected node that advertises the routes.
func (w *world) router(name, secret string, routes ...string) *tailnet.Node {
	w.t.Helper()
	d := newDevice(name)
	d.host.RoutableIPs = prefixes(routes...)
	n := w.mustRegister(d.registration(), secret)
	w.connect(n.ID)
	return n
}

func (w *world) approve(id tailnet.NodeID, routes ...string) {
	w.t.Helper()
	w.must(func(tx *tailnet.Tx) error {
		return tx.ApproveRoutes(id, tailnet.RouteEdit{Replace: true, Set: prefixes(routes...)})
	})
}

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// wantCode checks the code of an error that must be there.
func wantCode(t *testing.T, err error, code tailnet.Code) {
	t.Helper()
	if err == nil || tailnet.CodeOf(err) != code {
		t.Errorf("error is %v (%v), want one that is %v", err, tailnet.CodeOf(err), code)
	}
}
