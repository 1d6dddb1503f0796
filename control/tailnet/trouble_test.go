package tailnet_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"heddle/control/tailnet"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

var errDisk = errors.New("disk full")

// TestATroubledStoreForgetsNothing lets commits fail for a while: nothing that has to
// happen may be forgotten.
func TestATroubledStoreForgetsNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		u := w.user("alice")
		secret := w.authKey(tailnet.AuthKeySpec{Owner: u.ID, Reusable: true})
		short := w.authKey(tailnet.AuthKeySpec{Owner: u.ID, Reusable: true, Ephemeral: true})
		open, err := tailnet.PreparePolicy(w.snap(), `{"autoApprovers": {"routes": {"10.0.0.0/8": ["alice@"]}}}`)
		if err != nil {
			t.Fatal(err)
		}
		w.must(func(tx *tailnet.Tx) error { return tx.SetPolicy(open, "") })
		laptop := w.mustRegister(newDevice("laptop").registration(), secret)
		d := newDevice("router")
		router := w.mustRegister(d.registration(), secret)
		ci := w.mustRegister(newDevice("ci").registration(), short)
		for _, n := range []*tailnet.Node{laptop, router, ci} {
			w.connect(n.ID)
		}
		if err := w.state.Trouble(); err != nil {
			t.Errorf("trouble before there is any: %v", err)
		}
		w.disconnect(ci.ID)
		w.store.FailWith(errDisk)

		// In one batch: an advertisement that the policy approves (which takes
		// a commit), and the end of a stream (which takes none).
		host := d.host.Clone()
		host.RoutableIPs = prefixes("10.1.0.0/16")
		w.together(
			func(tx *tailnet.Tx) error { return tx.Report(router.ID, tailnet.Update{Hostinfo: host}) },
			func(tx *tailnet.Tx) error { tx.Disconnect(laptop.ID); return nil },
		)
		tries := w.store.Tries()
		for range 100 {
			w.connect(router.ID)
			w.disconnect(router.ID)
		}
		if got := w.store.Tries() - tries; got > 2 {
			t.Errorf("%d commits tried for presence while commits fail", got)
		}
		time.Sleep(time.Minute)
		if w.snap().Node(laptop.ID).Status.Online {
			t.Error("the end of a stream was lost")
		}
		if len(w.snap().Node(router.ID).Approved) > 0 {
			t.Error("an approval is shown that was not committed")
		}
		if w.state.Trouble() == nil {
			t.Error("commits fail, and it is no trouble")
		}
		time.Sleep(time.Hour) // the ephemeral node's time comes meanwhile
		w.store.FailWith(nil)
		time.Sleep(time.Minute)
		if err := w.state.Trouble(); err != nil {
			t.Errorf("still trouble: %v", err)
		}
		if w.snap().Node(ci.ID) != nil {
			t.Error("the ephemeral node was never removed")
		}
		if len(w.snap().Node(router.ID).Approved) == 0 {
			t.Error("the policy's approval was forgotten")
		}
	})
}

// together makes updates that share a batch.
func (w *world) together(fns ...func(*tailnet.Tx) error) {
	w.t.Helper()
	for _, err := range w.tryTogether(fns...) {
		if err != nil {
			w.t.Error(err)
		}
	}
}

// tryTogether makes updates that share a batch, and returns what became of each.
func (w *world) tryTogether(fns ...func(*tailnet.Tx) error) []error {
	hold, held := make(chan struct{}), make(chan struct{})
	errs := make([]error, len(fns))
	var done sync.WaitGroup
	done.Go(func() {
		w.update(func(*tailnet.Tx) error { // which does not run again: it changes nothing
			close(held)
			<-hold
			return nil
		})
	})
	<-held
	for i, fn := range fns {
		done.Go(func() { errs[i] = w.update(fn) })
	}
	time.Sleep(time.Millisecond) // in a bubble: until all are queued
	close(hold)
	done.Wait()
	return errs
}

// picky is a store that refuses what has a certain target.
type picky struct {
	tailnet.Store
	target string
}

func (p picky) Commit(ctx context.Context, d *tailnet.Delta) error {
	for _, e := range d.Audit {
		if strings.Contains(e.Target, p.target) {
			return &tailnet.Error{Code: tailnet.Internal, Msg: "cannot save it", Err: errors.New("it has a form that is not stored")}
		}
	}
	return p.Store.Commit(ctx, d)
}

// What the store refuses for what it is fails alone.
func TestARefusedUpdateFailsAlone(t *testing.T) {
	inWorld(t, func(w *world) {
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}
		w.startOn(picky{w.store, "(poison)"}, options)
		create := func(name string) func(*tailnet.Tx) error {
			return func(tx *tailnet.Tx) error { _, err := tx.CreateUser(tailnet.User{Name: name}); return err }
		}
		errs := w.tryTogether(create("alice"), create("poison"), create("bob"), create("alice"))
		names := map[string]bool{}
		for u := range w.snap().Users() {
			names[u.Name] = true
		}
		if tailnet.CodeOf(errs[1]) != tailnet.Internal || errs[1] == nil || errs[2] != nil || len(names) != 2 || !names["alice"] || !names["bob"] {
			t.Errorf("users %v; errors %v", names, errs)
		}
		if one := errs[0] == nil; one == (errs[3] == nil) {
			t.Errorf("of two that make the same user one must fail: %v", errs)
		}
		time.Sleep(time.Minute)
		if err := w.state.Trouble(); err != nil {
			t.Errorf("what was refused is trouble still: %v", err)
		}
	})
}

func TestOwnersDoNotInherit(t *testing.T) {
	inWorld(t, func(w *world) {
		alice, bob := w.user("alice"), w.user("bob")
		a := w.authKey(tailnet.AuthKeySpec{Owner: alice.ID, Reusable: true})
		b := w.authKey(tailnet.AuthKeySpec{Owner: bob.ID, Reusable: true})
		tagged := w.authKey(tailnet.AuthKeySpec{Owner: alice.ID, Tags: []string{"tag:x"}, Reusable: true})
		other := w.authKey(tailnet.AuthKeySpec{Owner: alice.ID, Tags: []string{"tag:y"}, Reusable: true})

		d := newDevice("router")
		d.host.RoutableIPs = prefixes("10.0.0.0/8")
		n := w.mustRegister(d.registration(), a)
		w.approve(n.ID, "10.0.0.0/8")
		if n = w.mustRegister(d.rotated(), a); len(n.Approved) != 1 {
			t.Error("a login of the same owner lost its approved routes")
		}
		if n = w.mustRegister(d.rotated(), tagged); len(n.Approved) != 0 {
			t.Errorf("approved for alice, in force for a tag: %v", n.Approved)
		}

		// A second profile of the same machine under other tags is another node.
		second := &device{d.machine, key.NewNode(), d.host}
		if m := w.mustRegister(second.registration(), other); m.ID == n.ID {
			t.Error("a second tagged profile took over the first one's node")
		}

		// One key never serves two nodes.
		e := newDevice("laptop")
		first := w.mustRegister(e.registration(), a)
		w.must(func(tx *tailnet.Tx) error { return tx.ExpireNode(first.ID) })
		if _, err := w.register(e.registration(), b); !errors.Is(err, tailnet.ErrStaleKey) {
			t.Errorf("another user's login with a node's own key: %v", err)
		}
		if w.snap().NodeByKey(first.Key).ID != first.ID {
			t.Error("the refused login changed something")
		}
	})
}

func TestGravesAreBounded(t *testing.T) {
	inWorld(t, func(w *world) {
		u := w.user("alice")
		d := newDevice("laptop")
		secret := w.authKey(tailnet.AuthKeySpec{Owner: u.ID, Reusable: true})
		first := w.mustRegister(d.registration(), secret).Key
		var last key.NodePublic
		for range 40 {
			last = d.key.Public()
			w.mustRegister(d.rotated(), secret)
		}
		if w.snap().Tombstone(first) != nil || w.snap().Tombstone(last) == nil {
			t.Error("one machine keeps all its old keys, or not its latest")
		}

		// A small range outlives a day of short-lived nodes.
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}
		o := options
		o.Addresses.V4 = netip.MustParsePrefix("100.64.9.0/28")
		w.start(o)
		short := w.authKey(tailnet.AuthKeySpec{Owner: u.ID, Reusable: true, Ephemeral: true, Expires: time.Now().Add(1000 * time.Hour)})
		for day := range 5 {
			for i := range 10 {
				e := newDevice(fmt.Sprintf("ci-%d-%d", day, i))
				w.mustRegister(e.registration(), short)
				w.must(func(tx *tailnet.Tx) error { return tx.Logout(e.machine.Public(), e.key.Public()) })
			}
			time.Sleep(25 * time.Hour)
		}
	})
}

func TestClaimsThatOnlyAServerMayMake(t *testing.T) {
	got := tailnet.CleanHostinfo(&tailcfg.Hostinfo{
		ShareeNode: true,
		Location:   &tailcfg.Location{City: strings.Repeat("x", 200_000)},
		ExitNodeID: tailcfg.StableNodeID(strings.Repeat("x", 200_000)),
		TPM:        &tailcfg.TPMInfo{Vendor: strings.Repeat("x", 200_000)},
		SSH_HostKeys: []string{
			"ssh-ed25519 AAAA", strings.Repeat("x", 200_000),
		},
	})
	want := &tailcfg.Hostinfo{ExitNodeID: tailcfg.StableNodeID(strings.Repeat("x", 256)), SSH_HostKeys: []string{"ssh-ed25519 AAAA"}}
	if !got.Equal(want) {
		t.Errorf("got %+v", got)
	}
}

func TestNumbersAreNoNames(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.mustRegister(newDevice("42").registration(), w.authKey(tailnet.AuthKeySpec{Owner: w.user("alice").ID}))
		if n.Name != "device-42" {
			t.Errorf("a device that calls itself 42 is named %q", n.Name)
		}
		wantCode(t, w.update(func(tx *tailnet.Tx) error { return tx.RenameNode(n.ID, "7") }), tailnet.Invalid)
	})
}

func TestARouterThatExpiredWhileTheServerWasDown(t *testing.T) {
	inWorld(t, func(w *world) {
		secret := w.authKey(tailnet.AuthKeySpec{Owner: w.user("alice").ID, Reusable: true})
		const lan = "192.168.7.0/24"
		a, b := w.router("a", secret, lan), w.router("b", secret, lan)
		w.approve(a.ID, lan)
		w.approve(b.ID, lan)
		w.must(func(tx *tailnet.Tx) error { return tx.SetNodeExpiry(a.ID, time.Now().Add(time.Minute)) })
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		w.start(options)
		w.connect(b.ID)
		w.must(func(tx *tailnet.Tx) error { return tx.SetNodeExpiry(a.ID, time.Now().Add(time.Hour)) })
		time.Sleep(2 * time.Minute)
		if got := w.snap().Primaries().Of(prefixes(lan)[0]); got != b.ID {
			t.Errorf("the primary is node %d, which never came back; want %d", got, b.ID)
		}
	})
}

func TestShorteningIsNoLever(t *testing.T) {
	inWorld(t, func(w *world) {
		u := w.user("alice")
		d, e := newDevice("laptop"), newDevice("server")
		w.mustRegister(d.registration(), w.authKey(tailnet.AuthKeySpec{Owner: u.ID}))
		w.mustRegister(e.registration(), w.authKey(tailnet.AuthKeySpec{Owner: u.ID, Tags: []string{"tag:x"}}))
		shorten := func(d *device) error {
			return w.update(func(tx *tailnet.Tx) error {
				return tx.ShortenExpiry(d.machine.Public(), d.key.Public(), time.Now().Add(time.Hour).Truncate(time.Hour))
			})
		}
		if err := shorten(d); err != nil {
			t.Fatal(err)
		}
		entries := len(w.store.Audit())
		if err := shorten(d); err != nil || len(w.store.Audit()) != entries {
			t.Errorf("the same expiry again: %v, %d entries", err, len(w.store.Audit())-entries)
		}
		wantCode(t, shorten(e), tailnet.Denied)
	})
}
