//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Lab is one set of hosts and switches. It ends with the test that made it.
type Lab struct {
	t   testing.TB
	dir string // working directory, kept if the test fails

	fabric *Host // carries the bridges of all switches
	hosts  []*Host
	ca     *authority
}

// New makes an empty lab. A machine that cannot carry one skips the test and says what is missing;
// if CI is set in the environment, the test fails instead.
func New(t testing.TB) *Lab {
	t.Helper()
	if missing := Missing(); missing != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("the network lab cannot run: %v", missing)
		}
		t.Skipf("the network lab cannot run: %v", missing)
	}
	release, err := lock(t)
	if err != nil {
		t.Fatalf("lab: %v", err)
	}
	dir, err := os.MkdirTemp("", "heddle-lab-")
	if err != nil {
		release()
		t.Fatalf("lab: %v", err)
	}
	l := &Lab{t: t, dir: dir}
	t.Cleanup(func() { l.close(release) })
	if l.ca, err = newAuthority(filepath.Join(dir, "ca.pem")); err != nil {
		t.Fatalf("lab: %v", err)
	}
	l.fabric = l.Host("fabric")
	l.fabric.Forward()
	return l
}

// Missing tells what this machine lacks to carry a lab; nil means nothing.
func Missing() error {
	var errs []error
	if os.Geteuid() != 0 {
		errs = append(errs, errors.New("it needs root (network namespaces)"))
	}
	for _, tool := range []string{"ip", "nft", "ping", "mount", "getent"} {
		if _, err := exec.LookPath(tool); err != nil {
			errs = append(errs, fmt.Errorf("it needs the program %q", tool))
		}
	}
	if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		errs = append(errs, fmt.Errorf("it needs TUN devices: %w", err))
	} else {
		f.Close()
	}
	return errors.Join(errs...)
}

// Dir is the lab's working directory; what lies there stays for inspection if the test fails.
func (l *Lab) Dir() string { return l.dir }

// close ends all processes, keeps the evidence of a failed test, and removes the namespaces.
func (l *Lab) close(release func()) {
	if l.t.Failed() {
		l.keepEvidence()
	}
	for _, h := range l.hosts {
		for _, p := range h.processes {
			p.Kill()
		}
	}
	if err := sweep(); err != nil {
		l.t.Errorf("lab: clean up: %v", err)
	}
	release()
	if !l.t.Failed() {
		os.RemoveAll(l.dir)
	}
}

// keepEvidence writes the network state of each host beside the logs and shows the logs' ends.
func (l *Lab) keepEvidence() {
	for _, h := range l.hosts {
		var b strings.Builder
		for _, args := range [][]string{
			{"ip", "-s", "addr"}, {"ip", "rule"}, {"ip", "route", "show", "table", "all"},
			{"ip", "-6", "route"}, {"nft", "list", "ruleset"}, {"cat", "/etc/resolv.conf"},
		} {
			out, err := h.Run(context.Background(), args...)
			fmt.Fprintf(&b, "# %s\n%s", strings.Join(args, " "), out)
			if err != nil {
				fmt.Fprintf(&b, "%v\n", err)
			}
		}
		if err := os.WriteFile(filepath.Join(h.dir, "network.txt"), []byte(b.String()), 0o644); err != nil {
			l.t.Logf("lab: %v", err)
		}
		for _, p := range h.processes {
			l.t.Logf("end of %s:\n%s", p.Log, Tail(p.Log, 40))
		}
	}
	l.t.Logf("all logs and the state of each host's network are in %s", l.dir)
}

// Tail returns the last n lines of a file.
func Tail(file string, n int) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// lockFile is held by the one lab that exists on a machine at a time. Labs share the names of their
// namespaces, and deadlines of a few seconds do not go with two of them on few cores.
const lockFile = "/run/heddle-lab.lock"

// lock waits for the lab that exists and removes what a killed one left.
func lock(t testing.TB) (release func(), err error) {
	f, err := os.OpenFile(lockFile, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		t.Log("waiting for another lab on this machine to end")
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			f.Close()
			return nil, err
		}
	}
	if err := sweep(); err != nil {
		f.Close()
		return nil, fmt.Errorf("remove what an earlier lab left: %w", err)
	}
	return func() { f.Close() }, nil
}

// sweep ends every process in the namespaces of labs and removes them.
func sweep() error {
	namespaces, err := os.ReadDir("/run/netns")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, ns := range namespaces {
		if !strings.HasPrefix(ns.Name(), namespacePrefix) {
			continue
		}
		out, err := exec.Command("ip", "netns", "pids", ns.Name()).Output()
		if err != nil {
			errs = append(errs, fmt.Errorf("list the processes of %s: %w", ns.Name(), err))
		}
		for _, field := range strings.Fields(string(out)) {
			if pid, err := strconv.Atoi(field); err == nil && pid != os.Getpid() {
				unix.Kill(pid, unix.SIGKILL)
			}
		}
		if out, err := exec.Command("ip", "netns", "delete", ns.Name()).CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("delete %s: %w: %s", ns.Name(), err, out))
		}
	}
	return errors.Join(errs...)
}

// namespacePrefix begins the names of all labs' network namespaces.
const namespacePrefix = "heddle-lab-"
