package pgserver

import (
	"os"
	"testing"
)

// Need skips a test where there is no PostgreSQL, and fails it in CI, where there must be.
func Need(t testing.TB) {
	t.Helper()
	if err := Missing(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// Of starts a server of a test's own, which ends with it.
func Of(t testing.TB) *Server {
	t.Helper()
	Need(t)
	s, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() }) // the test is over: what is left in /tmp is nobody's loss
	return s
}
