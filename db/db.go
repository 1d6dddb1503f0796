// Package db keeps tailnets in a SQL database: the rows, the conversion
// between rows and the model, and the numbered steps that bring an older
// database up to date. It implements tailnet.Store.
//
// It refuses to know any rule about tailnets: what a delta says is written,
// and what is stored is loaded. Nothing of gorm or of the SQL dialect leaves
// the package; what is peculiar to SQLite stands in sqlite.go, what is
// peculiar to PostgreSQL in postgres.go.
package db

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"time"

	"heddle/control/tailnet"

	"gorm.io/gorm"
	"gorm.io/gorm/logger"
)

// Options say which database to open: one of Path and URL.
type Options struct {
	// Path is the SQLite file. It and its directory are made if they are
	// missing, readable by this user only. The directory belongs to one
	// server: see Open.
	Path string
	// URL is a PostgreSQL database, in one of libpq's forms
	// (postgres://user@host/name or host=… dbname=…). It may hold a password,
	// and so appears in no log and no error. If it is set, Path is not used.
	URL string
	// Dir is the data directory of the server that uses a PostgreSQL database. It is
	// made and belongs to that server, like that of a SQLite file, and copies are put there before the
	// schema changes. "" is for programs that are no server.
	Dir string
	Log *slog.Logger     // nil: nothing is logged
	Now func() time.Time // nil: time.Now
}

// DB is an open database. Its methods are safe for concurrent use.
type DB struct {
	engine engine
	log    *slog.Logger
	now    func() time.Time
	origin string   // of this process's commits, for those who share the database
	write  *gorm.DB // commits queue here instead of failing on each other; nil of a Snapshot
	read   *gorm.DB // a few connections that cannot write: pages and backups never delay a commit
}

var _ tailnet.Store = (*DB)(nil)

// An engine is what SQLite and PostgreSQL do differently.
type engine interface {
	// String names the database for people. It holds no secret.
	String() string
	// prepare makes ready what the database needs before it can be opened.
	prepare(log *slog.Logger) error
	// open opens connections that write or that only read.
	open(writes bool) (*gorm.DB, error)
	// inspect opens connections for looking, if changes were possible, too.
	inspect(ctx context.Context) (*gorm.DB, error)
	// check finds out what makes the database unfit before anything is written.
	check(ctx context.Context, g *gorm.DB) error
	// saveFor is where a copy goes before the schema changes; "" if nowhere.
	saveFor(version int, now time.Time) string
	// migrating takes a transaction in which the schema changes for itself alone.
	migrating(tx *gorm.DB) error
	// copy writes a consistent copy, a SQLite file, to a name that is free.
	copy(ctx context.Context, from *gorm.DB, path string) error
	// ping finds out what a query of the database does not tell.
	ping() error
	// cause explains an error of the driver; nil if it knows no more than the driver.
	cause(doing string, err error) error
	// shared reports whether other processes may commit, too.
	shared() bool
	// watch calls news when another process may have committed, until ctx ends.
	watch(ctx context.Context, d *DB, name string, news func())
	// dialect is what the two say differently.
	dialect() dialect
	// close gives free what prepare took.
	close() error
}

// A dialect holds words of SQL, and a number that suits the driver.
type dialect struct {
	bytes   string        // the type of a column of bytes
	octets  string        // the length of the text column %s in bytes
	batch   int           // rows in one statement
	patient time.Duration // the most that a commit may take; zero: as long as it takes
}

// Open opens the database and brings it up to date; an existing database is
// copied to a file before its schema changes. It fails with an error
// that says what to do if another process has the directory of a SQLite file open, if the
// database was written by a newer heddle, belongs to another program, or is
// damaged. The caller closes the DB.
func Open(ctx context.Context, o Options) (*DB, error) {
	return open(ctx, o, steps)
}

func open(ctx context.Context, o Options, steps []step) (_ *DB, err error) {
	e, err := engineOf(o)
	if err != nil {
		return nil, err
	}
	return openEngine(ctx, e, o, steps)
}

func engineOf(o Options) (engine, error) {
	switch {
	case o.URL != "":
		return newCluster(o.URL, o.Dir)
	case o.Path != "":
		return newFile(o.Path)
	}
	return nil, tailnet.Errorf(tailnet.Invalid, "no path is given for the database")
}

func newDB(e engine, o Options) *DB {
	d := &DB{engine: e, log: o.Log, now: o.Now, origin: newOrigin()}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.now == nil {
		d.now = time.Now
	}
	return d
}

func openEngine(ctx context.Context, e engine, o Options, steps []step) (_ *DB, err error) {
	d := newDB(e, o)
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if err := e.prepare(d.log); err != nil {
		return nil, err
	}
	if d.write, err = e.open(true); err != nil {
		return nil, d.explain("open the database", err)
	}
	if err := e.check(ctx, d.write); err != nil {
		return nil, d.explain("check the database", err)
	}
	if err := d.migrate(ctx, steps); err != nil {
		return nil, d.explain("bring the database up to date", err)
	}
	if d.read, err = e.open(false); err != nil {
		return nil, d.explain("open the database for reading", err)
	}
	return d, nil
}

// gormConfig is how gorm is used: it makes statements and nothing else.
func gormConfig() *gorm.Config {
	return &gorm.Config{
		Logger:                   logger.Discard, // errors go to the caller, who logs them once
		SkipDefaultTransaction:   true,
		DisableNestedTransaction: true,
		DisableAutomaticPing:     true,
	}
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
	return errors.Join(append(errs, d.engine.close())...)
}

// String names the database for people, without secrets.
func (d *DB) String() string { return d.engine.String() }

// Ping tells whether the database answers and, if it is a file, whether that
// is still the one that was opened.
func (d *DB) Ping(ctx context.Context) error {
	if err := d.engine.ping(); err != nil {
		return err
	}
	var version int
	err := d.read.WithContext(ctx).Model(&migrationRow{}).Select("MAX(version)").Scan(&version).Error
	return d.explain("read the database", err)
}

// Backup writes a consistent copy of the database, a SQLite file whatever the database is, to a
// new file at path while the server goes on working. The file is complete and synced when it appears
// under its name. It fails with Conflict if something has that name.
func (d *DB) Backup(ctx context.Context, path string) error {
	return d.explain("back up the database to "+path, saveAs(path, func(partial string) error {
		return d.engine.copy(ctx, d.read, partial)
	}))
}

// snapshot runs fn in a read transaction, which sees one state of the database.
func (d *DB) snapshot(ctx context.Context, fn func(tx *gorm.DB) error) error {
	return inSnapshot(ctx, d.read, fn)
}

func inSnapshot(ctx context.Context, g *gorm.DB, fn func(tx *gorm.DB) error) error {
	return g.WithContext(ctx).Transaction(fn, &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead})
}

// explain turns an error of the database into one for the person who can act
// on it. doing completes "cannot …". Errors of the model and of a context pass.
func (d *DB) explain(doing string, err error) error {
	var known *tailnet.Error
	switch {
	case err == nil, errors.As(err, &known), errors.Is(err, tailnet.ErrConflict), errors.Is(err, tailnet.ErrForgotten):
		return err
	}
	if explained := d.engine.cause(doing, err); explained != nil {
		return explained
	}
	return &tailnet.Error{Code: tailnet.Internal, Msg: "cannot " + doing + "; the server's log has more", Err: err}
}
