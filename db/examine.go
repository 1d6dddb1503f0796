package db

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"syscall"

	"heddle/control/tailnet"
	"heddle/db/dirlock"

	"github.com/glebarez/sqlite"
	"github.com/jackc/pgx/v5/pgconn"
	"gorm.io/gorm"
)

// Examine tells why a server could not work with a database, and what to do. The database may be in use. Nothing is
// changed, not even what Open would bring up to date. there is false if there is no database yet, or an empty one, which the
// server would make at its start. It fails with Denied if only somebody else may look at a SQLite file.
func Examine(ctx context.Context, o Options) (there bool, err error) {
	e, err := engineOf(o)
	if err != nil {
		return false, err
	}
	d := newDB(e, o)
	defer d.Close()
	d.read, err = e.inspect(ctx)
	switch {
	case errors.Is(err, errFresh):
		return false, nil
	case err != nil:
		return false, d.explain("open the database", err)
	}
	if err := e.check(ctx, d.read); err != nil {
		return false, d.explain("check the database", err)
	}
	have, err := schemaVersion(d.read.WithContext(ctx))
	switch {
	case err != nil:
		return false, d.explain("read the database", err)
	case have > len(steps):
		return true, newer(d.String(), have, len(steps))
	case have == 0:
		return false, d.refuseForeign(d.read.WithContext(ctx))
	}
	return true, nil
}

// errFresh is for a database that a server would make.
var errFresh = errors.New("there is no database yet")

// inspect opens the file if the server could write to it and to what lies beside it.
func (f *file) inspect(context.Context) (*gorm.DB, error) {
	dir, err := os.Stat(filepath.Dir(f.path))
	if err == nil {
		f.info, err = os.Stat(f.path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errFresh
	case errors.Is(err, fs.ErrPermission):
		return nil, &tailnet.Error{Code: tailnet.Denied, Msg: fmt.Sprintf("you may not look at %s: run this as the user of the server, or as root", f.path), Err: err}
	case err != nil:
		return nil, err
	case !f.info.Mode().IsRegular():
		return nil, f.damaged(errors.New("it is no file"))
	}
	for _, path := range []string{filepath.Dir(f.path), f.path, f.path + "-wal", f.path + "-shm", filepath.Join(filepath.Dir(f.path), dirlock.Name)} {
		if err := writable(path, dir); err != nil {
			return nil, err
		}
	}
	q := url.Values{"mode": {"ro"}, "_pragma": {fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds())}}
	// Without a log the file is all there is, and a connection need not make files for the log, which the server's user
	// may not be able to write to.
	if wal, err := os.Stat(f.path + "-wal"); err != nil || wal.Size() == 0 {
		q.Set("immutable", "1")
	}
	dsn := url.URL{Scheme: "file", Path: f.path, RawQuery: q.Encode()}
	return gorm.Open(sqlite.Open(dsn.String()), gormConfig())
}

// wantWrite is the mode of access(2) that asks for writing (POSIX W_OK).
const wantWrite = 2

// writable tells why the server could not write to a path, which need not exist. Root may write anywhere, and so for
// root it is the owner of the data directory who is looked at: the server's user.
func writable(path string, dir fs.FileInfo) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syscall.Access(path, wantWrite)
	}
	switch {
	case errors.Is(err, syscall.EROFS):
		return unavailable(err, "%s lies on a file system that is mounted read-only: mount it for writing, or let the service write there (ReadWritePaths= in its unit)", path)
	case err != nil:
		return unavailable(err, "%s cannot be written to (%v): give it to the user of the server, with mode u+rw", path, err)
	}
	owner, ok1 := dir.Sys().(*syscall.Stat_t)
	its, ok2 := info.Sys().(*syscall.Stat_t)
	if os.Geteuid() != 0 || !ok1 || !ok2 || owner.Uid == 0 {
		return nil
	}
	bit := fs.FileMode(0o002)
	switch {
	case its.Uid == owner.Uid:
		bit = 0o200
	case its.Gid == owner.Gid:
		bit = 0o020
	}
	if info.Mode()&bit == 0 {
		return unavailable(nil, "the user of the server, who owns %s, may not write to %s (owner %d, mode %04o): chown --reference=%s %s && chmod u+rw %s",
			filepath.Dir(path), path, its.Uid, info.Mode().Perm(), filepath.Dir(path), path, path)
	}
	return nil
}

// inspect opens connections like those that commit, if the server takes changes.
func (c *cluster) inspect(ctx context.Context) (*gorm.DB, error) {
	g, err := c.open(true)
	if err != nil {
		return nil, err
	}
	var readOnly bool
	err = g.WithContext(ctx).Raw("SELECT current_setting('transaction_read_only')::bool").Row().Scan(&readOnly)
	if err == nil && readOnly {
		err = &pgconn.PgError{Code: readOnlyState, Message: "transaction_read_only is on"}
	}
	return g, err
}
