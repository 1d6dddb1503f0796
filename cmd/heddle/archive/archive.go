// Package archive owns backups of a server: one file that holds its database
// and the other files of its data directory, how it is encrypted, how it is
// put back, and when it is made. It refuses to know what is in the database
// and in the files.
//
// A backup is a tar file, compressed with gzip, and perhaps encrypted with
// age: common tools open it. The database in it is a SQLite file, whatever the server uses.
package archive

import (
	"archive/tar"
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
	"time"

	"heddle/cmd/heddle/config"
	"heddle/control/tailnet"
	"heddle/db"

	"filippo.io/age"
)

// The names in the tar file. Files of the data directory are below filesDir.
const (
	manifestName = "heddle-backup.json"
	databaseName = "heddle.db"
	filesDir     = "files/"
)

// format is that of backups that this program writes, and the newest that it reads.
const format = 1

// maxFile bounds a file of the data directory: keys and certificates are small.
const maxFile = 8 << 20

// Manifest tells what a backup is.
type Manifest struct {
	Format  int       `json:"format"`
	Created time.Time `json:"created"`
	Heddle  string    `json:"heddle"` // version of the program that made it
	Server  string    `json:"server"` // server_url
	Files   []string  `json:"files"`  // of the data directory, with slashes
}

// A Source is what is backed up.
type Source struct {
	DataDir string
	Skip    []string // paths below DataDir that are not part of it, such as that of the backups
	// Copy writes a consistent copy of the database, a SQLite file, to a new file.
	Copy       func(ctx context.Context, path string) error
	Server     string // server_url
	Version    string // of this program
	Recipients []age.Recipient
}

// SourceOf is the server of a configuration. Copy does not need the server to run, nor to stand still.
func SourceOf(cfg *config.Config, version string, recipients []age.Recipient) Source {
	return Source{
		DataDir: cfg.DataDir, Skip: []string{cfg.Backup.Dir, cfg.Listen.Socket},
		Copy:       func(ctx context.Context, path string) error { return db.Save(ctx, Database(cfg), path) },
		Server:     cfg.ServerURL.String(),
		Version:    version,
		Recipients: recipients,
	}
}

// Database is where the server of a configuration keeps its tailnet.
func Database(cfg *config.Config) db.Options {
	if !cfg.Database.URL.IsZero() {
		return db.Options{URL: cfg.Database.URL.Reveal()}
	}
	return db.Options{Path: filepath.Join(cfg.DataDir, databaseName)}
}

// Make writes a backup to a new file of mode 0600, which is complete and synced when it appears under its
// name. It fails with Conflict if something has that name.
func Make(ctx context.Context, s Source, file string, now time.Time) (m *Manifest, err error) {
	if _, err := os.Lstat(file); err == nil {
		return nil, tailnet.Errorf(tailnet.Conflict, "%s exists: choose a new name for the backup", file)
	}
	// The copy of the database is not encrypted yet: it stays where the database is.
	work, err := os.MkdirTemp(s.DataDir, workPrefix)
	if err != nil {
		return nil, &tailnet.Error{Code: tailnet.Unavailable, Msg: fmt.Sprintf("%s cannot be written to: run this as the user of the server, with its configuration", s.DataDir), Err: err}
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	database := filepath.Join(work, databaseName)
	if err := s.Copy(ctx, database); err != nil {
		return nil, err
	}
	files, err := s.files()
	if err != nil {
		return nil, err
	}
	m = &Manifest{Format: format, Created: now.UTC().Truncate(time.Second), Heddle: s.Version, Server: s.Server, Files: files}
	out, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".partial-*")
	if err != nil {
		return nil, &tailnet.Error{Code: tailnet.Unavailable, Msg: fmt.Sprintf("cannot write a backup to %s: check the directory and its rights", file), Err: err}
	}
	defer os.Remove(out.Name())
	defer out.Close()
	if err := s.write(out, m, database); err != nil {
		return nil, fmt.Errorf("write the backup %s: %w", file, err)
	}
	if err := errors.Join(out.Sync(), out.Close()); err != nil {
		return nil, fmt.Errorf("write the backup %s: %w", file, err)
	}
	return m, publish(out.Name(), file)
}

// workPrefix is what the names of our own directories begin with.
const workPrefix = ".heddle-work-"

// publish gives a file its name, unless something has that.
func publish(from, to string) error {
	err := os.Link(from, to)
	if errors.Is(err, fs.ErrExist) {
		return tailnet.Errorf(tailnet.Conflict, "%s exists already; it is left as it is", to)
	}
	if err != nil { // file systems without links
		err = os.Rename(from, to)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// files returns which files of the data directory belong to the backup.
func (s *Source) files() (files []string, err error) {
	skip := map[string]bool{}
	for _, path := range s.Skip {
		if abs, err := filepath.Abs(path); err == nil && path != "" {
			skip[abs] = true
		}
	}
	err = filepath.WalkDir(s.DataDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(s.DataDir, path)
		if err != nil {
			return err
		}
		abs, err := filepath.Abs(path)
		if err != nil {
			return err
		}
		switch {
		case rel == ".":
			return nil
		case skip[abs] || ours(rel):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case !d.Type().IsRegular():
			return nil // directories are made as needed; sockets are not kept
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Size() > maxFile {
			return tailnet.Errorf(tailnet.Invalid, "%s has %d bytes, which no file of heddle's has: move it out of the data directory", path, info.Size())
		}
		files = append(files, filepath.ToSlash(rel))
		return nil
	})
	return files, err
}

// ours reports whether a file of the data directory is the database, or of no use without the
// process that made it.
func ours(rel string) bool {
	return rel == databaseName || rel == "heddle.lock" || strings.HasPrefix(rel, workPrefix) || strings.HasPrefix(rel, ".new-") ||
		strings.HasPrefix(rel, databaseName+"-") || strings.HasPrefix(rel, databaseName+".") || strings.HasPrefix(rel, "postgres.v") ||
		strings.Contains(rel, ".partial-")
}

// write writes the parts into each other: tar into gzip into age into the file.
func (s *Source) write(out io.Writer, m *Manifest, database string) (err error) {
	var closers []io.Closer
	if len(s.Recipients) > 0 {
		sealed, err := age.Encrypt(out, s.Recipients...)
		if err != nil {
			return err
		}
		out, closers = sealed, append(closers, sealed)
	}
	packed := gzip.NewWriter(out)
	t := tar.NewWriter(packed)
	closers = append(closers, packed, t)
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := t.WriteHeader(&tar.Header{Name: manifestName, Mode: 0o600, Size: int64(len(text)), ModTime: m.Created}); err != nil {
		return err
	}
	if _, err := t.Write(text); err != nil {
		return err
	}
	if err := add(t, databaseName, database); err != nil {
		return err
	}
	for _, name := range m.Files {
		if err := add(t, filesDir+name, filepath.Join(s.DataDir, filepath.FromSlash(name))); err != nil {
			return err
		}
	}
	for len(closers) > 0 { // the innermost first
		last := closers[len(closers)-1]
		closers = closers[:len(closers)-1]
		if err := last.Close(); err != nil {
			return err
		}
	}
	return nil
}

func add(t *tar.Writer, name, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	err = t.WriteHeader(&tar.Header{Name: name, Mode: int64(info.Mode().Perm()), Size: info.Size(), ModTime: info.ModTime()})
	if err != nil {
		return err
	}
	_, err = io.CopyN(t, f, info.Size())
	return err
}
