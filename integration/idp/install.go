package idp

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

//go:embed server.mjs package.json package-lock.json
var sources embed.FS

// install makes sure that the provider lies in a directory outside of the repository, and returns that.
// npm checks what it fetches against the hashes of package-lock.json.
func install(t testing.TB) string {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			lack(t, "%s is missing, so there is no OpenID Connect provider to test with: apt-get install --no-install-recommends nodejs npm", program)
		}
	}
	dir, err := ready(t.Context())
	if err != nil {
		lack(t, "the OpenID Connect provider cannot be installed; npm needs its registry: %v", err)
	}
	return dir
}

// ready returns the directory that holds the provider, which it fills first if nobody has. Processes that
// want it at the same time take turns.
func ready(ctx context.Context) (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		base = os.TempDir()
	}
	hash := sha256.New()
	names := []string{"package.json", "package-lock.json", "server.mjs"}
	for _, name := range names {
		text, err := sources.ReadFile(name)
		if err != nil {
			return "", err
		}
		hash.Write(text)
	}
	parent := filepath.Join(base, "heddle-idp")
	dir := filepath.Join(parent, hex.EncodeToString(hash.Sum(nil)[:8]))
	if err := os.MkdirAll(parent, 0o755); err != nil {
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
		return dir, nil
	}
	unfinished := dir + ".new"
	if err := os.RemoveAll(unfinished); err != nil {
		return "", err
	}
	if err := os.CopyFS(unfinished, sources); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, installTime)
	defer cancel()
	if err := npm(ctx, unfinished); err != nil {
		return "", err
	}
	return dir, os.Rename(unfinished, dir)
}
