// Package pebble runs a real certificate authority for tests: letsencrypt's
// pebble, of the version that go.mod pins, as a process. It owns how that is built and
// configured, and knows nothing of who asks it for certificates.
package pebble

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Build compiles the authority and returns the program's path. The go command keeps
// it in its cache.
func Build(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "tool", "-n", "github.com/letsencrypt/pebble/v2/cmd/pebble")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("build pebble: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Authority says how one authority is run.
type Authority struct {
	Listen     netip.AddrPort // of the directory
	Management netip.AddrPort // of its own API
	Cert, Key  string         // PEM files of the authority's own web server

	HTTP, TLS int           // ports to which it connects for proofs
	Life      time.Duration // of certificates
	DNS       string        // HOST:PORT of its resolver; empty for the system's
}

// Directory is the path of the directory's URL.
const Directory = "/dir"

// Command writes the configuration into dir and returns the command line and the
// environment that the authority is started with.
func (a Authority) Command(program, dir string) (args, env []string, err error) {
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": a.Listen.String(), "managementListenAddress": a.Management.String(),
		"certificate": a.Cert, "privateKey": a.Key, "httpPort": a.HTTP, "tlsPort": a.TLS, "keyAlgorithm": "ecdsa",
		// No Retry-After: pebble would give it as a date every other time, by chance, and the Caddy of Debian 12
		// gives up for a minute when it reads one.
		"retryAfter": map[string]int{"authz": 0, "order": 0},
		"profiles": map[string]any{"default": map[string]any{
			"description": "all there is", "validityPeriod": uint64(a.Life / time.Second),
		}},
	}})
	if err != nil {
		return nil, nil, err
	}
	file := filepath.Join(dir, "pebble.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return nil, nil, err
	}
	args = []string{program, "-config", file}
	if a.DNS != "" {
		args = append(args, "-dnsserver", a.DNS)
	}
	// It would wait up to 15 s before each proof, to be a trial for clients.
	return args, []string{"PEBBLE_VA_NOSLEEP=1"}, nil
}

// Root asks the authority for its root certificate, PEM, which it makes anew
// whenever it starts.
func (a Authority) Root(client *http.Client) ([]byte, error) {
	resp, err := client.Get("https://" + a.Management.String() + "/roots/0")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the authority's root: %s", resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 1<<20))
}
