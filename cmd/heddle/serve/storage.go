package serve

import (
	"context"

	"heddle/api"
	"heddle/cmd/heddle/archive"
	"heddle/control/tailnet"
	"heddle/db"
)

// database is what the server opens.
func (s *server) database() db.Options {
	o := archive.Database(s.cfg)
	o.Log = s.Log
	if o.URL != "" {
		o.Dir = s.cfg.DataDir
	}
	return o
}

// newBackups makes the schedule of backups; nil if there are none.
func (s *server) newBackups() (*archive.Schedule, error) {
	cfg := s.cfg.Backup
	if cfg.Dir == "" {
		return nil, nil
	}
	recipients, err := archive.Recipients(cfg.Recipients...)
	if err != nil {
		return nil, err
	}
	source := archive.SourceOf(s.cfg, s.Version.Version, recipients)
	source.Copy = func(ctx context.Context, path string) error {
		// What reads all secrets goes on record; that a full disk refuses it must not keep a backup from being made.
		err := s.update(ctx, "backup", func(tx *tailnet.Tx) error {
			return tx.Record(tailnet.Read(tailnet.AreaSettings), "make backups", "backup.make", cfg.Dir)
		})
		if err != nil {
			s.Log.Error("a backup is not on record", "err", err)
		}
		return s.db.Backup(ctx, path)
	}
	return &archive.Schedule{Source: source, Dir: cfg.Dir, Interval: cfg.Interval, Keep: cfg.Keep, Log: s.Log}, nil
}

// backupHealth tells of the last backup, if they are made at all.
func (s *server) backupHealth() []api.Part {
	if s.backups == nil {
		return nil
	}
	if err := s.backups.Err(); err != nil {
		return []api.Part{{Name: "backup", Message: "the last backup failed, and will be tried again: " + err.Error()}}
	}
	return []api.Part{{Name: "backup", OK: true, Message: "into " + s.backups.Dir}}
}
