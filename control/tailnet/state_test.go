package tailnet_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"heddle/control/tailnet"
	"heddle/control/tailnet/tailnettest"
	"heddle/policy"

	"github.com/google/go-cmp/cmp"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

func TestAFailedUpdateLeavesNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		before := w.snap()
		boom := errors.New("boom")
		if err := w.update(func(tx *tailnet.Tx) error {
			if _, err := tx.CreateUser(tailnet.User{Name: "alice"}); err != nil {
				return err
			}
			return boom
		}); !errors.Is(err, boom) {
			t.Fatal(err)
		}
		if w.snap() != before {
			t.Error("a snapshot was published")
		}
		w.user("alice")
	})
}

func TestNothingIsShownThatWasNotCommitted(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.mustRegister(newDevice("laptop").registration(), w.authKey(tailnet.AuthKeySpec{Owner: w.user("alice").ID}))
		before := w.snap()
		w.store.FailWith(errors.New("disk full"))
		wantCode(t, w.update(func(tx *tailnet.Tx) error { return tx.RenameNode(n.ID, "desk") }), tailnet.Unavailable)
		if w.snap() != before {
			t.Error("an uncommitted change was published")
		}
		w.connect(n.ID) // presence goes on without the disk
		if !w.snap().Node(n.ID).Status.Online {
			t.Error("soft state waited for the disk")
		}
		w.store.FailWith(nil)
		w.must(func(tx *tailnet.Tx) error { return tx.RenameNode(n.ID, "desk") })
	})
}

func TestSoftStateIsWrittenBehind(t *testing.T) {
	inWorld(t, func(w *world) {
		d := newDevice("laptop")
		n := w.mustRegister(d.registration(), w.authKey(tailnet.AuthKeySpec{Owner: w.user("alice").ID}))
		commits := w.store.Commits()
		disco := key.NewDisco().Public()
		report := tailnet.Update{Disco: disco, CapVer: 142, Hostinfo: d.host}
		for range 50 {
			w.must(func(tx *tailnet.Tx) error { return tx.Report(n.ID, report) })
		}
		if got := w.snap().Node(n.ID).Report.Disco; got != disco {
			t.Errorf("the report is not published: %v", got)
		}
		if got := w.store.Commits(); got != commits {
			t.Errorf("%d commits for soft state", got-commits)
		}
		version := w.snap().Version()
		w.must(func(tx *tailnet.Tx) error { return tx.Report(n.ID, report) })
		if w.snap().Version() != version {
			t.Error("a report without news was published")
		}
		time.Sleep(10 * time.Second)
		if got := w.store.Commits(); got != commits+1 {
			t.Errorf("%d commits after the pause, want one", got-commits)
		}
		w.restart()
		if got := w.snap().Node(n.ID).Report.Disco; got != disco {
			t.Error("the report did not survive a restart")
		}
	})
}

func TestRestartKeepsEverything(t *testing.T) {
	inWorld(t, func(w *world) {
		u := w.user("alice")
		secret := w.authKey(tailnet.AuthKeySpec{Owner: u.ID, Reusable: true})
		n := w.router("router", secret, "10.1.0.0/24")
		w.approve(n.ID, "10.1.0.0/24")
		w.must(func(tx *tailnet.Tx) error { return tx.SetDNS(tailnet.DNS{Nameservers: []string{"9.9.9.9"}}) })
		gone := w.mustRegister(newDevice("gone").registration(), secret)
		w.must(func(tx *tailnet.Tx) error { return tx.DeleteNode(gone.ID) })
		w.restart()
		s := w.snap()
		if got := s.Primaries().Of(prefixes("10.1.0.0/24")[0]); got != n.ID {
			t.Errorf("primary is %d", got)
		}
		if got := s.Node(n.ID); !got.Status.Online || !got.Status.Alive {
			t.Error("a node that was online when the server stopped is shown offline before it could come back")
		}
		if s.Tombstone(gone.Key) == nil {
			t.Error("the tombstone is gone")
		}
		w.must(func(tx *tailnet.Tx) error { return tx.SetDNSPins(tailnet.DNSPins{BaseDomain: "example.net"}) })
		if diff := cmp.Diff([]string{"9.9.9.9"}, w.snap().DNS().Nameservers); diff != "" {
			t.Error(diff)
		}
		if next := w.mustRegister(newDevice("next").registration(), secret); next.ID <= gone.ID || next.Addrs == gone.Addrs {
			t.Errorf("node %d with %v: an ID or address of a deleted node came back", next.ID, next.Addrs)
		}
		time.Sleep(2 * time.Minute)
		if w.snap().Node(n.ID).Status.Online {
			t.Error("a node that never came back is still online")
		}
	})
}

func TestRightsAreCheckedInside(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.mustRegister(newDevice("laptop").registration(), w.authKey(tailnet.AuthKeySpec{Owner: w.user("alice").ID}))
		actors := []tailnet.Actor{
			{Kind: tailnet.ByNode, Name: "n"},
			{Kind: tailnet.ByUser, Name: "u", Role: policy.Member},
			{Kind: tailnet.ByAPIKey, Name: "k", Role: policy.Auditor},
			{},
		}
		ops := map[string]func(tx *tailnet.Tx) error{
			"create user":   func(tx *tailnet.Tx) error { _, err := tx.CreateUser(tailnet.User{Name: "eve"}); return err },
			"rename user":   func(tx *tailnet.Tx) error { return tx.RenameUser(1, "eve") },
			"delete user":   func(tx *tailnet.Tx) error { return tx.DeleteUser(1) },
			"create key":    func(tx *tailnet.Tx) error { _, _, err := tx.CreateAuthKey(tailnet.AuthKeySpec{Owner: 1}); return err },
			"revoke key":    func(tx *tailnet.Tx) error { return tx.RevokeAuthKey(1) },
			"delete key":    func(tx *tailnet.Tx) error { return tx.DeleteAuthKey(1) },
			"create apikey": func(tx *tailnet.Tx) error { _, _, err := tx.CreateAPIKey(tailnet.APIKeySpec{}); return err },
			"revoke apikey": func(tx *tailnet.Tx) error { return tx.RevokeAPIKey(1) },
			"delete apikey": func(tx *tailnet.Tx) error { return tx.DeleteAPIKey(1) },
			"rename node":   func(tx *tailnet.Tx) error { return tx.RenameNode(n.ID, "eve") },
			"delete node":   func(tx *tailnet.Tx) error { return tx.DeleteNode(n.ID) },
			"expire node":   func(tx *tailnet.Tx) error { return tx.ExpireNode(n.ID) },
			"set expiry":    func(tx *tailnet.Tx) error { return tx.SetNodeExpiry(n.ID, time.Time{}) },
			"tag node":      func(tx *tailnet.Tx) error { return tx.SetTags(n.ID, []string{"tag:x"}) },
			"routes":        func(tx *tailnet.Tx) error { return tx.ApproveRoutes(n.ID, tailnet.RouteEdit{}) },
			"policy":        func(tx *tailnet.Tx) error { return tailnettest.SetPolicy(tx, "{}") },
			"dns":           func(tx *tailnet.Tx) error { return tx.SetDNS(tailnet.DNS{}) },
			"dns pins":      func(tx *tailnet.Tx) error { return tx.SetDNSPins(tailnet.DNSPins{BaseDomain: "x.y"}) },
			"dns file":      func(tx *tailnet.Tx) error { return tx.SetDNSFileRecords(nil) },
			"owners":        func(tx *tailnet.Tx) error { return tx.SetOwners(nil) },
			"derp map":      func(tx *tailnet.Tx) error { return tx.SetDERPMap(&tailcfg.DERPMap{}) },
		}
		before := w.snap()
		for _, a := range actors {
			for name, op := range ops {
				if _, err := w.state.Update(context.Background(), a, op); tailnet.CodeOf(err) != tailnet.Denied {
					t.Errorf("%s by %v: %v", name, a, err)
				}
			}
			if a.Kind == tailnet.ByUser {
				continue // a person who logged in may add a device
			}
			if _, err := w.state.Update(context.Background(), a, func(tx *tailnet.Tx) error {
				_, err := tx.RegisterForUser(newDevice("x").registration(), 1, tailnet.ByCLI)
				return err
			}); tailnet.CodeOf(err) != tailnet.Denied {
				t.Errorf("register by %v: %v", a, err)
			}
		}
		if w.snap() != before {
			t.Error("something changed all the same")
		}
	})
}

func TestEveryChangeIsAudited(t *testing.T) {
	inWorld(t, func(w *world) {
		u := w.user("alice")
		secret := w.authKey(tailnet.AuthKeySpec{Owner: u.ID, Reusable: true})
		n := w.router("router", secret, "10.1.0.0/24")
		w.approve(n.ID, "10.1.0.0/24")
		w.must(func(tx *tailnet.Tx) error { return tx.RenameNode(n.ID, "gate") })
		w.must(func(tx *tailnet.Tx) error { return tx.ExpireNode(n.ID) })
		w.must(func(tx *tailnet.Tx) error { return tx.DeleteNode(n.ID) })
		var got []string
		for _, e := range w.store.Audit() {
			got = append(got, fmt.Sprint(e.Actor.Kind, " ", e.Action))
			if e.At.IsZero() || e.Target == "" {
				t.Errorf("incomplete entry %+v", e)
			}
		}
		want := []string{"local-cli user.create", "local-cli authkey.create", "node node.create", "local-cli routes.approve",
			"local-cli node.rename", "local-cli node.expiry", "local-cli node.delete"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

// TestManyCallers runs with the race detector: updates and readers at once,
// each answer shows its own change, and the diffs of snapshots add up.
func TestManyCallers(t *testing.T) {
	store := new(tailnettest.Store)
	state, err := tailnet.Open(t.Context(), store, options)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- state.Run(ctx) }()
	if _, err := state.Update(ctx, cli, func(tx *tailnet.Tx) error {
		_, err := tx.CreateUser(tailnet.User{Name: "alice"})
		return err
	}); err != nil {
		t.Fatal(err)
	}

	const callers, each = 8, 40
	known := map[tailnet.NodeID]*tailnet.Node{}
	watched := make(chan struct{})
	start := state.Snapshot()
	go func() {
		defer close(watched)
		for last := start; len(known) < callers*each; {
			<-last.Superseded()
			next := state.Snapshot()
			for c := range next.NodesChangedSince(last) {
				if known[c.New.ID] != c.Old {
					t.Errorf("node %d: the diff's old state is not what was seen", c.New.ID)
				}
				known[c.New.ID] = c.New
			}
			last = next
		}
	}()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for j := range each {
				d := newDevice(fmt.Sprintf("host-%d-%d", i, j))
				var n *tailnet.Node
				snap, err := state.Update(ctx, cli, func(tx *tailnet.Tx) (err error) {
					n, err = tx.RegisterForUser(d.registration(), 1, tailnet.ByCLI)
					return err
				})
				if err != nil || snap.NodeByKey(d.key.Public()).ID != n.ID {
					t.Errorf("the answer does not show its own change: %v", err)
				}
			}
		})
	}
	wg.Wait()
	<-watched
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := state.Update(context.Background(), cli, func(*tailnet.Tx) error { return nil }); !errors.Is(err, tailnet.ErrStopped) {
		t.Errorf("after the end: %v", err)
	}
	names, addrs := map[string]bool{}, map[tailnet.Addrs]bool{}
	for n := range state.Snapshot().Nodes() {
		names[n.Name], addrs[n.Addrs] = true, true
	}
	if len(names) != callers*each || len(addrs) != callers*each {
		t.Errorf("%d names and %d addresses for %d nodes", len(names), len(addrs), callers*each)
	}
	if got := store.Commits(); got > callers*each+1 {
		t.Errorf("%d commits for %d updates", got, callers*each+1)
	}
}

func TestNodesChangedSince(t *testing.T) {
	inWorld(t, func(w *world) {
		secret := w.authKey(tailnet.AuthKeySpec{Owner: w.user("alice").ID, Reusable: true})
		var ids []tailnet.NodeID
		for i := range 200 {
			ids = append(ids, w.mustRegister(newDevice(fmt.Sprint("n", i)).registration(), secret).ID)
		}
		before := w.snap()
		w.must(func(tx *tailnet.Tx) error {
			for _, id := range ids[:130] { // empties two buckets
				if err := tx.DeleteNode(id); err != nil {
					return err
				}
			}
			return tx.RenameNode(ids[150], "renamed")
		})
		w.mustRegister(newDevice("late").registration(), secret)
		var removed, changed, added int
		var order []tailnet.NodeID
		for c := range w.snap().NodesChangedSince(before) {
			switch {
			case c.New == nil:
				removed++
				order = append(order, c.Old.ID)
			case c.Old == nil:
				added++
				order = append(order, c.New.ID)
			default:
				changed++
				order = append(order, c.New.ID)
			}
		}
		if removed != 130 || changed != 1 || added != 1 || !slices.IsSorted(order) {
			t.Errorf("%d removed, %d changed, %d added, in order %v", removed, changed, added, slices.IsSorted(order))
		}
		if w.snap().NumNodes() != 71 {
			t.Errorf("%d nodes", w.snap().NumNodes())
		}
	})
}

func TestEphemeralNodes(t *testing.T) {
	inWorld(t, func(w *world) {
		secret := w.authKey(tailnet.AuthKeySpec{
			Owner: w.user("alice").ID, Reusable: true, Ephemeral: true, Expires: time.Now().Add(90 * 24 * time.Hour),
		})
		n := w.mustRegister(newDevice("ci").registration(), secret)
		time.Sleep(20 * time.Minute) // longer than any connection of its registration
		w.connect(n.ID)
		time.Sleep(10 * time.Hour)
		w.disconnect(n.ID)
		time.Sleep(29 * time.Minute)
		w.connect(n.ID)
		w.connect(n.ID) // a second stream replaces the first
		w.disconnect(n.ID)
		time.Sleep(time.Hour)
		if w.snap().Node(n.ID) == nil {
			t.Fatal("removed while it was connected")
		}
		w.disconnect(n.ID)
		time.Sleep(29 * time.Minute)
		w.restart()
		synctest.Wait()
		if w.snap().Node(n.ID) == nil {
			t.Fatal("removed before its time")
		}
		time.Sleep(31 * time.Minute)
		if w.snap().Node(n.ID) != nil {
			t.Fatal("not removed after its time")
		}
		never := w.mustRegister(newDevice("never").registration(), secret)
		time.Sleep(31 * time.Minute)
		if w.snap().Node(never.ID) != nil {
			t.Error("an ephemeral node that never came is still there")
		}
		time.Sleep(tailnet.TombstoneLife + time.Hour)
		if w.snap().Tombstone(n.Key) != nil {
			t.Error("a tombstone outlived its time")
		}
	})
}
