package policy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"tailscale.com/tailcfg"

	"heddle/policy"
)

// small is a tailnet of two users' devices, servers, two routers of one
// prefix, and an exit node.
func small() policy.Tailnet {
	node := func(id policy.NodeID, user policy.UserID, tags []string, approved ...string) policy.Node {
		n := policy.Node{ID: id, User: user, Tags: tags}
		n.IPv4 = netip.AddrFrom4([4]byte{100, 64, 0, byte(id)})
		n.IPv6 = netip.AddrFrom16([16]byte{0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0, 15: byte(id)})
		for _, a := range approved {
			n.Approved = append(n.Approved, netip.MustParsePrefix(a))
		}
		n.Advertised = n.Approved
		return n
	}
	t := policy.Tailnet{
		Domains: []string{"example.com"},
		Users: []policy.User{
			{ID: 1, Login: "ann@example.com", Role: policy.Owner, Groups: []string{"synced"}},
			{ID: 2, Login: "bob@example.com", Role: policy.Member},
			{ID: 3, Login: "cy@other.org", Role: policy.NetworkAdmin},
		},
		Nodes: []policy.Node{
			node(1, 1, nil), node(2, 1, nil), node(3, 2, nil), node(4, 3, nil),
			node(5, 0, []string{"tag:server"}),
			node(6, 0, []string{"tag:router", "tag:east"}, "10.0.0.0/8"),
			node(7, 0, []string{"tag:router", "tag:west"}, "10.0.0.0/8"),
			node(8, 0, []string{"tag:exit"}, "0.0.0.0/0", "::/0"),
		},
		SSHCheckURL: "https://heddle/check/$SRC_NODE_ID",
	}
	t.Nodes[0].Attrs = map[string]any{"node:os": "linux", "node:tsVersion": "1.60.1", "node:tsAutoUpdate": true}
	t.Nodes[1].Attrs = map[string]any{"node:os": "macos", "node:tsVersion": "1.9.0", "custom:tier": float64(2)}
	return t
}

const definitions = `
	"groups": {"group:dev": ["bob@example.com", "gone@example.com"], "group:empty": []},
	"hosts": {"net": "10.0.0.0/8", "one": "100.64.0.5", "wide": "100.64.0.5/32"},
	"tagOwners": {"tag:server": ["group:dev"], "tag:router": ["tag:server"], "tag:exit": ["tag:loop"], "tag:loop": ["tag:exit", "autogroup:member"],
		"tag:east": [], "tag:west": []},
`

func compile(t *testing.T, text string, tn policy.Tailnet) *policy.Compiled {
	t.Helper()
	doc, err := policy.Parse([]byte("{" + definitions + text + "}"))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return policy.Compile(doc, tn)
}

// seen are the nodes that a node sees.
func seen(c *policy.Compiled, tn policy.Tailnet, id policy.NodeID) []policy.NodeID {
	var out []policy.NodeID
	for _, n := range tn.Nodes {
		if n.ID != id && c.Visible(c.Class(id), c.Class(n.ID)) {
			out = append(out, n.ID)
		}
	}
	return out
}

func TestSelectors(t *testing.T) {
	const wildcard = "10.0.0.0/8 100.64.0.0-100.115.91.255 100.115.94.0-100.127.255.255 fd7a:115c:a1e0::/48"
	for _, c := range []struct{ src, want string }{
		{"*", wildcard},
		{"autogroup:danger-all", "*"},
		{"autogroup:member", "100.64.0.1-100.64.0.4 fd7a:115c:a1e0::1-fd7a:115c:a1e0::4"},
		{"autogroup:members", "100.64.0.1-100.64.0.4 fd7a:115c:a1e0::1-fd7a:115c:a1e0::4"},
		{"autogroup:tagged", "100.64.0.5-100.64.0.8 fd7a:115c:a1e0::5-fd7a:115c:a1e0::8"},
		{"autogroup:owner", "100.64.0.1-100.64.0.2 fd7a:115c:a1e0::1-fd7a:115c:a1e0::2"},
		{"autogroup:network-admin", "100.64.0.4 fd7a:115c:a1e0::4"},
		{"autogroup:auditor", ""},
		{"user:*@example.com", "100.64.0.1-100.64.0.3 fd7a:115c:a1e0::1-fd7a:115c:a1e0::3"},
		{"bob@example.com", "100.64.0.3 fd7a:115c:a1e0::3"},
		{" bob@example.com ", "100.64.0.3 fd7a:115c:a1e0::3"},
		{"Bob@example.com", ""},
		{"group:dev", "100.64.0.3 fd7a:115c:a1e0::3"},
		{"group:empty", ""},
		{"group:synced", "100.64.0.1-100.64.0.2 fd7a:115c:a1e0::1-fd7a:115c:a1e0::2"},
		{"tag:router", "100.64.0.6/31 fd7a:115c:a1e0::6/127"},
		{"net", "10.0.0.0/8"},
		{"host:net", "10.0.0.0/8"},
		{"one", "100.64.0.5"},
		{"10.1.2.3/8", "10.0.0.0/8"},
		{"10.0.0.1-10.0.0.4", "10.0.0.1-10.0.0.4"},
		{"fd7a:115c:a1e0::5", "fd7a:115c:a1e0::5"},
		{"ipset:x", "10.0.0.0/24 100.64.0.5"},
	} {
		c1 := compile(t, `"ipsets": {"ipset:x": ["ipset:y", "host:one"], "ipset:y": ["add 10.0.0.0/23", "remove 10.0.1.0-10.0.1.255"]},
			"acls": [{"action": "accept", "src": ["`+c.src+`"], "dst": ["tag:server:22"]}]`, small())
		var got []string
		for _, r := range rules(c1, 5) {
			got = append(got, r.SrcIPs...)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, want %q", c.src, got, c.want)
		}
	}
}

func TestTargets(t *testing.T) {
	for _, c := range []struct {
		dst  string
		node policy.NodeID
		want string
	}{
		{"*", 1, "*"},
		{"tag:server", 5, "100.64.0.5 fd7a:115c:a1e0::5"},
		{"tag:server", 1, ""},
		{"one", 5, "100.64.0.5"},
		{"100.64.0.0/24", 3, "100.64.0.0/24"},
		{"10.1.0.0/16", 6, "10.1.0.0/16"},
		{"10.1.0.0/16", 7, "10.1.0.0/16"}, // the standby too
		{"10.0.0.0/7", 6, "10.0.0.0/7"},
		{"8.8.8.8", 8, ""}, // an exit route is not a subnet route
		{"autogroup:internet", 1, ""},
		{"autogroup:member", 4, "100.64.0.4 fd7a:115c:a1e0::4"},
		{"group:empty", 4, ""},
	} {
		compiled := compile(t, `"acls": [{"action": "accept", "src": ["ann@example.com"], "dst": ["`+c.dst+`:22"]}]`, small())
		var got []string
		for _, r := range rules(compiled, c.node) {
			for _, d := range r.DstPorts {
				got = append(got, d.IP)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s at node %d: %q, want %q", c.dst, c.node, got, c.want)
		}
	}
}

func TestFilterRules(t *testing.T) {
	any := tailcfg.PortRangeAny
	port := func(ip string, first, last uint16) tailcfg.NetPortRange {
		return tailcfg.NetPortRange{IP: ip, Ports: tailcfg.PortRange{First: first, Last: last}}
	}
	src := []string{"100.64.0.3", "fd7a:115c:a1e0::3"}
	for _, c := range []struct {
		name, text string
		node       policy.NodeID
		want       []tailcfg.FilterRule
	}{
		{"empty acls deny", `"acls": []`, 5, nil},
		{"empty grants deny", `"grants": null`, 5, nil},
		{"old names of fields", `"ACLs": [{"Action": "accept", "Users": ["group:dev"], "Ports": ["one:*"]}]`, 5,
			[]tailcfg.FilterRule{{SrcIPs: src, DstPorts: []tailcfg.NetPortRange{{IP: "100.64.0.5", Ports: any}}}}},
		{"ports join", `"acls": [{"action": "accept", "src": ["group:dev"], "dst": ["one:22,80-90,85-95,23"]}]`, 5,
			[]tailcfg.FilterRule{{SrcIPs: src, DstPorts: []tailcfg.NetPortRange{port("100.64.0.5", 22, 23), port("100.64.0.5", 80, 95)}}}},
		{"rules of the same sources join", `"acls": [{"action": "accept", "src": ["group:dev"], "dst": ["one:22"]}, {"action": "accept", "src": ["group:dev"], "dst": ["one:80"]},
			{"action": "accept", "proto": "udp", "src": ["group:dev"], "dst": ["one:53"]}]`, 5,
			[]tailcfg.FilterRule{{SrcIPs: src, DstPorts: []tailcfg.NetPortRange{port("100.64.0.5", 22, 22), port("100.64.0.5", 80, 80)}},
				{SrcIPs: src, IPProto: []int{17}, DstPorts: []tailcfg.NetPortRange{port("100.64.0.5", 53, 53)}}}},
		{"grant protocols", `"grants": [{"src": ["group:dev"], "dst": ["one"], "ip": ["icmp:*", "tcp:80", "443"]}]`, 5,
			[]tailcfg.FilterRule{{SrcIPs: src, IPProto: []int{1}, DstPorts: []tailcfg.NetPortRange{{IP: "100.64.0.5", Ports: any}}},
				{SrcIPs: src, IPProto: []int{6}, DstPorts: []tailcfg.NetPortRange{port("100.64.0.5", 80, 80)}},
				{SrcIPs: src, DstPorts: []tailcfg.NetPortRange{port("100.64.0.5", 443, 443)}}}},
		{"capability", `"grants": [{"src": ["group:dev"], "dst": ["*"], "app": {"example.com/cap/x": [{"a": [1,2,], /* c */}]}}]`, 5,
			[]tailcfg.FilterRule{{SrcIPs: src, CapGrant: []tailcfg.CapGrant{{
				Dsts:   []netip.Prefix{netip.MustParsePrefix("100.64.0.5/32"), netip.MustParsePrefix("fd7a:115c:a1e0::5/128")},
				CapMap: tailcfg.PeerCapMap{"example.com/cap/x": {`{"a":[1,2]}`}}}}}}},
		{"companion at the source", `"grants": [{"src": ["group:dev"], "dst": ["tag:server"], "app": {"tailscale.com/cap/relay": []}}]`, 3,
			[]tailcfg.FilterRule{{SrcIPs: []string{"100.64.0.5", "fd7a:115c:a1e0::5"}, CapGrant: []tailcfg.CapGrant{{
				Dsts:   []netip.Prefix{netip.MustParsePrefix("100.64.0.3/32"), netip.MustParsePrefix("fd7a:115c:a1e0::3/128")},
				CapMap: tailcfg.PeerCapMap{"tailscale.com/cap/relay-target": nil}}}}}},
		{"self", `"acls": [{"action": "accept", "src": ["*"], "dst": ["autogroup:self:22"]}]`, 1,
			[]tailcfg.FilterRule{{SrcIPs: []string{"100.64.0.1-100.64.0.2", "fd7a:115c:a1e0::1-fd7a:115c:a1e0::2"},
				DstPorts: []tailcfg.NetPortRange{port("100.64.0.1", 22, 22), port("fd7a:115c:a1e0::1", 22, 22)}}}},
		{"self is not for the tagged", `"acls": [{"action": "accept", "src": ["*"], "dst": ["autogroup:self:22"]}]`, 5, nil},
		{"posture of the source", `"postures": {"posture:linux": ["node:os == 'linux'"]},
			"acls": [{"action": "accept", "src": ["autogroup:member"], "dst": ["one:22"], "srcPosture": ["posture:linux"]}]`, 5,
			[]tailcfg.FilterRule{{SrcIPs: []string{"100.64.0.1", "fd7a:115c:a1e0::1"}, DstPorts: []tailcfg.NetPortRange{port("100.64.0.5", 22, 22)}}}},
		{"posture of addresses", `"postures": {"posture:linux": ["node:os == 'linux'"]}, "defaultSrcPosture": ["posture:linux"],
			"acls": [{"action": "accept", "src": ["100.64.0.0/16", "10.0.0.0/8"], "dst": ["one:22"]}]`, 5,
			[]tailcfg.FilterRule{{SrcIPs: []string{"100.64.0.1"}, DstPorts: []tailcfg.NetPortRange{port("100.64.0.5", 22, 22)}}}},
		{"via is for its routers", `"grants": [{"src": ["group:dev"], "dst": ["10.1.0.0/16"], "ip": ["*"], "via": ["tag:east"]}]`, 7, nil},
	} {
		got, err := json.Marshal(rules(compile(t, c.text, small()), c.node))
		if err != nil {
			t.Fatal(err)
		}
		want, err := json.Marshal(c.want)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// TestFilterKeys: a group's key is that of its sources, whatever else changes.
func TestFilterKeys(t *testing.T) {
	keys := func(text string) []string {
		var out []string
		for _, g := range compile(t, text, small()).Filter(5) {
			out = append(out, g.Key)
		}
		return out
	}
	before := keys(`"acls": [{"action": "accept", "src": ["group:dev", "tag:exit"], "dst": ["one:22"]}]`)
	after := keys(`"acls": [{"action": "accept", "src": ["*"], "dst": ["one:1"]}, {"action": "accept", "src": ["tag:exit", "group:dev"], "dst": ["one:80"]}]`)
	if len(before) != 1 || len(after) != 2 || before[0] != after[1] || after[0] == after[1] {
		t.Errorf("%q, then %q", before, after)
	}
}

func TestVisible(t *testing.T) {
	for _, c := range []struct {
		name, text string
		node       policy.NodeID
		want       []policy.NodeID
	}{
		{"nothing said", ``, 1, []policy.NodeID{2, 3, 4, 5, 6, 7, 8}},
		{"nothing allowed", `"acls": []`, 1, nil},
		{"both ends of a rule", `"acls": [{"action": "accept", "src": ["tag:server"], "dst": ["ann@example.com:22"]}]`, 1, []policy.NodeID{5}},
		{"own devices", `"acls": [{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:22"]}]`, 1, []policy.NodeID{2}},
		{"own devices, not a source", `"acls": [{"action": "accept", "src": ["group:dev"], "dst": ["autogroup:self:22"]}]`, 1, nil},
		{"the routers of a prefix", `"acls": [{"action": "accept", "src": ["ann@example.com"], "dst": ["10.1.0.0/16:22"]}]`, 1, []policy.NodeID{6, 7}},
		{"from behind the routers", `"acls": [{"action": "accept", "src": ["10.1.0.0/16"], "dst": ["ann@example.com:22"]}]`, 1, []policy.NodeID{6, 7}},
		{"exit nodes", `"acls": [{"action": "accept", "src": ["ann@example.com"], "dst": ["autogroup:internet:*"]}]`, 1, []policy.NodeID{8}},
		{"via routers", `"grants": [{"src": ["ann@example.com"], "dst": ["10.1.0.0/16"], "app": {"a.com/x": []}, "via": ["tag:west"]}]`, 1, []policy.NodeID{7}},
		{"ssh alone", `"acls": [], "ssh": [{"action": "accept", "src": ["ann@example.com"], "dst": ["tag:server"], "users": ["root"]}]`, 1, nil},
		{"unknown node", ``, 99, nil},
	} {
		tn := small()
		if diff := cmp.Diff(c.want, seen(compile(t, c.text, tn), tn, c.node)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestRoutes(t *testing.T) {
	const via = `{"src": ["ann@example.com"], "dst": ["10.1.0.0/16"], "ip": ["*"], "via": ["tag:west", "tag:east"]}`
	for _, c := range []struct {
		name, text   string
		viewer, peer policy.NodeID
		down         policy.NodeID // not usable
		want         string
	}{
		{"primary", ``, 1, 6, 0, "10.0.0.0/8"},
		{"standby", ``, 1, 7, 0, ""},
		{"standby to primary", ``, 7, 6, 0, "10.0.0.0/8"},
		{"out of reach", `"acls": [{"action": "accept", "src": ["ann@example.com"], "dst": ["tag:router:22"]}]`, 1, 6, 0, ""},
		{"part of it", `"acls": [{"action": "accept", "src": ["ann@example.com"], "dst": ["10.1.0.0/16:22"]}]`, 1, 6, 0, "10.0.0.0/8"},
		{"the way back", `"acls": [{"action": "accept", "src": ["10.1.0.0/16"], "dst": ["ann@example.com:22"]}]`, 1, 6, 0, "10.0.0.0/8"},
		{"exit by wildcard", ``, 1, 8, 0, "0.0.0.0/0 ::/0"},
		{"exit by tag", `"acls": [{"action": "accept", "src": ["ann@example.com"], "dst": ["tag:exit:*"]}]`, 1, 8, 0, ""},
		{"exit by internet", `"acls": [{"action": "accept", "src": ["ann@example.com"], "dst": ["autogroup:internet:*"]}]`, 1, 8, 0, "0.0.0.0/0 ::/0"},
		{"exit by via", `"grants": [{"src": ["ann@example.com"], "dst": ["autogroup:internet"], "ip": ["*"], "via": ["tag:exit"]}]`, 1, 8, 0, "0.0.0.0/0 ::/0"},
		{"exit by another via", `"grants": [{"src": ["ann@example.com"], "dst": ["autogroup:internet"], "ip": ["*"], "via": ["tag:east"]}]`, 1, 8, 0, ""},
		{"via the lowest", `"grants": [` + via + `]`, 1, 6, 0, "10.0.0.0/8"},
		{"not via the other", `"grants": [` + via + `]`, 1, 7, 0, ""},
		{"via the other while down", `"grants": [` + via + `]`, 1, 7, 6, "10.0.0.0/8"},
		{"via a standby", `"grants": [{"src": ["ann@example.com"], "dst": ["10.1.0.0/16"], "ip": ["*"], "via": ["tag:west"]}]`, 1, 7, 0, "10.0.0.0/8"},
		{"via gives way", `"grants": [{"src": ["ann@example.com"], "dst": ["10.1.0.0/16"], "ip": ["*"], "via": ["tag:west"]},
			{"src": ["ann@example.com"], "dst": ["10.2.0.0/16"], "ip": ["22"]}]`, 1, 7, 0, ""},
		{"own", ``, 6, 6, 0, ""},
		{"unknown", ``, 99, 6, 0, ""},
	} {
		tn := small()
		var got []string
		for _, p := range compile(t, c.text, tn).RoutesAmong(c.viewer, c.peer, primaries(tn), func(id policy.NodeID) bool { return id != c.down }) {
			got = append(got, p.String())
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestPostures(t *testing.T) {
	for _, c := range []struct {
		condition string
		want      bool // for node 1, which has node:tsVersion 1.60.1 and node:tsAutoUpdate true
	}{
		{"node:os == 'linux'", true},
		{"node:os == 'Linux'", false},
		{"node:os=='linux'", true},
		{`node:os == \"linux\"`, true},
		{"node:os != 'linux'", false},
		{"node:os != 'macos'", true},
		{"node:osVersion != '1'", false}, // not set: not trusted
		{"node:osVersion NOT SET", true},
		{"node:osVersion is set", false},
		{"node:os IN ['macos', 'linux']", true},
		{"node:os NOT  IN ['macos', 'linux']", false},
		{"node:tsVersion >= '1.60'", true},
		{"node:tsVersion > '1.9'", true},
		{"node:tsVersion > '1.60.1'", false},
		{"node:tsVersion <= '1.60.1'", true},
		{"node:tsVersion < '1.60.0'", false},
		{"node:tsVersion > 1", false}, // another type
		{"node:tsAutoUpdate == true", true},
		{"node:tsAutoUpdate == false", false},
		{"custom:tier > 1", false},
	} {
		compiled := compile(t, `"postures": {"posture:x": ["`+c.condition+`"]},
			"acls": [{"action": "accept", "src": ["ann@example.com"], "dst": ["tag:server:22"], "srcPosture": ["posture:x"]}]`, small())
		tn := small()
		if got := slices.Contains(seen(compiled, tn, 1), 5); got != c.want {
			t.Errorf("%s: %v, want %v", c.condition, got, c.want)
		}
	}
}

func TestSSH(t *testing.T) {
	type try struct {
		src, dst policy.NodeID
		login    string
		want     string // action and local user; "": refused
	}
	for _, c := range []struct {
		name, ssh string
		tries     []try
	}{
		{"none", ``, []try{{3, 5, "root", ""}}},
		{"root only", `{"action": "accept", "src": ["group:dev"], "dst": ["tag:server"], "users": ["root"]}`,
			[]try{{3, 5, "root", "accept root"}, {3, 5, "deploy", ""}, {1, 5, "root", ""}, {5, 3, "root", ""}, {99, 5, "root", ""}}},
		{"nonroot", `{"action": "accept", "src": ["group:dev"], "dst": ["tag:server"], "users": ["autogroup:nonroot"]}`,
			[]try{{3, 5, "root", ""}, {3, 5, "deploy", "accept deploy"}}},
		{"check comes first", `{"action": "accept", "src": ["group:dev"], "dst": ["tag:server"], "users": ["root", "a"]},
			{"action": "check", "checkPeriod": "1h", "src": ["group:dev"], "dst": ["tag:server"], "users": ["root"]}`,
			[]try{{3, 5, "root", "check root 1h0m0s"}, {3, 5, "a", "accept a"}}},
		{"check always", `{"action": "check", "checkPeriod": "always", "src": ["group:dev"], "dst": ["tag:server"], "users": ["root"]}`,
			[]try{{3, 5, "root", "check root 0s"}}},
		{"check by default", `{"action": "check", "src": ["group:dev"], "dst": ["tag:server"], "users": ["root"]}`,
			[]try{{3, 5, "root", "check root 12h0m0s"}}},
		{"self", `{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["root"]}`,
			[]try{{1, 2, "root", "accept root"}, {1, 3, "root", ""}, {5, 6, "root", ""}}},
		{"own user", `{"action": "accept", "src": ["ann@example.com"], "dst": ["ann@example.com"], "users": ["root"]}`,
			[]try{{1, 2, "root", "accept root"}, {3, 1, "root", ""}}},
		{"localpart", `{"action": "accept", "src": ["autogroup:member"], "dst": ["tag:server"], "users": ["localpart:*@example.com", "deploy"]}`,
			[]try{{1, 5, "ann", "accept ann"}, {1, 5, "bob", ""}, {4, 5, "cy", ""}, {4, 5, "deploy", "accept deploy"}, {1, 5, "root", ""},
				{1, 2, "ann", "accept ann"}, {1, 3, "ann", ""}}},
		{"tagged sources", `{"action": "accept", "src": ["tag:exit"], "dst": ["tag:server"], "users": ["localpart:*@example.com", "deploy"]}`,
			[]try{{8, 5, "deploy", "accept deploy"}, {8, 5, "ann", ""}}},
		{"posture", `{"action": "accept", "src": ["autogroup:member"], "dst": ["tag:server"], "users": ["root"], "srcPosture": ["posture:linux"]}`,
			[]try{{1, 5, "root", "accept root"}, {2, 5, "root", ""}}},
		{"literal logins", `{"action": "accept", "src": ["group:dev"], "dst": ["tag:server"], "users": ["group:x", "localpart:x"]}`,
			[]try{{3, 5, "group:x", "accept group:x"}, {3, 5, "localpart:x", "accept localpart:x"}}},
	} {
		compiled := compile(t, `"postures": {"posture:linux": ["node:os == 'linux'"]}, "ssh": [`+c.ssh+`]`, small())
		for _, try := range c.tries {
			v := compiled.SSHConnection(try.src, try.dst, try.login)
			got := ""
			switch {
			case v.Check:
				got = "check " + v.LocalUser + " " + v.Period.String()
			case v.Allowed:
				got = "accept " + v.LocalUser
			}
			if got != try.want {
				t.Errorf("%s: %d to %d as %s: %q, want %q", c.name, try.src, try.dst, try.login, got, try.want)
			}
			if wire := wireVerdict(compiled, try.src, try.dst, try.login); wire != strings.Join(strings.Fields(got + " ")[:min(2, len(strings.Fields(got)))], " ") {
				t.Errorf("%s: %d to %d as %s: on the wire %q, want %q", c.name, try.src, try.dst, try.login, wire, got)
			}
		}
	}
}

// wireVerdict evaluates the wire rules as a client does.
func wireVerdict(c *policy.Compiled, src, dst policy.NodeID, login string) string {
	p := c.SSH(dst)
	if p == nil {
		return ""
	}
	ip := netip.AddrFrom4([4]byte{100, 64, 0, byte(src)}).String()
	for _, r := range p.Rules {
		if !slices.ContainsFunc(r.Principals, func(p *tailcfg.SSHPrincipal) bool { return p.NodeIP == ip }) {
			continue
		}
		local, ok := r.SSHUsers[login]
		if !ok {
			local = r.SSHUsers["*"]
		}
		if local == "=" {
			local = login
		}
		if local == "" {
			continue
		}
		if r.Action.HoldAndDelegate != "" {
			return "check " + local
		}
		if r.Action.Accept {
			return "accept " + local
		}
	}
	return ""
}

// TestSSHWireEqualsVerdict: for random policies, what the nodes are sent and
// what SSHConnection says are the same.
func TestSSHWireEqualsVerdict(t *testing.T) {
	for seed := range uint64(100) {
		w := newWorld(seed)
		doc, tn, text := w.compile(t, 8)
		c := policy.Compile(doc, tn)
		for _, s := range tn.Nodes {
			for _, d := range tn.Nodes {
				for _, login := range []string{"root", "deploy", "ann", "other"} {
					v, want := c.SSHConnection(s.ID, d.ID, login), ""
					if v.Allowed {
						want = map[bool]string{true: "check ", false: "accept "}[v.Check] + v.LocalUser
					}
					if got := wireVerdict(c, s.ID, d.ID, login); s.ID != d.ID && got != want {
						t.Fatalf("seed %d: %d to %d as %s: wire %q, verdict %q\n%s", seed, s.ID, d.ID, login, got, want, text)
					}
				}
			}
		}
	}
}

func TestRecorder(t *testing.T) {
	const ssh = `"ssh": [{"action": "accept", "src": ["group:dev"], "dst": ["tag:server"], "users": ["root"], "acceptEnv": ["A_*"], "recorder": ["TAG"], "enforceRecorder": true}]`
	r := compile(t, strings.Replace(ssh, "TAG", "tag:exit", 1), small()).SSH(5).Rules[0]
	want := []netip.AddrPort{netip.MustParseAddrPort("100.64.0.8:80"), netip.MustParseAddrPort("[fd7a:115c:a1e0::8]:80")}
	if !r.Action.Accept || !slices.Equal(r.Action.Recorders, want) || r.Action.OnRecordingFailure == nil || !slices.Equal(r.AcceptEnv, []string{"A_*"}) {
		t.Errorf("%+v", r)
	}
	r = compile(t, strings.Replace(ssh, "TAG", "tag:loop", 1), small()).SSH(5).Rules[0]
	if r.Action.Accept || !r.Action.Reject || r.Action.Message == "" {
		t.Errorf("no recorder there: %+v", r.Action)
	}
	if s := compile(t, `"ssh": []`, small()).SSH(5); s != nil {
		t.Errorf("no rules: %+v", s)
	}
}

func TestMayTag(t *testing.T) {
	doc, err := policy.Parse([]byte("{" + definitions + "}"))
	if err != nil {
		t.Fatal(err)
	}
	users := small().Users
	ann, bob, cy := &users[0], &users[1], &users[2]
	for _, c := range []struct {
		name string
		user *policy.User
		tags []string
		tag  string
		want bool
	}{
		{"by group", bob, nil, "tag:server", true},
		{"by a tag that the group owns", bob, nil, "tag:router", true},
		{"by autogroup in a circle", bob, nil, "tag:exit", true},
		{"nobody's", bob, nil, "tag:east", false},
		{"not defined", ann, nil, "tag:new", false},
		{"owner of the tailnet", ann, nil, "tag:east", true},
		{"network admin", cy, nil, "tag:server", true},
		{"tag owns tag", nil, []string{"tag:x", "tag:server"}, "tag:router", true},
		{"not the other way", nil, []string{"tag:router"}, "tag:server", false},
		{"nobody", nil, nil, "tag:server", false},
	} {
		if got := doc.MayTag(c.user, c.tags, c.tag); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if !doc.TagDefined("tag:east") || doc.TagDefined("tag:new") || !doc.HasTags() || policy.AllowAll().HasTags() {
		t.Error("defined tags")
	}
}

func TestAutoApprovers(t *testing.T) {
	c := compile(t, `"autoApprovers": {"routes": {"10.0.0.0/8": ["tag:router", "bob@example.com"], "0.0.0.0/0": ["tag:exit"]}, "exitNode": ["group:synced"],
		"services": {"svc:web": ["tag:server"]}}`, small())
	for _, one := range []struct {
		node  policy.NodeID
		route string
		want  bool
	}{
		{6, "10.0.0.0/8", true}, {6, "10.1.2.0/24", true}, {6, "0.0.0.0/0", false}, {6, "fd00::/8", false}, {6, "11.0.0.0/8", false},
		{3, "10.1.0.0/16", true}, {1, "10.1.0.0/16", false}, {1, "::/0", true}, {8, "0.0.0.0/0", false}, {8, "192.168.0.0/16", true}, {99, "10.0.0.0/8", false},
	} {
		if got := c.AutoApproves(one.node, netip.MustParsePrefix(one.route)); got != one.want {
			t.Errorf("node %d, %s: %v", one.node, one.route, got)
		}
	}
	if !c.AutoApprovesService(5, "svc:web") || c.AutoApprovesService(6, "svc:web") || c.AutoApprovesService(5, "svc:db") {
		t.Error("services")
	}
}

func TestNodeAttrs(t *testing.T) {
	yes := true
	tn := small()
	tn.AutoUpdates = &yes
	c := compile(t, `"nodeAttrs": [{"target": ["*"], "attr": ["a"]}, {"target": ["one"], "attr": ["a", "disable-ipv4"], "app": {"x.com/y": [{"v": 1}]}},
		{"target": ["100.64.0.0/29"], "app": {"x.com/y": [{"v": 1}, 2]}}, {"target": [], "attr": ["never"]}, {"target": ["group:dev"], "ipPool": ["100.80.0.0/16"]}],
		"randomizeClientPort": true, "OneCGNATRoute": "mac-always"`, tn)
	for id, want := range map[policy.NodeID]string{
		2: `{"a":null,"default-auto-update":[true],"one-cgnat?v=true":null,"randomize-client-port":null,"x.com/y":[{"v":1},2]}`,
		5: `{"a":null,"default-auto-update":[true],"disable-ipv4":null,"randomize-client-port":null,"x.com/y":[{"v":1},2]}`,
		8: `{"a":null,"default-auto-update":[true],"randomize-client-port":null}`,
	} {
		got, err := json.Marshal(c.Caps(id))
		if err != nil || string(got) != want {
			t.Errorf("node %d: %s (%v), want %s", id, got, err, want)
		}
	}
	if !c.IPv4Off(5) || c.IPv4Off(1) || c.Caps(99) != nil || c.IPv4Off(99) {
		t.Error("disable-ipv4")
	}
	if got := c.IPPool(3); len(got) != 1 || got[0].String() != "100.80.0.0/16" || c.IPPool(1) != nil || c.IPPool(99) != nil {
		t.Errorf("pool %v", got)
	}
	doc, err := policy.Parse([]byte(`{"tagOwners": {"tag:a": []}, "nodeAttrs": [{"target": ["bob@example.com"], "ipPool": ["100.80.0.0/16"]},
		{"target": ["tag:a", "100.64.0.0/16"], "ipPool": ["100.81.0.0/16"]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(doc.IPPool(&tn.Users[1], nil), doc.IPPool(&tn.Users[0], nil), doc.IPPool(nil, []string{"tag:a"})); got != "[100.80.0.0/16] [] [100.81.0.0/16]" {
		t.Errorf("pools %v", got)
	}
	if got := c.PeerCaps(1, 8); len(got) != 1 || c.PeerCaps(1, 6) != nil {
		t.Errorf("peer caps %v", got)
	}
	if !compile(t, `"disableIPv4": true`, small()).IPv4Off(1) {
		t.Error("top level disableIPv4")
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`"acls": [{"action": "accept", "src": ["user:*@example.com", "group:synced", "group:dev"], "dst": ["*:*"]}]`, ""},
		{`"acls": [{"action": "accept", "src": ["user:*@other.org"], "dst": ["*:*"]}]`, `the domain "other.org" is not associated`},
		{`"acls": [{"action": "accept", "src": ["group:nobody"], "dst": ["*:*"]}]`, `group not found: "group:nobody"`},
		{`"ssh": [{"action": "accept", "src": [], "dst": [], "users": ["localpart:*@other.org"]}]`, `the domain "other.org"`},
	} {
		err := compile(t, c.text, small()).Check()
		if c.want == "" && err == nil {
			continue
		}
		var e *policy.Error
		if !errors.As(err, &e) || !strings.Contains(e.Msg, c.want) || c.want == "" || e.Line != 6 || e.Column < 10 {
			t.Errorf("%s: %+v, want %q", c.text, e, c.want)
		}
	}
}

func TestPolicyTests(t *testing.T) {
	const acls = `"acls": [
		{"action": "accept", "src": ["group:dev"], "dst": ["tag:server:22", "10.1.0.0/16:*"]},
		{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:80"]},
		{"action": "accept", "src": ["ann@example.com"], "dst": ["one:443"], "srcPosture": ["posture:linux"]},
		{"action": "accept", "proto": "udp", "src": ["tag:server"], "dst": ["*:53"]}],
		"ssh": [{"action": "check", "src": ["group:dev"], "dst": ["tag:server"], "users": ["root"]}],
		"postures": {"posture:linux": ["node:os == 'linux'"]},`
	for _, c := range []struct {
		name, tests, want string // want: a part of the message, "" if it passes
	}{
		{"accept", `"tests": [{"src": "bob@example.com", "accept": ["tag:server:22", "100.64.0.5:22", "one:22"]}]`, ""},
		{"accept fails", `"tests": [{"src": "bob@example.com", "accept": ["tag:server:23"]}]`, `bob@example.com (node 3) may not reach tag:server:23 (node 5)`},
		{"deny", `"tests": [{"src": "bob@example.com", "deny": ["tag:server:23", "tag:router:22"]}]`, ""},
		{"deny fails", `"tests": [{"src": "bob@example.com", "deny": ["tag:server:22"]}]`, `may reach tag:server:22`},
		{"all nodes of a group", `"tests": [{"src": "group:dev", "accept": ["tag:server:22"]}]`, ""},
		{"one node of many", `"tests": [{"src": "autogroup:member", "accept": ["tag:server:22"]}]`, `may not reach`},
		{"user without nodes", `"tests": [{"src": "gone@example.com", "accept": ["tag:server:22"], "deny": ["tag:exit:22"]}]`, ""},
		{"tag without nodes", `"tests": [{"src": "tag:loop", "deny": ["tag:server:22"]}]`, ""},
		{"host behind a router", `"tests": [{"src": "group:dev", "accept": ["10.1.2.3:5"], "deny": ["10.2.0.1:5"]}]`, ""},
		{"own devices", `"tests": [{"src": "ann@example.com", "accept": ["ann@example.com:80"], "deny": ["bob@example.com:80"]}]`, ""},
		{"proto", `"tests": [{"src": "tag:server", "proto": "udp", "accept": ["100.64.0.1:53", "[fd7a:115c:a1e0::1]:53"]}]`, ""},
		{"proto is TCP by default", `"tests": [{"src": "tag:server", "accept": ["100.64.0.1:53"]}]`, "may not reach"},
		{"posture attributes", `"tests": [{"src": "ann@example.com", "srcPostureAttrs": {"node:os": "linux"}, "accept": ["one:443"]}]`, ""},
		{"posture attributes fail", `"tests": [{"src": "ann@example.com", "srcPostureAttrs": {"node:os": "macos"}, "accept": ["one:443"]}]`, "may not reach"},
		{"no src", `"tests": [{"accept": ["one:22"]}]`, "src: there is none"},
		{"nothing to test", `"tests": [{"src": "bob@example.com"}]`, "neither accept nor deny"},
		{"unknown src", `"tests": [{"src": "group:nobody", "accept": ["one:22"]}]`, "group not found"},
		{"unknown tag", `"tests": [{"src": "tag:nothing", "accept": ["one:22"]}]`, "tag not found"},
		{"port range", `"tests": [{"src": "bob@example.com", "accept": ["one:22-23"]}]`, `needs one port, not "22-23"`},
		{"no port", `"tests": [{"src": "bob@example.com", "accept": ["one"]}]`, "has no port"},
		{"port 0", `"tests": [{"src": "bob@example.com", "accept": ["one:0"]}]`, "needs one port"},
		{"cidr", `"tests": [{"src": "bob@example.com", "deny": ["100.64.0.5/32:22"]}]`, "is not one host"},
		{"cidr alias", `"tests": [{"src": "bob@example.com", "accept": ["wide:22"]}]`, "is not one host"},
		{"any", `"tests": [{"src": "bob@example.com", "deny": ["*:22"]}]`, "not valid in a test"},
		{"self", `"tests": [{"src": "bob@example.com", "accept": ["autogroup:self:80"]}]`, "not valid in a test"},
		{"bare IPv6", `"tests": [{"src": "bob@example.com", "deny": ["fd7a:115c:a1e0::1:53"]}]`, "write an IPv6 address as [fd7a:115c:a1e0::1]:53"},
		{"bad proto", `"tests": [{"src": "bob@example.com", "proto": "x", "deny": ["one:53"]}]`, `proto "x"`},

		{"ssh check", `"sshTests": [{"src": "bob@example.com", "dst": ["tag:server", "one"], "check": ["root"], "accept": ["root"], "deny": ["a"]}]`, ""},
		{"ssh accept fails", `"sshTests": [{"src": "ann@example.com", "dst": ["tag:server"], "accept": ["root"]}]`, `may not log in to tag:server (node 5) as "root"`},
		{"ssh deny fails", `"sshTests": [{"src": "bob@example.com", "dst": ["tag:server"], "deny": ["root"]}]`, `may log in to`},
		{"ssh dst", `"sshTests": [{"src": "bob@example.com", "dst": ["autogroup:internet"], "deny": ["root"]}]`, `not valid in a test`},
		{"ssh without dst", `"sshTests": [{"src": "bob@example.com", "deny": ["root"]}]`, `no dst`},
		{"ssh nothing", `"sshTests": [{"src": "bob@example.com", "dst": ["tag:server"]}]`, `neither accept nor deny nor check`},
		{"ssh empty login", `"sshTests": [{"src": "bob@example.com", "dst": ["tag:server"], "deny": [""]}]`, `empty login`},
	} {
		err := compile(t, acls+c.tests, small()).RunTests()
		var e *policy.Error
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (!errors.As(err, &e) || !strings.Contains(e.Msg, c.want)):
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		case c.want != "" && c.name != "no src" && e.Line == 0:
			t.Errorf("%s: no place: %v", c.name, err)
		}
	}
}

func TestExplain(t *testing.T) {
	c := compile(t, `"acls": [
		{"action": "accept", "src": ["group:dev"], "dst": ["10.1.0.0/16:22"]},
		{"action": "accept", "src": ["*"], "dst": ["one:80", "net:22"]}]`, small())
	addr := netip.MustParseAddr
	e := c.Explain(addr("100.64.0.3"), addr("10.1.2.3"), 6, 22)
	if !e.Allowed || !slices.Equal(e.Lines, []int{7, 8}) || !slices.Equal(e.At, []policy.NodeID{6, 7}) || len(e.Entries) != 4 {
		t.Errorf("%+v", e)
	}
	if e := c.Explain(addr("100.64.0.3"), addr("172.16.0.1"), 6, 22); e.Allowed || e.At[0] != 8 {
		t.Errorf("by the exit node: %+v", e)
	}
	if e := c.Explain(addr("100.64.0.3"), addr("100.64.0.5"), 6, 22); e.Allowed || len(e.Lines)+len(e.Entries) > 0 {
		t.Errorf("another port: %+v", e)
	}
}

// TestUserWithoutMail: a user of the server's own, without a mail address, is
// written with a final "@".
func TestUserWithoutMail(t *testing.T) {
	tn := small()
	tn.Users[1].Login = "bob@"
	for src, want := range map[string][]policy.NodeID{"bob@": {3}, "user:*@example.com": {1, 2}, "bob@example.com": nil} {
		c := compile(t, `"acls": [{"action": "accept", "src": ["`+src+`"], "dst": ["tag:server:22"]}]`, tn)
		if diff := cmp.Diff(want, seen(c, tn, 5)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", src, diff)
		}
	}
}

// TestImpostors: logins, roles, groups and tags that look like selectors match
// none of them.
func TestImpostors(t *testing.T) {
	tn := small()
	tn.Users[1] = policy.User{ID: 2, Login: "tag:server", Role: "tagged", Groups: []string{"dev", "empty"}}
	tn.Users[2] = policy.User{ID: 3, Login: "autogroup:owner@x", Role: "owner:*"}
	tn.Nodes[4].Tags = []string{"ann@example.com", "autogroup:owner", "*x", "10.0.0.0/8"}
	c := compile(t, `"acls": [{"action": "accept", "src": ["tag:server", "autogroup:owner", "autogroup:tagged", "group:empty", "group:dev", "ann@example.com", "10.0.0.0/8"],
		"dst": ["100.64.0.9:22"]}], "autoApprovers": {"exitNode": ["tag:server", "ann@example.com", "group:dev"]}`, tn)
	e := func(id byte) bool {
		return c.Explain(netip.AddrFrom4([4]byte{100, 64, 0, id}), netip.MustParseAddr("100.64.0.9"), 6, 22).Allowed
	}
	tn.Nodes = append(tn.Nodes, policy.Node{ID: 9, User: 1, IPv4: netip.MustParseAddr("100.64.0.9")})
	c = c.Recompile(tn)
	for id, want := range map[byte]bool{1: true, 3: false, 4: false, 5: true /* tagged, with whatever */, 6: true} {
		if got := e(id); got != want {
			t.Errorf("node %d: %v", id, got)
		}
	}
	exit := netip.MustParsePrefix("::/0")
	if !c.AutoApproves(1, exit) || c.AutoApproves(3, exit) || c.AutoApproves(5, exit) {
		t.Error("approved")
	}
	doc, err := policy.Parse([]byte(`{"tagOwners": {"tag:a": ["tag:b"], "tag:b": []}}`))
	if err != nil {
		t.Fatal(err)
	}
	if doc.MayTag(&policy.User{Login: "tag:b"}, nil, "tag:a") || doc.MayTag(nil, []string{"ann@example.com"}, "tag:a") {
		t.Error("may tag")
	}
}

// TestTotal: Compile survives what no tailnet should have.
func TestTotal(t *testing.T) {
	doc, err := policy.Parse([]byte(`{"acls": [{"action": "accept", "src": ["*", "group:x"], "dst": ["*:*", "autogroup:self:*"]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	c := policy.Compile(doc, policy.Tailnet{Nodes: []policy.Node{
		{}, {ID: 5}, {ID: 5, User: 1}, {ID: -3, Tags: []string{"", "x"}}, {ID: 4, User: 77, Approved: []netip.Prefix{{}, netip.MustParsePrefix("10.1.0.0/8")}},
	}, Users: []policy.User{{}, {Login: "@"}, {ID: 1, Login: "nobody"}}})
	for id := range policy.NodeID(7) {
		c.Filter(id - 3)
		c.SSH(id - 3)
		c.Caps(id - 3)
		c.Routes(id-3, 4, func(netip.Prefix) policy.NodeID { return 4 })
	}
	if c.Visible(-1, 1) || c.Visible(0, 0) || c.Visible(1, 1000) {
		t.Error("unknown classes see something")
	}
	if got := policy.Compile(policy.AllowAll(), policy.Tailnet{}).Filter(1); got != nil {
		t.Error("an unknown node has a filter")
	}
}

func TestRefuse(t *testing.T) {
	doc, err := policy.Parse([]byte(`{
		"derpMap": {"Regions": {"1": null}},
		"postures": {"posture:x": ["custom:a == 1"]},
		"nodeAttrs": [{"target": ["*"], "attr": ["funnel"], "ipPool": ["100.64.0.0/16"]}],
		"autoApprovers": {"services": {}},
		"ssh": [{"action": "check", "src": [], "dst": [], "users": ["root"]}, {"action": "check", "src": [], "dst": [], "users": ["root"]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range doc.Features() {
		names = append(names, f.Name)
	}
	if diff := cmp.Diff([]string{"derpMap", "postures", "custom posture attributes", "nodeAttrs funnel", "nodeAttrs ipPool", "autoApprovers services", "ssh check"}, names); diff != "" {
		t.Error(diff)
	}
	if doc.DERPMap() == nil || len(doc.DERPMap().Regions) != 1 {
		t.Error("derpMap")
	}
	err = doc.Refuse(map[string]string{"ssh check": "no browser", "ssh recorder": "no"})
	if err == nil || err.Error() != "line 6, column 22: ssh check is not supported by this server yet: no browser" {
		t.Error(err)
	}
	if err := doc.Refuse(nil); err != nil {
		t.Error(err)
	}
}

// TestParseStored: what is refused is left out and nothing more is allowed.
func TestParseStored(t *testing.T) {
	const ok = `{"action": "accept", "src": ["bob@example.com"], "dst": ["one:22"]}`
	for _, c := range []struct {
		name, text string
		want       []policy.NodeID // that node 5 sees
		fine       bool
	}{
		{"fine", `{` + definitions + `"acls": [` + ok + `]}`, []policy.NodeID{3}, true},
		{"open", `{` + definitions + `}`, []policy.NodeID{1, 2, 3, 4, 6, 7, 8}, true},
		{"open with a refused ssh rule", `{"ssh": [{}]}`, []policy.NodeID{1, 2, 3, 4, 6, 7, 8}, false},
		{"not open by a misspelling", `{"acl": []}`, nil, false},
		{"unreadable", `{"acls": [`, nil, false},
		{"not an object", `[]`, nil, false},
		{"a refused rule", `{` + definitions + `"acls": [{"action": "deny", "src": ["*"], "dst": ["*:*"]}, ` + ok + `]}`, []policy.NodeID{3}, false},
		{"a refused part of a rule", `{` + definitions + `"acls": [{"action": "accept", "src": ["*", "svc:x"], "dst": ["*:*", "one:1"]}, ` + ok + `]}`, []policy.NodeID{3}, false},
		{"a refused grant", `{` + definitions + `"acls": [` + ok + `], "grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"], "later": 1}]}`, []policy.NodeID{3}, false},
		{"a refused posture", `{` + definitions + `"postures": {"posture:x": ["node:os == 'linux'", "falcon:x > 1"]},
			"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"], "srcPosture": ["posture:x"]}, ` + ok + `]}`, []policy.NodeID{3}, false},
		{"a refused default posture", `{` + definitions + `"defaultSrcPosture": ["posture:x"], "acls": [` + ok + `]}`, nil, false},
		{"a refused ipset", `{"hosts": {"one": "100.64.0.5"}, "ipsets": {"ipset:x": ["100.64.0.0/16", "remove svc:x"]},
			"acls": [{"action": "accept", "src": ["ipset:x"], "dst": ["*:*"]}, ` + ok + `]}`, []policy.NodeID{3}, false},
	} {
		doc, err := policy.ParseStored([]byte(c.text))
		if (err == nil) != c.fine {
			t.Errorf("%s: %v", c.name, err)
		}
		tn := small()
		if diff := cmp.Diff(c.want, seen(policy.Compile(doc, tn), tn, 5)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}
