package db_test

import (
	"slices"
	"testing"
	"time"

	"heddle/control/tailnet"
	"heddle/db"

	"github.com/google/go-cmp/cmp"
)

func TestAuditFilters(t *testing.T) { everywhere(t, testAuditFilters) }

func testAuditFilters(t *testing.T, at engine) {
	s := open(t, at(t))
	start := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	alice := tailnet.Actor{Kind: tailnet.ByUser, Name: "Alice", From: "192.0.2.1"}
	root := tailnet.Actor{Kind: tailnet.LocalCLI, Name: "root", Reason: "100% sure"}
	d := nodes(0)
	for i, e := range []tailnet.AuditEntry{
		{Actor: root, Action: "node.create", Target: "node 1 (laptop)"},
		{Actor: alice, Action: "node.delete", Target: "node 1 (laptop)"},
		{Actor: alice, Action: "nodes.other", Target: "50%_done"},
		{Actor: root, Action: "policy.set", Target: "policy"},
		{Actor: root, Action: "node.create", Target: "node 10 (LAPTOP-2)"},
	} {
		e.At = start.Add(time.Duration(i) * time.Hour)
		d.Audit = append(d.Audit, e)
	}
	commit(t, s, d)
	for _, tt := range []struct {
		name string
		q    tailnet.AuditQuery
		want []int64
	}{
		{"all", tailnet.AuditQuery{}, []int64{5, 4, 3, 2, 1}},
		{"oldest first", tailnet.AuditQuery{Oldest: true}, []int64{1, 2, 3, 4, 5}},
		{"after", tailnet.AuditQuery{Oldest: true, After: 3}, []int64{4, 5}},
		{"before", tailnet.AuditQuery{Before: 3}, []int64{2, 1}},
		{"actor by name, in any case", tailnet.AuditQuery{Actor: "ALICE"}, []int64{3, 2}},
		{"actor by address", tailnet.AuditQuery{Actor: "192.0.2."}, []int64{3, 2}},
		{"actor by kind", tailnet.AuditQuery{Actor: "local-cli"}, []int64{5, 4, 1}},
		{"action", tailnet.AuditQuery{Action: "node.create"}, []int64{5, 1}},
		{"first part of an action", tailnet.AuditQuery{Action: "node"}, []int64{5, 2, 1}},
		{"not a part of a word", tailnet.AuditQuery{Action: "nod"}, nil},
		{"target, in any case", tailnet.AuditQuery{Target: "(laptop"}, []int64{5, 2, 1}},
		{"characters of patterns", tailnet.AuditQuery{Target: "%_"}, []int64{3}},
		{"more such characters", tailnet.AuditQuery{Target: `\`}, nil},
		{"since", tailnet.AuditQuery{Since: start.Add(3 * time.Hour)}, []int64{5, 4}},
		{"until", tailnet.AuditQuery{Until: start.Add(time.Hour)}, []int64{1}},
		{"all at once", tailnet.AuditQuery{Actor: "root", Action: "node", Target: "laptop", Since: start.Add(time.Minute)}, []int64{5}},
	} {
		page, next, err := s.Audit(t.Context(), tailnet.Default, tt.q)
		var got []int64
		for _, e := range page {
			got = append(got, e.ID)
		}
		if err != nil || next != 0 || !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, next %d, %v; want %v", tt.name, got, next, err, tt.want)
		}
	}
	page, next, err := s.Audit(t.Context(), tailnet.Default, tailnet.AuditQuery{Oldest: true, Action: "node", Limit: 2})
	if err != nil || len(page) != 2 || next != 2 {
		t.Errorf("a page of two: %v, next %d, %v", page, next, err)
	}
	if diff := cmp.Diff(d.Audit[0], page[0].AuditEntry); diff != "" {
		t.Errorf("entry (-want +got):\n%s", diff)
	}
	_, _, err = s.Audit(t.Context(), tailnet.Default, tailnet.AuditQuery{Since: time.Date(123456, 1, 1, 0, 0, 0, 0, time.UTC)})
	wantError(t, err, tailnet.Invalid, "time")
}

func TestPruneAudit(t *testing.T) { everywhere(t, testPruneAudit) }

func testPruneAudit(t *testing.T, at engine) {
	s := open(t, at(t))
	start := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	d := nodes(0)
	for i := range 1203 {
		e := testAudit(i)
		e.At = start.Add(time.Duration(i) * time.Second)
		d.Audit = append(d.Audit, e)
	}
	commit(t, s, d)
	if gone, err := s.PruneAudit(t.Context(), tailnet.Default, start.Add(1200*time.Second)); err != nil || gone != 1200 {
		t.Fatalf("%d went, %v", gone, err)
	}
	page, _, err := s.Audit(t.Context(), tailnet.Default, tailnet.AuditQuery{})
	if err != nil || len(page) != 3 || page[0].ID != 1203 {
		t.Errorf("%d are left, %v", len(page), err)
	}
	// Numbers are not used again.
	next := nodes(1)
	next.Audit = []tailnet.AuditEntry{testAudit(1)}
	commit(t, s, next)
	page, _, err = s.Audit(t.Context(), tailnet.Default, tailnet.AuditQuery{Limit: 1})
	if err != nil || len(page) != 1 || page[0].ID != 1204 {
		t.Errorf("the next entry is %v, %v", page, err)
	}
}

func TestWebhookPositions(t *testing.T) { everywhere(t, testWebhookPositions) }

func testWebhookPositions(t *testing.T, at engine) {
	s := open(t, at(t))
	commit(t, s, nodes(0))
	claim := func(webhook string, want int64) {
		t.Helper()
		got, mine, err := s.ClaimWebhook(t.Context(), tailnet.Default, webhook, time.Now().Add(time.Hour))
		if err != nil || !mine || got != want {
			t.Errorf("webhook %s is at %d, mine: %v, %v; want %d", webhook, got, mine, err, want)
		}
	}
	move := func(webhook string, position int64) {
		t.Helper()
		if err := s.MoveWebhook(t.Context(), tailnet.Default, webhook, position); err != nil {
			t.Fatal(err)
		}
	}
	claim("a", 0)
	claim("b", 0)
	move("a", 7)
	move("b", 8)
	claim("a", 7)
	move("a", 9)
	claim("a", 9)
	claim("b", 8)
	if err := s.ForgetWebhook(t.Context(), tailnet.Default, "a"); err != nil {
		t.Fatal(err)
	}
	wantError(t, s.MoveWebhook(t.Context(), tailnet.Default, "a", 10), tailnet.Conflict, "another server")
	claim("a", 0)
}

// Of servers that share a database one delivers, until its claim is over.
func TestWebhookClaims(t *testing.T) {
	at := onPostgres(t)(t)
	commit(t, open(t, at), nodes(0))
	later := at
	later.Now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	first, second, third := open(t, at), open(t, at), open(t, later)
	claim := func(s *db.DB, position int64, mine bool) {
		t.Helper()
		got, ok, err := s.ClaimWebhook(t.Context(), tailnet.Default, "w", time.Now().Add(time.Hour))
		if err != nil || ok != mine || got != position {
			t.Errorf("claimed: %v at %d, %v; want %v at %d", ok, got, err, mine, position)
		}
	}
	claim(first, 0, true)
	claim(second, 0, false)
	if err := first.MoveWebhook(t.Context(), tailnet.Default, "w", 5); err != nil {
		t.Error(err)
	}
	wantError(t, second.MoveWebhook(t.Context(), tailnet.Default, "w", 6), tailnet.Conflict, "another server")
	claim(first, 5, true)
	claim(third, 5, true) // for which the claim is over
	claim(first, 0, false)
}
