//go:build linux

package integration_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"heddle/integration/lab"
)

// pusher is gitops-pusher, with which people keep their policy in git, on a machine of theirs.
type pusher struct {
	*mesh
	ci     *lab.Host
	dir    string   // of the programs and of the policy
	signIn []string // environment
}

// TestHostedPrograms lets programs that were made for the hosted service manage heddle. They come with
// the client's sources.
func TestHostedPrograms(t *testing.T) {
	p := &pusher{mesh: newMesh(t), dir: t.TempDir()}
	build := exec.Command("go", "build", "-o", p.dir+"/", "tailscale.com/cmd/gitops-pusher", "tailscale.com/cmd/get-authkey")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p.ci = p.inet.Host("ci", 25)
	p.ci.SetName(serverName, serverAddr)
	var client struct{ Key, ID string }
	apiKey := p.server.adminKey(t)
	p.server.post(t, apiKey, "tailnet/-/keys", map[string]any{
		"keyType": "client", "scopes": []string{"auth_keys", "policy_file"}, "tags": []string{"tag:ci"},
	}, &client)
	p.server.secrets = append(p.server.secrets, client.Key)
	for _, c := range []struct {
		name   string
		signIn []string
	}{
		{"policy by an OAuth client", []string{"TS_OAUTH_ID=" + client.ID, "TS_OAUTH_SECRET=" + client.Key}},
		{"policy by an API key", []string{"TS_API_KEY=" + apiKey}},
	} {
		p.signIn = c.signIn
		t.Run(c.name, p.testPolicy)
	}
	t.Run("auth key", func(t *testing.T) { p.testAuthKey(t, client.ID, client.Key) })
}

// run runs a program, in its directory, with further environment and returns all that it says, and whether it was content.
func (p *pusher) run(t *testing.T, env []string, program string, args ...string) (said string, content bool) {
	t.Helper()
	all := slices.Concat([]string{"env", "SSL_CERT_FILE=" + p.lab.CAFile(), "SSL_CERT_DIR=/nonexistent"}, env,
		[]string{"sh", "-c", `cd "$0" && exec "./$@" 2>&1`, p.dir, program}, args)
	said, err := p.ci.Run(t.Context(), all...)
	return said, err == nil
}

// push runs a command of gitops-pusher on a policy.
func (p *pusher) push(t *testing.T, command, policy string, flags ...string) (said string, content bool) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(p.dir, "policy.hujson"), []byte(policy), 0o600))
	args := append([]string{"-api-server", serverName}, flags...)
	return p.run(t, append([]string{"TS_TAILNET=-"}, p.signIn...), "gitops-pusher", append(args, command)...)
}

func (p *pusher) testPolicy(t *testing.T) {
	mine := `// ` + t.Name() + `
{"tagOwners": {"tag:ci": []},
"grants": [{"src": ["*"], "dst": ["*"], "ip": ["tcp:443"]}],}`
	if said, ok := p.push(t, "apply", mine); !ok {
		t.Fatal(said)
	}
	if now := p.server.must(t, "policy", "get"); now != mine {
		t.Errorf("the policy is %s", now)
	}
	if said, ok := p.push(t, "apply", mine); !ok || !strings.Contains(said, "no update needed") {
		t.Errorf("the same once more: %s", said)
	}
	opened := strings.Replace(mine, "tcp:443", "*", 1)
	if said, ok := p.push(t, "test", opened); !ok {
		t.Errorf("a good policy: %s", said)
	}
	failing := strings.Replace(opened, `"grants"`, `"tests": [{"src": "tag:ci", "deny": ["100.64.0.1:22"]}],`+"\n"+`"grants"`, 1)
	for _, c := range []struct{ command, policy, says string }{
		{"test", failing, "Errors found"},
		{"apply", failing, "Errors found"},
		{"apply", strings.Replace(mine, `["tcp:443"]`, `["tcp:99999"]`, 1), "Errors found"},
	} {
		if said, ok := p.push(t, c.command, c.policy); ok || !strings.Contains(said, c.says) {
			t.Errorf("%s %s: it is content, and says %s", c.command, c.policy, said)
		}
	}
	other := filepath.Join(p.dir, "other.hujson")
	must(t, os.WriteFile(other, []byte(strings.Replace(mine, "443", "80", 1)), 0o600))
	p.server.must(t, "policy", "set", other)
	if said, ok := p.push(t, "apply", opened, "-fail-on-manual-edits"); ok || !strings.Contains(said, "modified externally") {
		t.Errorf("somebody else changed the policy: %s", said)
	}
	if said, ok := p.push(t, "apply", opened); !ok {
		t.Errorf("it insists: %s", said)
	}
}

// testAuthKey joins with a key that get-authkey gets.
func (p *pusher) testAuthKey(t *testing.T, id, secret string) {
	env := []string{"TS_API_CLIENT_ID=" + id, "TS_API_CLIENT_SECRET=" + secret, "TS_BASE_URL=" + serverURL}
	said, ok := p.run(t, env, "get-authkey", "-tags", "tag:ci")
	key := strings.TrimSpace(said)
	if !ok || !strings.HasPrefix(key, "tskey-auth-") {
		t.Fatal(said)
	}
	p.server.secrets = append(p.server.secrets, key)
	gus := p.client(t, p.inet.Host("gus", 22))
	gus.Up(t, key)
	if n := p.server.nodes(t)["gus"]; !slices.Equal(n.Tags, []string{"tag:ci"}) {
		t.Errorf("gus is %+v", n)
	}
}
