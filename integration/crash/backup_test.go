package crash_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestScheduledBackup lets a server with PostgreSQL make its backups, loses it with its database, and restores
// it with SQLite. Devices go on with their keys; those that came later must log in again.
func TestScheduledBackup(t *testing.T) {
	postgres, url := newPostgres(t)
	dir := tempDir(t)
	backups := filepath.Join(dir, "backups")
	t.Setenv("HEDDLE_BACKUP_DIR", backups)
	s := newServer(t, dir, url)
	list := func() []string {
		found, err := filepath.Glob(filepath.Join(backups, "heddle-*.tar.gz"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	// The first was made at the start, before there was anything: another one is due at the next start without it.
	await(t, time.Minute, "the server makes a backup", func() error {
		if len(list()) == 0 {
			return errors.New("there is none")
		}
		return nil
	})
	early := s.device("early")
	defer early.close()
	if err := early.login(t.Context(), s.secret); err != nil {
		t.Fatal(err)
	}
	known, err := early.self(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.kill()
	if err := os.Remove(list()[0]); err != nil {
		t.Fatal(err)
	}
	s.start()
	await(t, time.Minute, "the server makes another backup", func() error {
		if len(list()) == 0 {
			return errors.New("there is none")
		}
		return nil
	})
	late := s.device("late")
	defer late.close()
	if err := late.login(t.Context(), s.secret); err != nil {
		t.Fatal(err)
	}
	s.kill()
	if err := errors.Join(postgres.Stop(), os.Rename(filepath.Join(dir, "data"), filepath.Join(dir, "lost"))); err != nil {
		t.Fatal(err)
	}

	s.env = slices.DeleteFunc(s.env, func(e string) bool { return e == "HEDDLE_DATABASE_URL="+url })
	restore := exec.CommandContext(t.Context(), heddle, "restore", list()[0])
	restore.Env = s.env
	if out, err := restore.CombinedOutput(); err != nil {
		t.Fatalf("restore: %v: %s", err, out)
	}
	s.start() // which checks that it has the same key
	again, err := early.self(t.Context())
	if err != nil || again.ID != known.ID || again.Addresses[0] != known.Addresses[0] {
		t.Errorf("the device is %v now, it was %v: %v", again, known, err)
	}
	if lost, err := late.self(t.Context()); err != nil || !lost.KeyExpiry.Before(time.Now()) || lost.KeyExpiry.IsZero() {
		t.Errorf("a device that is not in the backup is told %v, %v; want that its key expired", lost, err)
	}
	if err := late.login(t.Context(), s.secret); err != nil {
		t.Errorf("a device logs in again: %v", err)
	}
}
