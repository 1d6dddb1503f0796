// Package db keeps tailnets in a SQL database: the rows, the conversion
// between rows and the model, and the numbered steps that bring an older
// database up to date. It implements tailnet.Store.
//
// It refuses to know any rule about tailnets: what a delta says is written,
// and what is stored is loaded. Nothing of gorm or of the SQL dialect leaves
// the package; what is peculiar to SQLite stands in sqlite.go.
package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"heddle/control/tailnet"

	"gorm.io/gorm"
)

// Options say which database to open.
type Options struct {
	// Path is the SQLite file. It and its directory are made if they are
	// missing, readable by this user only. The directory belongs to one
	// server: see Open.
	Path string
	Log  *slog.Logger     // nil: nothing is logged
	Now  func() time.Time // nil: time.Now
}

// DB is an open database. Its methods are safe for concurrent use.
type DB struct {
	path  string
	log   *slog.Logger
	now   func() time.Time
	file  os.FileInfo // what Path was when it was opened
	lock  *dirLock
	write *gorm.DB // one connection: commits queue here instead of failing on each other
	read  *gorm.DB // a few connections that cannot write: pages and backups never delay a commit
}

var _ tailnet.Store = (*DB)(nil)

// Open opens the database and brings it up to date; an existing database is
// copied to a file beside it before its schema changes. It fails with an error
// that says what to do if another process has the directory open, if the
// database was written by a newer heddle, belongs to another program, or is
// damaged. The caller closes the DB.
func Open(ctx context.Context, o Options) (*DB, error) {
	return open(ctx, o, steps)
}

func open(ctx context.Context, o Options, steps []step) (_ *DB, err error) {
	d := &DB{log: o.Log, now: o.Now}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.now == nil {
		d.now = time.Now
	}
	if o.Path == "" {
		return nil, tailnet.Errorf(tailnet.Invalid, "no path is given for the database")
	}
	if d.path, err = filepath.Abs(o.Path); err != nil {
		return nil, fmt.Errorf("database path: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()

	dir := filepath.Dir(d.path)
	if err := d.makeDir(dir); err != nil {
		return nil, err
	}
	if d.lock, err = lockDir(dir); err != nil {
		return nil, err
	}
	if d.file, err = d.makeFile(); err != nil {
		return nil, err
	}
	if d.write, err = openSQLite(d.path, writer); err != nil {
		return nil, d.explain("open the database", err)
	}
	if err := d.check(ctx); err != nil {
		return nil, err
	}
	if err := d.migrate(ctx, steps); err != nil {
		return nil, d.explain("bring the database up to date", err)
	}
	if d.read, err = openSQLite(d.path, reader); err != nil {
		return nil, d.explain("open the database for reading", err)
	}
	return d, nil
}

// Close closes the database and gives its directory free. Calls that are under
// way end with an error; so do later ones.
func (d *DB) Close() error {
	var errs []error
	// The writer goes last: the last connection folds the write-ahead log
	// into the database, which a reader may not.
	for _, g := range []*gorm.DB{d.read, d.write} {
		if g == nil {
			continue
		}
		pool, err := g.DB()
		if err == nil {
			err = pool.Close()
		}
		errs = append(errs, err)
	}
	if d.lock != nil {
		errs = append(errs, d.lock.release())
	}
	return errors.Join(errs...)
}

// Ping tells whether the database answers and whether its file is still the
// one that was opened: SQLite would go on writing into a deleted file.
func (d *DB) Ping(ctx context.Context) error {
	if now, err := os.Stat(d.path); err != nil || !os.SameFile(now, d.file) {
		return &tailnet.Error{
			Code: tailnet.Unavailable,
			Msg:  fmt.Sprintf("the database file %s was removed or replaced under the running server: take a backup through the server, which still has the data, stop it, and put the backup in the file's place", d.path),
			Err:  err,
		}
	}
	var version int
	err := d.read.WithContext(ctx).Model(&migrationRow{}).Select("MAX(version)").Scan(&version).Error
	return d.explain("read the database", err)
}

// snapshot runs fn in a read transaction, which sees one state of the database.
func (d *DB) snapshot(ctx context.Context, fn func(tx *gorm.DB) error) error {
	return d.read.WithContext(ctx).Transaction(fn, &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead})
}

func (d *DB) makeDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make the data directory: %w", err)
		}
		return syncDir(filepath.Dir(dir))
	case err != nil:
		return fmt.Errorf("look at the data directory: %w", err)
	case !info.IsDir():
		return tailnet.Errorf(tailnet.Invalid, "%s is not a directory: choose another place for the data", dir)
	case info.Mode().Perm()&0o022 != 0:
		d.log.Warn("other users may write to the data directory", "dir", dir, "mode", info.Mode().Perm().String())
	}
	return nil
}

// makeFile makes the database file, or takes others' rights to it away. SQLite
// gives its side files the mode of the main file.
func (d *DB) makeFile() (os.FileInfo, error) {
	f, err := os.OpenFile(d.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, &tailnet.Error{
			Code: tailnet.Unavailable,
			Msg:  fmt.Sprintf("the database %s cannot be opened for writing: check its owner and rights", d.path),
			Err:  err,
		}
	}
	info, err := f.Stat()
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		d.log.Warn("taking other users' rights to the database away", "file", d.path, "mode", info.Mode().Perm().String())
		err = f.Chmod(0o600)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("prepare the database file: %w", err)
	}
	return info, syncDir(filepath.Dir(d.path))
}

// syncDir makes the names in a directory survive a power cut.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open a directory: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}
