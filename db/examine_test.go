package db_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"heddle/control/tailnet"
	"heddle/db"
	"heddle/db/pgserver"

	"github.com/google/go-cmp/cmp"
)

// filled makes a database of a few pages.
func filled(t *testing.T, o db.Options) {
	t.Helper()
	s := open(t, o)
	commit(t, s, manyNodes(300))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// A sound database is found sound whether somebody has it open or not, and none is made.
func TestExamineSound(t *testing.T) {
	everywhere(t, func(t *testing.T, at engine) {
		o := at(t)
		want := func(there bool) {
			t.Helper()
			if got, err := db.Examine(t.Context(), o); got != there || err != nil {
				t.Errorf("there: %t, %v; want %t", got, err, there)
			}
		}
		want(false)
		s := open(t, o)
		want(true)
		commit(t, s, nodes(0, testNode(1)))
		want(true)
		s.Close()
		want(true)
		if o.Path == "" {
			return
		}
		before := files(t, filepath.Dir(o.Path))
		want(true)
		if diff := cmp.Diff(before, files(t, filepath.Dir(o.Path))); diff != "" {
			t.Errorf("files were changed (-before +after):\n%s", diff)
		}
	})
}

// files are those of a directory, with what tells whether they were changed.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = fmt.Sprint(info.Size(), info.Mode(), info.ModTime())
	}
	return all
}

// What a crash left in the log counts.
func TestExamineAfterKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "heddle.db")
	cmd := child(t, "commit", path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if there, err := db.Examine(t.Context(), db.Options{Path: path}); !there || err != nil {
		t.Errorf("there: %t, %v", there, err)
	}
}

func TestExamineBrokenFile(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, path string)
		code  tailnet.Code
		words []string
	}{
		{"garbage", func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(strings.Repeat("not SQLite\n", 1000)), 0o600); err != nil {
				t.Fatal(err)
			}
		}, tailnet.Internal, []string{"not a SQLite file", "backup"}},
		{"torn", func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt(make([]byte, 20*4096), 60*4096); err != nil {
				t.Fatal(err)
			}
		}, tailnet.Internal, []string{"damaged", "backup"}},
		{"newer", func(t *testing.T, path string) {
			script(t, path, `INSERT INTO heddle_migrations VALUES (4711, 'from the future', NULL)`)
		}, tailnet.Conflict, []string{"newer", "4711", "backup"}},
		{"another program's", func(t *testing.T, path string) {
			os.Remove(path)
			script(t, path, `CREATE TABLE users (id INTEGER)`)
		}, tailnet.Conflict, []string{"another program", "another path"}},
		{"a directory", func(t *testing.T, path string) {
			os.Remove(path)
			mkdir(t, path)
		}, tailnet.Internal, []string{"not a SQLite file"}},
		{"somebody else's file", func(t *testing.T, path string) { takeAway(t, path) }, tailnet.Unavailable, []string{"write"}},
		{"somebody else's log", func(t *testing.T, path string) {
			if err := os.WriteFile(path+"-wal", nil, 0o600); err != nil {
				t.Fatal(err)
			}
			takeAway(t, path+"-wal")
			if os.Geteuid() == 0 {
				for _, file := range []string{path, filepath.Join(filepath.Dir(path), "heddle.lock")} {
					if err := os.Chown(file, nobody, nobody); err != nil {
						t.Fatal(err)
					}
				}
			}
		}, tailnet.Unavailable, []string{"heddle.db-wal", "write"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "heddle.db")
			filled(t, db.Options{Path: path})
			tt.spoil(t, path)
			_, err := db.Examine(t.Context(), db.Options{Path: path})
			wantError(t, err, tt.code, append(tt.words, path)...)
		})
	}
}

const nobody = 65534

// takeAway makes a file one that the server's user may not write to: root's, if this is root, and otherwise one without
// that right.
func takeAway(t *testing.T, path string) {
	t.Helper()
	err := os.Chmod(path, 0o400)
	if os.Geteuid() == 0 {
		err = os.Chown(filepath.Dir(path), nobody, nobody)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A file system that is mounted read-only stops root, too.
func TestExamineReadOnlyMount(t *testing.T) {
	dir := t.TempDir()
	filled(t, db.Options{Path: filepath.Join(dir, "heddle.db")})
	if err := syscall.Mount(dir, dir, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("it takes root to mount: %v", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	if err := syscall.Mount("", dir, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Skipf("it takes root to mount: %v", err)
	}
	_, err := db.Examine(t.Context(), db.Options{Path: filepath.Join(dir, "heddle.db")})
	wantError(t, err, tailnet.Unavailable, "read-only", "ReadWritePaths")
}

func TestExaminePostgres(t *testing.T) {
	at := onPostgres(t)
	for name, tt := range map[string]struct {
		spoil func(t *testing.T, url string) string
		code  tailnet.Code
		words []string
	}{
		"unreachable": {func(t *testing.T, url string) string { return "postgres://u:hunter2@127.0.0.1:1/x" }, tailnet.Unavailable, []string{"cannot be reached", "127.0.0.1:1"}},
		"no socket":   {func(t *testing.T, url string) string { return "postgres://u:hunter2@/x?host=/none" }, tailnet.Unavailable, []string{"cannot be reached"}},
		"wrong password": {func(t *testing.T, url string) string {
			sqlAt(t, url, `DROP ROLE IF EXISTS `+pgserver.Guarded, `CREATE ROLE `+pgserver.Guarded+` LOGIN PASSWORD 'right'`)
			return strings.Replace(url, "heddle@", pgserver.Guarded+":hunter2@", 1)
		}, tailnet.Denied, []string{"refuses the login", "password", "pg_hba.conf"}},
		"read-only": {func(t *testing.T, url string) string {
			name := strings.TrimPrefix(strings.Split(url, "?")[0], "postgres://heddle@/")
			sqlAt(t, url, `ALTER DATABASE `+name+` SET default_transaction_read_only = on`)
			return url
		}, tailnet.Unavailable, []string{"standby or set to read-only", "primary", "target_session_attrs"}},
		"newer": {func(t *testing.T, url string) string {
			sqlAt(t, url, `INSERT INTO heddle_migrations VALUES (4711, 'from the future', NULL)`)
			return url
		}, tailnet.Conflict, []string{"newer", "4711"}},
		"no such database": {func(t *testing.T, url string) string { return strings.Replace(url, "/test", "/none", 1) }, tailnet.NotFound, []string{"createdb"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := at(t)
			filled(t, o)
			_, err := db.Examine(t.Context(), db.Options{URL: tt.spoil(t, o.URL)})
			wantError(t, err, tt.code, tt.words...)
			if strings.Contains(fmt.Sprintf("%+v", err), "hunter2") {
				t.Errorf("the password is in the error: %v", err)
			}
		})
	}
}
