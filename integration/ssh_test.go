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

// awaitSSH runs `id -un` by `tailscale ssh` until the answer is the user in target (user@host), or
// until the error says why not.
func awaitSSH(t *testing.T, from *stock.Client, target, refusal string) {
	t.Helper()
	user, _, _ := strings.Cut(target, "@")
	lab.Await(t, 2*seconds, fmt.Sprintf("%s: ssh %s (%q)", from.Name, target, refusal), func() error {
		out, err := from.Run(t.Context(), sshCommand(from, target, "-o", "ConnectTimeout=2", "id -un")...)
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

// awaitHostKeys waits until a client knows the SSH host keys of a peer.
func awaitHostKeys(t *testing.T, c *stock.Client, peer string) {
	t.Helper()
	c.Await(t, seconds, "knows the host keys of "+peer, func(st *ipnstate.Status) error {
		if p := stock.Peer(st, peer); p == nil || len(p.SSH_HostKeys) == 0 {
			return fmt.Errorf("it says %+v", p)
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
	awaitHostKeys(t, p.anna, "dave")
	awaitSSH(t, p.anna, "root@dave", notThisNode)

	rules(amongNodes, accept("alice@", `"autogroup:nonroot"`))
	awaitSSH(t, p.anna, "sam@dave", "")
	awaitSSH(t, p.anna, "root@dave", notThisUser)
	awaitSSH(t, p.ben, "sam@dave", notThisNode)

	rules(amongNodes, accept("alice@", `"autogroup:nonroot", "root"`))
	awaitSSH(t, p.anna, "root@dave", "")
	awaitSSH(t, p.anna, "sam@dave", "")

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
		awaitSSH(t, p.anna, "root@dave", notThisUser)
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
		awaitSSH(t, p.anna, "sam@dave", notThisNode)
	})

	t.Run("one's own devices", func(t *testing.T) {
		gil := p.client(t, p.inet.Host("gil", 25))
		localAccounts(t, gil.Host)
		gil.Up(t, p.server.authKey(t, "alice"), "--ssh")
		rules(amongNodes, `{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["autogroup:nonroot"]}`)
		awaitHostKeys(t, p.anna, "gil")
		awaitSSH(t, p.anna, "sam@gil", "")
		awaitHostKeys(t, p.ben, "gil")
		awaitSSH(t, p.ben, "sam@gil", notThisNode)
		awaitSSH(t, p.anna, "sam@dave", notThisNode)
	})

	// SSH rules open no port.
	rules(`{"src": ["alice@"], "dst": ["tag:server"], "ip": ["tcp:80"]}`, accept("alice@", `"autogroup:nonroot"`))
	awaitSSH(t, p.anna, "sam@dave", noAnswer)
	p.dave.MustCLI(t, "set", "--ssh=false")
	p.grant(t, amongNodes)
}
