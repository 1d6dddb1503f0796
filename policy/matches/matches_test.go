package matches_test

import (
	"net/netip"
	"testing"

	"heddle/policy"
	"heddle/policy/matches"

	"github.com/google/go-cmp/cmp"
)

const text = `{
	"groups": {"group:dev": ["bob@example.com"]},
	"hosts": {"db": "10.1.2.3", "net": "10.0.0.0/8"},
	"tagOwners": {"tag:server": []},
	"postures": {"posture:mac": ["node:os == 'macos'"]},
	"acls": [
		{"action": "accept", "src": ["*"], "dst": ["tag:server:443"]},
		{"action": "accept", "src": ["group:dev", "ann@example.com"], "dst": ["db:5432,5433", "tag:server:*", "net:22"]},
		{"action": "accept", "proto": "icmp", "src": ["*"], "dst": ["*:*"]},
	],
	"grants": [
		{"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["*"]},
		{"src": ["bob@example.com"], "dst": ["fd7a:115c:a1e0::5"], "ip": ["tcp:80", "udp:53"], "srcPosture": ["posture:mac"]},
		{"src": ["tag:server"], "dst": ["db"], "ip": ["1-65535"]},
		{"src": ["bob@example.com"], "dst": ["tag:server"], "app": {"example.com/cap/x": [{}]}},
		{"src": ["100.64.0.1"], "dst": ["autogroup:internet"], "ip": ["443"]},
	],
}`

func compiled(t *testing.T, text string) *policy.Compiled {
	t.Helper()
	doc, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	a := netip.MustParseAddr
	return policy.Compile(doc, policy.Tailnet{
		Users: []policy.User{
			{ID: 1, Login: "ann@example.com", Role: policy.Owner}, {ID: 2, Login: "bob@example.com", Role: policy.Member},
			{ID: 3, Login: "cy@example.com", Role: policy.Member},
		},
		Nodes: []policy.Node{
			{ID: 1, User: 1, IPv4: a("100.64.0.1"), IPv6: a("fd7a:115c:a1e0::1")},
			{ID: 2, User: 2, IPv4: a("100.64.0.2"), IPv6: a("fd7a:115c:a1e0::2")},
			{ID: 5, Tags: []string{"tag:server"}, IPv4: a("100.64.0.5"), IPv6: a("fd7a:115c:a1e0::5")},
		},
	})
}

func lines(list []matches.Match) []int {
	out := []int{}
	for _, m := range list {
		out = append(out, m.Line)
	}
	return out
}

func TestOf(t *testing.T) {
	c := compiled(t, text)
	want := []matches.Match{
		{7, []string{"*"}, []string{"tag:server:443"}},
		{8, []string{"group:dev", "ann@example.com"}, []string{"10.1.2.3:5432-5433", "tag:server:*", "10.0.0.0/8:22"}},
		{9, []string{"*"}, []string{"*:*"}},
		{12, []string{"autogroup:member"}, []string{"autogroup:self:*"}},
		{13, []string{"bob@example.com"}, []string{"[fd7a:115c:a1e0::5]:80", "[fd7a:115c:a1e0::5]:53"}},
		{15, []string{"bob@example.com"}, []string{"tag:server"}},
	}
	if diff := cmp.Diff(want, matches.Of(c, 2)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for u, want := range map[policy.UserID][]int{1: {7, 8, 9, 12, 16}, 3: {7, 9, 12}, 9: {}} {
		if diff := cmp.Diff(want, lines(matches.Of(c, u))); diff != "" {
			t.Errorf("user %d: -want +got:\n%s", u, diff)
		}
	}
}

func TestTo(t *testing.T) {
	c := compiled(t, text)
	for to, want := range map[string][]int{
		"100.64.0.5:443":         {7, 8},
		"100.64.0.5:80":          {8},
		"[fd7a:115c:a1e0::5]:80": {8, 13},
		"10.1.2.3:5433":          {8, 14},
		"10.1.2.3:22":            {8, 14},
		"10.9.9.9:22":            {8}, // wherever that is
		"10.9.9.9:23":            {},
		"100.64.0.2:22":          {12}, // its own user's other devices
		"1.1.1.1:443":            {16},
	} {
		if diff := cmp.Diff(want, lines(matches.To(c, netip.MustParseAddrPort(to)))); diff != "" {
			t.Errorf("%s: -want +got:\n%s", to, diff)
		}
	}
	open := matches.To(compiled(t, "{}"), netip.MustParseAddrPort("100.64.0.5:1"))
	if diff := cmp.Diff([]matches.Match{{0, []string{"*"}, []string{"*:*"}}}, open); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
