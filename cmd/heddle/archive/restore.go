package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"heddle/cmd/heddle/config"
	"heddle/control/tailnet"
	"heddle/db"
	"heddle/db/dirlock"

	"filippo.io/age"
)

// maxDatabase bounds the database in a backup, so that a small file cannot fill a disk: ten
// thousand devices with years of history take a few gigabytes.
const maxDatabase = 64 << 30

// maxFiles bounds the other files.
const maxFiles = 10_000

// Restore puts a backup in the place of a server that does not run and has no data yet: it fails with Conflict
// otherwise, and changes nothing then. It returns what was restored, and what the tailnet holds.
func Restore(ctx context.Context, cfg *config.Config, file string, identities []age.Identity) (m *Manifest, img tailnet.Image, err error) {
	return Install(ctx, cfg, func(work string) (*Manifest, error) { return unpack(file, identities, work) })
}

// Install does what Restore does with what fill puts into a directory: a database, at DatabaseIn, and the files of the
// manifest that it returns, at FileIn. fill is called once nobody else has the data directory.
func Install(ctx context.Context, cfg *config.Config, fill func(work string) (*Manifest, error)) (m *Manifest, img tailnet.Image, err error) {
	_, missing := os.Lstat(cfg.DataDir)
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, img, fmt.Errorf("data_dir: %w", err)
	}
	lock, err := dirlock.Take(cfg.DataDir)
	if err != nil {
		return nil, img, err
	}
	defer lock.Release()
	defer func() {
		if err != nil && errors.Is(missing, fs.ErrNotExist) {
			leave(cfg.DataDir)
		}
	}()
	work, err := os.MkdirTemp(cfg.DataDir, workPrefix)
	if err != nil {
		return nil, img, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	if m, err = fill(work); err != nil {
		return nil, img, err
	}
	if err := collisions(cfg, m, work); err != nil {
		return nil, img, err
	}
	ready := filepath.Join(work, "ready.db")
	if err := db.Save(ctx, db.Options{Path: DatabaseIn(work)}, ready); err != nil { // which is heddle's, then
		return nil, img, fmt.Errorf("the database to install cannot be used: %w", err)
	}
	if img, err = load(ctx, ready); err != nil {
		return nil, img, fmt.Errorf("the database to install cannot be used: %w", err)
	}
	placed, err := placeFiles(cfg, m, work)
	if err != nil {
		return nil, img, err
	}
	err = placeDatabase(ctx, cfg, ready) // the last: without it nothing counts, and another try goes on
	if tailnet.CodeOf(err) == tailnet.Conflict {
		for _, path := range placed {
			err = errors.Join(err, os.Remove(path))
		}
	}
	return m, img, err
}

// leave removes a data directory that was made for nothing, unless there is more in it than the lock.
func leave(dir string) {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) == 1 && entries[0].Name() == dirlock.Name {
		_ = os.Remove(filepath.Join(dir, dirlock.Name)) // what stays does no harm
		_ = os.Remove(dir)
	}
}

// DatabaseIn is the database in a directory that Install fills.
func DatabaseIn(work string) string { return filepath.Join(work, databaseName) }

// FileIn is the file of that name, with slashes, in a directory that Install fills.
func FileIn(work, name string) string { return filepath.Join(work, filesDir, filepath.FromSlash(name)) }

// load checks the database and brings it up to date.
func load(ctx context.Context, ready string) (img tailnet.Image, err error) {
	copied, err := db.Open(ctx, db.Options{Path: ready})
	if err != nil {
		return img, err
	}
	img, err = copied.Load(ctx, tailnet.Default)
	return img, errors.Join(err, copied.Close())
}

// collisions refuses to replace what is there. What is the same already does no harm: an earlier
// try may have put it there.
func collisions(cfg *config.Config, m *Manifest, work string) error {
	if cfg.Database.URL.IsZero() {
		if _, err := os.Lstat(filepath.Join(cfg.DataDir, databaseName)); !errors.Is(err, fs.ErrNotExist) {
			return tailnet.Errorf(tailnet.Conflict, "there is a database in %s already: move it away, or restore into another data_dir", cfg.DataDir)
		}
	}
	for _, name := range m.Files {
		there := filepath.Join(cfg.DataDir, filepath.FromSlash(name))
		if _, err := os.Lstat(there); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if !same(there, FileIn(work, name)) {
			return tailnet.Errorf(tailnet.Conflict, "%s exists already and is not that of the backup: move it away, or restore into another data_dir", there)
		}
	}
	return nil
}

func same(a, b string) bool {
	x, err1 := os.ReadFile(a)
	y, err2 := os.ReadFile(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

// placeFiles moves what was unpacked to where it belongs. It returns what was not there before.
func placeFiles(cfg *config.Config, m *Manifest, work string) (placed []string, err error) {
	for _, name := range m.Files {
		to := filepath.Join(cfg.DataDir, filepath.FromSlash(name))
		if _, err := os.Lstat(to); err == nil {
			continue // the same, see collisions
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return placed, err
		}
		if err := publish(FileIn(work, name), to); err != nil {
			return placed, err
		}
		placed = append(placed, to)
	}
	return placed, nil
}

// placeDatabase moves the database to where it belongs, or copies it into another server's. It fails with
// Conflict if there is a tailnet, and changes nothing then.
func placeDatabase(ctx context.Context, cfg *config.Config, ready string) (err error) {
	if cfg.Database.URL.IsZero() {
		return publish(ready, filepath.Join(cfg.DataDir, databaseName))
	}
	from, err := db.Open(ctx, db.Options{Path: ready})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	to, err := db.Open(ctx, Database(cfg))
	if err != nil {
		return err
	}
	_, err = from.CopyTo(ctx, to)
	return errors.Join(err, to.Close())
}

// ErrSealed says that a backup is encrypted and none of the keys opens it.
var ErrSealed = errors.New("the backup is encrypted: give --identity-file or --passphrase-file")

// sealedPrefix is what every file of age begins with.
const sealedPrefix = "age-encryption.org/v1\n"

// unpack writes what a backup holds into a directory.
func unpack(file string, identities []age.Identity, dir string) (*Manifest, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, &tailnet.Error{Code: tailnet.NotFound, Msg: err.Error()}
	}
	defer f.Close()
	in := bufio.NewReader(f)
	var plain io.Reader = in
	if start, _ := in.Peek(len(sealedPrefix)); string(start) == sealedPrefix {
		if len(identities) == 0 {
			return nil, &tailnet.Error{Code: tailnet.Invalid, Msg: ErrSealed.Error(), Err: ErrSealed}
		}
		if plain, err = age.Decrypt(in, identities...); err != nil {
			return nil, &tailnet.Error{Code: tailnet.Denied, Msg: "the backup does not open with this key or passphrase", Err: err}
		}
	}
	m, err := untar(plain, dir)
	if err != nil {
		return nil, &tailnet.Error{Code: tailnet.Invalid, Msg: fmt.Sprintf("%s is not a backup of heddle, or is damaged: %v", file, err), Err: err}
	}
	return m, nil
}

// untar reads the tar file, which anybody may have made.
func untar(in io.Reader, dir string) (*Manifest, error) {
	packed, err := gzip.NewReader(in)
	if err != nil {
		return nil, err
	}
	t := tar.NewReader(packed)
	var m *Manifest
	seen := map[string]bool{}
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		name, isFile := strings.CutPrefix(h.Name, filesDir)
		switch {
		case h.Typeflag != tar.TypeReg || seen[h.Name] || len(seen) > maxFiles:
			return nil, fmt.Errorf("it holds %q, which does not belong there", h.Name)
		case m == nil && h.Name == manifestName:
			m, err = readManifest(io.LimitReader(t, maxFile))
		case m != nil && h.Name == databaseName:
			err = save(t, filepath.Join(dir, databaseName), maxDatabase)
		case m != nil && isFile && filepath.IsLocal(filepath.FromSlash(name)) && !ours(name) && printable(name):
			err = save(t, filepath.Join(dir, filesDir, filepath.FromSlash(name)), maxFile)
		default:
			return nil, fmt.Errorf("it holds %q, which does not belong there", h.Name)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", h.Name, err)
		}
		seen[h.Name] = true
	}
	if m == nil || !seen[databaseName] {
		return nil, errors.New("it has no database")
	}
	for _, name := range m.Files {
		if !seen[filesDir+name] {
			return nil, fmt.Errorf("it lacks %q", name)
		}
	}
	if len(m.Files)+2 != len(seen) {
		return nil, errors.New("it holds more files than it tells of")
	}
	_, err = io.Copy(io.Discard, packed) // the checksums at the end
	return m, err
}

func readManifest(in io.Reader) (*Manifest, error) {
	var m Manifest
	if err := json.NewDecoder(in).Decode(&m); err != nil {
		return nil, err
	}
	if !printable(m.Heddle + m.Server) {
		return nil, errors.New("it says of itself what cannot be printed")
	}
	if m.Format > format {
		return nil, fmt.Errorf("it was made by heddle %s, which is newer than this: install that", m.Heddle)
	}
	return &m, nil
}

// printable reports whether people can be shown a text that anybody may have made.
func printable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}

func save(in io.Reader, path string, most int64) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(in, most+1))
	if n > most {
		err = fmt.Errorf("it is larger than %d bytes", most)
	}
	return errors.Join(err, f.Sync(), f.Close())
}
