package db_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"heddle/control/tailnet"
	"heddle/db"
	"heddle/db/pgserver"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"
)

// sqlAt runs SQL on a PostgreSQL database as another program would.
func sqlAt(t testing.TB, url string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, s := range statements {
		if _, err := conn.Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func TestPostgresRefuses(t *testing.T) {
	at := onPostgres(t)
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, url string) string
		code  tailnet.Code
		words []string
	}{
		{"a newer database", func(t *testing.T, url string) string {
			open(t, db.Options{URL: url}).Close()
			sqlAt(t, url, `INSERT INTO heddle_migrations VALUES (4711, 'from the future', NULL)`)
			return url
		}, tailnet.Conflict, []string{"newer", "4711", "backup"}},
		{"another program's database", func(t *testing.T, url string) string {
			sqlAt(t, url, `CREATE TABLE users (id INTEGER)`)
			return url
		}, tailnet.Conflict, []string{"another program", `"users"`}},
		{"no such database", func(t *testing.T, url string) string {
			return strings.Replace(url, "/test", "/none", 1)
		}, tailnet.NotFound, []string{"createdb", "none"}},
		{"no server", func(t *testing.T, url string) string {
			return "postgres://u:hunter2@127.0.0.1:1/x"
		}, tailnet.Unavailable, []string{"cannot be reached", "127.0.0.1:1"}},
		{"not a URL", func(t *testing.T, url string) string {
			return "postgres://u:hunter2@[::1/x"
		}, tailnet.Invalid, []string{"postgres://"}},
		{"a CA file that is not there", func(t *testing.T, url string) string {
			return "postgres://u:hunter2@localhost/x?sslmode=verify-full&sslrootcert=/none"
		}, tailnet.Invalid, []string{"/none"}},
		{"another encoding", func(t *testing.T, url string) string {
			sqlAt(t, url, `CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0`)
			return postgres.server.URL("latin")
		}, tailnet.Invalid, []string{"LATIN1", "UTF8"}},
		{"no rights", func(t *testing.T, url string) string {
			sqlAt(t, url, `CREATE ROLE guest LOGIN`, `REVOKE CREATE ON SCHEMA public FROM PUBLIC`)
			return strings.Replace(url, "heddle@", "guest@", 1)
		}, tailnet.Denied, []string{"owner"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			url := tt.spoil(t, at(t).URL)
			_, err := db.Open(t.Context(), db.Options{URL: url})
			wantError(t, err, tt.code, tt.words...)
			if strings.Contains(fmt.Sprint(err), "hunter2") {
				t.Errorf("the password is in the error: %v", err)
			}
		})
	}
}

// Two servers may be started at once on an empty database, or on one to be upgraded.
func TestMigrateTogether(t *testing.T) {
	o := onPostgres(t)(t)
	for _, more := range [][2]string{{}, {"more", `CREATE TABLE more (id BIGINT, x {bytes})`}} {
		errs := make(chan error)
		const servers = 4
		for range servers {
			go func() {
				var d *db.DB
				var err error
				if more[0] == "" {
					d, err = db.Open(t.Context(), o)
				} else {
					d, err = db.OpenSteps(t.Context(), o, db.Step(more[0], more[1]))
				}
				if err == nil {
					err = d.Close()
				}
				errs <- err
			}()
		}
		for range servers {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	}
}

// A copy is kept before an upgrade, and tables of others are left alone.
func TestPostgresMigrate(t *testing.T) {
	o := onPostgres(t)(t)
	o.Dir = t.TempDir()
	sqlAt(t, o.URL, `CREATE TABLE theirs (id INTEGER)`, `INSERT INTO theirs VALUES (42)`)
	s := open(t, o)
	delta, want := fullDelta()
	commit(t, s, delta)
	s.Close()
	_, err := db.OpenSteps(t.Context(), o, db.Step("broken", `DELETE FROM nodes`, `CREATE TABLE half (x BIGINT)`, `NONSENSE`))
	wantError(t, err, tailnet.Internal)
	s = open(t, o)
	if diff := cmp.Diff(want, load(t, s, tailnet.Default), equal); diff != "" {
		t.Errorf("after a failed step (-want +got):\n%s", diff)
	}
	s.Close()
	sqlAt(t, o.URL, `UPDATE theirs SET id = id / (CASE WHEN id = 42 THEN 1 ELSE 0 END)`)
	saved := glob(t, o.Dir+"/*.db")
	if len(saved) != 1 {
		t.Fatalf("copies: %q", saved)
	}
	if diff := cmp.Diff(want, load(t, openAt(t, saved[0]), tailnet.Default), equal); diff != "" {
		t.Errorf("copy (-want +got):\n%s", diff)
	}
}

func TestPostgresBackup(t *testing.T) {
	s := open(t, onPostgres(t)(t))
	delta, want := fullDelta()
	commit(t, s, delta)
	path := t.TempDir() + "/copy.db"
	if err := s.Backup(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	commit(t, s, nodes(1, testNode(2)))
	copied := openAt(t, path)
	if diff := cmp.Diff(want, load(t, copied, tailnet.Default), equal); diff != "" {
		t.Errorf("copy (-want +got):\n%s", diff)
	}
	if got := glob(t, path+"*"); len(got) != 3 { // with the log and its index, while it is open
		t.Errorf("files %q", got)
	}
}

// A server may move from any database to any other.
func TestCopyTo(t *testing.T) {
	everywhere(t, func(t *testing.T, from engine) {
		everywhere(t, func(t *testing.T, to engine) {
			source, target := open(t, from(t)), open(t, to(t))
			delta, want := fullDelta()
			commit(t, source, delta)
			many := nodes(1)
			for id := 10; id < 700; id++ {
				many.Nodes.Put[tailnet.NodeID(id)] = testNode(id)
				want.Nodes = append(want.Nodes, testNode(id))
			}
			many.LastID = delta.LastID
			commit(t, source, many)
			want.Seq = 2
			rows, err := source.CopyTo(t.Context(), target)
			if err != nil || rows < 700 {
				t.Fatalf("%d rows, %v", rows, err)
			}
			if diff := cmp.Diff(want, load(t, target, tailnet.Default), equal); diff != "" {
				t.Errorf("copy (-want +got):\n%s", diff)
			}
			audit, _, err := target.Audit(t.Context(), tailnet.Default, tailnet.AuditQuery{})
			if diff := cmp.Diff(testRecords(2, 1), audit); diff != "" || err != nil {
				t.Errorf("audit: %v (-want +got):\n%s", err, diff)
			}
			_, err = source.CopyTo(t.Context(), target)
			wantError(t, err, tailnet.Conflict, "empty")
			commit(t, target, nodes(2, testNode(1)))
		})
	})
}

// What one process commits the others learn, at once and in full.
func TestSince(t *testing.T) {
	place := onPostgres(t)(t)
	a, b := open(t, place), open(t, place)
	ctx, cancel := context.WithCancel(t.Context())
	news := make(chan struct{}, 100)
	watched := make(chan struct{})
	go func() { b.Watch(ctx, tailnet.Default, func() { news <- struct{}{} }); close(watched) }()
	<-news // it listens
	first, img := fullDelta()
	commit(t, a, first)
	<-news
	got, head, err := b.Since(t.Context(), tailnet.Default, 0)
	if err != nil || head != 1 {
		t.Fatalf("head %d, %v", head, err)
	}
	want := *first
	want.Audit = nil
	nothing := cmp.Options{equal, cmpopts.EquateEmpty()}
	if diff := cmp.Diff(&want, got, nothing); diff != "" {
		t.Errorf("since 0 (-want +got):\n%s", diff)
	}
	second := nodes(1, testNode(5))
	second.Nodes.Drop = map[tailnet.NodeID]bool{1: true}
	second.Tombstones.Drop = map[string]bool{img.Tombstones[0].Key.String(): true}
	commit(t, a, second)
	third := nodes(2, testNode(6))
	third.Nodes.Drop = map[tailnet.NodeID]bool{5: true}
	commit(t, a, third)
	<-news
	got, head, err = b.Since(t.Context(), tailnet.Default, 1)
	if err != nil || head != 3 || got.Base != 1 {
		t.Fatalf("head %d, base %d, %v", head, got.Base, err)
	}
	merged := nodes(1, testNode(6))
	merged.Nodes.Drop = map[tailnet.NodeID]bool{1: true, 5: true}
	merged.Tombstones.Drop = second.Tombstones.Drop
	if diff := cmp.Diff(merged, got, nothing); diff != "" {
		t.Errorf("since 1 (-want +got):\n%s", diff)
	}
	got, head, err = b.Since(t.Context(), tailnet.Default, 3)
	if err != nil || head != 3 || !got.Nodes.Empty() {
		t.Errorf("no news: %+v, %d, %v", got, head, err)
	}
	if _, _, err = b.Since(t.Context(), tailnet.Default, 4); !errors.Is(err, tailnet.ErrForgotten) {
		t.Errorf("a sequence number that never was: %v", err)
	}
	cancel()
	<-watched
}

// The log of changes does not grow for ever.
func TestForgotten(t *testing.T) {
	place := onPostgres(t)(t)
	s := open(t, place)
	for base := range tailnet.Seq(3) {
		commit(t, s, nodes(base, testNode(1)))
	}
	sqlAt(t, place.URL, `DELETE FROM changes WHERE seq = 2`)
	if _, _, err := s.Since(t.Context(), tailnet.Default, 1); !errors.Is(err, tailnet.ErrForgotten) {
		t.Errorf("with a gap: %v", err)
	}
	sqlAt(t, place.URL, `UPDATE tailnets SET seq = 2000`)
	commit(t, s, nodes(2000, testNode(1)))
	conn, err := pgx.Connect(t.Context(), place.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var left int
	if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM changes`).Scan(&left); err != nil || left != 1 {
		t.Errorf("%d changes are kept, %v", left, err)
	}
	one := openNew(t) // which nobody shares
	commit(t, one, nodes(0, testNode(1)))
	if _, _, err := one.Since(t.Context(), tailnet.Default, 0); !errors.Is(err, tailnet.ErrForgotten) {
		t.Errorf("SQLite: %v", err)
	}
}

// Commits of two processes never mix: of two with one base, one wins.
func TestRace(t *testing.T) {
	place := onPostgres(t)(t)
	stores := []*db.DB{open(t, place), open(t, place)}
	const rounds = 50
	for base := range tailnet.Seq(rounds) {
		errs := make(chan error, len(stores))
		for i, s := range stores {
			go func() {
				d := nodes(base, testNode(int(base)*2+i+1))
				d.Audit = []tailnet.AuditEntry{testAudit(int(base))}
				errs <- s.Commit(t.Context(), d)
			}()
		}
		x, y := <-errs, <-errs
		if (x == nil) == (y == nil) || !errors.Is(errors.Join(x, y), tailnet.ErrConflict) {
			t.Fatalf("base %d: %v and %v", base, x, y)
		}
	}
	img := load(t, stores[0], tailnet.Default)
	audit, _, err := stores[1].Audit(t.Context(), tailnet.Default, tailnet.AuditQuery{})
	if err != nil || img.Seq != rounds || len(img.Nodes) != rounds || len(audit) != rounds {
		t.Errorf("%d nodes and %d entries after %d commits, %v", len(img.Nodes), len(audit), img.Seq, err)
	}
}

// A database that is restarted under load loses and doubles nothing: an error means
// that nothing happened, or says that it may have.
func TestDatabaseRestarts(t *testing.T) {
	server := pgserver.Of(t)
	url, err := server.Database(t.Context(), "heddle")
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, db.Options{URL: url})
	ctx, cancel := context.WithCancel(t.Context())
	news := make(chan struct{}, 1)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		s.Watch(ctx, tailnet.Default, func() {
			select {
			case news <- struct{}{}:
			default:
			}
		})
	}()
	<-news
	const restarts, every = 3, 100 // commits
	restarted := make(chan error, restarts)
	var base tailnet.Seq
	begun, ended, failures := 0, 0, 0
	for ended < restarts || base < (restarts+1)*every {
		if begun < restarts && int(base) >= (begun+1)*every && begun == ended {
			begun++
			go func() { restarted <- errors.Join(server.Stop(), server.Start()) }()
		}
		select {
		case err := <-restarted:
			if ended++; err != nil {
				t.Fatal(err)
			}
		default:
		}
		d := nodes(base, testNode(int(base)+1))
		d.Audit = []tailnet.AuditEntry{testAudit(int(base))}
		switch err := s.Commit(t.Context(), d); {
		case err == nil:
			base++
		case tailnet.CodeOf(err) == tailnet.Unavailable:
			failures++
		default:
			t.Fatalf("commit on %d: %v (%v)", base, err, tailnet.CodeOf(err))
		}
	}
	if failures == 0 {
		t.Error("no commit met a server that was away")
	}
	img := load(t, s, tailnet.Default)
	audit, _, err := s.Audit(t.Context(), tailnet.Default, tailnet.AuditQuery{})
	if err != nil || img.Seq != base || len(img.Nodes) != int(base) || len(audit) != min(int(base), 1000) {
		t.Errorf("%d nodes and %d entries at %d after %d commits, %v", len(img.Nodes), len(audit), img.Seq, base, err)
	}
	<-news // of the new connection
	other := open(t, db.Options{URL: url})
	commit(t, other, nodes(base, testNode(1)))
	<-news
	cancel()
	<-watched
}
