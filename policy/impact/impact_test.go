package impact_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"heddle/policy"
	"heddle/policy/impact"

	"github.com/google/go-cmp/cmp"
)

// fleet has two devices of ann, one of bob, a tagged server pair, and a router
// that is an exit node too.
func fleet() policy.Tailnet {
	t := policy.Tailnet{Users: []policy.User{
		{ID: 1, Login: "ann@x.test", Role: policy.Admin}, {ID: 2, Login: "bob@x.test", Role: policy.Member},
	}}
	for i, tags := range []string{"", "", "", "tag:web", "tag:web", "tag:router", "tag:db"} {
		n := policy.Node{
			ID: policy.NodeID(i + 1), IPv4: netip.AddrFrom4([4]byte{100, 64, 0, byte(i + 1)}),
			IPv6: netip.MustParseAddr(fmt.Sprintf("fd7a:115c:a1e0::%d", i+1)),
			User: policy.UserID(1 + i/2),
		}
		if tags != "" {
			n.User, n.Tags = 0, strings.Fields(tags)
		}
		if tags == "tag:router" {
			n.Approved = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("::/0")}
			n.Advertised = n.Approved
		}
		t.Nodes = append(t.Nodes, n)
	}
	return t
}

const owners = `"tagOwners": {"tag:web": [], "tag:router": [], "tag:db": []}, "hosts": {"lan": "10.0.1.0/24"}, "groups": {"group:g": ["ann@x.test"]},`

func compile(t testing.TB, rules string) *policy.Compiled {
	t.Helper()
	doc, err := policy.Parse([]byte("{" + owners + rules + "}"))
	if err != nil {
		t.Fatalf("%s: %v", rules, err)
	}
	return policy.Compile(doc, fleet())
}

func acl(src, dst string) string {
	return fmt.Sprintf(`{"action": "accept", "src": [%q], "dst": [%q]}`, src, dst)
}

// compare compares policies that were compiled with the fleet.
func compare(before, after *policy.Compiled) impact.Report {
	nodes := fleet().Nodes
	return impact.Compare(impact.State{Compiled: before, Nodes: nodes}, impact.State{Compiled: after, Nodes: nodes})
}

func TestCompare(t *testing.T) {
	none := `"acls": []`
	for _, c := range []struct {
		name, before, after string
		want                []string
	}{
		{"nothing", none, none, nil},
		{"another way to write it", `"acls": [` + acl("ann@x.test", "tag:web:22") + `,` + acl("ann@x.test", "tag:web:80") + `]`,
			`"grants": [{"src": ["group:g"], "dst": ["tag:web"], "ip": ["22", "80"]}]`, nil},
		{"covered already", `"acls": [` + acl("*", "*:*") + `]`, `"acls": [` + acl("*", "*:*") + `,` + acl("ann@x.test", "tag:web:22") + `]`, nil},
		{"a new rule", none, `"acls": [` + acl("ann@x.test", "tag:web:22") + `]`, []string{"1,2 > 4,5 +22"}},
		{"one gone", `"acls": [` + acl("autogroup:member", "tag:db:5432") + `]`, none, []string{"1,2,3 > 7 -5432"}},
		{"a protocol", none, `"grants": [{"src": ["bob@x.test"], "dst": ["tag:db"], "ip": ["udp:53", "gre:*", "icmp:*"]}]`, []string{"3 > 7 +udp:53 +protocol 47"}},
		{"ping alone", none, `"grants": [{"src": ["bob@x.test"], "dst": ["tag:db"], "ip": ["icmp:*"]}]`, []string{"3 > 7 +ping"}},
		{"one family", none, `"acls": [` + acl("bob@x.test", "100.64.0.7:22") + `]`, []string{"3 > 7 +22 over IPv4"}},
		{"ports", `"acls": [` + acl("bob@x.test", "tag:db:20-30") + `]`, `"acls": [` + acl("bob@x.test", "tag:db:25-40") + `]`, []string{"3 > 7 +31-40 -20-24"}},
		{"behind a router", none, `"acls": [` + acl("bob@x.test", "lan:22") + `]`, []string{"3 > 6 +22 at 10.0.1.0/24"}},
		{"part of a subnet", `"acls": [` + acl("bob@x.test", "lan:22") + `]`, `"acls": [` + acl("bob@x.test", "10.0.0.0/16:22") + `]`,
			[]string{"3 > 6 +22 at 10.0.0.0/24 +22 at 10.0.2.0/23 +22 at 10.0.4.0/22 +22 at 10.0.8.0/21 +22 at 10.0.16.0/20 +22 at 10.0.32.0/19 +22 at 10.0.64.0/18 +22 at 10.0.128.0/17"}},
		{"nowhere", none, `"acls": [` + acl("bob@x.test", "192.0.2.1:22") + `]`, nil},
		{"own devices", none, `"acls": [` + acl("autogroup:member", "autogroup:self:22") + `]`, []string{"1,2 > 1,2 (same user) +22"}},
		{"own devices, not others'", `"acls": [` + acl("autogroup:member", "autogroup:member:*") + `]`, `"acls": [` + acl("autogroup:member", "autogroup:self:*") + `]`,
			[]string{"1,2,3 > 1,2,3 (other users) -all ports"}},
		{"a capability", none, `"grants": [{"src": ["bob@x.test"], "dst": ["tag:db"], "app": {"x.test/cap": [{}]}}]`, []string{"3 > 7 +app x.test/cap"}},
		{"another value", `"grants": [{"src": ["bob@x.test"], "dst": ["tag:db"], "app": {"x.test/cap": [1]}}]`, `"grants": [{"src": ["bob@x.test"], "dst": ["tag:db"], "app": {"x.test/cap": [2]}}]`,
			[]string{"3 > 7 +app x.test/cap -app x.test/cap"}},
		{"ssh", `"acls": [], "ssh": [{"action": "accept", "src": ["autogroup:member"], "dst": ["tag:web"], "users": ["root"]}]`,
			`"acls": [], "ssh": [{"action": "check", "src": ["ann@x.test"], "dst": ["tag:web"], "users": ["root", "autogroup:nonroot"]}]`,
			[]string{"1,2 > 4,5 +ssh as autogroup:nonroot (check) +ssh as root (check) -ssh as root", "3 > 4,5 -ssh as root"}},
		{"ssh to own devices", `"acls": []`, `"acls": [], "ssh": [{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["me"]}]`,
			[]string{"1,2 > 1,2 (same user) +ssh as me"}},
		{"everything", `"x": 1`, none, []string{
			"1,2,3,4,5,6,7 > 1,2,3,4,5,7 -all ports",
			"1,2,3,4,5,6,7 > 6 -all ports -all ports at 0.0.0.0/0 -all ports at ::/0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, tn := compile(t, c.after), fleet()
			if c.before == `"x": 1` {
				before = policy.Compile(policy.AllowAll(), tn)
			} else {
				before = compile(t, c.before)
			}
			got := compare(before, compile(t, c.after))
			if diff := cmp.Diff(c.want, texts(got)); diff != "" || got.Omitted != 0 || got.Partial || got.Caps != nil {
				t.Errorf("%+v (-want +got):\n%s", got, diff)
			}
		})
	}
}

func texts(r impact.Report) []string {
	var out []string
	ids := func(list []policy.NodeID) string {
		return strings.ReplaceAll(strings.Trim(fmt.Sprint(list), "[]"), " ", ",")
	}
	for _, ch := range r.Changes {
		s := ids(ch.Sources) + " > " + ids(ch.Destinations)
		if ch.Relation != "" {
			s += " (" + string(ch.Relation) + ")"
		}
		for _, g := range ch.Gained {
			s += " +" + g
		}
		for _, l := range ch.Lost {
			s += " -" + l
		}
		out = append(out, s)
	}
	return out
}

func TestCaps(t *testing.T) {
	r := compare(compile(t, `"acls": []`), compile(t, `"acls": [], "nodeAttrs": [{"target": ["tag:web"], "attr": ["x"]}]`))
	if diff := cmp.Diff([]policy.NodeID{4, 5}, r.Caps); diff != "" || r.Changes != nil {
		t.Errorf("%+v", r)
	}
}

// What is reported is what Explain says of each pair, before and after.
func TestCompareIsExact(t *testing.T) {
	who := []string{"ann@x.test", "bob@x.test", "group:g", "autogroup:member", "autogroup:tagged", "tag:web", "tag:router", "tag:db", "*", "100.64.0.4/31", "100.64.0.1"}
	where := append(slices.Clone(who), "autogroup:self", "autogroup:internet", "lan", "10.0.0.0/16", "8.8.8.0/24")
	ports := []string{"*", "22", "20-25", "22,80"}
	for seed := range uint64(120) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		pick := func(list []string) string { return list[rnd.IntN(len(list))] }
		random := func() *policy.Compiled {
			var rules []string
			for range 1 + rnd.IntN(4) {
				src, dst := pick(who), pick(where)
				if dst == "autogroup:self" {
					src = pick(who[:4])
				}
				rule := fmt.Sprintf(`{"src": [%q], "dst": [%q], "ip": [%q]}`, src, dst, pick([]string{"tcp:", "udp:", ""})+pick(ports[:3]))
				if rnd.IntN(3) == 0 && dst == "lan" {
					rule = strings.TrimSuffix(rule, "}") + `, "via": ["tag:router"]}`
				}
				rules = append(rules, rule)
			}
			return compile(t, `"grants": [`+strings.Join(rules, ",")+`]`)
		}
		before, after := random(), random()
		tn := fleet()
		r := compare(before, after)
		for _, s := range tn.Nodes {
			for _, d := range tn.Nodes {
				if s.ID == d.ID {
					continue
				}
				for _, to := range []string{"", "10.0.1.1", "10.0.2.1", "8.8.8.8", "9.9.9.9"} {
					dst := d.IPv4
					if to != "" {
						if dst = netip.MustParseAddr(to); d.ID != 6 {
							continue
						}
					}
					for _, proto := range []int{6, 17} {
						for _, port := range []uint16{22, 25, 80} {
							a, b := before.Explain(s.IPv4, dst, proto, port).Allowed, after.Explain(s.IPv4, dst, proto, port).Allowed
							gained, lost := reported(r, s, d, to, proto, int(port))
							if gained != (b && !a) || lost != (a && !b) {
								t.Fatalf("seed %d: %d > %d %s %d:%d: before %v, after %v, reported gained %v, lost %v\n%s",
									seed, s.ID, d.ID, to, proto, port, a, b, gained, lost, strings.Join(texts(r), "\n"))
							}
						}
					}
				}
			}
		}
	}
}

// reported reads what a report says of one flow; to is behind d if not empty.
func reported(r impact.Report, s, d policy.Node, to string, proto, port int) (gained, lost bool) {
	for _, ch := range r.Changes {
		same := s.User != 0 && s.User == d.User
		if !slices.Contains(ch.Sources, s.ID) || !slices.Contains(ch.Destinations, d.ID) ||
			ch.Relation == impact.SameUser && !same || ch.Relation == impact.OtherUsers && same {
			continue
		}
		gained = gained || slices.ContainsFunc(ch.Gained, func(f string) bool { return matches(f, to, proto, port) })
		lost = lost || slices.ContainsFunc(ch.Lost, func(f string) bool { return matches(f, to, proto, port) })
	}
	return gained, lost
}

func matches(flow, to string, proto, port int) bool {
	flow = strings.TrimSuffix(flow, " over IPv4")
	if strings.HasSuffix(flow, " over IPv6") {
		return false
	}
	flow, at, routed := strings.Cut(flow, " at ")
	if routed != (to != "") || routed && !netip.MustParsePrefix(at).Contains(netip.MustParseAddr(to)) {
		return false
	}
	if name, ports, ok := strings.Cut(flow, ":"); ok {
		if name != map[int]string{6: "tcp", 17: "udp"}[proto] {
			return false
		}
		flow = ports
	}
	for _, p := range strings.Split(flow, ",") {
		from, last, isRange := strings.Cut(p, "-")
		a, err := strconv.Atoi(from)
		b := a
		if isRange {
			b, _ = strconv.Atoi(last)
		}
		if flow == "all ports" || p == "*" || err == nil && a <= port && port <= b {
			return true
		}
	}
	return false
}

func BenchmarkCompare(b *testing.B) {
	for _, nodes := range []int{100, 1000, 5000, 20000} {
		b.Run(strconv.Itoa(nodes), func(b *testing.B) {
			t := policy.Tailnet{}
			var owned []string
			for i := range nodes {
				n := policy.Node{ID: policy.NodeID(i + 1), IPv4: netip.AddrFrom4([4]byte{100, 64, byte(i >> 8), byte(i)}), Tags: []string{fmt.Sprintf("tag:t%d", i%200)}}
				if i%2 == 0 {
					n.Tags, n.User = nil, policy.UserID(i/4+1)
				}
				t.Nodes = append(t.Nodes, n)
			}
			for i := range nodes/4 + 1 {
				t.Users = append(t.Users, policy.User{ID: policy.UserID(i + 1), Login: fmt.Sprintf("u%d@x.test", i), Role: policy.Member})
			}
			for i := range 200 {
				owned = append(owned, fmt.Sprintf(`"tag:t%d": []`, i))
			}
			make := func(shift int) *policy.Compiled {
				rules := []string{acl("autogroup:member", "autogroup:self:*"), acl("autogroup:tagged", "*:"+strconv.Itoa(9000+shift))}
				for i := range 1000 {
					rules = append(rules, acl(fmt.Sprintf("u%d@x.test", i%len(t.Users)), fmt.Sprintf("tag:t%d:%d", (i*7+shift)%200, 20+i%50)))
				}
				doc, err := policy.Parse([]byte(`{"tagOwners": {` + strings.Join(owned, ",") + `}, "acls": [` + strings.Join(rules, ",") + `]}`))
				if err != nil {
					b.Fatal(err)
				}
				return policy.Compile(doc, t)
			}
			x, y := make(0), make(1)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				r := impact.Compare(impact.State{Compiled: x, Nodes: t.Nodes}, impact.State{Compiled: y, Nodes: t.Nodes})
				if len(r.Changes) == 0 || r.Partial {
					b.Fatalf("%d changes, partial %v", len(r.Changes), r.Partial)
				}
			}
		})
	}
}
