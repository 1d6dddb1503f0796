package db_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"heddle/control/tailnet"
	"heddle/db"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

var admin = tailnet.Actor{Kind: tailnet.LocalCLI, Name: "test"}

// process is a State that runs, as in a server of its own.
type process struct {
	*tailnet.State
	store *db.DB
	stop  func() error
}

func startProcess(t *testing.T, o db.Options) *process {
	t.Helper()
	p := &process{store: open(t, o)}
	var err error
	p.State, err = tailnet.Open(t.Context(), p.store, tailnet.Options{OnlineGrace: time.Second, EphemeralTimeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	p.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { p.stop() })
	return p
}

func (p *process) update(fn func(*tailnet.Tx) error) error {
	_, err := p.Update(context.Background(), admin, fn)
	return err
}

// await waits until the process shows what is wanted.
func (p *process) await(t *testing.T, what string, shown func(*tailnet.Snapshot) bool) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for s := p.Snapshot(); !shown(s); s = p.Snapshot() {
		select {
		case <-s.Superseded():
		case <-limit:
			t.Fatalf("it never comes that %s", what)
		}
	}
}

func register(name string, got **tailnet.Node) func(*tailnet.Tx) error {
	r := tailnet.Registration{
		Machine: key.NewMachine().Public(), Key: key.NewNode().Public(), CapVer: 142,
		Hostinfo: &tailcfg.Hostinfo{Hostname: name, OS: "linux"},
	}
	return func(tx *tailnet.Tx) (err error) {
		*got, err = tx.RegisterForUser(r, 1, tailnet.ByCLI)
		return err
	}
}

// Two servers on one database, each with several callers, lose and double nothing: every
// change that was acknowledged is there, and the audit log tells of exactly these.
func TestTwoServersHammer(t *testing.T) {
	const callers, each = 3, 40
	place := onPostgres(t)(t)
	servers := []*process{startProcess(t, place), startProcess(t, place)}
	if err := servers[0].update(func(tx *tailnet.Tx) error { _, err := tx.CreateUser(tailnet.User{Name: "alice"}); return err }); err != nil {
		t.Fatal(err)
	}
	servers[1].await(t, "the other's user arrives", func(s *tailnet.Snapshot) bool { return s.User(1) != nil })
	var wg sync.WaitGroup
	var created, deleted, renamed atomic.Int64
	var names sync.Map // of renamed nodes that are there, by ID
	for i, p := range servers {
		for j := range callers {
			wg.Go(func() {
				for k := range each {
					var n *tailnet.Node
					fail := func(what string, err error) bool {
						if err != nil {
							t.Errorf("%s: %v", what, err)
						}
						return err != nil
					}
					if fail("register", p.update(register(fmt.Sprint("host-", k%5), &n))) {
						return
					}
					created.Add(1)
					// Reports are soft: they must not undo what the other server does.
					fail("connect", p.update(func(tx *tailnet.Tx) error { return tx.Connect(n.ID) }))
					other := servers[(i+k)%2]
					other.await(t, "the node arrives", func(s *tailnet.Snapshot) bool { return s.Node(n.ID) != nil })
					switch k % 3 {
					case 0:
						if !fail("delete", other.update(func(tx *tailnet.Tx) error { return tx.DeleteNode(n.ID) })) {
							deleted.Add(1)
						}
					case 1:
						name := fmt.Sprintf("fixed-%d-%d-%d", i, j, k)
						if !fail("rename", other.update(func(tx *tailnet.Tx) error { return tx.RenameNode(n.ID, name) })) {
							renamed.Add(1)
							names.Store(n.ID, name)
						}
					}
				}
			})
		}
	}
	wg.Wait()
	for _, p := range servers {
		if err := p.stop(); err != nil {
			t.Errorf("last flush: %v", err)
		}
	}
	img := load(t, servers[0].store, tailnet.Default)
	if got, want := len(img.Nodes), int(created.Load()-deleted.Load()); got != want {
		t.Errorf("%d nodes are stored, %d were made and not deleted", got, want)
	}
	for _, n := range img.Nodes {
		if want, ok := names.Load(n.ID); ok && n.Name != want {
			t.Errorf("node %d is named %s, not %s", n.ID, n.Name, want)
		}
	}
	var entries []tailnet.AuditRecord
	for before, page := int64(0), []tailnet.AuditRecord(nil); before != 0 || entries == nil; entries = append(entries, page...) {
		var err error
		if page, before, err = servers[1].store.Audit(t.Context(), tailnet.Default, tailnet.AuditQuery{Before: before}); err != nil {
			t.Fatal(err)
		}
	}
	count := map[string]int{}
	given := map[string]string{}
	for _, e := range entries {
		count[e.Action]++
		if e.Action != "node.create" {
			continue
		}
		for _, c := range e.Changes {
			if c.Field == "addresses" && given[c.To] != "" {
				t.Errorf("%s and %s were given the address %s", e.Target, given[c.To], c.To)
			} else if c.Field == "addresses" {
				given[c.To] = e.Target
			}
		}
	}
	want := map[string]int{"user.create": 1, "node.create": int(created.Load()), "node.delete": int(deleted.Load()), "node.rename": int(renamed.Load())}
	for action, n := range want {
		if count[action] != n {
			t.Errorf("the audit log has %d of %s, %d were acknowledged", count[action], action, n)
		}
	}
	if len(count) != len(want) {
		t.Errorf("the audit log holds %v", count)
	}
}
