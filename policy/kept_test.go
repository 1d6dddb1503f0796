package policy_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"heddle/policy"
)

// sent is what Kept is about, as text.
type sent struct{ caps, filter, ssh string }

func sentTo(t *testing.T, c *policy.Compiled, id policy.NodeID) sent {
	t.Helper()
	text := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	return sent{text(c.Caps(id)) + text(c.IPv4Off(id)), text(c.Filter(id)), text(c.SSH(id))}
}

// What is kept is the same, whatever happens to the tailnet; and most of what is the same is kept.
func TestKept(t *testing.T) {
	kept, same := 0, 0
	for seed := range uint64(60) {
		w := newWorld(seed)
		doc, tn, text := w.compile(t, 10)
		c := policy.Compile(doc, tn)
		for step := range 12 {
			was, before := tn, c
			tn = w.change(tn)
			if slices.EqualFunc(was.Users, tn.Users, func(a, b policy.User) bool { return fmt.Sprint(a) == fmt.Sprint(b) }) && w.chance(50) {
				c = amend(c, was, tn)
			} else {
				c = c.Recompile(tn)
			}
			if w.chance(20) {
				continue // so that the next step starts with nothing asked
			}
			for _, n := range tn.Nodes {
				k, old, now := c.Kept(before, n.ID), sentTo(t, before, n.ID), sentTo(t, c, n.ID)
				for _, one := range []struct {
					what     string
					kept     bool
					old, now string
				}{{"caps", k.Caps, old.caps, now.caps}, {"filter", k.Filter, old.filter, now.filter}, {"ssh", k.SSH, old.ssh, now.ssh}} {
					if one.kept {
						kept++
					}
					if one.old == one.now {
						same++
					} else if one.kept {
						t.Fatalf("seed %d step %d: node %d kept its %s:\n%s\n%s\n%s", seed, step, n.ID, one.what, one.old, one.now, text)
					}
				}
			}
		}
	}
	if kept < same*3/4 {
		t.Errorf("kept %d of %d", kept, same)
	}
}

func TestKeptAfterAJoin(t *testing.T) {
	const (
		annOwn policy.NodeID = iota + 1
		bobOwn
		server
	)
	node := func(id policy.NodeID, user policy.UserID, tags ...string) policy.Node {
		n := newWorld(0).node(id)
		n.User, n.Tags, n.Approved, n.Advertised = user, tags, nil, nil
		return n
	}
	tn := policy.Tailnet{
		Domains: []string{"example.com"},
		Users:   []policy.User{{ID: 1, Login: "ann@example.com", Role: policy.Member}, {ID: 2, Login: "bob@example.com", Role: policy.Member}},
		Nodes:   []policy.Node{node(annOwn, 1), node(bobOwn, 2), node(server, 0, "tag:server")},
	}
	const tags = `"tagOwners": {"tag:server": ["ann@example.com"]}, `
	all := []policy.NodeID{annOwn, bobOwn, server}
	for _, c := range []struct {
		name, policy string
		filter, ssh  []policy.NodeID // who keeps it when another device of ann joins
	}{
		{"open", `"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]`, all, all},
		{"own devices", `"acls": [{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"]}],
			"ssh": [{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["root"]}]`,
			[]policy.NodeID{bobOwn, server}, []policy.NodeID{bobOwn, server}},
		{"to a server", `"acls": [{"action": "accept", "src": ["ann@example.com"], "dst": ["tag:server:*"]}],
			"ssh": [{"action": "accept", "src": ["ann@example.com"], "dst": ["tag:server"], "users": ["root"]}]`,
			[]policy.NodeID{annOwn, bobOwn}, []policy.NodeID{annOwn, bobOwn}},
		{"of another", `"acls": [{"action": "accept", "src": ["bob@example.com"], "dst": ["tag:server:*", "autogroup:member:22"]}],
			"ssh": [{"action": "accept", "src": ["bob@example.com"], "dst": ["tag:server"], "users": ["root"]}]`, all, all},
	} {
		t.Run(c.name, func(t *testing.T) {
			doc, err := policy.Parse([]byte(`{` + tags + c.policy + `}`))
			if err != nil {
				t.Fatal(err)
			}
			before := policy.Compile(doc, tn)
			after := before.Amend([]policy.Node{node(4, 1)}, nil)
			var filter, ssh []policy.NodeID
			for _, id := range all {
				k := after.Kept(before, id)
				if !k.Caps {
					t.Errorf("node %d did not keep its capabilities", id)
				}
				if k.Filter {
					filter = append(filter, id)
				}
				if k.SSH {
					ssh = append(ssh, id)
				}
			}
			if !slices.Equal(filter, c.filter) || !slices.Equal(ssh, c.ssh) {
				t.Errorf("filter kept by %v, ssh by %v; want %v and %v", filter, ssh, c.filter, c.ssh)
			}
			if k := after.Kept(before, 4); k != (policy.Kept{}) {
				t.Errorf("the new node kept %+v", k)
			}
		})
	}
}

// Devices of one user have the same rules, and so do servers: whoever keeps them keeps them once.
func TestSSHRulesAreShared(t *testing.T) {
	node := func(id policy.NodeID, user policy.UserID, tags ...string) policy.Node {
		n := newWorld(0).node(id)
		n.User, n.Tags, n.Approved, n.Advertised = user, tags, nil, nil
		return n
	}
	doc, err := policy.Parse([]byte(`{"tagOwners": {"tag:server": [], "tag:recorder": []}, "ssh": [
		{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["root"], "recorder": ["tag:recorder"]},
		{"action": "accept", "src": ["ann@example.com"], "dst": ["tag:server"], "users": ["root"]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	before := policy.Compile(doc, policy.Tailnet{
		Users: []policy.User{{ID: 1, Login: "ann@example.com", Role: policy.Member}, {ID: 2, Login: "bob@example.com", Role: policy.Member}},
		Nodes: []policy.Node{node(1, 1), node(2, 1), node(3, 2), node(4, 0, "tag:server"), node(5, 0, "tag:server")},
	})
	rule := func(c *policy.Compiled, id policy.NodeID) any { return c.SSH(id).Rules[0] }
	joined := before.Amend([]policy.Node{node(6, 2)}, nil)
	recorded := before.Amend([]policy.Node{node(7, 0, "tag:recorder")}, nil)
	for _, c := range []struct {
		name string
		a, b any
		same bool
	}{
		{"a user's devices", rule(before, 1), rule(before, 2), true},
		{"two users' devices", rule(before, 1), rule(before, 3), false},
		{"servers", rule(before, 4), rule(before, 5), true},
		{"a device, after another user's joined", rule(before, 1), rule(joined, 1), true},
		{"a server, after a device joined that may not log in", rule(before, 4), rule(joined, 4), true},
		{"a device, after its user's other one joined", rule(before, 3), rule(joined, 3), false},
		{"a device, after a recorder joined", rule(before, 1), rule(recorded, 1), false},
	} {
		if (c.a == c.b) != c.same {
			t.Errorf("%s have one rule: %v, want %v", c.name, !c.same, c.same)
		}
	}
}
