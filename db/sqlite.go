package db

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"heddle/control/tailnet"
	"heddle/db/dirlock"

	gosqlite "github.com/glebarez/go-sqlite"
	"github.com/glebarez/sqlite"
	"gorm.io/gorm"
	sqlite3 "modernc.org/sqlite/lib"
)

// A file is a SQLite database in a directory that belongs to one server.
type file struct {
	path  string
	alone bool        // somebody else guards the directory
	info  os.FileInfo // what path was when it was opened
	lock  *dirlock.Lock
}

func newFile(path string) (*file, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("database path: %w", err)
	}
	return &file{path: path}, nil
}

func (f *file) String() string { return f.path }

func (f *file) dialect() dialect {
	return dialect{
		bytes: "BLOB", octets: "length(CAST(%s AS BLOB))",
		// The driver searches all parameters of a statement for each of them, so
		// long statements cost more than they save: with the 24 columns of a node, 10 to 50 rows are best.
		batch: 20,
	}
}

// busyTimeout is how long a statement waits for another program that holds the
// database: replication tools do so for moments only. A commit that waits
// longer keeps every client of the tailnet waiting.
const busyTimeout = 5 * time.Second

// sqlitePool is one of the two sets of connections.
type sqlitePool struct {
	conns   int
	mode    string // "ro" refuses every write but that of VACUUM INTO
	txlock  string
	pragmas []string
}

var (
	sqliteWriter = sqlitePool{conns: 1, mode: "rw", txlock: "immediate", pragmas: []string{
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
	sqliteReader = sqlitePool{conns: 4, mode: "ro", txlock: "deferred"}
)

// open opens connections to the file, which exists.
func (f *file) open(writes bool) (*gorm.DB, error) {
	p := sqliteReader
	if writes {
		p = sqliteWriter
	}
	q := url.Values{
		"mode":    {p.mode},
		"_txlock": {p.txlock},
		"_pragma": append([]string{fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds())}, p.pragmas...),
	}
	dsn := url.URL{Scheme: "file", Path: f.path, RawQuery: q.Encode()}
	g, err := gorm.Open(sqlite.Open(dsn.String()), gormConfig())
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

// prepare takes the directory and makes the file.
func (f *file) prepare(log *slog.Logger) (err error) {
	if f.alone {
		f.info, err = f.make(log)
		return err
	}
	dir := filepath.Dir(f.path)
	if err := makeDir(dir, log); err != nil {
		return err
	}
	if f.lock, err = dirlock.Take(dir); err != nil {
		return err
	}
	f.info, err = f.make(log)
	return err
}

func (f *file) close() error { return f.lock.Release() }

// check looks for damage before anything is read or written. The quick check
// reads every page once, so a start takes longer by about a second for each
// gigabyte; a server that runs on a torn database costs more.
func (f *file) check(ctx context.Context, g *gorm.DB) error {
	const most = 5 // problems shown: one is enough to act on
	var problems []string
	err := g.WithContext(ctx).Raw(fmt.Sprintf("PRAGMA quick_check(%d)", most)).Scan(&problems).Error
	if err != nil {
		return err
	}
	if len(problems) == 1 && problems[0] == "ok" {
		return nil
	}
	return f.damaged(errors.New(strings.Join(problems, "; ")))
}

// ping: SQLite would go on writing into a deleted file.
func (f *file) ping() error {
	if now, err := os.Stat(f.path); err != nil || !os.SameFile(now, f.info) {
		return &tailnet.Error{
			Code: tailnet.Unavailable,
			Msg:  fmt.Sprintf("the database file %s was removed or replaced under the running server: take a backup through the server, which still has the data, stop it, and put the backup in the file's place", f.path),
			Err:  err,
		}
	}
	return nil
}

func (f *file) saveFor(version int, now time.Time) string {
	return fmt.Sprintf("%s.v%d-%s", f.path, version, now.UTC().Format("20060102T150405.000Z"))
}

// migrating has nothing to do: the directory belongs to one process.
func (f *file) migrating(*gorm.DB) error { return nil }

// shared: the lock keeps every other committer out.
func (f *file) shared() bool { return false }

func (f *file) watch(ctx context.Context, _ *DB, _ string, _ func()) { <-ctx.Done() }

func (f *file) cause(doing string, err error) error {
	var e *gosqlite.Error
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if !errors.As(err, &e) {
		return nil
	}
	switch e.Code() & 0xff { // the primary code; the rest says where it happened
	case sqlite3.SQLITE_FULL:
		return unavailable(err, "cannot %s: the disk that holds %s is full; free some space on it, then try again", doing, f.path)
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
		return unavailable(err, "cannot %s: the disk that holds %s refuses it; check that it is mounted, writable, healthy and within its quota", doing, f.path)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return unavailable(err, "cannot %s: another program has held %s locked for %v; end it (an open sqlite3 shell, a backup tool), then try again", doing, f.path, busyTimeout)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return f.damaged(err)
	}
	return nil
}

func unavailable(err error, format string, args ...any) error {
	return &tailnet.Error{Code: tailnet.Unavailable, Msg: fmt.Sprintf(format, args...), Err: err}
}

func (f *file) damaged(err error) error {
	return &tailnet.Error{
		Code: tailnet.Internal,
		Msg:  fmt.Sprintf("the database %s is damaged or not a SQLite file: stop the server, keep a copy of the file, and put the latest backup in its place", f.path),
		Err:  err,
	}
}

func (f *file) copy(ctx context.Context, from *gorm.DB, path string) error {
	err := from.WithContext(ctx).Exec("VACUUM INTO ?", path).Error
	if ctx.Err() != nil {
		return ctx.Err() // the driver skips statements of an ended context without an error
	}
	return err
}

func makeDir(dir string, log *slog.Logger) error {
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
		log.Warn("other users may write to the data directory", "dir", dir, "mode", info.Mode().Perm().String())
	}
	return nil
}

// make makes the database file, or takes others' rights to it away. SQLite
// gives its side files the mode of the main file.
func (f *file) make(log *slog.Logger) (os.FileInfo, error) {
	h, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, &tailnet.Error{
			Code: tailnet.Unavailable,
			Msg:  fmt.Sprintf("the database %s cannot be opened for writing: check its owner and rights", f.path),
			Err:  err,
		}
	}
	info, err := h.Stat()
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		log.Warn("taking other users' rights to the database away", "file", f.path, "mode", info.Mode().Perm().String())
		err = h.Chmod(0o600)
	}
	if err = errors.Join(err, h.Close()); err != nil {
		return nil, fmt.Errorf("prepare the database file: %w", err)
	}
	return info, syncDir(filepath.Dir(f.path))
}
