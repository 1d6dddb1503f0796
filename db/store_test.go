package db_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"heddle/control/tailnet"
	"heddle/db"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// equal compares what is stored; what is derived is left out.
var equal = cmp.Options{
	cmp.Comparer(func(a, b key.MachinePublic) bool { return a == b }),
	cmp.Comparer(func(a, b key.NodePublic) bool { return a == b }),
	cmp.Comparer(func(a, b key.DiscoPublic) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmpopts.IgnoreUnexported(tailnet.Status{}, tailnet.Report{}, tailnet.Policy{}),
}

func openAt(t testing.TB, path string) *db.DB {
	t.Helper()
	d, err := db.Open(t.Context(), db.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func openNew(t testing.TB) *db.DB {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "heddle.db"))
}

func load(t testing.TB, s tailnet.Store, name string) tailnet.Image {
	t.Helper()
	img, err := s.Load(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func commit(t testing.TB, s tailnet.Store, d *tailnet.Delta) {
	t.Helper()
	if err := s.Commit(t.Context(), d); err != nil {
		t.Fatal(err)
	}
}

// zeroFields lists the fields of a value that are not set, so that a field
// that the model gains cannot be left out of these tests.
func zeroFields(v reflect.Value, path string) []string {
	var out []string
	switch {
	case v.IsZero():
		return []string{path}
	case v.Kind() == reflect.Pointer:
		return zeroFields(v.Elem(), path)
	case v.Kind() == reflect.Struct && strings.HasPrefix(v.Type().PkgPath(), "heddle/"):
		for i := range v.NumField() {
			if !v.Type().Field(i).IsExported() {
				continue
			}
			out = append(out, zeroFields(v.Field(i), path+"."+v.Type().Field(i).Name)...)
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			out = append(out, zeroFields(v.Index(i), path)...)
		}
	}
	return out
}

func TestRoundTrip(t *testing.T) { everywhere(t, testRoundTrip) }

func testRoundTrip(t *testing.T, at engine) {
	delta, want := fullDelta()
	derived := map[string]bool{
		".Nodes.Status.Alive": true, ".Nodes.Status.Expired": true, ".Nodes.Status.Expiring": true,
		".Policy.Doc": true, ".Policy.Compiled": true, ".Policy.Err": true,
		".Settings.DNS.BaseDomain": true,
	}
	for _, path := range zeroFields(reflect.ValueOf(want), "") {
		if !derived[path] {
			t.Errorf("the test does not set %s", path)
		}
	}
	place := at(t)
	s := open(t, place)
	commit(t, s, delta)
	if diff := cmp.Diff(want, load(t, s, tailnet.Default), equal); diff != "" {
		t.Errorf("loaded (-want +got):\n%s", diff)
	}

	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, place)
	if diff := cmp.Diff(want, load(t, s, tailnet.Default), equal); diff != "" {
		t.Errorf("loaded after a restart (-want +got):\n%s", diff)
	}
	audit, next, err := s.Audit(t.Context(), tailnet.Default, tailnet.AuditQuery{})
	if err != nil || next != 0 {
		t.Errorf("audit: next %d, error %v", next, err)
	}
	if diff := cmp.Diff(testRecords(2, 1), audit); diff != "" {
		t.Errorf("audit (-want +got):\n%s", diff)
	}
}

// A thing with nothing but its identity comes back with nil, not with empty lists.
func TestRoundTripBare(t *testing.T) { everywhere(t, testRoundTripBare) }

func testRoundTripBare(t *testing.T, at engine) {
	s := open(t, at(t))
	full := testNode(5)
	n := &tailnet.Node{ID: 5, Machine: full.Machine, Key: full.Key, Report: &tailnet.Report{Hostinfo: &tailcfg.Hostinfo{}}}
	stone := &tailnet.Tombstone{Key: full.Key}
	d := nodes(0, n)
	d.Users.Put = map[tailnet.UserID]*tailnet.User{1: {ID: 1}}
	d.AuthKeys.Put = map[tailnet.AuthKeyID]*tailnet.AuthKey{1: {ID: 1}}
	d.APIKeys.Put = map[tailnet.APIKeyID]*tailnet.APIKey{1: {ID: 1}}
	d.Tombstones.Put = map[string]*tailnet.Tombstone{stone.Key.String(): stone}
	d.Settings, d.Policy = &tailnet.Settings{}, &tailnet.Policy{Revision: 1}
	d.Audit = []tailnet.AuditEntry{{}}
	commit(t, s, d)
	want := tailnet.Image{
		Seq: 1, LastID: tailnet.LastIDs{Node: 5}, Nodes: []*tailnet.Node{n}, Users: []*tailnet.User{{ID: 1}},
		AuthKeys: []*tailnet.AuthKey{{ID: 1}}, APIKeys: []*tailnet.APIKey{{ID: 1}},
		Tombstones: []*tailnet.Tombstone{stone}, Settings: &tailnet.Settings{}, Policy: &tailnet.Policy{Revision: 1},
	}
	if diff := cmp.Diff(want, load(t, s, tailnet.Default), equal); diff != "" {
		t.Errorf("loaded (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(tailnet.Image{}, load(t, s, "other"), equal); diff != "" {
		t.Errorf("a tailnet that was never committed to (-want +got):\n%s", diff)
	}
}

func TestCommitConflict(t *testing.T) { everywhere(t, testCommitConflict) }

func testCommitConflict(t *testing.T, at engine) {
	for _, tt := range []struct {
		name         string
		stored, base tailnet.Seq
		want         error
	}{
		{"first", 0, 0, nil},
		{"next", 2, 2, nil},
		{"from the future of nothing", 0, 3, tailnet.ErrConflict},
		{"behind", 2, 1, tailnet.ErrConflict},
		{"from nothing", 2, 0, tailnet.ErrConflict},
		{"ahead", 2, 3, tailnet.ErrConflict},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t, at(t))
			for i := range tt.stored {
				commit(t, s, nodes(i, testNode(1)))
			}
			before := load(t, s, tailnet.Default)
			d := nodes(tt.base, testNode(2))
			d.Audit = []tailnet.AuditEntry{testAudit(1)}
			if err := s.Commit(t.Context(), d); !errors.Is(err, tt.want) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			after := load(t, s, tailnet.Default)
			audit, _, err := s.Audit(t.Context(), tailnet.Default, tailnet.AuditQuery{})
			if err != nil {
				t.Fatal(err)
			}
			if tt.want == nil {
				if after.Seq != tt.base+1 || len(audit) != 1 {
					t.Errorf("sequence number %d, %d audit entries after a commit on %d", after.Seq, len(audit), tt.base)
				}
				return
			}
			if diff := cmp.Diff(before, after, equal); diff != "" || len(audit) != 0 {
				t.Errorf("a refused commit left %d audit entries and (-before +after):\n%s", len(audit), diff)
			}
		})
	}
}

// What the model promises to be unique is refused as a whole commit, and the
// next one works.
func TestUniqueAndAtomic(t *testing.T) { everywhere(t, testUniqueAndAtomic) }

func testUniqueAndAtomic(t *testing.T, at engine) {
	for name, spoil := range map[string]func(d *tailnet.Delta){
		"node key": func(d *tailnet.Delta) { d.Nodes.Put[3].Key = testNode(1).Key },
		"ipv4":     func(d *tailnet.Delta) { d.Nodes.Put[3].Addrs.V4 = testNode(1).Addrs.V4 },
		"ipv6":     func(d *tailnet.Delta) { d.Nodes.Put[3].Addrs.V6 = testNode(1).Addrs.V6 },
		"name":     func(d *tailnet.Delta) { d.Nodes.Put[3].Name = testNode(1).Name },
		"user name": func(d *tailnet.Delta) {
			u := testUser(8)
			u.Name = testUser(7).Name
			d.Users.Put = map[tailnet.UserID]*tailnet.User{8: u}
		},
		"auth key": func(d *tailnet.Delta) {
			k := testAuthKey(10)
			k.Public = testAuthKey(9).Public
			d.AuthKeys.Put = map[tailnet.AuthKeyID]*tailnet.AuthKey{10: k}
		},
		"API key": func(d *tailnet.Delta) {
			k := testAPIKey(10)
			k.Public = testAPIKey(3).Public
			d.APIKeys.Put = map[tailnet.APIKeyID]*tailnet.APIKey{10: k}
		},
		"not unique but unstorable": func(d *tailnet.Delta) { d.Nodes.Put[3].Expiry = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"unstorable audit entry":    func(d *tailnet.Delta) { d.Audit[0].At = time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, at(t))
			first, want := fullDelta()
			commit(t, s, first)
			bad := nodes(1, testNode(3))
			bad.Users.Drop = map[tailnet.UserID]bool{99: true}
			bad.Tombstones.Drop = map[string]bool{want.Tombstones[0].Key.String(): true}
			bad.Settings = &tailnet.Settings{}
			bad.Audit = []tailnet.AuditEntry{testAudit(3)}
			spoil(bad)
			err := s.Commit(t.Context(), bad)
			if tailnet.CodeOf(err) != tailnet.Internal || err == nil || errors.Is(err, tailnet.ErrConflict) {
				t.Errorf("error %v", err)
			}
			if diff := cmp.Diff(want, load(t, s, tailnet.Default), equal); diff != "" {
				t.Errorf("after a failed commit (-want +got):\n%s", diff)
			}
			commit(t, s, nodes(1, testNode(4)))
			// Another tailnet has names of its own.
			other, _ := fullDelta()
			other.Tailnet = "other"
			commit(t, s, other)
		})
	}
}

// Merged deltas may hold two nodes that swapped what must be unique, or a
// node that took over the name of a dropped one.
func TestSwap(t *testing.T) { everywhere(t, testSwap) }

func testSwap(t *testing.T, at engine) {
	s := open(t, at(t))
	commit(t, s, nodes(0, testNode(1), testNode(2), testNode(3)))
	a, b, c := testNode(1), testNode(2), testNode(4)
	a.Name, b.Name = b.Name, a.Name
	a.Addrs, b.Addrs = b.Addrs, a.Addrs
	a.Key, b.Key = b.Key, a.Key
	c.Name = "node-3"
	d := nodes(1, a, b, c)
	d.Nodes.Drop = map[tailnet.NodeID]bool{3: true}
	commit(t, s, d)
	if diff := cmp.Diff([]*tailnet.Node{a, b, c}, load(t, s, tailnet.Default).Nodes, equal); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
}

func TestPutAndDrop(t *testing.T) { everywhere(t, testPutAndDrop) }

func testPutAndDrop(t *testing.T, at engine) {
	s := open(t, at(t))
	first, want := fullDelta()
	commit(t, s, first)
	first.Tailnet = "other"
	commit(t, s, first)

	d := &tailnet.Delta{Tailnet: tailnet.Default, Base: 1, LastID: tailnet.LastIDs{Node: 20, User: 21, AuthKey: 22, APIKey: 23}}
	d.Nodes.Drop = map[tailnet.NodeID]bool{1: true, 1000: true}
	d.Users.Drop = map[tailnet.UserID]bool{7: true}
	d.AuthKeys.Drop = map[tailnet.AuthKeyID]bool{9: true}
	d.APIKeys.Drop = map[tailnet.APIKeyID]bool{3: true}
	d.Tombstones.Drop = map[string]bool{want.Tombstones[0].Key.String(): true}
	commit(t, s, d)
	empty := tailnet.Image{Seq: 2, LastID: d.LastID, Settings: want.Settings, Policy: want.Policy}
	if diff := cmp.Diff(empty, load(t, s, tailnet.Default), equal); diff != "" {
		t.Errorf("after the drops (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, load(t, s, "other"), equal); diff != "" {
		t.Errorf("the other tailnet (-want +got):\n%s", diff)
	}

	first.Tailnet, first.Base = tailnet.Default, 2
	first.Policy = &tailnet.Policy{Source: "{}", ETag: "e2", Updated: moment.Add(-time.Hour), By: "x", Revision: 3}
	commit(t, s, first)
	want.Seq, want.Policy = 3, first.Policy
	if diff := cmp.Diff(want, load(t, s, tailnet.Default), equal); diff != "" {
		t.Errorf("put again (-want +got):\n%s", diff)
	}
}

// More rows than fit into one statement.
func TestManyRows(t *testing.T) { everywhere(t, testManyRows) }

func testManyRows(t *testing.T, at engine) {
	const many = 1203
	s := open(t, at(t))
	var all []*tailnet.Node
	for id := 1; id <= many; id++ {
		all = append(all, testNode(id))
	}
	d := nodes(0, all...)
	for i := range many {
		d.Audit = append(d.Audit, testAudit(i))
	}
	commit(t, s, d)
	if diff := cmp.Diff(all, load(t, s, tailnet.Default).Nodes, equal); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
	d = nodes(1)
	d.Nodes.Drop = map[tailnet.NodeID]bool{}
	for _, n := range all {
		d.Nodes.Drop[n.ID] = true
	}
	commit(t, s, d)
	if left := load(t, s, tailnet.Default).Nodes; len(left) != 0 {
		t.Errorf("%d nodes left", len(left))
	}
}

func TestCommitLeavesDeltaAlone(t *testing.T) { everywhere(t, testCommitLeavesDeltaAlone) }

func testCommitLeavesDeltaAlone(t *testing.T, at engine) {
	s := open(t, at(t))
	d, _ := fullDelta()
	same, _ := fullDelta()
	commit(t, s, d)
	if diff := cmp.Diff(same, d, equal); diff != "" {
		t.Errorf("commit changed the delta:\n%s", diff)
	}
}

func TestEndedContext(t *testing.T) { everywhere(t, testEndedContext) }

func testEndedContext(t *testing.T, at engine) {
	s := open(t, at(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Commit(ctx, nodes(0, testNode(1))); !errors.Is(err, context.Canceled) {
		t.Errorf("commit: %v", err)
	}
	if _, err := s.Load(ctx, tailnet.Default); !errors.Is(err, context.Canceled) {
		t.Errorf("load: %v", err)
	}
	if err := s.Ping(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("ping: %v", err)
	}
	if _, _, err := s.Audit(ctx, tailnet.Default, tailnet.AuditQuery{}); !errors.Is(err, context.Canceled) {
		t.Errorf("audit: %v", err)
	}
	if got := load(t, s, tailnet.Default).Seq; got != 0 {
		t.Errorf("sequence number %d", got)
	}
}

func TestAuditPages(t *testing.T) { everywhere(t, testAuditPages) }

func testAuditPages(t *testing.T, at engine) {
	const total = 2*1000 + 5
	s := open(t, at(t))
	for base, from := tailnet.Seq(0), 0; from < total; base, from = base+1, from+401 {
		d := nodes(base)
		for i := from; i < min(from+401, total); i++ {
			d.Audit = append(d.Audit, testAudit(i))
		}
		commit(t, s, d)
	}
	for _, tt := range []struct{ limit, pages int }{{0, 3}, {-1, 3}, {5000, 3}, {401, 5}, {5, 401}, {2005, 3}} {
		var got []tailnet.AuditRecord
		pages := 0
		for before := int64(0); pages == 0 || before != 0; pages++ {
			page, next, err := s.Audit(t.Context(), tailnet.Default, tailnet.AuditQuery{Limit: tt.limit, Before: before})
			if err != nil {
				t.Fatal(err)
			}
			got, before = append(got, page...), next
		}
		slices.Reverse(got)
		inOrder := slices.IsSortedFunc(got, func(a, b tailnet.AuditRecord) int { return a.At.Compare(b.At) })
		if pages != tt.pages || len(got) != total || !inOrder {
			t.Errorf("limit %d: %d entries on %d pages, in order: %t; want %d on %d", tt.limit, len(got), pages, inOrder, total, tt.pages)
		}
	}
	if page, next, err := s.Audit(t.Context(), "other", tailnet.AuditQuery{}); err != nil || len(page) != 0 || next != 0 {
		t.Errorf("another tailnet: %d entries, next %d, %v", len(page), next, err)
	}
}

func TestPolicyHistory(t *testing.T) { everywhere(t, testPolicyHistory) }

func testPolicyHistory(t *testing.T, at engine) {
	s := open(t, at(t))
	var want []*tailnet.Policy
	for i := range 60 {
		d := nodes(tailnet.Seq(i))
		if i%2 == 0 {
			d.Policy = &tailnet.Policy{Source: fmt.Sprintf("{} // ü %d", i), ETag: fmt.Sprint(i), Updated: moment, By: "z", Revision: tailnet.Seq(i + 1)}
			want = append(want, d.Policy)
		}
		commit(t, s, d)
	}
	slices.Reverse(want)
	if diff := cmp.Diff(want[0], load(t, s, tailnet.Default).Policy, equal); diff != "" {
		t.Errorf("newest (-want +got):\n%s", diff)
	}
	first, next, err := s.Policies(t.Context(), tailnet.Default, 20, 0)
	if err != nil || next == 0 {
		t.Fatalf("next %d, %v", next, err)
	}
	second, next, err := s.Policies(t.Context(), tailnet.Default, 20, next)
	if err != nil || next != 0 {
		t.Fatalf("next %d, %v", next, err)
	}
	var versions []tailnet.PolicyVersion
	for _, p := range want {
		versions = append(versions, tailnet.PolicyVersion{Revision: p.Revision, ETag: p.ETag, Updated: p.Updated, By: p.By, Size: len(p.Source)})
	}
	if diff := cmp.Diff(versions, append(first, second...)); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
	for _, c := range []struct {
		revision int64
		etag     string
		want     *tailnet.Policy
	}{
		{int64(want[3].Revision), "", want[3]},
		{int64(want[3].Revision) + 1, "", nil},
		{0, want[3].ETag, want[3]},
		{0, "5", want[0]}, // the newest of those that begin so
		{0, "%", nil},
	} {
		got, err := s.Policy(t.Context(), tailnet.Default, c.revision, c.etag)
		if diff := cmp.Diff(c.want, got, equal); diff != "" || err != nil {
			t.Errorf("revision %d, etag %q: %v (-want +got):\n%s", c.revision, c.etag, err, diff)
		}
	}
}

// Readers see whole commits while the writer goes on.
func TestReadWhileCommitting(t *testing.T) { everywhere(t, testReadWhileCommitting) }

func testReadWhileCommitting(t *testing.T, at engine) {
	const commits = 60
	s := open(t, at(t))
	done := make(chan error)
	stop := make(chan struct{})
	for range 3 {
		go func() {
			for {
				img, err := s.Load(context.Background(), tailnet.Default)
				if err == nil && len(img.Nodes) != int(img.Seq) {
					err = fmt.Errorf("%d nodes at commit %d", len(img.Nodes), img.Seq)
				}
				if err != nil {
					done <- err
					return
				}
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
			}
		}()
	}
	for i := range commits {
		commit(t, s, nodes(tailnet.Seq(i), testNode(i+1)))
	}
	close(stop)
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
