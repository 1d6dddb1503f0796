package archive_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"heddle/cmd/heddle/archive"

	"github.com/google/go-cmp/cmp"
)

// Backups are made when they are due, however often the server is restarted, and the oldest go.
func TestSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data, dir := t.TempDir(), filepath.Join(t.TempDir(), "backups")
		var fail error
		s := &archive.Schedule{
			Source: archive.Source{DataDir: data, Copy: func(_ context.Context, path string) error {
				return errors.Join(fail, os.WriteFile(path, []byte("db"), 0o600))
			}},
			Dir: dir, Interval: 6 * time.Hour, Keep: 3, Log: slog.New(slog.DiscardHandler),
		}
		names := func() (out []string) {
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				out = append(out, e.Name())
			}
			return out
		}
		run := func(d time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			if err := s.Run(ctx); err != nil {
				t.Error(err)
			}
		}
		// The bubble's clock begins at 2000-01-01.
		run(time.Hour)
		if err := os.WriteFile(filepath.Join(dir, "heddle-notes.txt"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		run(time.Hour) // a restart
		if diff := cmp.Diff([]string{"heddle-20000101T000000Z.tar.gz", "heddle-notes.txt"}, names()); diff != "" {
			t.Errorf("after a restart (-want +got):\n%s", diff)
		}
		run(4*time.Hour + time.Second)
		fail = errors.New("disk full")
		run(6 * time.Hour)
		if s.Err() == nil {
			t.Error("no error")
		}
		fail = nil
		run(13 * time.Minute)
		if s.Err() != nil {
			t.Error(s.Err())
		}
		run(24 * time.Hour)
		got := names()
		if len(got) != 4 || got[3] != "heddle-notes.txt" {
			t.Errorf("files %q", got)
		}
	})
}
