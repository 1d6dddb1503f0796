package crash_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"heddle/control/tailnet"
	"heddle/db"
	v1 "heddle/proto/heddle/v1"
)

// A ledger is what the callers of a server know: what it acknowledged, and what was under
// way when it died.
type ledger struct {
	mu        sync.Mutex
	nodes     map[string]*record // by node key
	acked     map[string]int     // changes by action of the audit log
	asked     map[string]int     // acknowledged or not
	count     int                // of devices
	strangers map[string]bool    // node keys that are none of its business
}

func (l *ledger) acknowledged(action string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked[action]
}

// record is what is known of one node. A nil field was never acknowledged; what is unsure was
// asked for last and not acknowledged, and so may be or not.
type record struct {
	acked   bool // the login
	id      int64
	addrs   string
	name    *string
	route   *netip.Prefix
	deleted bool
	unsure  map[string]bool // actions
}

func newLedger() *ledger {
	return &ledger{nodes: map[string]*record{}, acked: map[string]int{}, asked: map[string]int{}}
}

// do runs one change and notes what became of it.
func (l *ledger) do(r *record, action string, change func() error, acked func()) error {
	l.mu.Lock()
	l.asked[action]++
	r.unsure[action] = true
	l.mu.Unlock()
	err := change()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		return err
	}
	l.acked[action]++
	delete(r.unsure, action)
	acked()
	return nil
}

// storm lets some callers log devices in, approve, rename and delete until ctx ends or the server is gone.
func (l *ledger) storm(ctx context.Context, s *server, callers int) {
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for ctx.Err() == nil && l.one(ctx, s) == nil {
			}
		})
	}
	wg.Wait()
}

// one is the life of a device.
func (l *ledger) one(ctx context.Context, s *server) error {
	d := s.device(fmt.Sprint("host-", rand.IntN(10)))
	defer d.close()
	r := &record{unsure: map[string]bool{}}
	l.mu.Lock()
	l.nodes[d.node.Public().String()] = r
	l.count++
	number := l.count
	l.mu.Unlock()
	if err := l.do(r, "node.create", func() error { return d.login(ctx, s.secret) }, func() { r.acked = true }); err != nil {
		return err
	}
	self, err := d.self(ctx)
	if err != nil {
		return err
	}
	l.mu.Lock()
	r.id, r.addrs = int64(self.ID), fmt.Sprint(self.Addresses)
	l.mu.Unlock()
	ref := fmt.Sprint(r.id)
	route := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(number >> 8), byte(number), 0}), 24)
	if err := d.advertise(ctx, route); err != nil {
		return err
	}
	err = l.do(r, "routes.approve", func() error {
		_, err := s.nodes().SetApprovedRoutes(ctx, &v1.SetApprovedRoutesRequest{Node: ref, Routes: []string{route.String()}, Force: true})
		return err
	}, func() { r.route = &route })
	if err != nil {
		return err
	}
	switch rand.IntN(4) {
	case 0:
		name := fmt.Sprintf("fixed-%d", number)
		return l.do(r, "node.rename", func() error {
			_, err := s.nodes().RenameNode(ctx, &v1.RenameNodeRequest{Node: ref, NewName: name})
			return err
		}, func() { r.name = &name })
	case 1:
		return l.do(r, "node.delete", func() error {
			_, err := s.nodes().DeleteNode(ctx, &v1.DeleteNodeRequest{Node: ref})
			return err
		}, func() { r.deleted = true })
	}
	return nil
}

// verify compares the ledger with what is stored, while the server does not run.
func (l *ledger) verify(t *testing.T, o db.Options) {
	t.Helper()
	store, err := db.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	img, err := store.Load(t.Context(), tailnet.Default)
	if err != nil {
		t.Fatal(err)
	}
	stored := map[string]*tailnet.Node{}
	for _, n := range img.Nodes {
		stored[n.Key.String()] = n
	}
	for key, r := range l.nodes {
		l.verifyNode(t, r, stored[key])
		delete(stored, key)
	}
	for key, n := range stored {
		if l.strangers[key] {
			continue
		}
		t.Errorf("node %d (%s) is stored, which nobody asked for", n.ID, n.Name)
	}
	l.verifyAudit(t, store, img)
}

func (l *ledger) verifyNode(t *testing.T, r *record, n *tailnet.Node) {
	t.Helper()
	switch {
	case n == nil && r.acked && !r.deleted && !r.unsure["node.delete"]:
		t.Errorf("node %d is lost", r.id)
	case n == nil:
	case r.deleted:
		t.Errorf("node %d is back", n.ID)
	case r.id != 0 && (int64(n.ID) != r.id || fmt.Sprint(n.Addrs.Prefixes()) != r.addrs):
		t.Errorf("node %d with %v was node %d with %s", n.ID, n.Addrs, r.id, r.addrs)
	case r.name != nil && n.Name != *r.name:
		t.Errorf("node %d is named %s, not %s", n.ID, n.Name, *r.name)
	case r.route != nil && !slices.Equal(n.Approved, []netip.Prefix{*r.route}):
		t.Errorf("node %d has the routes %v, not %v", n.ID, n.Approved, *r.route)
	}
}

// replayed is a node as the audit log tells of it.
type replayed map[string]string

// verifyAudit plays the audit log and compares the outcome with the nodes.
func (l *ledger) verifyAudit(t *testing.T, store *db.DB, img tailnet.Image) {
	t.Helper()
	var log []tailnet.AuditRecord
	for before, first := int64(0), true; first || before != 0; first = false {
		page, next, err := store.Audit(t.Context(), tailnet.Default, tailnet.AuditQuery{Before: before})
		if err != nil {
			t.Fatal(err)
		}
		log, before = append(log, page...), next
	}
	slices.Reverse(log)
	count, given, nodes := map[string]int{}, map[string]string{}, map[string]replayed{}
	for _, e := range log {
		count[e.Action]++
		if !strings.HasPrefix(e.Target, "node ") {
			continue
		}
		id := strings.Fields(e.Target)[1]
		switch {
		case e.Action == "node.create" && nodes[id] != nil:
			t.Errorf("node %s was created twice", id)
		case e.Action == "node.create":
			nodes[id] = replayed{}
		case nodes[id] == nil:
			t.Errorf("%s of node %s, which was not there", e.Action, id)
			continue
		case e.Action == "node.delete":
			nodes[id] = nil
			continue
		}
		for _, c := range e.Changes {
			if c.Field == "addresses" && given[c.To] != "" {
				t.Errorf("the address %s was given to node %s and to node %s", c.To, given[c.To], id)
			} else if c.Field == "addresses" {
				given[c.To] = id
			}
			nodes[id][c.Field] = c.To
		}
	}
	maps.DeleteFunc(nodes, func(_ string, n replayed) bool { return n == nil })
	for _, n := range img.Nodes {
		want := nodes[fmt.Sprint(n.ID)]
		routes := make([]string, len(n.Approved))
		for i, r := range n.Approved {
			routes[i] = r.String()
		}
		if want == nil || want["name"] != n.Name || want["key"] != n.Key.String() || want["approvedRoutes"] != strings.Join(routes, ",") {
			t.Errorf("the audit log tells of node %d: %v; stored is %s, %v, %v", n.ID, want, n.Name, n.Key, n.Approved)
		}
		delete(nodes, fmt.Sprint(n.ID))
	}
	for id := range nodes {
		t.Errorf("the audit log tells of node %s, which is not stored", id)
	}
	for action, asked := range l.asked {
		if n := count[action]; n < l.acked[action] || n > asked {
			t.Errorf("the audit log has %d of %s; %d were acknowledged and %d asked for", n, action, l.acked[action], asked)
		}
	}
}
