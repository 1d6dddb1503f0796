package archive_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"heddle/cmd/heddle/archive"
	"heddle/cmd/heddle/config"
	"heddle/control/tailnet"
	"heddle/db"
	"heddle/db/pgserver"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
)

var moment = time.Date(2026, 2, 3, 4, 5, 6, 700, time.UTC)

// configOf is the configuration of a server in a directory.
func configOf(t *testing.T, dir string, lines ...string) *config.Config {
	t.Helper()
	text := strings.Join(append(lines, "data_dir: "+dir, "server_url: https://vpn.example.com", "trusted_proxies: [127.0.0.1]"), "\n")
	cfg, err := config.Parse("f.yaml", []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// newServer fills a data directory and leaves the database open, as a running server does.
func newServer(t *testing.T) (dir string, store *db.DB) {
	t.Helper()
	dir = t.TempDir()
	store, err := db.Open(t.Context(), db.Options{Path: filepath.Join(dir, "heddle.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	addUser(t, store, 0)
	for name, text := range map[string]string{
		"noise.key": "privkey:1\n", "derp.key": "privkey:2\n", "acme/example.com/cert.pem": "cert",
		"heddle.db.v1-20260101T000000.000Z": "old", "backups/heddle-old.tar.gz": "old",
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir, store
}

func addUser(t *testing.T, store *db.DB, base tailnet.Seq) {
	t.Helper()
	d := &tailnet.Delta{Tailnet: tailnet.Default, Base: base, LastID: tailnet.LastIDs{User: tailnet.UserID(base + 1)}}
	d.Users.Put = map[tailnet.UserID]*tailnet.User{tailnet.UserID(base + 1): {ID: tailnet.UserID(base + 1), Name: fmt.Sprint("user", base), Role: "member", Status: "active", Created: moment}}
	if err := store.Commit(t.Context(), d); err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, code tailnet.Code, words ...string) {
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

// list returns the files below a directory with their contents, but for the database.
func list(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, path)
		if err != nil || e.IsDir() || strings.HasPrefix(rel, "heddle.") {
			return err
		}
		text, err := os.ReadFile(path)
		out[rel] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestBackupAndRestore(t *testing.T) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	passphrase, unlock, err := archive.Passphrase("correct horse\n")
	if err != nil {
		t.Fatal(err)
	}
	public, err := archive.Recipients("# ops\n" + key.Recipient().String() + "\n\n")
	if err != nil || len(public) != 1 {
		t.Fatal(public, err)
	}
	keys, err := archive.Identities([]byte("# secret\n" + key.String() + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name       string
		recipients []age.Recipient
		identities []age.Identity
		wrong      []age.Identity
	}{
		{"plain", nil, nil, nil},
		{"public key", public, keys, []age.Identity{unlock}},
		{"passphrase", []age.Recipient{passphrase}, []age.Identity{unlock}, keys},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, store := newServer(t)
			cfg := configOf(t, dir, "backup: {dir: "+dir+"/backups}")
			file := filepath.Join(t.TempDir(), "b")
			m, err := archive.Make(t.Context(), archive.SourceOf(cfg, "v1", tt.recipients), file, moment)
			if err != nil {
				t.Fatal(err)
			}
			want := []string{"acme/example.com/cert.pem", "derp.key", "noise.key"}
			if slices.Sort(m.Files); !slices.Equal(m.Files, want) {
				t.Errorf("files %q, want %q", m.Files, want)
			}
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			text, err := os.ReadFile(file)
			if sealed := bytes.HasPrefix(text, []byte("age-encryption.org")); err != nil || sealed != (tt.recipients != nil) {
				t.Errorf("encrypted: %t, %v", sealed, err)
			}
			_, err = archive.Make(t.Context(), archive.SourceOf(cfg, "v1", nil), file, moment)
			wantCode(t, err, tailnet.Conflict, "exists")
			addUser(t, store, 1) // after the backup

			fresh := filepath.Join(t.TempDir(), "data")
			target := configOf(t, fresh)
			if tt.wrong != nil {
				_, _, err = archive.Restore(t.Context(), target, file, nil)
				wantCode(t, err, tailnet.Invalid, "encrypted", "--identity-file")
				_, _, err = archive.Restore(t.Context(), target, file, tt.wrong)
				wantCode(t, err, tailnet.Denied, "does not open")
			}
			m, img, err := archive.Restore(t.Context(), target, file, tt.identities)
			if err != nil {
				t.Fatal(err)
			}
			if len(img.Users) != 1 || m.Heddle != "v1" || m.Server != "https://vpn.example.com" || !m.Created.Equal(moment.Truncate(time.Second)) {
				t.Errorf("%d users, %+v", len(img.Users), m)
			}
			if diff := cmp.Diff(map[string]string{"acme/example.com/cert.pem": "cert", "derp.key": "privkey:2\n", "noise.key": "privkey:1\n"}, list(t, fresh)); diff != "" {
				t.Errorf("restored files (-want +got):\n%s", diff)
			}
			restored, err := db.Open(t.Context(), db.Options{Path: filepath.Join(fresh, "heddle.db")})
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = archive.Restore(t.Context(), target, file, tt.identities)
			wantCode(t, err, tailnet.Conflict, "in use")
			if img, err := restored.Load(t.Context(), tailnet.Default); err != nil || len(img.Users) != 1 || img.Seq != 1 {
				t.Errorf("%d users at %d, %v", len(img.Users), img.Seq, err)
			}
			restored.Close()
			_, _, err = archive.Restore(t.Context(), target, file, tt.identities)
			wantCode(t, err, tailnet.Conflict, "database", "another data_dir")
		})
	}
}

// A refused restore leaves no directory that it made itself.
func TestRestoreLeavesNothing(t *testing.T) {
	place := filepath.Join(t.TempDir(), "data")
	_, _, err := archive.Restore(t.Context(), configOf(t, place), filepath.Join(t.TempDir(), "none"), nil)
	wantCode(t, err, tailnet.NotFound, "none")
	if _, err := os.Lstat(place); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("data_dir is there: %v", err)
	}
	there := t.TempDir()
	_, _, err = archive.Restore(t.Context(), configOf(t, there), filepath.Join(t.TempDir(), "none"), nil)
	wantCode(t, err, tailnet.NotFound, "none")
	if _, err := os.Lstat(there); err != nil {
		t.Error(err)
	}
}

// A server that has a key of its own keeps it.
func TestRestoreReplacesNothing(t *testing.T) {
	dir, _ := newServer(t)
	file := filepath.Join(t.TempDir(), "b")
	if _, err := archive.Make(t.Context(), archive.SourceOf(configOf(t, dir), "v1", nil), file, moment); err != nil {
		t.Fatal(err)
	}
	fresh := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(fresh, "noise.key"), []byte("privkey:9\n"), 0o600), os.WriteFile(filepath.Join(fresh, "derp.key"), []byte("privkey:2\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	_, _, err := archive.Restore(t.Context(), configOf(t, fresh), file, nil)
	wantCode(t, err, tailnet.Conflict, "noise.key")
	if diff := cmp.Diff(map[string]string{"noise.key": "privkey:9\n", "derp.key": "privkey:2\n"}, list(t, fresh)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if err := os.Remove(filepath.Join(fresh, "noise.key")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := archive.Restore(t.Context(), configOf(t, fresh), file, nil); err != nil {
		t.Fatal(err)
	}
}

// A database of its own server is filled when all else is in place, so that a try that failed can be
// made again; and one with a tailnet leaves no files behind.
func TestRestoreIntoPostgreSQL(t *testing.T) {
	server := pgserver.Of(t)
	url, err := server.Database(t.Context(), "restored")
	if err != nil {
		t.Fatal(err)
	}
	dir, _ := newServer(t)
	file := filepath.Join(t.TempDir(), "b")
	if _, err := archive.Make(t.Context(), archive.SourceOf(configOf(t, dir, "backup: {dir: "+dir+"/backups}"), "v1", nil), file, moment); err != nil {
		t.Fatal(err)
	}
	fresh := t.TempDir()
	target := configOf(t, fresh, "database: {url: '"+url+"'}")
	blocked := filepath.Join(fresh, "acme")
	if err := os.Symlink("nowhere", blocked); err != nil {
		t.Fatal(err)
	}
	if _, _, err := archive.Restore(t.Context(), target, file, nil); err == nil {
		t.Fatal("files were placed below a link to nowhere")
	}
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	if _, _, err := archive.Restore(t.Context(), target, file, nil); err != nil {
		t.Fatal("another try:", err)
	}
	want := map[string]string{"acme/example.com/cert.pem": "cert", "derp.key": "privkey:2\n", "noise.key": "privkey:1\n"}
	if diff := cmp.Diff(want, list(t, fresh)); diff != "" {
		t.Errorf("restored files (-want +got):\n%s", diff)
	}

	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "derp.key"), []byte("privkey:2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err = archive.Restore(t.Context(), configOf(t, other, "database: {url: '"+url+"'}"), file, nil)
	wantCode(t, err, tailnet.Conflict, "has a tailnet already")
	if diff := cmp.Diff(map[string]string{"derp.key": "privkey:2\n"}, list(t, other)); diff != "" {
		t.Errorf("what is left of a refused restore (-want +got):\n%s", diff)
	}
}

// packed makes a file as somebody else may.
func packed(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	for _, h := range entries {
		text := h.Linkname
		if h.Typeflag == tar.TypeReg {
			h.Linkname, h.Size = "", int64(len(text))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// entry is a file in the tar.
func entry(name, text string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Linkname: text}
}

var hostile = map[string][]tar.Header{
	"nothing":                            {},
	"no database":                        {entry("heddle-backup.json", `{"format": 1}`)},
	"no manifest":                        {entry("heddle.db", "x")},
	"a later format":                     {entry("heddle-backup.json", `{"format": 2}`), entry("heddle.db", "x")},
	"a way out":                          {entry("heddle-backup.json", `{"format": 1, "files": ["../x"]}`), entry("heddle.db", "x"), entry("files/../x", "x")},
	"an absolute path":                   {entry("heddle-backup.json", `{"format": 1, "files": ["/x"]}`), entry("heddle.db", "x"), entry("files//x", "x")},
	"a second database":                  {entry("heddle-backup.json", `{"format": 1}`), entry("heddle.db", "x"), entry("heddle.db", "y")},
	"one in the files":                   {entry("heddle-backup.json", `{"format": 1, "files": ["heddle.db"]}`), entry("heddle.db", "x"), entry("files/heddle.db", "y")},
	"a link":                             {entry("heddle-backup.json", `{"format": 1, "files": ["a"]}`), entry("heddle.db", "x"), {Name: "files/a", Typeflag: tar.TypeSymlink, Linkname: "/etc"}},
	"an unknown file":                    {entry("heddle-backup.json", `{"format": 1}`), entry("heddle.db", "x"), entry("files/a", "y")},
	"a missing file":                     {entry("heddle-backup.json", `{"format": 1, "files": ["a"]}`), entry("heddle.db", "x")},
	"a large file":                       {entry("heddle-backup.json", `{"format": 1, "files": ["a"]}`), entry("heddle.db", "x"), entry("files/a", strings.Repeat("x", 9<<20))},
	"a version that steers the terminal": {entry("heddle-backup.json", `{"format": 99, "heddle": "\u001b[2J"}`), entry("heddle.db", "x")},
	"a name that steers the terminal":    {entry("heddle-backup.json", `{"format": 1, "files": ["a\u001b[2J"]}`), entry("heddle.db", "x"), entry("files/a\x1b[2J", "y")},
	"not a database":                     {entry("heddle-backup.json", `{"format": 1}`), entry("heddle.db", "x")},
}

func TestHostileBackups(t *testing.T) {
	for name, entries := range hostile {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "b")
			if err := os.WriteFile(file, packed(t, entries...), 0o600); err != nil {
				t.Fatal(err)
			}
			parent := t.TempDir()
			if _, _, err := archive.Restore(t.Context(), configOf(t, filepath.Join(parent, "data")), file, nil); err == nil || strings.Contains(tailnet.Message(err), "\x1b") {
				t.Errorf("restored, or said so in a way that steers the terminal: %q", err)
			}
			if left := list(t, parent); len(left) != 0 {
				t.Errorf("files %v", left)
			}
		})
	}
}

func FuzzRestore(f *testing.F) {
	for _, entries := range hostile {
		if len(entries) < 3 {
			f.Add(packed(f, entries...))
		}
	}
	f.Add([]byte("age-encryption.org/v1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		parent := t.TempDir()
		file := filepath.Join(parent, "b")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := archive.Restore(context.Background(), configOf(t, filepath.Join(parent, "data")), file, nil)
		if left := list(t, parent); err != nil && len(left) != 1 { // the backup
			t.Errorf("files %v after %v", left, err)
		}
	})
}

// A damaged backup is found out.
func TestDamage(t *testing.T) {
	dir, _ := newServer(t)
	file := filepath.Join(t.TempDir(), "b")
	if _, err := archive.Make(t.Context(), archive.SourceOf(configOf(t, dir), "v1", nil), file, moment); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"cut off":        whole[:len(whole)/2],
		"without an end": whole[:len(whole)-8],
		"a byte changed": append(append(slices.Clone(whole[:len(whole)/2]), whole[len(whole)/2]^1), whole[len(whole)/2+1:]...),
	} {
		bad := filepath.Join(t.TempDir(), "b")
		if err := os.WriteFile(bad, text, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := archive.Restore(t.Context(), configOf(t, t.TempDir()), bad, nil)
		if err == nil {
			t.Errorf("%s: restored", name)
		}
	}
}
