//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Host is one machine of the lab: a network namespace with an /etc of its own.
type Host struct {
	Name string

	lab       *Lab
	namespace string
	dir       string
	processes []*Process
}

// Host adds a machine without any link.
func (l *Lab) Host(name string) *Host {
	l.t.Helper()
	h := &Host{
		Name:      name,
		lab:       l,
		namespace: namespacePrefix + name,
		dir:       filepath.Join(l.dir, name),
	}
	if err := h.writeEtc(); err != nil {
		l.t.Fatalf("lab: host %s: %v", name, err)
	}
	l.hosts = append(l.hosts, h)
	l.ip("netns", "add", h.namespace)
	// Addresses must work at once, without duplicate address detection, and only those that the
	// test gives out may exist.
	h.mustRun("sh", "-c", `ip link set lo up
		for f in all default; do
			echo 0 >/proc/sys/net/ipv6/conf/$f/accept_dad
			echo 0 >/proc/sys/net/ipv6/conf/$f/accept_ra
		done`)
	return h
}

// writeEtc makes the directory that processes of this host see as /etc. Programs may replace
// their resolv.conf by renaming, so it is a directory per host, not single files mounted over.
func (h *Host) writeEtc() error {
	etc := filepath.Join(h.dir, "etc")
	if err := os.MkdirAll(etc, 0o755); err != nil {
		return err
	}
	files := map[string]string{
		"hostname":      h.Name + "\n",
		"hosts":         "127.0.0.1 localhost\n::1 localhost\n",
		"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
		"passwd":        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
		"group":         "root:x:0:\nnogroup:x:65534:\n",
		// Nothing answers DNS here: port 53 of the own host refuses at once, which keeps
		// look-ups of names outside the lab short.
		"resolv.conf": "nameserver 127.0.0.1\n",
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// SetName makes name resolve to addr on the host, through its /etc/hosts.
func (h *Host) SetName(name string, addr netip.Addr) {
	h.lab.t.Helper()
	f, err := os.OpenFile(filepath.Join(h.dir, "etc", "hosts"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		h.lab.t.Fatalf("lab: %v", err)
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "%s %s\n", addr, name); err != nil {
		h.lab.t.Fatalf("lab: %v", err)
	}
}

// Dir is the host's directory for logs and state.
func (h *Host) Dir() string { return h.dir }

// command prepares a program that runs on the host: `ip netns exec` gives it a mount namespace of
// its own, in which the host's /etc takes the place of the machine's.
func (h *Host) command(ctx context.Context, args ...string) *exec.Cmd {
	wrapped := append([]string{
		"netns", "exec", h.namespace,
		"sh", "-c", `mount --bind "$0" /etc && exec "$@"`, filepath.Join(h.dir, "etc"),
	}, args...)
	return exec.CommandContext(ctx, "ip", wrapped...)
}

// Run runs a program on the host and returns what it printed on stdout; an error tells stderr.
func (h *Host) Run(ctx context.Context, args ...string) (string, error) {
	cmd := h.command(ctx, args...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %s: %w: %s", h.Name, strings.Join(args, " "), err,
			strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// MustRun is Run for steps that the test cannot go on without.
func (h *Host) MustRun(t testing.TB, args ...string) string {
	t.Helper()
	out, err := h.Run(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (h *Host) mustRun(args ...string) {
	h.lab.t.Helper()
	h.MustRun(h.lab.t, args...)
}

// Process is a program that runs on a host until it ends, is killed, or the lab ends.
type Process struct {
	Log string // file with its stdout and stderr

	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and was waited for
	mu   sync.Mutex
	err  error // guarded by mu: how it ended
}

// Start starts a program in the background. env is added to the machine's environment. Its output
// is appended to NAME.log in the host's directory.
func (h *Host) Start(name string, env []string, args ...string) (*Process, error) {
	file := filepath.Join(h.dir, name+".log")
	log, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &Process{Log: file, done: make(chan struct{})}
	p.cmd = h.command(context.Background(), args...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// A group of its own: a Ctrl-C at the terminal reaches the test, which then cleans up.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	h.processes = append(h.processes, p)
	go func() {
		err := p.cmd.Wait()
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		close(p.done)
	}()
	return p, nil
}

// Signal sends a signal to the process; one that has ended gets none.
func (p *Process) Signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// Done is closed once the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err tells how the process ended: nil while it runs or if it ended well.
func (p *Process) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Kill ends the process by SIGKILL and waits for its end.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// Stop asks the process to end and waits at most the given time, after which it kills it and
// returns an error.
func (p *Process) Stop(within time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(within):
		p.Kill()
		return fmt.Errorf("the process still ran %v after SIGTERM", within)
	}
}
