package tailnet_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"heddle/control/tailnet"
	"heddle/control/tailnet/tailnettest"

	"github.com/google/go-cmp/cmp"
	"tailscale.com/types/key"
)

// inTwoWorlds runs a test with two processes that share a store.
func inTwoWorlds(t *testing.T, store tailnet.Store, mem *tailnettest.Store, fn func(a, b *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a, b := &world{t: t, store: mem}, &world{t: t, store: mem}
		for _, w := range []*world{a, b} {
			w.startOn(store, options)
			w.must(func(tx *tailnet.Tx) error { return tx.SetDNSPins(tailnet.DNSPins{BaseDomain: "example.net"}) })
		}
		fn(a, b)
		time.Sleep(time.Minute) // until everything soft is stored
		synctest.Wait()
		if diff := cmp.Diff(described(a.snap()), described(b.snap())); diff != "" {
			t.Errorf("the processes disagree (-a +b):\n%s", diff)
		}
		for _, w := range []*world{a, b} {
			if err := w.stop(); err != nil {
				t.Errorf("last flush: %v", err)
			}
		}
		c := &world{t: t, store: mem}
		c.startOn(store, options)
		c.must(func(tx *tailnet.Tx) error { return tx.SetDNSPins(tailnet.DNSPins{BaseDomain: "example.net"}) })
		if diff := cmp.Diff(described(a.snap()), described(c.snap())); diff != "" {
			t.Errorf("a third process sees something else (-a +c):\n%s", diff)
		}
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
}

// described is what a snapshot holds of what is stored, and finds by other names.
func described(s *tailnet.Snapshot) (out []string) {
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for n := range s.Nodes() {
		add("node %d %s %s %v %v owner %d tags %v approved %v expiry %v disco %v online %v seen %v", n.ID, n.Name, n.Key.ShortString(), n.Machine, n.Addrs,
			n.Owner, n.Tags, n.Approved, n.Expiry.UTC(), n.Report.Disco.ShortString(), n.Status.Online, n.Status.LastSeen.UTC())
		if s.NodeByName(n.Name) != n || s.NodeByKey(n.Key) != n || s.NodeByIP(n.Addrs.V4) != n || !slices.Contains(s.NodesByMachine(n.Machine), n) {
			add("node %d is not found by its name, key, address and machine", n.ID)
		}
	}
	for u := range s.Users() {
		add("user %d %s %s", u.ID, u.Name, u.Role)
	}
	for k := range s.AuthKeys() {
		add("auth key %d %s used %v revoked %v", k.ID, k.Public, k.Used.UTC(), k.Revoked.UTC())
	}
	for k := range s.APIKeys() {
		add("API key %d %s used %v revoked %v", k.ID, k.Public, k.LastUsed.UTC(), k.Revoked.UTC())
	}
	add("policy %d %s", s.Policy().Revision, s.Policy().ETag)
	add("dns %+v", *s.DNS())
	return out
}

func TestOthersChangesArriveAtOnce(t *testing.T) {
	mem := new(tailnettest.Store)
	inTwoWorlds(t, mem, mem, func(a, b *world) {
		u := a.user("alice")
		secret := a.authKey(tailnet.AuthKeySpec{Owner: u.ID, Reusable: true})
		n := a.router("router", secret, "10.1.0.0/24")
		synctest.Wait()
		b.approve(n.ID, "10.1.0.0/24")
		late := b.mustRegister(newDevice("late").registration(), secret)
		if late.ID != n.ID+1 || late.Addrs == n.Addrs {
			t.Errorf("node %d with %v follows node %d with %v", late.ID, late.Addrs, n.ID, n.Addrs)
		}
		synctest.Wait()
		if got := a.snap().Primaries().Of(prefixes("10.1.0.0/24")[0]); got != n.ID {
			t.Errorf("primary is %d", got)
		}
		b.must(func(tx *tailnet.Tx) error {
			return tailnettest.SetPolicy(tx, `{"acls": [{"action": "accept", "src": ["alice@"], "dst": ["*:*"]}]}`)
		})
		b.must(func(tx *tailnet.Tx) error { return tx.SetDNS(tailnet.DNS{Nameservers: []string{"9.9.9.9"}}) })
		b.must(func(tx *tailnet.Tx) error { return tx.DeleteNode(late.ID) })
		synctest.Wait()
		if a.snap().Tombstone(late.Key) == nil {
			t.Error("no tombstone")
		}
		// What one gives up the other may give: names change hands in one delta.
		a.must(func(tx *tailnet.Tx) error {
			if err := tx.RenameNode(n.ID, "old"); err != nil {
				return err
			}
			_, err := tx.RegisterWithAuthKey(newDevice("router").registration(), secret)
			return err
		})
		a.must(func(tx *tailnet.Tx) error { _, err := tx.CreateUser(tailnet.User{Name: "bob"}); return err })
		synctest.Wait()
		b.must(func(tx *tailnet.Tx) error { return tx.DeleteUser(2) })
	})
}

// What is soft goes with what others changed hard, whoever stores it.
func TestSoftAndOthersHard(t *testing.T) {
	mem := new(tailnettest.Store)
	inTwoWorlds(t, mem, mem, func(a, b *world) {
		secret := a.authKey(tailnet.AuthKeySpec{Owner: a.user("alice").ID, Reusable: true})
		d, gone := newDevice("laptop"), newDevice("gone")
		n, g := a.mustRegister(d.registration(), secret), a.mustRegister(gone.registration(), secret)
		var api *tailnet.APIKey
		a.must(func(tx *tailnet.Tx) (err error) {
			_, api, err = tx.CreateAPIKey(tailnet.APIKeySpec{Expires: tx.Now().Add(time.Hour)})
			return err
		})
		synctest.Wait()
		time.Sleep(2 * time.Minute)
		disco := key.NewDisco().Public()
		report := func(disco key.DiscoPublic) func(*tailnet.Tx) error {
			return func(tx *tailnet.Tx) error {
				return tx.Report(n.ID, tailnet.Update{Disco: disco, CapVer: 142, Hostinfo: d.host})
			}
		}
		a.connect(n.ID)
		a.must(report(disco))
		a.must(func(tx *tailnet.Tx) error {
			return tx.Report(g.ID, tailnet.Update{Disco: disco, CapVer: 142, Hostinfo: gone.host})
		})
		a.must(func(tx *tailnet.Tx) error { tx.TouchAPIKey(api.ID); return nil })
		commits := mem.Commits()
		b.must(func(tx *tailnet.Tx) error { return tx.RenameNode(n.ID, "desk") })
		b.must(func(tx *tailnet.Tx) error { return tx.DeleteNode(g.ID) })
		b.must(func(tx *tailnet.Tx) error { return tx.RevokeAPIKey(api.ID) })
		if got := mem.Commits(); got != commits+3 {
			t.Fatalf("%d commits: soft state was stored before the test got to it", got-commits)
		}
		synctest.Wait()
		time.Sleep(time.Minute)
		synctest.Wait()
		for name, w := range map[string]*world{"a": a, "b": b} {
			s := w.snap()
			if got := s.Node(n.ID); got.Name != "desk" || got.Report.Disco != disco || !got.Status.Online {
				t.Errorf("%s: node %s, %v, online %v", name, got.Name, got.Report.Disco, got.Status.Online)
			}
			if s.Node(g.ID) != nil {
				t.Errorf("%s: a deleted node came back", name)
			}
			if k := s.APIKey(api.ID); k.Revoked.IsZero() || k.LastUsed.IsZero() {
				t.Errorf("%s: key revoked %v, used %v", name, k.Revoked, k.LastUsed)
			}
		}
		// A newer report of the other is not overwritten by presence alone.
		other := key.NewDisco().Public()
		a.disconnect(n.ID)
		b.must(report(other))
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := a.snap().Node(n.ID); got.Report.Disco != other || got.Status.Online {
			t.Errorf("node has %v, online %v", got.Report.Disco, got.Status.Online)
		}
	})
}

// forgetful is a store that remembers no changes.
type forgetful struct{ *tailnettest.Store }

func (forgetful) Since(context.Context, string, tailnet.Seq) (*tailnet.Delta, tailnet.Seq, error) {
	return nil, 0, tailnet.ErrForgotten
}

// slow is a store that tells late when others commit: conflicts tell before.
type slow struct{ *tailnettest.Store }

func (slow) Watch(ctx context.Context, _ string, news func()) {
	tick := time.NewTicker(20 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			news()
		case <-ctx.Done():
			return
		}
	}
}

// Two processes that change one tailnet as fast as they can lose and double nothing.
func TestTwoProcessesHammer(t *testing.T) {
	for name, store := range map[string]func(*tailnettest.Store) tailnet.Store{
		"told":      func(s *tailnettest.Store) tailnet.Store { return s },
		"slow":      func(s *tailnettest.Store) tailnet.Store { return slow{s} },
		"forgetful": func(s *tailnettest.Store) tailnet.Store { return forgetful{s} },
	} {
		t.Run(name, func(t *testing.T) {
			mem := new(tailnettest.Store)
			inTwoWorlds(t, store(mem), mem, func(a, b *world) {
				const each = 150
				secret := a.authKey(tailnet.AuthKeySpec{Owner: a.user("alice").ID, Reusable: true, Expires: time.Now().Add(time.Hour)})
				b.user("bob") // a conflict, so that b knows the key
				before := len(mem.Audit())
				var wg sync.WaitGroup
				var done [2][3]int // by process: created, deleted, renamed
				for i, w := range []*world{a, b} {
					wg.Go(func() {
						random := rand.New(rand.NewPCG(uint64(i), 1))
						var mine []*tailnet.Node
						for j := range each {
							switch n := random.IntN(10); {
							case n < 5 || len(mine) == 0:
								mine = append(mine, w.mustRegister(newDevice(fmt.Sprint("host-", random.IntN(20))).registration(), secret))
								done[i][0]++
							case n < 7:
								w.must(func(tx *tailnet.Tx) error { return tx.DeleteNode(mine[0].ID) })
								mine = mine[1:]
								done[i][1]++
							case n < 8:
								w.must(func(tx *tailnet.Tx) error { return tx.RenameNode(mine[0].ID, fmt.Sprintf("fixed-%d-%d", i, j)) })
								done[i][2]++
							default:
								w.connect(mine[0].ID)
								w.disconnect(mine[0].ID)
							}
						}
					})
				}
				wg.Wait()
				time.Sleep(time.Minute) // until each has heard of the other
				s := a.snap()
				created, deleted, renamed := done[0][0]+done[1][0], done[0][1]+done[1][1], done[0][2]+done[1][2]
				if s.NumNodes() != created-deleted {
					t.Errorf("%d nodes after %d were created and %d deleted", s.NumNodes(), created, deleted)
				}
				if got := len(mem.Audit()) - before; got != created+deleted+renamed {
					t.Errorf("%d audit entries for %d changes", got, created+deleted+renamed)
				}
				ids, addrs, names := map[string]bool{}, map[string]bool{}, map[string]bool{}
				for _, e := range mem.Audit() {
					if e.Action == "node.create" {
						if ids[e.Target] {
							t.Errorf("%s was created twice", e.Target)
						}
						ids[e.Target] = true
						for _, c := range e.Changes {
							if c.Field == "addresses" {
								if addrs[c.To] {
									t.Errorf("the address %s was given twice", c.To)
								}
								addrs[c.To] = true
							}
						}
					}
				}
				for n := range s.Nodes() {
					if names[n.Name] {
						t.Errorf("two nodes are named %s", n.Name)
					}
					names[n.Name] = true
				}
				if mem.Tries() == mem.Commits() {
					t.Error("nothing conflicted: the test shows nothing")
				}
			})
		})
	}
}

// lossy is a store whose next answers get lost: what it was asked to do is done.
type lossy struct {
	*tailnettest.Store
	lose atomic.Bool
}

func (s *lossy) Commit(ctx context.Context, d *tailnet.Delta) error {
	err := s.Store.Commit(ctx, d)
	if s.lose.Load() && err == nil {
		return errors.New("connection reset by peer")
	}
	return err
}

// A commit that happened, and of which the writer was told that it did not, comes to light with the next.
func TestLostAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &lossy{Store: new(tailnettest.Store)}
		w := &world{t: t, store: store.Store}
		w.startOn(store, options)
		secret := w.authKey(tailnet.AuthKeySpec{Owner: w.user("alice").ID, Reusable: true})
		n := w.mustRegister(newDevice("laptop").registration(), secret)
		w.connect(n.ID)
		time.Sleep(time.Minute)
		w.disconnect(n.ID)
		store.lose.Store(true)
		wantCode(t, w.update(func(tx *tailnet.Tx) error { return tx.RenameNode(n.ID, "desk") }), tailnet.Unavailable)
		wantCode(t, w.update(func(tx *tailnet.Tx) error { _, err := tx.CreateUser(tailnet.User{Name: "bob"}); return err }), tailnet.Unavailable)
		store.lose.Store(false)
		if err := w.update(func(tx *tailnet.Tx) error { _, err := tx.CreateUser(tailnet.User{Name: "bob"}); return err }); tailnet.CodeOf(err) != tailnet.Conflict || !strings.Contains(err.Error(), "preauthkeys create --user 2") {
			t.Errorf("a user who was created, though nobody knew, was created again: %v", err)
		}
		if got := w.snap().Node(n.ID); got.Name != "desk" || !got.Status.Online {
			t.Errorf("node %s, online %v", got.Name, got.Status.Online)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if w.snap().Node(n.ID).Status.Online {
			t.Error("a node that left stays online")
		}
		w.connect(n.ID)
		if !w.snap().Node(n.ID).Status.Online {
			t.Error("a node that came is not online")
		}
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
}
