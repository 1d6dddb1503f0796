package headscale

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"heddle/control/tailnet"

	"github.com/glebarez/sqlite"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"
)

// A Source is where a headscale has its database: one of Path and URL.
type Source struct {
	Path string // of a SQLite file
	URL  string // of a PostgreSQL database; appears in no error, as it may hold a password
	Work string // a directory for a copy of the SQLite file
}

func (s Source) open(ctx context.Context, fn func(*gorm.DB) error) error {
	if s.URL != "" {
		return s.postgres(ctx, fn)
	}
	return s.sqlite(ctx, fn)
}

func gormConfig() *gorm.Config {
	return &gorm.Config{Logger: logger.Discard, SkipDefaultTransaction: true, DisableAutomaticPing: true}
}

// sqlite reads a copy: opening the file itself would fold its write-ahead log into it.
func (s Source) sqlite(ctx context.Context, fn func(*gorm.DB) error) error {
	copied := filepath.Join(s.Work, "headscale.sqlite")
	if err := copyDatabase(s.Path, copied); err != nil {
		return err
	}
	g, err := gorm.Open(sqlite.Open((&url.URL{Scheme: "file", Path: copied}).String()), gormConfig())
	if err != nil {
		return damaged(s.Path, err)
	}
	pool, err := g.DB()
	if err != nil {
		return err
	}
	defer pool.Close()
	g = g.WithContext(ctx)
	var verdict string
	if err := g.Raw("PRAGMA quick_check(1)").Row().Scan(&verdict); err != nil || verdict != "ok" {
		return damaged(s.Path, errors.Join(err, errors.New(verdict)))
	}
	return explain(s.Path, g.Transaction(fn))
}

func damaged(path string, err error) error {
	return &tailnet.Error{Code: tailnet.Invalid, Msg: fmt.Sprintf("%s is not a SQLite database, or is damaged", path), Err: err}
}

// explain gives errors of the driver words for people; errors of the model and of a context pass.
func explain(what string, err error) error {
	var known *tailnet.Error
	if err == nil || errors.As(err, &known) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &tailnet.Error{Code: tailnet.Invalid, Msg: fmt.Sprintf("%s cannot be read: %v", what, err), Err: err}
}

// copyDatabase copies a SQLite file and its write-ahead log. It fails if they change meanwhile.
func copyDatabase(from, to string) error {
	before, err := stamps(from)
	if err != nil {
		return err
	}
	for _, suffix := range []string{"", "-wal"} {
		if err := copyFile(from+suffix, to+suffix); err != nil && !(suffix != "" && errors.Is(err, fs.ErrNotExist)) {
			return &tailnet.Error{Code: tailnet.Unavailable, Msg: fmt.Sprintf("%s cannot be copied to read it: %v", from, err), Err: err}
		}
	}
	if after, err := stamps(from); err != nil || after != before {
		return tailnet.Errorf(tailnet.Conflict, "%s is being written to: stop headscale first, so that nothing is lost that it still learns", from)
	}
	return nil
}

type stamp struct {
	size int64
	mod  time.Time
}

// stamps tells the state of a database's files.
func stamps(path string) (out [2]stamp, err error) {
	for i, suffix := range []string{"", "-wal"} {
		info, err := os.Stat(path + suffix)
		switch {
		case suffix != "" && errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return out, &tailnet.Error{Code: tailnet.NotFound, Msg: fmt.Sprintf("there is no database: %v", err), Err: err}
		case !info.Mode().IsRegular():
			return out, tailnet.Errorf(tailnet.Invalid, "%s is not a file", path)
		}
		out[i] = stamp{info.Size(), info.ModTime()}
	}
	return out, nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// connectPatience is how long a PostgreSQL server may take to accept a connection.
const connectPatience = 10 * time.Second

// postgres reads in one transaction that cannot write.
func (s Source) postgres(ctx context.Context, fn func(*gorm.DB) error) error {
	config, err := pgx.ParseConfig(s.URL)
	if err != nil {
		return tailnet.Errorf(tailnet.Invalid, "headscale's database is not a PostgreSQL URL: write postgres://USER:PASSWORD@HOST:PORT/NAME")
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectPatience
	}
	config.RuntimeParams["default_transaction_read_only"] = "on"
	name := fmt.Sprintf("database %s on %s", config.Database, config.Host)
	pool := stdlib.OpenDB(*config)
	defer pool.Close()
	pool.SetMaxOpenConns(1)
	g, err := gorm.Open(postgres.New(postgres.Config{Conn: pool}), gormConfig())
	if err != nil {
		return explain(name, err)
	}
	return explain(name, g.WithContext(ctx).Transaction(fn, &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead}))
}
