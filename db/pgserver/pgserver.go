// Package pgserver owns a PostgreSQL server for tests: its cluster, its
// process, and fresh databases in it. It is for tests only, and refuses to
// know what is kept in them.
package pgserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Server is a PostgreSQL server that nobody else uses. It listens on a
// socket in its own directory only.
type Server struct {
	dir     string
	bin     string
	cred    *syscall.Credential // nil: as this user
	process *exec.Cmd           // nil while it is stopped
	ended   chan struct{}       // closed when process has
	log     string
}

// Missing says why there is no PostgreSQL here, and how to get it; nil if there is.
func Missing() error {
	_, err := programs()
	return err
}

// programs returns the directory of the server's programs. Distributions keep them out of PATH.
func programs() (string, error) {
	if major := os.Getenv(VersionVariable); major != "" {
		return fetched(major)
	}
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.Sort(dirs)
	for _, dir := range slices.Backward(dirs) {
		if _, err := os.Stat(filepath.Join(dir, "initdb")); err == nil {
			return dir, nil
		}
	}
	initdb, err := exec.LookPath("initdb")
	if err != nil {
		return "", errors.New("there is no PostgreSQL server here: install it (apt-get install postgresql)")
	}
	if initdb, err = filepath.EvalSymlinks(initdb); err != nil {
		return "", err
	}
	return filepath.Dir(initdb), nil
}

// New makes a cluster and starts its server. Close removes it.
func New() (_ *Server, err error) {
	s := &Server{}
	if s.bin, err = programs(); err != nil {
		return nil, err
	}
	if s.dir, err = os.MkdirTemp("", "heddle-postgres-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	s.log = filepath.Join(s.dir, "log")
	if os.Geteuid() == 0 { // which PostgreSQL refuses to run as
		if s.cred, err = unprivileged(); err != nil {
			return nil, err
		}
		if err := os.Chown(s.dir, int(s.cred.Uid), int(s.cred.Gid)); err != nil {
			return nil, err
		}
	}
	out, err := s.command("initdb", "--pgdata", s.data(), "--username", "heddle", "--auth", "trust",
		"--encoding", "UTF8", "--no-locale", "--no-sync").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	if err := s.guard(); err != nil {
		return nil, err
	}
	return s, s.Start()
}

// Guarded is a role that must give its password, if a test makes it. All others are trusted.
const Guarded = "guarded"

// guard puts that before what else the server is told of logins.
func (s *Server) guard() error {
	file := filepath.Join(s.data(), "pg_hba.conf")
	rules, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return os.WriteFile(file, append([]byte("local all "+Guarded+" scram-sha-256\n"), rules...), 0o600)
}

// unprivileged is the user of the package, or nobody.
func unprivileged() (*syscall.Credential, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(err1, err2)
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, program), args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.cred, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// startPatience bounds a start; after a crash it replays its log first.
const startPatience = 60 * time.Second

// Start starts the server and returns when it answers.
func (s *Server) Start() error {
	if s.process != nil {
		return nil
	}
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	// What is tested are processes that die, not machines: nothing needs to be synced.
	cmd := s.command("postgres", "-D", s.data(), "-k", s.dir, "-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=200")
	cmd.Stdout, cmd.Stderr = log, log
	// The signal at the death of the parent is that of the thread, which Go may end: the server is stopped by Close.
	cmd.SysProcAttr.Pdeathsig = 0
	if err := cmd.Start(); err != nil {
		return err
	}
	s.process, s.ended = cmd, make(chan struct{})
	go func(ended chan struct{}) { cmd.Wait(); close(ended) }(s.ended)
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for {
		if err = s.Exec(ctx, "SELECT 1"); err == nil {
			return nil
		}
		select {
		case <-s.ended:
			s.process = nil
			return fmt.Errorf("the server ended: %s", s.tail())
		case <-ctx.Done():
			return fmt.Errorf("the server does not answer: %w: %s", err, s.tail())
		case <-retry.C:
		}
	}
}

func (s *Server) tail() []byte {
	text, _ := os.ReadFile(s.log)
	return bytes.TrimSpace(text[max(0, len(text)-2000):])
}

// Stop stops the server at once: clients see their connections break, and what
// was acknowledged survives.
func (s *Server) Stop() error { return s.end(syscall.SIGQUIT) }

// end sends a signal of which postgres knows what to do, and waits.
func (s *Server) end(signal os.Signal) error {
	if s.process == nil {
		return nil
	}
	err := s.process.Process.Signal(signal)
	<-s.ended
	s.process = nil
	return err
}

// Close stops the server and removes its cluster.
func (s *Server) Close() error {
	return errors.Join(s.Stop(), os.RemoveAll(s.dir))
}

// Exec runs a statement in the database of the administrators.
func (s *Server) Exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}

// URL leads to a database of the server.
func (s *Server) URL(database string) string {
	return fmt.Sprintf("postgres://heddle@/%s?host=%s", database, s.dir)
}

// Database makes an empty database and returns its URL.
func (s *Server) Database(ctx context.Context, name string) (url string, err error) {
	if err := s.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
		return "", err
	}
	return s.URL(name), nil
}
