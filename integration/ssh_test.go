//go:build linux

package integration_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"heddle/integration/lab"
	"heddle/integration/stock"

	"tailscale.com/ipn/ipnstate"
)

// localAccounts gives a host the user sam, and the means by which tailscaled becomes a local user:
// the machine's su, which asks PAM, which is told to permit everything.
func localAccounts(t *testing.T, h *lab.Host) {
	t.Helper()
	h.MustRun(t, "sh", "-c", `set -e
		echo 'sam:x:1000:1000::/:/bin/sh' >>/etc/passwd
		echo 'sam:x:1000:' >>/etc/group
		mkdir /etc/pam.d
		for kind in auth account session; do
			echo "$kind required pam_permit.so"
		done >/etc/pam.d/other`)
}

// sshCommand is the command line of `tailscale ssh`, which keeps its files in the client's
// directory.
func sshCommand(c *stock.Client, args ...string) []string {
	return append([]string{"env", "HOME=" + c.StateDir()}, c.CommandLine(append([]string{"ssh"}, args...)...)...)
}

// awaitSSH runs `id -un` on dave by `tailscale ssh` until it is said to be the user that was asked
// for, or until the error says why not.
func (p *policyMesh) awaitSSH(t *testing.T, from *stock.Client, user, refusal string) {
	t.Helper()
	lab.Await(t, 2*seconds, fmt.Sprintf("%s: ssh %s@dave (%q)", from.Name, user, refusal), func() error {
		out, err := from.Run(t.Context(), sshCommand(from, user+"@dave", "-o", "ConnectTimeout=2", "id -un")...)
		switch {
		case refusal == "" && err != nil:
			return err
		case refusal == "" && strings.TrimSpace(out) != user:
			return fmt.Errorf("the user there is %q", out)
		case refusal != "" && err == nil:
			return fmt.Errorf("it is not refused: %q", out)
		case refusal != "" && !strings.Contains(err.Error(), refusal):
			return err
		}
		return nil
	})
}

const (
	notThisNode = "does not permit you to SSH to this node"
	notThisUser = "does not permit you to SSH as user"
	noAnswer    = "timed out"
)

// testSSH logs in by the real command lines, which use the machine's ssh.
func (p *policyMesh) testSSH(t *testing.T) {
	if _, err := exec.LookPath("ssh"); err != nil && os.Getenv("CI") == "" {
		t.Skip(`it needs the program "ssh"`)
	}
	localAccounts(t, p.dave.Host)
	rules := func(grants string, rules ...string) {
		t.Helper()
		p.setPolicy(t, fmt.Sprintf(`"grants": [%s], "ssh": [%s],`, grants, strings.Join(rules, ",")))
	}
	accept := func(src, users string) string {
		return fmt.Sprintf(`{"action": "accept", "src": [%q], "dst": ["tag:server"], "users": [%s]}`, src, users)
	}
	rules(amongNodes)
	p.dave.MustCLI(t, "set", "--ssh")
	p.anna.Await(t, seconds, "knows dave's host keys", func(st *ipnstate.Status) error {
		if peer := stock.Peer(st, "dave"); peer == nil || len(peer.SSH_HostKeys) == 0 {
			return fmt.Errorf("it says %+v", peer)
		}
		return nil
	})
	p.awaitSSH(t, p.anna, "root", notThisNode)

	rules(amongNodes, accept("alice@", `"autogroup:nonroot"`))
	p.awaitSSH(t, p.anna, "sam", "")
	p.awaitSSH(t, p.anna, "root", notThisUser)
	p.awaitSSH(t, p.ben, "sam", notThisNode)

	rules(amongNodes, accept("alice@", `"autogroup:nonroot", "root"`))
	p.awaitSSH(t, p.anna, "root", "")
	p.awaitSSH(t, p.anna, "sam", "")

	t.Run("revocation", func(t *testing.T) {
		session, err := p.anna.Host.Start("ssh", nil, sshCommand(p.anna, "sam@dave", "echo begun; sleep 600")...)
		if err != nil {
			t.Fatal(err)
		}
		said := func(text string) func() error {
			return func() error {
				log, err := os.ReadFile(session.Log)
				if err == nil && !strings.Contains(string(log), text) {
					err = fmt.Errorf("it says %q", log)
				}
				return err
			}
		}
		lab.Await(t, 2*seconds, "the session begins", said("begun"))
		// A policy that still permits it does not disturb it.
		rules(amongNodes, accept("alice@", `"sam"`))
		p.awaitSSH(t, p.anna, "root", notThisUser)
		select {
		case <-session.Done():
			t.Fatalf("a session that is still permitted ended: %v", session.Err())
		default:
		}
		rules(amongNodes)
		select {
		case <-session.Done():
		case <-time.After(seconds):
			t.Fatalf("the session goes on %v after the policy forbade it", seconds)
		}
		if err := said("Access revoked")(); err != nil {
			t.Error(err)
		}
		p.awaitSSH(t, p.anna, "sam", notThisNode)
	})

	// SSH rules open no port.
	rules(`{"src": ["alice@"], "dst": ["tag:server"], "ip": ["tcp:80"]}`, accept("alice@", `"autogroup:nonroot"`))
	p.awaitSSH(t, p.anna, "sam", noAnswer)
	p.dave.MustCLI(t, "set", "--ssh=false")
	p.grant(t, amongNodes)
}
