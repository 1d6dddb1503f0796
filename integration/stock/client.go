//go:build linux

package stock

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"heddle/integration/lab"

	"golang.org/x/sys/unix"
	"tailscale.com/client/local"
)

// Programs are the paths of the stock daemon and command line.
type Programs struct {
	Daemon, CLI string
}

// Build compiles the programs from the tailscale.com module that go.mod pins. The go command
// keeps the linked programs in its cache. Test processes that run at the same time build one after
// the other: the go command would compile the same packages once for each, which takes minutes.
func Build(ctx context.Context) (Programs, error) {
	lock, err := os.OpenFile(filepath.Join(os.TempDir(), "heddle-stock-build.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return Programs{}, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return Programs{}, fmt.Errorf("wait for another build: %w", err)
	}
	var p Programs
	for pkg, path := range map[string]*string{
		"tailscale.com/cmd/tailscaled": &p.Daemon,
		"tailscale.com/cmd/tailscale":  &p.CLI,
	} {
		cmd := exec.CommandContext(ctx, "go", "tool", "-n", pkg)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return Programs{}, fmt.Errorf("build %s: %w", pkg, err)
		}
		*path = strings.TrimSpace(string(out))
	}
	return p, nil
}

// Client is one stock client on one host.
type Client struct {
	*lab.Host
	API local.Client // the daemon's own API, which the stock command line uses too

	programs Programs
	url      string // of the control server
	caFile   string
	dir      string // state directory and socket
	daemon   *lab.Process
}

// New prepares a client that has never run on a host; url is its login server and caFile the only
// authority it trusts.
func New(h *lab.Host, programs Programs, url, caFile string) *Client {
	dir := filepath.Join(h.Dir(), "tailscale")
	return &Client{
		Host: h, programs: programs, url: url, caFile: caFile, dir: dir,
		API: local.Client{Socket: filepath.Join(dir, "sock"), UseSocketOnly: true},
	}
}

// Start starts the daemon and waits until it answers.
func (c *Client) Start(t testing.TB) {
	t.Helper()
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	env := []string{
		"SSL_CERT_FILE=" + c.caFile,
		"SSL_CERT_DIR=/nonexistent",
		"HOME=" + c.dir,
		"TS_DEBUG_FIREWALL_MODE=nftables", // whatever else the machine has installed
	}
	daemon, err := c.Host.Start("tailscaled", env, c.programs.Daemon,
		"--statedir="+c.dir, "--socket="+c.API.Socket, "--tun=tailscale0", "--no-logs-no-support")
	if err != nil {
		t.Fatalf("%s: %v", c.Name, err)
	}
	c.daemon = daemon
	lab.Await(t, 20*time.Second, c.Name+": tailscaled answers", func() error {
		_, err := c.API.StatusWithoutPeers(t.Context())
		return err
	})
}

// CLI runs the stock command line on the client's host.
func (c *Client) CLI(ctx context.Context, args ...string) (string, error) {
	return c.Run(ctx, c.CommandLine(args...)...)
}

// CommandLine is the command line that CLI runs. Some commands reach for the server themselves,
// and some are shown only to those who ask for what is not finished.
func (c *Client) CommandLine(args ...string) []string {
	return append([]string{"env", "SSL_CERT_FILE=" + c.caFile, "TAILSCALE_USE_WIP_CODE=1", c.programs.CLI, "--socket=" + c.API.Socket}, args...)
}

// MustCLI is CLI for steps that the test cannot go on without.
func (c *Client) MustCLI(t testing.TB, args ...string) string {
	t.Helper()
	out, err := c.CLI(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Up logs in with `tailscale up`, by an auth key unless key is empty, and returns once the client
// runs. The flags are those of the stock command.
func (c *Client) Up(t testing.TB, key string, flags ...string) {
	t.Helper()
	c.MustCLI(t, c.UpArgs(key, flags...)...)
}

// UpArgs is the `tailscale up` command line that Up runs.
func (c *Client) UpArgs(key string, flags ...string) []string {
	args := []string{"up", "--timeout=40s", "--login-server=" + c.url, "--hostname=" + c.Name}
	if key != "" {
		args = append(args, "--auth-key="+key)
	}
	return append(args, flags...)
}

// Stop ends the daemon in an orderly way, as a service manager does.
func (c *Client) Stop(t testing.TB) {
	t.Helper()
	if err := c.daemon.Stop(15 * time.Second); err != nil {
		t.Errorf("%s: tailscaled: %v", c.Name, err)
	}
}

// Kill ends the daemon by SIGKILL, which tells nobody.
func (c *Client) Kill() { c.daemon.Kill() }

// Freeze stops the daemon by SIGSTOP: its connections stay open and nothing answers.
func (c *Client) Freeze(t testing.TB) { c.signal(t, syscall.SIGSTOP) }

// Thaw lets a frozen daemon go on.
func (c *Client) Thaw(t testing.TB) { c.signal(t, syscall.SIGCONT) }

func (c *Client) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := c.daemon.Signal(sig); err != nil {
		t.Fatalf("%s: %v", c.Name, err)
	}
}

// Forget ends the daemon, if it runs, and removes its state, so that the next Start is that of a
// new machine.
func (c *Client) Forget(t testing.TB) {
	t.Helper()
	if c.daemon != nil {
		c.daemon.Kill()
	}
	if err := os.RemoveAll(c.dir); err != nil {
		t.Fatal(err)
	}
}

// StateDir is the directory that the daemon keeps its state in.
func (c *Client) StateDir() string { return c.dir }

// IPv4 and IPv6 are the client's addresses in the mesh.
func (c *Client) IPv4(t testing.TB) netip.Addr { return c.address(t, netip.Addr.Is4) }
func (c *Client) IPv6(t testing.TB) netip.Addr { return c.address(t, netip.Addr.Is6) }

func (c *Client) address(t testing.TB, family func(netip.Addr) bool) netip.Addr {
	t.Helper()
	st := c.Status(t)
	for _, a := range st.TailscaleIPs {
		if family(a) {
			return a
		}
	}
	t.Fatalf("%s: no address of the wanted family in %v (state %s)", c.Name, st.TailscaleIPs, st.BackendState)
	panic("unreachable")
}
