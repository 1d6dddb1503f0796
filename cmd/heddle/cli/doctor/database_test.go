package doctor

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"heddle/cmd/heddle/config"
	"heddle/db"
	"heddle/db/pgserver"
)

// verdict is what the doctor says of the database of a server with one line of configuration.
func verdict(t *testing.T, line, dataDir string) Finding {
	t.Helper()
	cfg, err := config.Parse("f.yaml", []byte(line+"\ndata_dir: "+dataDir), nil)
	if err != nil {
		t.Fatal(err)
	}
	e := &exam{cfg: cfg}
	e.database(t.Context())
	if len(e.findings) != 1 || e.findings[0].Name != "database" {
		t.Fatalf("findings %+v", e.findings)
	}
	return e.findings[0]
}

// wantVerdict checks words of the reason and of the next step.
func wantVerdict(t *testing.T, got Finding, want Verdict, reason, next string) {
	t.Helper()
	if got.Verdict != want || !strings.Contains(got.Reason, reason) || !strings.Contains(got.Next, next) || (got.Verdict == Broken) != (got.Next != "") {
		t.Errorf("%+v\nwant %s because of %q, and next %q", got, want, reason, next)
	}
}

// filled makes a database with something in it.
func filled(t *testing.T, o db.Options) {
	t.Helper()
	d, err := db.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestDatabaseFile(t *testing.T) {
	for _, tc := range []struct {
		name    string
		spoil   func(t *testing.T, path string) error
		verdict Verdict
		reason  string
		next    string
	}{
		{"sound", func(*testing.T, string) error { return nil }, Fine, "is whole, and can be written to", ""},
		{"none yet", func(_ *testing.T, path string) error { return os.RemoveAll(filepath.Dir(path)) }, Fine, "none yet", ""},
		{"garbage", func(_ *testing.T, path string) error {
			return os.WriteFile(path, []byte(strings.Repeat("not SQLite\n", 1000)), 0o600)
		}, Broken, "is damaged or not a SQLite file", "put the latest backup in its place"},
		{"not writable", func(_ *testing.T, path string) error {
			if os.Geteuid() != 0 {
				return os.Chmod(path, 0o400)
			}
			return os.Chown(filepath.Dir(path), 65534, 65534) // nobody, whose server meets a file of root's
		}, Broken, "write", "u+rw"},
		{"newer", func(t *testing.T, path string) error {
			other, err := sql.Open("sqlite", path)
			if err != nil {
				return err
			}
			defer other.Close()
			_, err = other.Exec(`INSERT INTO heddle_migrations VALUES (4711, 'from the future', NULL)`)
			return err
		}, Broken, "was written by a newer heddle (its schema is version 4711", "install that heddle again"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			path := filepath.Join(dir, "heddle.db")
			filled(t, db.Options{Path: path})
			if err := tc.spoil(t, path); err != nil {
				t.Fatal(err)
			}
			wantVerdict(t, verdict(t, "", dir), tc.verdict, tc.reason, tc.next)
		})
	}
}

func TestDatabaseOnPostgres(t *testing.T) {
	server := pgserver.Of(t)
	url, err := server.Database(context.Background(), "heddle")
	if err != nil {
		t.Fatal(err)
	}
	see := func(url string, want Verdict, reason, next string) {
		t.Helper()
		wantVerdict(t, verdict(t, fmt.Sprintf("database: {url: %q}", url), t.TempDir()), want, reason, next)
	}
	see(url, Fine, "none yet", "")
	filled(t, db.Options{URL: url})
	see(url, Fine, "is whole, and can be written to", "")
	see("postgres://heddle:hunter2@127.0.0.1:1/heddle", Broken, "the database server of heddle on 127.0.0.1:1 cannot be reached", "check that it runs")
	for _, statement := range []string{
		"CREATE ROLE " + pgserver.Guarded + " LOGIN PASSWORD 'right'",
		"ALTER DATABASE heddle SET default_transaction_read_only = on",
	} {
		if err := server.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	see(strings.Replace(url, "heddle@", pgserver.Guarded+":wrong@", 1), Broken, "refuses the login", "check user and password in database.url")
	see(url, Broken, "a standby or set to read-only", "database.url must lead to the primary")
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	see(url, Broken, "cannot be reached", "check that it runs")
}
