// Package profile owns the servers that somebody administers from their machine: their
// addresses, CAs and keys, under names, and which of them is meant if a command
// does not say. It refuses to know how they are reached.
package profile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A Profile is one server. Paths are absolute.
type Profile struct {
	Address string `yaml:"address"` // HOST, HOST:PORT or https://HOST[:PORT]
	CAFile  string `yaml:"ca_file,omitempty"`
}

// A Book is a directory with somebody's profiles: profiles.yaml, and a file of mode 0600 for each key.
type Book struct{ dir string }

// contents are those of profiles.yaml.
type contents struct {
	Current  string             `yaml:"current,omitempty"`
	Profiles map[string]Profile `yaml:"profiles"`
}

// Local is the name that stands for no profile: the server on this machine.
const Local = "local"

// maxFile bounds profiles.yaml, which only its owner writes.
const maxFile = 1 << 20

var name = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// Open returns the book of whoever runs this program: in $XDG_CONFIG_HOME/heddle, or
// what the system has in its place. It need not exist.
func Open() (Book, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return Book{}, fmt.Errorf("there is no place for profiles: %w", err)
	}
	return Book{filepath.Join(dir, "heddle")}, nil
}

func (b Book) file() string { return filepath.Join(b.dir, "profiles.yaml") }

// KeyFile is where the API key of a profile is kept.
func (b Book) KeyFile(name string) string { return filepath.Join(b.dir, name+".key") }

func (b Book) read() (contents, error) {
	var c contents
	f, err := os.Open(b.file())
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("cannot read the profiles: %w", err)
	}
	defer f.Close()
	dec := yaml.NewDecoder(io.LimitReader(f, maxFile))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil && err != io.EOF {
		return c, fmt.Errorf("%s is damaged (%w): mend it, or remove it and add the profiles anew", b.file(), err)
	}
	return c, nil
}

func (b Book) write(c contents) error {
	text, err := yaml.Marshal(c)
	if err != nil {
		return err
	}
	return b.replace(b.file(), text)
}

// replace writes a file of mode 0600, whole or not at all.
func (b Book) replace(file string, text []byte) error {
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return fmt.Errorf("cannot keep profiles: %w", err)
	}
	tmp, err := os.CreateTemp(b.dir, ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("cannot keep profiles: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(text)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return fmt.Errorf("cannot keep profiles: %w", err)
	}
	return os.Rename(tmp.Name(), file)
}

// Add keeps a profile and its key, and makes it the current one if it is the first. It replaces
// one of that name.
func (b Book) Add(n string, p Profile, key string) error {
	if !name.MatchString(n) || n == Local {
		return fmt.Errorf("%q cannot be the name of a profile: letters, digits, . _ and -, and not %q, which is the server on this machine", n, Local)
	}
	if p.CAFile != "" {
		var err error
		if p.CAFile, err = filepath.Abs(p.CAFile); err != nil {
			return err
		}
	}
	c, err := b.read()
	if err != nil {
		return err
	}
	if err := b.replace(b.KeyFile(n), []byte(strings.TrimSpace(key)+"\n")); err != nil {
		return err
	}
	if c.Profiles == nil {
		c.Profiles = map[string]Profile{}
	}
	if len(c.Profiles) == 0 {
		c.Current = n
	}
	c.Profiles[n] = p
	return b.write(c)
}

// Remove forgets a profile and its key.
func (b Book) Remove(n string) error {
	c, err := b.known(n)
	if err != nil {
		return err
	}
	delete(c.Profiles, n)
	if c.Current == n {
		c.Current = ""
	}
	if err := os.Remove(b.KeyFile(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove the key: %w", err)
	}
	return b.write(c)
}

// Use makes a profile the current one; Local makes none.
func (b Book) Use(n string) error {
	if n == Local {
		c, err := b.read()
		if err != nil || c.Current == "" {
			return err
		}
		c.Current = ""
		return b.write(c)
	}
	c, err := b.known(n)
	if err != nil {
		return err
	}
	c.Current = n
	return b.write(c)
}

// ErrUnknown is wrapped where there is no profile of a name.
var ErrUnknown = errors.New("no such profile")

func (b Book) known(n string) (contents, error) {
	c, err := b.read()
	if err != nil {
		return c, err
	}
	if _, ok := c.Profiles[n]; !ok {
		return c, fmt.Errorf("%w: %q (there are: %s); `heddle profile list` shows their addresses", ErrUnknown, n, strings.Join(append(slices.Sorted(maps.Keys(c.Profiles)), Local), ", "))
	}
	return c, nil
}

// Find returns the profile of a name, "" for the current one. ok is false for the
// server on this machine.
func (b Book) Find(n string) (_ Profile, key string, ok bool, err error) {
	c, err := b.read()
	if err != nil {
		return Profile{}, "", false, err
	}
	if n == "" {
		n = c.Current
	}
	if n == "" || n == Local {
		return Profile{}, "", false, nil
	}
	if c, err = b.known(n); err != nil {
		return Profile{}, "", false, err
	}
	return c.Profiles[n], b.KeyFile(n), true, nil
}

// Entry is a profile in a list.
type Entry struct {
	Name string
	Profile
	Current bool
}

// List returns all profiles by name.
func (b Book) List() ([]Entry, error) {
	c, err := b.read()
	if err != nil {
		return nil, err
	}
	var out []Entry
	for _, n := range slices.Sorted(maps.Keys(c.Profiles)) {
		out = append(out, Entry{n, c.Profiles[n], n == c.Current})
	}
	return out, nil
}
