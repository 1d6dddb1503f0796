//go:build linux

package integration_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"heddle/integration/lab"
)

// TestBackup restores a backup, which was made while the server ran, into a fresh data directory. The
// clients reconnect to it without logging in again.
func TestBackup(t *testing.T) {
	m := newMesh(t)
	s := m.server
	anna := m.client(t, m.inet.Site("anna", 11).Host("anna", 2))
	ben := m.client(t, m.inet.Site("ben", 12).Host("ben", 2))
	m.join(t, anna, ben)
	before := s.nodes(t)
	keys := map[string]string{}
	for name, text := range map[string]string{"passphrase": "correct horse battery staple\n", "wrong": "tr0ub4dor&3\n"} {
		keys[name] = filepath.Join(s.host.Dir(), name)
		if err := os.WriteFile(keys[name], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(s.host.Dir(), "backup.tar.gz.age")
	s.must(t, "backup", "--passphrase-file", keys["passphrase"], file)
	s.must(t, "users", "create", "after-the-backup")

	// The server runs: nothing is restored over it. Then its machine is lost.
	if _, exit, err := s.cli(t.Context(), "restore", "--passphrase-file", keys["passphrase"], file); exit != 4 {
		t.Errorf("restore over a running server: exit code %d, %v", exit, err)
	}
	s.kill()
	if err := os.Rename(filepath.Join(s.host.Dir(), "data"), filepath.Join(s.host.Dir(), "lost")); err != nil {
		t.Fatal(err)
	}
	if _, exit, err := s.cli(t.Context(), "restore", "--passphrase-file", keys["wrong"], file); exit != 5 {
		t.Errorf("restore with a wrong passphrase: exit code %d, %v", exit, err)
	}
	if out := s.must(t, "restore", "--passphrase-file", keys["passphrase"], file); !strings.Contains(out, "2 devices and 1 users") {
		t.Errorf("restore says %q", out)
	}
	s.start(t)
	for name := range before {
		s.awaitNode(t, 20*time.Second, name, "it is online again", func(n node) bool { return n.Online && !n.Expired && n.ID == before[name].ID })
	}
	anna.AwaitState(t, 10*time.Second, "Running")
	anna.AwaitOnline(t, 10*time.Second, ben)
	m.reach(t, anna, ben)
	if out := s.must(t, "users", "list", "-o", "json"); strings.Contains(out, "after-the-backup") {
		t.Error("a user who was made after the backup is in it")
	}

	// A newcomer joins, and everybody knows the server by the same key.
	cleo := m.client(t, m.inet.Host("cleo", 21))
	cleo.Up(t, s.authKey(t, "alice"))
	anna.AwaitOnline(t, 10*time.Second, ben, cleo)
	lab.Await(t, 10*time.Second, "the health of the server is well", func() error {
		_, _, err := s.cli(t.Context(), "health")
		return err
	})
}
