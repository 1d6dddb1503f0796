package db

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"heddle/control/tailnet"

	gosqlite "github.com/glebarez/go-sqlite"
	"github.com/glebarez/sqlite"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"
	sqlite3 "modernc.org/sqlite/lib"
)

// bytesType is the column type for a byte string in migration steps.
const bytesType = "BLOB"

// busyTimeout is how long a statement waits for another program that holds the
// database: replication tools do so for moments only. A commit that waits
// longer keeps every client of the tailnet waiting.
const busyTimeout = 5 * time.Second

// batch is how many rows go into one statement. The driver searches all
// parameters of a statement for each of them, so long statements cost more
// than they save: with the 24 columns of a node, 10 to 50 rows are best.
const batch = 20

// pool is one of the two sets of connections.
type pool struct {
	conns   int
	mode    string // "ro" refuses every write but that of VACUUM INTO
	txlock  string
	pragmas []string
}

var (
	writer = pool{conns: 1, mode: "rw", txlock: "immediate", pragmas: []string{
		"journal_mode(wal)",
		// NORMAL would be faster, but in WAL mode it does not sync at commit:
		// a power cut could take back what clients were already told.
		// FULL costs one fsync of the log per commit, and commits are
		// batched by draining the queue of updates.
		"synchronous(full)",
		"fullfsync(on)", // Darwin's fsync alone leaves data in the drive's cache
		"foreign_keys(on)",
		// Room for the pages of a tailnet of ten thousand nodes (in KiB, hence the sign),
		// and for the undo log of a statement: neither need touch the disk.
		"cache_size(-32768)",
		"temp_store(memory)",
		// After a long backup the log is cut back to this many bytes.
		"journal_size_limit(67108864)",
	}}
	reader = pool{conns: 4, mode: "ro", txlock: "deferred"}
)

// openSQLite opens the connections of a pool to an existing file.
func openSQLite(path string, p pool) (*gorm.DB, error) {
	q := url.Values{
		"mode":    {p.mode},
		"_txlock": {p.txlock},
		"_pragma": append([]string{fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds())}, p.pragmas...),
	}
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}
	g, err := gorm.Open(sqlite.Open(dsn.String()), &gorm.Config{
		Logger:                   logger.Discard, // errors go to the caller, who logs them once
		SkipDefaultTransaction:   true,
		DisableNestedTransaction: true,
		DisableAutomaticPing:     true,
	})
	if err != nil {
		return nil, err
	}
	conns, err := g.DB()
	if err != nil {
		return nil, err
	}
	conns.SetMaxOpenConns(p.conns)
	conns.SetMaxIdleConns(p.conns)
	return g, nil
}

// check looks for damage before anything is read or written. The quick check
// reads every page once, so a start takes longer by about a second for each
// gigabyte; a server that runs on a torn database costs more.
func (d *DB) check(ctx context.Context) error {
	const most = 5 // problems shown: one is enough to act on
	var problems []string
	err := d.write.WithContext(ctx).Raw(fmt.Sprintf("PRAGMA quick_check(%d)", most)).Scan(&problems).Error
	if err != nil {
		return d.explain("check the database", err)
	}
	if len(problems) == 1 && problems[0] == "ok" {
		return nil
	}
	return d.damaged(errors.New(strings.Join(problems, "; ")))
}

// explain turns an error of the database into one for the person who can act
// on it. doing completes "cannot …". Errors of the model and of a context pass.
func (d *DB) explain(doing string, err error) error {
	var known *tailnet.Error
	switch {
	case err == nil, errors.As(err, &known), errors.Is(err, tailnet.ErrConflict):
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w", doing, err)
	}
	var e *gosqlite.Error
	if !errors.As(err, &e) {
		return &tailnet.Error{Code: tailnet.Internal, Msg: "cannot " + doing + "; the server's log has more", Err: err}
	}
	switch e.Code() & 0xff { // the primary code; the rest says where it happened
	case sqlite3.SQLITE_FULL:
		return d.unavailable(err, "cannot %s: the disk that holds %s is full; free some space on it, then try again", doing, d.path)
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
		return d.unavailable(err, "cannot %s: the disk that holds %s refuses it; check that it is mounted, writable, healthy and within its quota", doing, d.path)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return d.unavailable(err, "cannot %s: another program has held %s locked for %v; end it (an open sqlite3 shell, a backup tool), then try again", doing, d.path, busyTimeout)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return d.damaged(err)
	}
	return &tailnet.Error{Code: tailnet.Internal, Msg: "cannot " + doing + "; the server's log has more", Err: err}
}

func (d *DB) unavailable(err error, format string, args ...any) error {
	return &tailnet.Error{Code: tailnet.Unavailable, Msg: fmt.Sprintf(format, args...), Err: err}
}

func (d *DB) damaged(err error) error {
	return &tailnet.Error{
		Code: tailnet.Internal,
		Msg:  fmt.Sprintf("the database %s is damaged or not a SQLite file: stop the server, keep a copy of the file, and put the latest backup in its place", d.path),
		Err:  err,
	}
}

// Backup writes a consistent copy of the database to a new file at path while
// the server goes on working. The file is complete and synced when it appears
// under its name. It fails with Conflict if something has that name.
func (d *DB) Backup(ctx context.Context, path string) error {
	return d.explain("back up the database to "+path, copyTo(ctx, d.read, path))
}

func copyTo(ctx context.Context, from *gorm.DB, path string) (err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("backup path: %w", err)
	}
	if _, err := os.Lstat(path); err == nil {
		return tailnet.Errorf(tailnet.Conflict, "%s exists: choose a new name for the backup", path)
	}
	// SQLite fills an existing empty file, and so cannot choose its mode.
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".partial-*")
	if err != nil {
		return &tailnet.Error{Code: tailnet.Unavailable, Msg: "cannot write a backup to " + path + ": check the directory and its rights", Err: err}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	defer f.Close()
	err = from.WithContext(ctx).Exec("VACUUM INTO ?", f.Name()).Error
	if ctx.Err() != nil {
		return ctx.Err() // the driver skips statements of an ended context without an error
	}
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync the backup: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("name the backup: %w", err)
	}
	return syncDir(filepath.Dir(path))
}
