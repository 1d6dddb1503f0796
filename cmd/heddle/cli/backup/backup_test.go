package backup_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"heddle/cmd/heddle/cli"
	"heddle/cmd/heddle/cli/backup"
	"heddle/control/tailnet"
	"heddle/db"
	"heddle/db/pgserver"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// run runs one command line with a configuration and returns what it printed.
func run(t *testing.T, config string, args ...string) (out, hints string, err error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	root := &cobra.Command{Use: "heddle", SilenceErrors: true, SilenceUsage: true}
	root.PersistentFlags().StringP("output", "o", "", "")
	root.AddCommand(backup.Commands(backup.Tools{Config: func(*cobra.Command) string { return file }, Version: "v1", Coded: cli.Coded})...)
	var stdout, stderr bytes.Buffer
	root.SetArgs(args)
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	err = root.ExecuteContext(context.Background())
	return stdout.String(), stderr.String(), err
}

func wantCode(t *testing.T, err error, code codes.Code, words string) {
	t.Helper()
	if err == nil || status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), words) {
		t.Errorf("error %v, want %v with %q", err, code, words)
	}
}

// newServer makes the data of a server with one user.
func newServer(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	store, err := db.Open(t.Context(), db.Options{Path: filepath.Join(dir, "heddle.db")})
	if err != nil {
		t.Fatal(err)
	}
	d := &tailnet.Delta{Tailnet: tailnet.Default, LastID: tailnet.LastIDs{User: 1}}
	d.Users.Put = map[tailnet.UserID]*tailnet.User{1: {ID: 1, Name: "alice", Role: "member", Status: tailnet.UserActive}}
	err = store.Commit(t.Context(), d)
	if err := errors.Join(err, store.Close(), os.WriteFile(filepath.Join(dir, "noise.key"), []byte("privkey:1\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestBackupAndRestore(t *testing.T) {
	config := "data_dir: " + newServer(t) + "\n"
	passphrase := filepath.Join(t.TempDir(), "passphrase")
	if err := os.WriteFile(passphrase, []byte("correct horse\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "b")
	_, hints, err := run(t, config, "backup", file)
	if err != nil || !strings.Contains(hints, "not encrypted") {
		t.Errorf("%q, %v", hints, err)
	}
	_, _, err = run(t, config, "backup", file)
	wantCode(t, err, codes.FailedPrecondition, "exists")
	_, hints, err = run(t, config, "backup", "--passphrase-file", passphrase, file+".age")
	if err != nil || hints != "" {
		t.Errorf("%q, %v", hints, err)
	}
	_, _, err = run(t, config, "backup", "--recipient", "age1x", file+"2")
	wantCode(t, err, codes.InvalidArgument, "no public key")
	_, _, err = run(t, "data_dir: "+t.TempDir()+"\n", "backup", file+"2")
	wantCode(t, err, codes.NotFound, "no database")

	place := t.TempDir()
	fresh := "data_dir: " + place + "\nserver_url: https://other.example.com\ntrusted_proxies: [127.0.0.1]\n"
	_, _, err = run(t, fresh, "restore", file+".age")
	wantCode(t, err, codes.InvalidArgument, "--passphrase-file")
	out, hints, err := run(t, fresh, "restore", "--passphrase-file", passphrase, file+".age")
	if err != nil || !strings.Contains(out, "0 devices and 1 users") || !strings.Contains(out, ", into "+place+"\n") || !strings.Contains(hints, "http://127.0.0.1:8080") || !strings.Contains(hints, "heddle serve") {
		t.Errorf("%q, %q, %v", out, hints, err)
	}
	_, _, err = run(t, fresh, "restore", "--passphrase-file", passphrase, file+".age")
	wantCode(t, err, codes.FailedPrecondition, "already")
	out, _, err = run(t, fresh, "backup", "-o", "json", file+"3")
	var m struct{ Files []string }
	if jsonErr := json.Unmarshal([]byte(out), &m); err != nil || jsonErr != nil || len(m.Files) != 1 {
		t.Errorf("%q, %v, %v", out, err, jsonErr)
	}
}

// A server moves to PostgreSQL and back; its backups know either.
func TestMigrate(t *testing.T) {
	server := pgserver.Of(t)
	url, err := server.Database(t.Context(), "heddle")
	if err != nil {
		t.Fatal(err)
	}
	dir := newServer(t)
	config := "data_dir: " + dir + "\n"
	for _, tt := range []struct {
		to, words string
		code      codes.Code
	}{
		{"sqlite", "already", codes.InvalidArgument},
		{filepath.Join(dir, "none"), "PostgreSQL URL", codes.InvalidArgument},
		{"postgres://u:hunter2@[", "not a PostgreSQL URL", codes.InvalidArgument},
	} {
		_, _, err := run(t, config, "db", "migrate", "--to", tt.to)
		wantCode(t, err, tt.code, tt.words)
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the password is in the error: %v", err)
		}
	}
	running, err := db.Open(t.Context(), db.Options{Path: filepath.Join(dir, "heddle.db")})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = run(t, config, "db", "migrate", "--to", url)
	wantCode(t, err, codes.FailedPrecondition, "in use")
	running.Close()
	out, hints, err := run(t, config, "db", "migrate", "--to", url)
	if err != nil || !strings.Contains(out, "copied 2 rows") || !strings.Contains(hints, "database.url") {
		t.Fatalf("%q, %q, %v", out, hints, err)
	}
	_, _, err = run(t, config, "db", "migrate", "--to", url)
	wantCode(t, err, codes.FailedPrecondition, "empty")

	config += "database: {url: '" + url + "'}\n"
	_, _, err = run(t, config, "db", "migrate", "--to", "sqlite")
	wantCode(t, err, codes.FailedPrecondition, "empty") // the file is still there
	if err := os.Remove(filepath.Join(dir, "heddle.db")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "b")
	if _, _, err := run(t, config, "backup", file); err != nil {
		t.Fatal(err)
	}
	if out, _, err = run(t, config, "db", "migrate", "--to", "sqlite"); err != nil || !strings.Contains(out, "copied 2 rows") {
		t.Fatalf("%q, %v", out, err)
	}
	if out, _, err = run(t, "data_dir: "+t.TempDir()+"\n", "restore", file); err != nil || !strings.Contains(out, "1 users") {
		t.Errorf("%q, %v", out, err)
	}
	other, err := server.Database(t.Context(), "other")
	if err != nil {
		t.Fatal(err)
	}
	if out, _, err = run(t, "data_dir: "+t.TempDir()+"\ndatabase: {url: '"+other+"'}\n", "restore", file); err != nil || !strings.Contains(out, "1 users") {
		t.Errorf("%q, %v", out, err)
	}
	_, _, err = run(t, "data_dir: "+t.TempDir()+"\ndatabase: {url: '"+other+"'}\n", "restore", file)
	wantCode(t, err, codes.FailedPrecondition, "empty")
}
