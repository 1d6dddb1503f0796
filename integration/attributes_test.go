//go:build linux

package integration_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A stock client sets an attribute of its device through its own local API, as far as the policy
// lets it, and is let in where that is asked for.
func TestOwnAttributes(t *testing.T) {
	m := newMesh(t)
	anna, ben := m.client(t, m.inet.Host("anna", 21)), m.client(t, m.inet.Host("ben", 22))
	policy := filepath.Join(m.server.host.Dir(), "policy.hujson")
	set := func(config string) {
		t.Helper()
		text := `{
			"postures": {"posture:patched": ["custom:patched == true"]},
			"grants": [{"src": ["autogroup:member"], "dst": ["*"], "ip": ["*"], "srcPosture": ["posture:patched"]}],
			"attrConfig": {` + config + `},
		}`
		if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		m.server.must(t, "policy", "set", policy)
	}
	set("")
	anna.Up(t, m.server.authKey(t, "alice"))
	ben.Up(t, m.server.authKey(t, "alice"))
	patch := func(update string) (string, error) {
		return anna.CLI(t.Context(), "debug", "localapi", "PATCH", "alpha-set-device-attrs", update)
	}
	if out, err := patch(`{"custom:patched": true}`); err == nil || !strings.Contains(out+err.Error(), "403 Forbidden: the policy does not let devices set the attribute") {
		t.Errorf("without attrConfig: %s, %v", out, err)
	}
	if st := anna.Status(t); len(st.Peer) > 0 {
		t.Errorf("a device that has no attribute has peers: %v", st.Peer)
	}
	set(`"custom:patched": {"type": "bool", "allowSetByNode": true}`)
	if out, err := patch(`{"custom:patched": true}`); err != nil {
		t.Fatalf("%s, %v", out, err)
	}
	anna.AwaitOnline(t, 10*time.Second, ben)
	if list := m.server.must(t, "nodes", "attributes", "list", "anna"); !strings.Contains(list, "custom:patched") {
		t.Errorf("the attributes are\n%s", list)
	}
	if log := m.server.must(t, "audit", "list", "--action", "node.attribute", "-o", "json"); !strings.Contains(log, `"kind": "node"`) || !strings.Contains(log, "custom:patched") {
		t.Errorf("on record is\n%s", log)
	}
	if out, err := patch(`{"custom:patched": null}`); err != nil {
		t.Fatalf("%s, %v", out, err)
	}
	anna.AwaitGone(t, 10*time.Second, "ben")
}
