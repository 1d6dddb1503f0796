package db_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"heddle/control/tailnet"
	"heddle/db"

	"github.com/google/go-cmp/cmp"
)

// childEnv makes the test binary play another process: "role path".
const childEnv = "HEDDLE_DB_TEST_CHILD"

func TestMain(m *testing.M) {
	role, path, _ := strings.Cut(os.Getenv(childEnv), " ")
	var err error
	switch role {
	case "":
		code := m.Run()
		if err := stopPostgres(); err != nil {
			fmt.Fprintln(os.Stderr, "db:", err)
			code = 1
		}
		os.Exit(code)
	case "commit":
		err = commitForever(path)
	case "fill":
		err = fillDisk(path)
	}
	if err != nil {
		fmt.Println("child:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func child(t *testing.T, role, path string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), childEnv+"="+role+" "+path)
	cmd.Stderr = os.Stderr
	return cmd
}

// script runs SQL on a file as another program would.
func script(t *testing.T, path string, statements ...string) {
	t.Helper()
	other, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for _, s := range statements {
		if _, err := other.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// wantError checks the code and that the message for people holds all words.
func wantError(t *testing.T, err error, code tailnet.Code, words ...string) {
	t.Helper()
	if err == nil || tailnet.CodeOf(err) != code {
		t.Fatalf("error %v (%v), want %v", err, tailnet.CodeOf(err), code)
	}
	for _, w := range words {
		if !strings.Contains(tailnet.Message(err), w) {
			t.Errorf("message %q does not name %q", tailnet.Message(err), w)
		}
	}
}

// commitForever adds one node per commit and tells the number of each commit
// that was acknowledged.
func commitForever(path string) error {
	s, err := db.Open(context.Background(), db.Options{Path: path})
	if err != nil {
		return err
	}
	img, err := s.Load(context.Background(), tailnet.Default)
	if err != nil {
		return err
	}
	for base := img.Seq; ; base++ {
		d := nodes(base, testNode(int(base)+1))
		d.Audit = []tailnet.AuditEntry{testAudit(int(base))}
		if err := s.Commit(context.Background(), d); err != nil {
			return err
		}
		fmt.Println(base + 1)
	}
}

// Nothing that was acknowledged is lost by SIGKILL, and the lock of the dead
// process does not keep the next one out.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "heddle.db")
	for _, acks := range []int{1, 20, 150} {
		cmd := child(t, "commit", path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var acked tailnet.Seq
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			seq, err := strconv.ParseInt(lines.Text(), 10, 64)
			if err != nil {
				t.Fatalf("child says %q", lines.Text())
			}
			acked = tailnet.Seq(seq)
			if n+1 == acks {
				if _, err := db.Open(t.Context(), db.Options{Path: path}); err == nil {
					t.Fatal("a second process opened the directory")
				} else {
					wantError(t, err, tailnet.Conflict, filepath.Dir(path), "in use", fmt.Sprintf("process %d", cmd.Process.Pid))
				}
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if cmd.Wait() == nil || int(acked) < acks {
			t.Fatalf("the child ended by itself after commit %d", acked)
		}
		s := openAt(t, path)
		img := load(t, s, tailnet.Default)
		if img.Seq < acked {
			t.Errorf("commit %d was acknowledged, the database is at %d", acked, img.Seq)
		}
		var want []*tailnet.Node
		for id := range int(img.Seq) {
			want = append(want, testNode(id+1))
		}
		if diff := cmp.Diff(want, img.Nodes, equal); diff != "" {
			t.Errorf("nodes (-want +got):\n%s", diff)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Power cuts cannot be tried here; what SQLite promises about them hangs on
// these settings.
func TestDurabilitySettings(t *testing.T) {
	s := openNew(t)
	for name, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "fullfsync": "1", "foreign_keys": "1"} {
		if got, err := s.Pragma(name); err != nil || got != want {
			t.Errorf("%s is %q (%v), want %q", name, got, err, want)
		}
	}
}

func TestModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "heddle.db")
	s := openAt(t, path)
	commit(t, s, nodes(0, testNode(1)))
	check := func(path string, want fs.FileMode) {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %v, want %v", path, got, want)
		}
	}
	check(filepath.Dir(path), 0o700)
	for _, f := range []string{path, path + "-wal", path + "-shm", filepath.Join(filepath.Dir(path), "heddle.lock")} {
		check(f, 0o600)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	openAt(t, path)
	check(path, 0o600)
}

func TestOddPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?c=#d%41'é", "x?mode=ro&y.db")
	s := openAt(t, path)
	commit(t, s, nodes(0, testNode(1)))
	if err := s.Backup(t.Context(), path+" 'copy'"); err != nil {
		t.Error(err)
	}
	s.Close()
	if got := load(t, openAt(t, path), tailnet.Default).Seq; got != 1 {
		t.Errorf("sequence number %d", got)
	}
}

func TestOpenTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "heddle.db")
	s := openAt(t, path)
	_, err := db.Open(t.Context(), db.Options{Path: filepath.Join(filepath.Dir(path), "other.db")})
	wantError(t, err, tailnet.Conflict, filepath.Dir(path), "in use", strconv.Itoa(os.Getpid()))
	commit(t, s, nodes(0, testNode(1))) // the first is not disturbed
	s.Close()
	openAt(t, path)
}

func TestRefuses(t *testing.T) {
	heddles := func(t *testing.T, path string) {
		s := openAt(t, path)
		d := manyNodes(300)
		commit(t, s, d)
		s.Close()
	}
	for _, tt := range []struct {
		name  string
		make  func(t *testing.T, path string)
		code  tailnet.Code
		words []string
	}{
		{"a newer database", func(t *testing.T, path string) {
			heddles(t, path)
			script(t, path, `INSERT INTO heddle_migrations VALUES (4711, 'from the future', NULL)`)
		}, tailnet.Conflict, []string{"newer", "4711", "backup"}},
		{"another program's database", func(t *testing.T, path string) {
			script(t, path, `CREATE TABLE migrations (id TEXT)`, `CREATE TABLE users (id INTEGER)`)
		}, tailnet.Conflict, []string{"another program", `"users"`, "another path"}},
		{"not a database", func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(strings.Repeat("not SQLite\n", 1000)), 0o600); err != nil {
				t.Fatal(err)
			}
		}, tailnet.Internal, []string{"not a SQLite file", "backup"}},
		{"a torn database", func(t *testing.T, path string) {
			heddles(t, path)
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt(make([]byte, 20*4096), 60*4096); err != nil {
				t.Fatal(err)
			}
		}, tailnet.Internal, []string{"damaged", "backup"}},
		{"a directory in its place", func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, tailnet.Unavailable, []string{"cannot be opened"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "heddle.db")
			tt.make(t, path)
			for range 2 { // the second time shows that the first let go of the lock
				_, err := db.Open(t.Context(), db.Options{Path: path})
				wantError(t, err, tt.code, append(tt.words, path)...)
			}
		})
	}
	_, err := db.Open(t.Context(), db.Options{})
	wantError(t, err, tailnet.Invalid, "path")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = db.Open(t.Context(), db.Options{Path: filepath.Join(file, "heddle.db")})
	wantError(t, err, tailnet.Invalid, "not a directory")
}

// Replication tools keep tables in our file, perhaps before we first open it.
func TestForeignTables(t *testing.T) {
	path := filepath.Join(t.TempDir(), "heddle.db")
	script(t, path, `CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)`, `INSERT INTO _litestream_seq VALUES (1, 42)`)
	s := openAt(t, path)
	commit(t, s, nodes(0, testNode(1)))
	s.Close()
	script(t, path, `CREATE TABLE _litestream_lock (id INTEGER)`)
	s, err := db.OpenSteps(t.Context(), db.Options{Path: path}, db.Step("more", `CREATE TABLE more (id BIGINT)`))
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	script(t, path, `UPDATE _litestream_seq SET seq = seq / (seq = 42)`, `DROP TABLE _litestream_lock`)
	other, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	var seq int
	if err := other.QueryRow(`SELECT seq FROM _litestream_seq`).Scan(&seq); err != nil || seq != 42 {
		t.Errorf("foreign row: %d, %v", seq, err)
	}
}

func TestMigrate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "heddle.db")
	copies := func() []string {
		t.Helper()
		found, err := filepath.Glob(path + ".*")
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	s := openAt(t, path)
	delta, want := fullDelta()
	commit(t, s, delta)
	s.Close()
	if got := copies(); len(got) != 0 {
		t.Fatalf("copies of a fresh database: %q", got)
	}

	rename := db.Step("rename", `ALTER TABLE audit RENAME TO audit_log`, `ALTER TABLE audit_log RENAME TO audit`, `CREATE TABLE extra (x {bytes})`)
	_, err := db.OpenSteps(t.Context(), db.Options{Path: path}, db.Step("broken", `DELETE FROM nodes`, `CREATE TABLE half (x BIGINT)`, `NONSENSE`))
	wantError(t, err, tailnet.Internal)
	if !strings.Contains(err.Error(), fmt.Sprintf("version %d (broken)", db.Version+1)) {
		t.Errorf("error %v does not name the step", err)
	}
	s = openAt(t, path) // the failed step left the old version as it was
	if diff := cmp.Diff(want, load(t, s, tailnet.Default), equal); diff != "" {
		t.Errorf("after a failed step (-want +got):\n%s", diff)
	}
	s.Close()
	script(t, path, `CREATE TABLE half (x BIGINT)`, `DROP TABLE half`)
	if got := copies(); len(got) != 1 {
		t.Fatalf("copies before a failed step: %q", got)
	}
	if err := os.Remove(copies()[0]); err != nil {
		t.Fatal(err)
	}

	for range 2 { // the second time there is nothing to do
		s, err = db.OpenSteps(t.Context(), db.Options{Path: path}, rename)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, load(t, s, tailnet.Default), equal); diff != "" {
			t.Errorf("after the upgrade (-want +got):\n%s", diff)
		}
		s.Close()
	}
	saved := copies()
	if len(saved) != 1 || !strings.HasPrefix(saved[0], fmt.Sprintf("%s.v%d-", path, db.Version)) {
		t.Fatalf("copies: %q", saved)
	}
	_, err = db.Open(t.Context(), db.Options{Path: path}) // back to the old program
	wantError(t, err, tailnet.Conflict, "newer", fmt.Sprintf("version %d", db.Version+1), fmt.Sprintf("up to %d", db.Version))

	restored := filepath.Join(t.TempDir(), "heddle.db")
	if err := os.Rename(saved[0], restored); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, load(t, openAt(t, restored), tailnet.Default), equal); diff != "" {
		t.Errorf("copy (-want +got):\n%s", diff)
	}
}

func TestBackup(t *testing.T) {
	s := openNew(t)
	delta, want := fullDelta()
	commit(t, s, delta)
	dir := t.TempDir()
	path := filepath.Join(dir, "copy.db")
	if err := s.Backup(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	commit(t, s, nodes(1, testNode(2)))
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	wantError(t, s.Backup(t.Context(), path), tailnet.Conflict, path, "exists")
	wantError(t, s.Backup(t.Context(), filepath.Join(dir, "no", "copy.db")), tailnet.Unavailable, "directory")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Backup(ended, path+"2"); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("files %v, %v", left, err)
	}
	if diff := cmp.Diff(want, load(t, openAt(t, path), tailnet.Default), equal); diff != "" {
		t.Errorf("copy (-want +got):\n%s", diff)
	}
}

func TestPing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "heddle.db")
	s := openAt(t, path)
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if err := os.Rename(path, path+".moved"); err != nil {
		t.Fatal(err)
	}
	wantError(t, s.Ping(t.Context()), tailnet.Unavailable, path, "removed")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantError(t, s.Ping(t.Context()), tailnet.Unavailable, path, "replaced")
	if err := os.Rename(path+".moved", path); err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	s.Close()
	if err := s.Ping(t.Context()); err == nil {
		t.Error("a closed database answers")
	}
	if err := s.Commit(t.Context(), nodes(0)); err == nil {
		t.Error("a closed database takes commits")
	}
}

// A row that cannot be read stops the load and is named.
func TestBadRow(t *testing.T) {
	for statement, words := range map[string][2]string{
		`UPDATE nodes SET tags = '["a", 5]'`:                                     {"nodes, row 1", "tags"},
		`UPDATE nodes SET hostinfo = '{'`:                                        {"nodes, row 1", "hostinfo"},
		`UPDATE nodes SET ipv4 = '100.64.0.300'`:                                 {"nodes, row 1", "ipv4"},
		`UPDATE nodes SET node_key = 'nodekey:00'`:                               {"nodes, row 1", "node_key"},
		`UPDATE nodes SET expiry = 'soon'`:                                       {"nodes, row 1", "expiry"},
		`UPDATE nodes SET approved = '[""]'`:                                     {"nodes, row 1", "approved"},
		`UPDATE auth_keys SET hash = x'00'`:                                      {"auth_keys, row 9", "hash"},
		`UPDATE settings SET data = '{"dns": {}, "new": 1}'`:                     {"settings, row default", "new"},
		`UPDATE tombstones SET machine_key = 'mkey:zz'`:                          {"tombstones, row nodekey:", "machine_key"},
		`UPDATE policies SET updated_at = '2026-02-03 04:05:06'`:                 {"policies, row 1", "updated_at"},
		`UPDATE users SET created_at = '2026-02-03T04:05:06.7Z'`:                 {"users, row 7", "created_at"},
		`UPDATE api_keys SET used_at = '2026-02-03T04:05:06.700000089+01'`:       {"api_keys, row 3", "used_at"},
		`UPDATE nodes SET endpoints = '["192.0.2.1:1"]["192.0.2.1:1"]'`:          {"nodes, row 1", "endpoints"},
		`UPDATE nodes SET last_seen = '2026-02-30T04:05:06.700000089Z'`:          {"nodes, row 1", "last_seen"},
		`UPDATE nodes SET created_at = '12026-02-03T04:05:06.700000089Z'`:        {"nodes, row 1", "created_at"},
		`UPDATE nodes SET disco_key = 'nodekey:` + strings.Repeat("0", 64) + `'`: {"nodes, row 1", "disco_key"},
	} {
		t.Run(statement, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "heddle.db")
			s := openAt(t, path)
			delta, _ := fullDelta()
			commit(t, s, delta)
			script(t, path, statement)
			img, err := s.Load(t.Context(), tailnet.Default)
			wantError(t, err, tailnet.Internal, words[0], "backup")
			if !strings.Contains(err.Error(), words[1]) {
				t.Errorf("error %v does not name %s", err, words[1])
			}
			if diff := cmp.Diff(tailnet.Image{}, img, equal); diff != "" {
				t.Errorf("an image came with the error: %s", diff)
			}
		})
	}
}

// Another program that holds the database makes a commit fail, not hang, and
// leaves nothing behind.
func TestLockedByOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "heddle.db")
	s := openAt(t, path)
	if _, err := s.Pragma("busy_timeout(0)"); err != nil {
		t.Fatal(err)
	}
	other, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	conn, err := other.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	wantError(t, s.Commit(t.Context(), nodes(0, testNode(1))), tailnet.Unavailable, path, "locked")
	load(t, s, tailnet.Default) // reading goes on
	if _, err := conn.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	commit(t, s, nodes(0, testNode(1)))
}

// TestFullDisk mounts a small file system, in a namespace of its own.
func TestFullDisk(t *testing.T) {
	cmd := child(t, "fill", t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER}
	cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("no namespaces here: %v", err)
	}
	text, err := io.ReadAll(out)
	if err := errors.Join(err, cmd.Wait()); err != nil {
		t.Errorf("%v: %s", err, text)
	}
	if strings.HasPrefix(string(text), "skip") {
		t.Skip(string(text))
	}
}

func fillDisk(dir string) error {
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=3m"); err != nil {
		fmt.Println("skip: no mounts here:", err)
		return nil
	}
	ctx := context.Background()
	path := filepath.Join(dir, "heddle.db")
	s, err := db.Open(ctx, db.Options{Path: path})
	if err != nil {
		return err
	}
	if err := s.Commit(ctx, nodes(0, testNode(1))); err != nil {
		return err
	}
	base := tailnet.Seq(1)
	for round := range 3 {
		// All space goes to a file, then some bytes fewer, so that the disk
		// ends at different places of a commit.
		hog := filepath.Join(dir, "hog")
		f, err := os.Create(hog)
		if err != nil {
			return err
		}
		chunk := make([]byte, 1000)
		for err == nil {
			_, err = f.Write(chunk)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			return fmt.Errorf("filling the disk: %w", err)
		}
		size, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Truncate(max(0, size-int64(round)*64<<10)), f.Close()); err != nil {
			return err
		}
		big := manyNodes(400)
		for range 3 {
			big.Base = base
			err = s.Commit(ctx, big)
			var known *tailnet.Error
			if !errors.As(err, &known) || known.Code != tailnet.Unavailable || !strings.Contains(known.Msg, "disk") || !strings.Contains(known.Msg, path) {
				return fmt.Errorf("round %d: commit on a full disk: %v", round, err)
			}
		}
		if img, err := s.Load(ctx, tailnet.Default); err != nil || img.Seq != base || len(img.Nodes) != int(base) {
			return fmt.Errorf("round %d: load on a full disk: %d nodes at %d: %v", round, len(img.Nodes), img.Seq, err)
		}
		if err := os.Remove(hog); err != nil {
			return err
		}
		if err := s.Commit(ctx, nodes(base, testNode(int(base)+1))); err != nil {
			return fmt.Errorf("round %d: commit with space again: %w", round, err)
		}
		base++
	}
	return s.Close()
}
