package db_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"heddle/db"
	"heddle/db/pgserver"
)

// An engine makes the places of databases that do not exist yet.
type engine func(t testing.TB) db.Options

func onSQLite(t testing.TB) db.Options {
	return db.Options{Path: filepath.Join(t.TempDir(), "heddle.db")}
}

// everywhere runs a test with every kind of database.
func everywhere(t *testing.T, test func(t *testing.T, at engine)) {
	t.Run("sqlite", func(t *testing.T) { test(t, onSQLite) })
	t.Run("postgres", func(t *testing.T) { test(t, onPostgres(t)) })
}

func open(t testing.TB, o db.Options) *db.DB {
	t.Helper()
	d, err := db.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// postgres is one server for all tests, started by the first that needs it.
var postgres struct {
	once      sync.Once
	server    *pgserver.Server
	err       error
	databases atomic.Int64
}

func onPostgres(t testing.TB) engine {
	t.Helper()
	pgserver.Need(t)
	postgres.once.Do(func() { postgres.server, postgres.err = pgserver.New() })
	if postgres.err != nil {
		t.Fatal(postgres.err)
	}
	return func(t testing.TB) db.Options {
		t.Helper()
		url, err := postgres.server.Database(t.Context(), fmt.Sprint("test", postgres.databases.Add(1)))
		if err != nil {
			t.Fatal(err)
		}
		return db.Options{URL: url}
	}
}

func stopPostgres() error {
	if postgres.server == nil {
		return nil
	}
	return postgres.server.Close()
}

func glob(t testing.TB, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func mkdir(t testing.TB, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
}
