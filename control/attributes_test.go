package control_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"heddle/control/controltest"
	"heddle/control/tailnet"
	"heddle/control/tailnet/tailnettest"

	"github.com/google/go-cmp/cmp"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

func setPolicy(t *testing.T, s *controltest.Server, text string) {
	t.Helper()
	p, err := tailnet.PreparePolicy(s.State.Snapshot(), text)
	if err != nil {
		t.Fatal(err)
	}
	s.Update(func(tx *tailnet.Tx) error { return tx.SetPolicy(p, "") })
}

// setAttrs asks for a change of attributes as clients do.
func setAttrs(t *testing.T, c *controltest.Client, node key.NodePublic, update tailcfg.AttrUpdate) (status int, text string) {
	t.Helper()
	resp, err := c.Do(t.Context(), "PATCH", "/machine/set-device-attr", tailcfg.SetDeviceAttributesRequest{Version: c.Version, NodeKey: node, Update: update})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// A device sets attributes of its own as far as the policy lets it, and they decide what it may reach.
func TestOwnAttributes(t *testing.T) {
	store := new(tailnettest.Store)
	scenario(t, controltest.Config{Store: store}, func(t *testing.T, s *controltest.Server, authKey string) {
		laptop, server := s.Client("laptop").Join(authKey), s.Client("server").Join(authKey)
		if status, text := setAttrs(t, laptop, laptop.Node.Public(), tailcfg.AttrUpdate{"custom:ready": true}); status != http.StatusForbidden || !strings.Contains(text, "attrConfig") {
			t.Errorf("without a policy: %d %s", status, text)
		}
		setPolicy(t, s, `{
			"postures": {"posture:ready": ["custom:ready == true"]},
			"grants": [{"src": ["autogroup:member"], "dst": ["*"], "ip": ["*"], "srcPosture": ["posture:ready"]}],
			"attrConfig": {
				"custom:ready": {"type": "bool", "allowSetByNode": true},
				"custom:any": {"allowSetByNode": true},
				"custom:n": {"type": "number", "allowSetByNode": true},
				"custom:tier": {"type": "string"},
			},
		}`)
		st := server.MustStream()
		for _, c := range []struct {
			name   string
			update tailcfg.AttrUpdate
			status int
			want   map[string]any // of the custom ones
		}{
			{"nothing", nil, 200, nil},
			{"one", tailcfg.AttrUpdate{"custom:ready": true}, 200, map[string]any{"custom:ready": true}},
			{"of another type", tailcfg.AttrUpdate{"custom:any": 1, "custom:ready": "yes"}, 400, map[string]any{"custom:ready": true}},
			{"not allowed", tailcfg.AttrUpdate{"custom:any": 1, "custom:tier": "gold"}, 403, map[string]any{"custom:ready": true}},
			{"to take away what it may not set", tailcfg.AttrUpdate{"custom:tier": nil}, 403, map[string]any{"custom:ready": true}},
			{"none of its own kind", tailcfg.AttrUpdate{"node:os": "plan9"}, 403, map[string]any{"custom:ready": true}},
			{"a list", tailcfg.AttrUpdate{"custom:any": []string{"x"}}, 400, map[string]any{"custom:ready": true}},
			{"too long", tailcfg.AttrUpdate{"custom:any": strings.Repeat("x", 10_000)}, 400, map[string]any{"custom:ready": true}},
			{"two", tailcfg.AttrUpdate{"custom:any": "x", "custom:n": 1.5}, 200, map[string]any{"custom:ready": true, "custom:any": "x", "custom:n": 1.5}},
			{"one goes", tailcfg.AttrUpdate{"custom:any": nil}, 200, map[string]any{"custom:ready": true, "custom:n": 1.5}},
		} {
			if status, text := setAttrs(t, laptop, laptop.Node.Public(), c.update); status != c.status {
				t.Errorf("%s: %d %s", c.name, status, text)
			}
			got := map[string]any{}
			for name, v := range s.Node("laptop").Attributes() {
				if strings.HasPrefix(name, "custom:") {
					got[name] = v
				}
			}
			if len(c.want)+len(got) > 0 && !cmp.Equal(c.want, got) {
				t.Errorf("%s: the attributes are %v", c.name, got)
			}
		}
		must(t, "the server learns of the laptop", st.Await(func(n *controltest.Netmap) bool { return len(n.Peers) == 1 }))
		log := store.Audit()
		entry := log[len(log)-1]
		if entry.Action != "node.attribute" || entry.Actor.Kind != tailnet.ByNode || entry.Actor.From == "" || !cmp.Equal(entry.Changes, []tailnet.Change{{Field: "custom:any", From: "x"}}) {
			t.Errorf("on record is %+v", entry)
		}

		if status, text := setAttrs(t, server, laptop.Node.Public(), tailcfg.AttrUpdate{"custom:ready": false}); status != http.StatusForbidden {
			t.Errorf("another device: %d %s", status, text)
		}
		if status, text := setAttrs(t, server, key.NewNode().Public(), tailcfg.AttrUpdate{"custom:ready": true}); status != http.StatusNotFound {
			t.Errorf("a device that nobody knows: %d %s", status, text)
		}
	})
}

// A device that sets something else all the time fills neither the audit log nor the day of the writer.
func TestOwnAttributesAreRare(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		laptop := s.Client("laptop").Join(authKey)
		setPolicy(t, s, `{"attrConfig": {"custom:n": {"allowSetByNode": true}}}`)
		status, text := 0, ""
		for i := range 30 {
			if status, text = setAttrs(t, laptop, laptop.Node.Public(), tailcfg.AttrUpdate{"custom:n": i}); status != http.StatusOK {
				break
			}
		}
		if status != http.StatusTooManyRequests {
			t.Errorf("30 changes at once: %d %s", status, text)
		}
		for range 30 { // what changes nothing costs nothing
			if status, text := setAttrs(t, laptop, laptop.Node.Public(), tailcfg.AttrUpdate{"custom:n": s.Node("laptop").Attributes()["custom:n"]}); status != http.StatusOK {
				t.Fatalf("the same again: %d %s", status, text)
			}
		}
		time.Sleep(time.Minute) // of the bubble
		if status, text = setAttrs(t, laptop, laptop.Node.Public(), tailcfg.AttrUpdate{"custom:n": "later"}); status != http.StatusOK {
			t.Errorf("a minute later: %d %s", status, text)
		}
		many := tailcfg.AttrUpdate{}
		for i := range 101 {
			many[fmt.Sprint("custom:n", i)] = true
		}
		if status, text = setAttrs(t, laptop, laptop.Node.Public(), many); status != http.StatusBadRequest {
			t.Errorf("101 attributes: %d %s", status, text)
		}
	})
}
