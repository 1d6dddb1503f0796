package serve

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"tailscale.com/types/key"
)

// noiseKey returns the key that clients know this server by, made at the first
// start. Without it every client would have to log in anew.
func noiseKey(file string) (key.MachinePrivate, error) {
	return privateKey(file, key.NewMachine)
}

// relayKey returns the identity of the embedded relay.
func relayKey(file string) (key.NodePrivate, error) {
	return privateKey(file, key.NewNode)
}

// privateKey reads a key, or makes it if the file does not exist. A damaged
// file is an error: replacing it would lose what depends on it.
func privateKey[K interface{ MarshalText() ([]byte, error) }, P interface {
	*K
	UnmarshalText([]byte) error
}](file string, fresh func() K) (k K, err error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		k = fresh()
		if text, err = k.MarshalText(); err != nil {
			return k, err
		}
		return k, writeNew(file, append(text, '\n'))
	}
	if err != nil {
		return k, fmt.Errorf("read key: %w", err)
	}
	if err := P(&k).UnmarshalText([]byte(strings.TrimSpace(string(text)))); err != nil {
		return k, fmt.Errorf("%s holds no key (%w); restore it from a backup, or remove it to make a new one", file, err)
	}
	return k, nil
}

// writeNew writes a file of mode 0600 so that it is whole or not there at all. It never
// replaces one.
func writeNew(file string, data []byte) error { return writeWhole(file, data, os.Link) }

// writeWhole writes a file of mode 0600, which place puts where it belongs.
func writeWhole(file string, data []byte, place func(from, to string) error) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return place(tmp.Name(), file)
}

// keyFile is a file of secrets, which idtoken.Vault calls for.
type keyFile string

func (f keyFile) Load() ([]byte, error) {
	text, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text, err
}

func (f keyFile) Save(data []byte) error { return writeWhole(string(f), data, os.Rename) }
