// Package headscale owns what of a headscale server becomes what of a heddle: its users, devices and keys, its
// policy and its configuration. It refuses to know how headscale's tables are laid out, and never
// changes headscale's files.
package headscale

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"heddle/cmd/heddle/archive"
	"heddle/cmd/heddle/config"
	"heddle/control/tailnet"
	"heddle/db"
	foreign "heddle/db/headscale"

	"tailscale.com/types/key"
)

// Options say what is imported, and where to.
type Options struct {
	// Source is headscale's configuration file, its data directory, its SQLite file, or a PostgreSQL URL.
	Source string
	// Settings is headscale's configuration file if Source is not; "" if it is in the directory, or there is none.
	Settings string
	Policy   string // a policy file to use instead of headscale's; ""
	NoiseKey string // headscale's key file if it is not where the configuration says; ""
	DERPKey  string // the same for the embedded relay

	Target  *config.Config // of the server that takes over
	Save    string         // where the translated configuration goes; "": heddle.yaml in the data directory
	DryRun  bool           // change nothing
	Version string         // of this program
	Now     time.Time
}

// Report tells what was imported, or would be.
type Report struct {
	Release  string   `json:"headscale"`
	Users    int      `json:"users"`
	Nodes    int      `json:"nodes"`
	AuthKeys int      `json:"authKeys"`
	Policy   bool     `json:"policy"` // whether there was one
	DryRun   bool     `json:"dryRun"`
	Already  bool     `json:"already"`          // it had been imported before; nothing was changed
	Config   string   `json:"config,omitempty"` // the translated configuration
	Saved    string   `json:"saved,omitempty"`  // the file that it is in; "" if it was not written
	Notes    []string `json:"notes"`            // what is not as it was, in words
}

// Import takes over a headscale into a server that does not run and has no data yet. It fails with
// Conflict otherwise, and changes nothing then, nor when anything else goes wrong.
func Import(ctx context.Context, o Options) (r *Report, err error) {
	scratch, err := os.MkdirTemp("", "heddle-import-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	m := &move{Options: o, report: &Report{DryRun: o.DryRun, Notes: []string{}}}
	if err := m.read(ctx, scratch); err != nil {
		return nil, err
	}
	if err := m.fill(ctx, scratch); err != nil {
		return nil, err
	}
	there, err := existing(ctx, o.Target, scratch)
	switch {
	case err != nil:
		return nil, err
	case there != nil && !alike(*there, m.image):
		return nil, tailnet.Errorf(tailnet.Conflict, "%s has a tailnet already: import into a server without data, by moving that away or with another data_dir", o.Target.DataDir)
	case there != nil:
		m.report.Already = true
		return m.report, nil
	case o.DryRun:
		return m.report, nil
	}
	_, _, err = archive.Install(ctx, o.Target, func(work string) (*archive.Manifest, error) {
		return m.pack(ctx, scratch, work)
	})
	if err != nil {
		return nil, err
	}
	return m.report, m.save()
}

// A move is an import under way.
type move struct {
	Options
	report   *Report
	settings *settings
	contents *foreign.Contents
	policy   string
	noise    key.MachinePrivate
	derp     key.NodePrivate // zero if headscale had none
	image    tailnet.Image   // what was made of it
}

func (m *move) note(format string, args ...any) {
	m.report.Notes = append(m.report.Notes, fmt.Sprintf(format, args...))
}

// read reads all that is headscale's.
func (m *move) read(ctx context.Context, scratch string) (err error) {
	at, err := locate(&m.Options)
	if err != nil {
		return err
	}
	m.settings = at.settings
	if m.contents, err = foreign.Read(ctx, foreign.Source{Path: at.database, URL: at.url, Work: scratch}); err != nil {
		return err
	}
	m.report.Release = m.contents.Release
	for _, row := range m.contents.Damaged {
		m.note("left out: %s", row)
	}
	if m.noise, err = readKey[key.MachinePrivate](at.noise); err != nil {
		return &tailnet.Error{Code: tailnet.NotFound, Msg: fmt.Sprintf("headscale's noise private key is needed, so that devices know the server again: give --noise-key (%v)", err), Err: err}
	}
	switch m.derp, err = readKey[key.NodePrivate](at.derp); {
	case errors.Is(err, fs.ErrNotExist) && m.DERPKey == "":
		if m.settings.truth("derp.server.enabled") {
			m.note("the key of the embedded relay was not found and will be a new one: devices learn it with their next map")
		}
	case err != nil:
		return &tailnet.Error{Code: tailnet.Invalid, Msg: fmt.Sprintf("the key of the embedded relay: %v", err), Err: err}
	}
	return m.readPolicy(at)
}

// maxFile bounds the files of headscale's that are read whole.
const maxFile = 8 << 20

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular() || info.Size() > maxFile:
		return nil, fmt.Errorf("%s is not a file of less than 8 MiB", path)
	}
	return os.ReadFile(path)
}

// readKey reads a private key. headscale writes keys of both kinds in one form.
func readKey[K any, P interface {
	*K
	UnmarshalText([]byte) error
}](path string) (k K, err error) {
	text, err := readFile(path)
	if err == nil {
		if err = P(&k).UnmarshalText([]byte(strings.TrimSpace(string(text)))); err != nil {
			err = fmt.Errorf("%s holds no key: %w", path, err)
		}
	}
	return k, err
}

// readPolicy finds the policy: that of the flag, of the file, or of the database.
func (m *move) readPolicy(at *place) error {
	path := cmp.Or(m.Policy, at.policy)
	switch {
	case path != "":
	case !m.settings.none() && m.settings.text("policy.mode") != "database":
		if m.contents.Policy != "" {
			m.note("the policy in the database is left out: headscale is told to use a file (policy.mode), and of none")
		}
		return nil
	default:
		m.policy = m.contents.Policy
		return nil
	}
	text, err := readFile(path)
	if err != nil {
		return &tailnet.Error{Code: tailnet.NotFound, Msg: fmt.Sprintf("headscale's policy cannot be read: give --policy (%v)", err), Err: err}
	}
	m.policy = string(text)
	return nil
}

// The names in a server's data directory.
const (
	noiseName = "noise.key"
	derpName  = "derp.key"
)

// pack puts what was made into a directory, as Install wants it.
func (m *move) pack(ctx context.Context, scratch, work string) (*archive.Manifest, error) {
	if err := db.Save(ctx, db.Options{Path: filepath.Join(scratch, madeName)}, archive.DatabaseIn(work)); err != nil {
		return nil, err
	}
	out := &archive.Manifest{Created: m.Now, Heddle: m.Version}
	keys := map[string]interface{ MarshalText() ([]byte, error) }{noiseName: m.noise}
	if !m.derp.IsZero() {
		keys[derpName] = m.derp
	}
	for name, k := range keys {
		text, err := k.MarshalText()
		if err != nil {
			return nil, err
		}
		path := archive.FileIn(work, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, append(text, '\n'), 0o600)); err != nil {
			return nil, err
		}
		out.Files = append(out.Files, name)
	}
	slices.Sort(out.Files)
	return out, nil
}

// save writes the translated configuration. It never replaces a file.
func (m *move) save() error {
	if m.settings.none() {
		return nil
	}
	path := cmp.Or(m.Save, filepath.Join(m.Target.DataDir, "heddle.yaml"))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) // it may hold secrets
	if errors.Is(err, fs.ErrExist) {
		m.note("%s exists and is left as it is: the translated configuration was not written", path)
		return nil
	}
	if err == nil {
		_, err = f.WriteString(m.report.Config)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return &tailnet.Error{Code: tailnet.Unavailable, Msg: fmt.Sprintf("all was imported but the configuration, which cannot be written to %s: print it with --dry-run", path), Err: err}
	}
	m.report.Saved = path
	return nil
}

// existing returns what the server has already; nil if it has no data.
func existing(ctx context.Context, cfg *config.Config, scratch string) (*tailnet.Image, error) {
	copied := filepath.Join(scratch, "existing.db")
	switch err := db.Save(ctx, archive.Database(cfg), copied); {
	case tailnet.CodeOf(err) == tailnet.NotFound:
		return nil, nil
	case err != nil:
		return nil, err
	}
	return load(ctx, copied)
}

func load(ctx context.Context, path string) (_ *tailnet.Image, err error) {
	d, err := db.Open(ctx, db.Options{Path: path})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	img, err := d.Load(ctx, tailnet.Default)
	return &img, err
}

// alike reports whether a server has the users and devices that an import made, whatever became of them since.
func alike(there, made tailnet.Image) bool {
	return slices.EqualFunc(there.Users, made.Users, func(a, b *tailnet.User) bool { return a.ID == b.ID && a.Created.Equal(b.Created) }) &&
		slices.EqualFunc(there.Nodes, made.Nodes, func(a, b *tailnet.Node) bool { return a.StableID == b.StableID && a.Machine == b.Machine })
}
