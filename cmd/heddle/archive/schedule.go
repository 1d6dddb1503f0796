package archive

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Schedule makes backups in a directory. Run it.
type Schedule struct {
	Source   Source
	Dir      string
	Interval time.Duration
	Keep     int
	Log      *slog.Logger

	mu   sync.Mutex
	last error // of the last try; nil if it succeeded or there was none
}

// retryAfter is the pause after a backup that failed, if the interval is not shorter.
const retryAfter = 10 * time.Minute

const (
	namePrefix = "heddle-"
	nameTime   = "20060102T150405Z"
	plainEnd   = ".tar.gz"
	sealedEnd  = plainEnd + ".age"
)

// Run makes a backup whenever one is due, which the names of those in the directory tell, until
// ctx ends. A backup that fails is tried again soon.
func (s *Schedule) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		wait, err := s.tick(ctx, time.Now())
		if ctx.Err() != nil {
			return nil
		}
		s.mu.Lock()
		s.last = err
		s.mu.Unlock()
		if err != nil {
			s.Log.Error("the backup failed; will retry", "dir", s.Dir, "after", wait, "err", err)
		}
		timer.Reset(wait)
	}
}

// Err tells why the last backup failed; nil if it did not.
func (s *Schedule) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// tick makes a backup if one is due, and returns when to come again.
func (s *Schedule) tick(ctx context.Context, now time.Time) (time.Duration, error) {
	retry := min(retryAfter, s.Interval)
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return retry, fmt.Errorf("backup.dir: %w", err)
	}
	made, err := s.list()
	if err != nil {
		return retry, err
	}
	if n := len(made); n > 0 {
		// One from the future says that the clock was wrong: it does not count.
		if due := made[n-1].at.Add(s.Interval); due.After(now) && !made[n-1].at.After(now) {
			return due.Sub(now), nil
		}
	}
	end := plainEnd
	if len(s.Source.Recipients) > 0 {
		end = sealedEnd
	}
	name := filepath.Join(s.Dir, namePrefix+now.UTC().Format(nameTime)+end)
	m, err := Make(ctx, s.Source, name, now)
	if err != nil {
		return retry, err
	}
	s.Log.Info("backup made", "file", name, "files", len(m.Files))
	return s.Interval, s.prune()
}

// A made backup.
type made struct {
	path string
	at   time.Time
}

// list returns the backups of the directory, the oldest first. Other files are nobody's business.
func (s *Schedule) list() ([]made, error) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return nil, fmt.Errorf("backup.dir: %w", err)
	}
	var out []made
	for _, e := range entries {
		text, ok := strings.CutPrefix(e.Name(), namePrefix)
		if !ok || !e.Type().IsRegular() {
			continue
		}
		for _, end := range []string{plainEnd, sealedEnd} {
			stamp, ok := strings.CutSuffix(text, end)
			if at, err := time.Parse(nameTime, stamp); ok && err == nil {
				out = append(out, made{filepath.Join(s.Dir, e.Name()), at})
			}
		}
	}
	slices.SortFunc(out, func(a, b made) int { return a.at.Compare(b.at) })
	return out, nil
}

// prune removes the oldest of more backups than are to be kept.
func (s *Schedule) prune() error {
	all, err := s.list()
	if err != nil {
		return err
	}
	for ; len(all) > s.Keep; all = all[1:] {
		if err := os.Remove(all[0].path); err != nil {
			return fmt.Errorf("remove an old backup: %w", err)
		}
		s.Log.Info("old backup removed", "file", all[0].path)
	}
	return nil
}
