package db

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"heddle/control/tailnet"
	"heddle/db/dirlock"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
)

// A cluster is a database on a PostgreSQL server. Several processes may have it open.
type cluster struct {
	config *pgx.ConnConfig
	dir    string // see Options.Dir
	lock   *dirlock.Lock
	log    *slog.Logger
}

const (
	// oldestPostgres is the oldest version that still got repairs when this was written.
	oldestPostgres = 14_00_00

	// connectPatience is how long a server may take to accept a connection: during an
	// outage every change waits so long for its error.
	connectPatience = 5 * time.Second

	// commitPatience is how long a commit may take in all, with the wait for others.
	commitPatience = 10 * time.Second

	// channel is what processes that share a database listen on.
	channel = "heddle"

	// pollEvery is how often a process looks for itself: notifications do not pass
	// every pooler, nor a connection that died in silence.
	pollEvery = 15 * time.Second

	// listenAgain is the pause after a connection for notifications broke.
	listenAgain = time.Second
)

func newCluster(text, dir string) (*cluster, error) {
	config, err := pgx.ParseConfig(text)
	if err != nil {
		return nil, badURL(text, err)
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectPatience
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "heddle"
	}
	return &cluster{config: config, dir: dir, log: slog.New(slog.DiscardHandler)}, nil
}

// badURL says what is wrong with a URL, as far as that can be said without its password.
func badURL(text string, err error) error {
	const form = "database.url is not a PostgreSQL URL: write postgres://USER:PASSWORD@HOST:PORT/NAME, with %-encoding for special characters in the password"
	u, unreadable := url.Parse(text)
	cause := errors.Unwrap(err)
	if unreadable != nil || u.User == nil || cause == nil {
		return &tailnet.Error{Code: tailnet.Invalid, Msg: form}
	}
	if password, _ := u.User.Password(); password != "" && strings.Contains(cause.Error(), password) {
		return &tailnet.Error{Code: tailnet.Invalid, Msg: form}
	}
	return tailnet.Errorf(tailnet.Invalid, "database.url cannot be used: %v", cause)
}

func (c *cluster) String() string {
	return fmt.Sprintf("%s on %s", c.config.Database, net.JoinHostPort(c.config.Host, fmt.Sprint(c.config.Port)))
}

func (c *cluster) dialect() dialect {
	return dialect{bytes: "BYTEA", octets: "octet_length(%s)", batch: 200, patient: commitPatience}
}

// open opens connections. They are made when they are used, and again when they broke.
func (c *cluster) open(writes bool) (*gorm.DB, error) {
	pool := stdlib.OpenDB(*c.config, stdlib.OptionAfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
		return settle(ctx, conn, writes)
	}))
	conns := 4
	if writes {
		conns = 2 // one commits; the other tells what became of a commit whose connection hangs
	}
	pool.SetMaxOpenConns(conns)
	pool.SetMaxIdleConns(conns)
	pool.SetConnMaxIdleTime(5 * time.Minute)
	g, err := gorm.Open(postgres.New(postgres.Config{Conn: pool}), gormConfig())
	if err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	return g, nil
}

// settle sets what heddle needs of a session.
func settle(ctx context.Context, conn *pgx.Conn, writes bool) error {
	statements := []string{
		// A commit that was acknowledged must survive a crash of the database. Stronger settings stay.
		`SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'`,
		// What hangs in the database must not hold up a commit for ever: nobody's lock,
		// and no transaction of a heddle that has vanished.
		`SET lock_timeout = '5s'`,
		`SET idle_in_transaction_session_timeout = '15s'`,
	}
	if !writes {
		statements = []string{`SET default_transaction_read_only = on`}
	}
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) prepare(log *slog.Logger) error {
	c.log = log
	if c.dir == "" {
		return nil
	}
	if err := makeDir(c.dir, log); err != nil {
		return err
	}
	var err error
	c.lock, err = dirlock.Take(c.dir)
	return err
}

func (c *cluster) close() error { return c.lock.Release() }

func (c *cluster) check(ctx context.Context, g *gorm.DB) error {
	var version int
	var encoding string
	err := g.WithContext(ctx).Raw("SELECT current_setting('server_version_num')::int, current_setting('server_encoding')").Row().Scan(&version, &encoding)
	switch {
	case err != nil:
		return err
	case version < oldestPostgres:
		return tailnet.Errorf(tailnet.Invalid, "the PostgreSQL server of %s has version %d: heddle needs %d or newer", c, version/10000, oldestPostgres/10000)
	case encoding != "UTF8":
		return tailnet.Errorf(tailnet.Invalid, "the database %s has the encoding %s: make one with ENCODING 'UTF8' TEMPLATE template0", c, encoding)
	}
	return nil
}

func (c *cluster) saveFor(version int, now time.Time) string {
	if c.dir == "" {
		return ""
	}
	return filepath.Join(c.dir, fmt.Sprintf("postgres.v%d-%s.db", version, now.UTC().Format("20060102T150405.000Z")))
}

// migrating: two servers may start at once.
func (c *cluster) migrating(tx *gorm.DB) error {
	const ours = 0x686564646c65 // "heddle"
	return tx.Exec("SELECT pg_advisory_xact_lock(?)", ours).Error
}

func (c *cluster) copy(ctx context.Context, from *gorm.DB, path string) error {
	return saveTo(ctx, from, path)
}

func (c *cluster) ping() error { return nil }

func (c *cluster) shared() bool { return true }

// watch listens, and looks for itself now and then.
func (c *cluster) watch(ctx context.Context, d *DB, name string, news func()) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	<-pause.C
	for broken := false; ; {
		err := c.listen(ctx, d.origin, name, news, func() {
			if broken {
				c.log.Info("the database tells of changes again", "database", c.String())
			}
			broken = false
		})
		if ctx.Err() != nil {
			return
		}
		if !broken {
			c.log.Warn("the connection on which the database tells of changes is broken; connecting again until it works", "database", c.String(), "err", err)
		}
		broken = true
		pause.Reset(listenAgain)
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
	}
}

// listen returns when its connection breaks.
func (c *cluster) listen(ctx context.Context, origin, name string, news, works func()) error {
	conn, err := pgx.ConnectConfig(ctx, c.config.Copy())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return err
	}
	if err := c.warnOfOthers(ctx, conn, name); err != nil {
		return err
	}
	works()
	news() // what was committed while nobody listened
	for {
		n, err := c.await(ctx, conn)
		switch {
		case err != nil:
			return err
		case n == nil: // a quiet time
			if err := conn.Ping(ctx); err != nil {
				return err
			}
			news()
		default:
			from, tailnet, _ := strings.Cut(n.Payload, " ")
			if from != origin && tailnet == name {
				news()
			}
		}
	}
}

// warnOfOthers tells if another process has the tailnet open. That does no harm to what is stored; but
// map streams, and with them who is online, are those of one process.
func (c *cluster) warnOfOthers(ctx context.Context, conn *pgx.Conn, name string) error {
	var alone bool
	// The lock ends with the connection.
	err := conn.QueryRow(ctx, "SELECT pg_try_advisory_lock(hashtext('heddle serves'), hashtext($1))", name).Scan(&alone)
	if err == nil && !alone {
		c.log.Warn("another heddle has this tailnet open: only one may serve it, or devices are shown offline that are not", "database", c.String(), "tailnet", name)
	}
	return err
}

// await returns the next notification, nil if there is none for a while.
func (c *cluster) await(ctx context.Context, conn *pgx.Conn) (*pgconn.Notification, error) {
	wait, cancel := context.WithTimeout(ctx, pollEvery)
	defer cancel()
	n, err := conn.WaitForNotification(wait)
	if err != nil && ctx.Err() == nil && wait.Err() != nil && !conn.IsClosed() {
		return nil, nil
	}
	return n, err
}

// readOnlyState is the SQLSTATE of a change where only reading is possible.
const readOnlyState = "25006"

// states are the errors of the server that an admin can do something about,
// by SQLSTATE or its class.
var states = []struct {
	prefix string
	code   tailnet.Code
	say    string
}{
	{"53100", tailnet.Unavailable, "the disk of the database server is full; free some space on it, then try again"},
	{"53300", tailnet.Unavailable, "the database server has too many connections; raise its max_connections or end other clients"},
	{"53", tailnet.Unavailable, "the database server is out of resources; look at its log"},
	{"57", tailnet.Unavailable, "the database server is stopping or starting; it works again when that is done"},
	{"55P03", tailnet.Unavailable, "another session of the database server holds a lock; end it, then try again"},
	{readOnlyState, tailnet.Unavailable, "the database server is a standby or set to read-only; database.url must lead to the primary (add target_session_attrs=read-write if it names several hosts)"},
	{"40", tailnet.Unavailable, "the database server broke the transaction off; try again"},
	{"28", tailnet.Denied, "the database server refuses the login; check user and password in database.url and the server's pg_hba.conf"},
	{"3D000", tailnet.NotFound, "the database does not exist; make it with createdb --encoding UTF8, owned by the user in database.url"},
	{"42501", tailnet.Denied, "the user in database.url may not do that; make the user the owner of the database"},
	{"22021", tailnet.Invalid, "it holds bytes that are not UTF-8 text, which PostgreSQL does not store"},
	{"58", tailnet.Unavailable, "the disk of the database server refuses it; look at the server's log"},
}

func (c *cluster) cause(doing string, err error) error {
	var told *pgconn.PgError
	var unreachable *pgconn.ConnectError
	var network net.Error
	switch {
	case errors.As(err, &told):
		for _, s := range states {
			if strings.HasPrefix(told.Code, s.prefix) {
				return &tailnet.Error{Code: s.code, Msg: fmt.Sprintf("cannot %s: %s (%s)", doing, s.say, c), Err: err}
			}
		}
		return nil
	case errors.As(err, &unreachable):
		return unavailable(errors.Unwrap(err), "cannot %s: the database server of %s cannot be reached; check that it runs and that database.url is right", doing, c)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", doing, err)
	case errors.Is(err, context.DeadlineExceeded):
		return unavailable(err, "cannot %s: the database server of %s does not answer in time", doing, c)
	case errors.As(err, &network), pgconn.SafeToRetry(err), broken(err):
		return unavailable(err, "cannot %s: the connection to the database server of %s broke", doing, c)
	}
	return nil
}

// broken reports whether err is one of the many by which a connection ends.
func broken(err error) bool {
	for _, end := range []error{driver.ErrBadConn, sql.ErrConnDone, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed} {
		if errors.Is(err, end) {
			return true
		}
	}
	return strings.Contains(err.Error(), "conn closed") // which the driver has no value for
}
