package policy_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go4.org/netipx"
	"tailscale.com/tailcfg"
	"tailscale.com/types/ipproto"
	"tailscale.com/types/logger"
	"tailscale.com/wgengine/filter"

	"heddle/policy"
)

// world makes random policies and tailnets that go together.
type world struct{ *rand.Rand }

func newWorld(seed uint64) world { return world{rand.New(rand.NewPCG(seed, 1))} }

func pick[T any](w world, from ...T) T { return from[w.IntN(len(from))] }

func (w world) some(n int, fn func() string) []string {
	out := []string{}
	for range 1 + w.IntN(n) {
		out = append(out, fn())
	}
	return out
}

func (w world) chance(percent int) bool { return w.IntN(100) < percent }

var (
	logins   = []string{"ann@example.com", "bob@example.com", "cy@other.org", "dan@example.com"}
	tags     = []string{"tag:a", "tag:b", "tag:router", "tag:exit"}
	places   = []string{"100.64.0.2", "fd7a:115c:a1e0::3", "100.64.0.0/29", "10.0.0.0/8", "10.1.2.0/24", "192.168.0.1", "net", "srv", "ipset:x", "8.8.0.0/16"}
	routable = []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "192.168.0.0/24", "fd00:1::/64"}
)

func (w world) identity() string {
	return pick(w, pick(w, logins...), pick(w, tags...), "group:g", "group:empty", "group:synced", "autogroup:member", "autogroup:tagged",
		"autogroup:admin", "user:*@example.com")
}

func (w world) user() string {
	return pick(w, pick(w, logins...), "group:g", "autogroup:member", "autogroup:admin")
}

func (w world) source() string {
	return pick(w, w.identity(), w.identity(), pick(w, places...), "*", pick(w, "*", "autogroup:danger-all"))
}

func (w world) target() string {
	return pick(w, w.identity(), w.identity(), pick(w, places...), pick(w, "*", "autogroup:internet"))
}

func (w world) ports() string { return pick(w, "*", "22", "80-90", "22,443") }

func (w world) policy() string {
	var acls, grants, ssh []map[string]any
	for range w.IntN(5) {
		r := map[string]any{"action": "accept", "src": w.some(3, w.source)}
		r["dst"] = w.some(3, func() string { return w.target() + ":" + w.ports() })
		switch {
		case w.chance(20):
			r["src"], r["dst"] = w.some(2, w.user), []string{"autogroup:self:" + w.ports()}
		case w.chance(20):
			r["proto"] = pick(w, "tcp", "udp", "132")
		}
		w.posture(r)
		acls = append(acls, r)
	}
	for range w.IntN(5) {
		r := map[string]any{"src": w.some(3, w.source), "dst": w.some(3, w.target)}
		if w.chance(80) {
			r["ip"] = w.some(2, func() string { return pick(w, "*", "80", "tcp:443", "udp:53", "icmp:*", "gre:*") })
		}
		if _, ok := r["ip"]; !ok || w.chance(20) {
			r["app"] = map[string]any{pick(w, "example.com/cap/x", "tailscale.com/cap/drive"): []any{map[string]any{}}}
			r["dst"] = w.some(2, w.identity)
		}
		if w.chance(15) {
			r["src"], r["dst"] = w.some(2, w.user), []string{"autogroup:self"}
		} else if w.chance(25) {
			r["via"] = w.some(2, func() string { return pick(w, tags...) })
			r["dst"] = w.some(2, func() string { return pick(w, pick(w, places...), "autogroup:internet") })
			delete(r, "app")
			r["ip"] = []string{"*"}
		}
		w.posture(r)
		grants = append(grants, r)
	}
	for range w.IntN(4) {
		r := map[string]any{"action": pick(w, "accept", "check"), "src": w.some(3, w.identity), "dst": w.some(2, func() string { return pick(w, tags...) }),
			"users": w.some(3, func() string { return pick(w, "root", "autogroup:nonroot", "deploy", "localpart:*@example.com") })}
		if w.chance(30) {
			r["src"], r["dst"] = w.some(2, w.user), []string{"autogroup:self"}
		}
		w.posture(r)
		ssh = append(ssh, r)
	}
	p := map[string]any{
		"groups":    map[string]any{"group:g": logins[:2], "group:empty": []string{}},
		"hosts":     map[string]any{"net": "10.1.0.0/16", "srv": "100.64.0.4"},
		"ipsets":    map[string]any{"ipset:x": []string{"add 192.168.0.0/16", "remove 192.168.0.128/25", "100.64.0.5"}},
		"tagOwners": map[string]any{"tag:a": []string{"group:g"}, "tag:b": []string{"tag:a"}, "tag:router": []string{}, "tag:exit": []string{}},
		"postures":  map[string]any{"posture:linux": []string{"node:os == 'linux'"}, "posture:new": []string{"node:tsVersion >= '1.50'"}},
		"ssh":       ssh,
		"nodeAttrs": []any{
			map[string]any{"target": w.some(2, w.identity), "attr": []string{"funnel"}},
			map[string]any{"target": w.some(2, func() string { return pick(w, w.identity(), "net", "100.64.0.0/30") }), "attr": []string{pick(w, "disable-ipv4", "x")}},
		},
		"autoApprovers": map[string]any{"routes": map[string]any{"10.0.0.0/8": []string{"tag:router", "group:g"}}, "exitNode": []string{"tag:exit"}},
	}
	if acls != nil || w.chance(50) {
		p["acls"] = acls
	}
	if grants != nil || w.chance(50) {
		p["grants"] = grants
	}
	if w.chance(10) {
		p["defaultSrcPosture"] = []string{"posture:new"}
	}
	out, err := json.Marshal(p)
	if err != nil {
		panic(err)
	}
	return string(out)
}

func (w world) posture(r map[string]any) {
	if w.chance(15) {
		r["srcPosture"] = w.some(2, func() string { return pick(w, "posture:linux", "posture:new") })
	}
}

func (w world) tailnet(nodes int) policy.Tailnet {
	t := policy.Tailnet{Domains: []string{"example.com"}, Groups: []string{"synced"}, SSHCheckURL: "https://check"}
	for i, l := range logins {
		u := policy.User{ID: policy.UserID(i + 1), Login: l, Role: pick(w, policy.Member, policy.Admin, policy.Owner)}
		if w.chance(30) {
			u.Groups = []string{"synced"}
		}
		t.Users = append(t.Users, u)
	}
	for i := range nodes {
		t.Nodes = append(t.Nodes, w.node(policy.NodeID(i+1)))
	}
	return t
}

func (w world) node(id policy.NodeID) policy.Node {
	n := policy.Node{ID: id, Attrs: map[string]any{"node:os": pick(w, "linux", "macos"), "node:tsVersion": pick(w, "1.40.1", "1.60.0")}}
	n.IPv4 = netip.AddrFrom4([4]byte{100, 64, byte(id >> 8), byte(id)})
	n.IPv6 = netip.AddrFrom16([16]byte{0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0, 14: byte(id >> 8), 15: byte(id)})
	if w.chance(50) {
		n.Tags = slices.Compact(slices.Sorted(slices.Values(w.some(2, func() string { return pick(w, tags...) }))))
	} else {
		n.User = policy.UserID(1 + w.IntN(len(logins)))
	}
	if w.chance(35) {
		for _, r := range w.some(2, func() string { return pick(w, routable...) }) {
			n.Approved = append(n.Approved, netip.MustParsePrefix(r))
		}
	}
	if w.chance(15) {
		n.Approved = append(n.Approved, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"))
	}
	n.Advertised = n.Approved
	return n
}

func (w world) compile(t *testing.T, nodes int) (*policy.Doc, policy.Tailnet, string) {
	t.Helper()
	text := w.policy()
	doc, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	tn := w.tailnet(nodes)
	if err := policy.Compile(doc, tn).Check(); err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	return doc, tn, text
}

func rules(c *policy.Compiled, id policy.NodeID) []tailcfg.FilterRule {
	var out []tailcfg.FilterRule
	for _, g := range c.Filter(id) {
		out = append(out, g.Rules...)
	}
	return out
}

// clientFilter is what the node's client makes of its rules.
func clientFilter(t *testing.T, c *policy.Compiled, n policy.Node) *filter.Filter {
	t.Helper()
	m, err := filter.MatchesFromFilterRules(rules(c, n.ID))
	if err != nil {
		t.Fatal(err)
	}
	var local netipx.IPSetBuilder
	local.Add(n.IPv4)
	local.Add(n.IPv6)
	for _, p := range n.Approved {
		local.AddPrefix(p)
	}
	set, err := local.IPSet()
	if err != nil {
		t.Fatal(err)
	}
	return filter.New(m, nil, set, set, nil, logger.Discard)
}

// TestExplainEqualsClient: what Explain says is what the filters in the
// clients do, and the entries that it shows are there if and only if it allows.
func TestExplainEqualsClient(t *testing.T) {
	outside := []string{"10.1.2.3", "10.9.9.9", "192.168.0.1", "192.168.0.200", "8.8.8.8", "fd00:1::5", "2001:db8::1", "100.127.0.1"}
	for seed := range uint64(60) {
		w := newWorld(seed)
		doc, tn, text := w.compile(t, 9)
		c := policy.Compile(doc, tn)
		byID := map[policy.NodeID]*filter.Filter{}
		var addrs []netip.Addr
		for _, n := range tn.Nodes {
			byID[n.ID] = clientFilter(t, c, n)
			addrs = append(addrs, n.IPv4, n.IPv6)
		}
		for _, a := range outside {
			addrs = append(addrs, netip.MustParseAddr(a))
		}
		for _, src := range addrs {
			for _, dst := range addrs {
				if src.Is4() != dst.Is4() || src == dst {
					continue
				}
				for _, f := range []struct {
					proto int
					port  uint16
				}{{6, 22}, {6, 85}, {17, 53}, {1, 0}, {58, 0}, {47, 0}, {132, 443}} {
					e := c.Explain(src, dst, f.proto, f.port)
					client := slices.ContainsFunc(e.At, func(id policy.NodeID) bool {
						return byID[id].Check(src, dst, f.port, ipproto.Proto(f.proto)) == filter.Accept
					})
					if e.Allowed != client || e.Allowed != (len(e.Entries) > 0) {
						t.Fatalf("seed %d: %v -> %v proto %d port %d: explained %+v, clients %v\n%s", seed, src, dst, f.proto, f.port, e, client, text)
					}
				}
			}
		}
	}
}

// TestVisibleEqualsFilters: two nodes see each other if and only if the filter
// of one of them lets the other in, or what the other routes.
// TestUniform: what one node of a class has stands for all of them, where the policy says so.
func TestUniform(t *testing.T) {
	pairs := 0
	for seed := range uint64(400) {
		w := newWorld(seed)
		doc, tn, text := w.compile(t, 10)
		c := policy.Compile(doc, tn)
		byClass := map[policy.Class]policy.NodeID{}
		for _, n := range tn.Nodes {
			like, known := byClass[c.Class(n.ID)]
			byClass[c.Class(n.ID)] = n.ID
			if !known || !c.Uniform(n.ID) {
				continue
			}
			pairs++
			if diff := cmp.Diff(c.Filter(like), c.Filter(n.ID)); diff != "" || !c.Uniform(like) {
				t.Fatalf("seed %d: nodes %d and %d have one class, and other filters:\n%s\n%s", seed, like, n.ID, diff, text)
			}
		}
	}
	if pairs < 20 {
		t.Errorf("only %d pairs of nodes were compared", pairs)
	}
}

func TestVisibleEqualsFilters(t *testing.T) {
	for seed := range uint64(150) {
		w := newWorld(seed)
		doc, tn, text := w.compile(t, 10)
		c := policy.Compile(doc, tn)
		admits := map[policy.NodeID]*netipx.IPSet{}
		for _, n := range tn.Nodes {
			m, err := filter.MatchesFromFilterRules(rules(c, n.ID))
			if err != nil {
				t.Fatal(err)
			}
			var b netipx.IPSetBuilder
			for _, one := range m {
				for _, p := range one.Srcs {
					b.AddPrefix(p)
				}
			}
			if admits[n.ID], err = b.IPSet(); err != nil {
				t.Fatal(err)
			}
		}
		enters := func(a, b policy.Node) bool {
			set := admits[b.ID]
			return set.Contains(a.IPv4) || set.Contains(a.IPv6) || slices.ContainsFunc(a.Approved, func(p netip.Prefix) bool {
				return p.Bits() > 0 && set.OverlapsPrefix(p)
			})
		}
		for _, a := range tn.Nodes {
			for _, b := range tn.Nodes {
				if a.ID == b.ID {
					continue
				}
				got, back := c.Visible(c.Class(a.ID), c.Class(b.ID)), c.Visible(c.Class(b.ID), c.Class(a.ID))
				if want := enters(a, b) || enters(b, a); got != want || back != got {
					t.Fatalf("seed %d: node %d sees node %d: %v, back %v, by filters %v\n%s\n%+v\n%+v", seed, a.ID, b.ID, got, back, want, text, a, b)
				}
			}
		}
	}
}

// TestRoutesLeadThere: who may reach an address in an approved prefix is given
// a prefix with it on exactly the peers that carry it, never on two.
func TestRoutesLeadThere(t *testing.T) {
	for seed := range uint64(150) {
		w := newWorld(seed)
		doc, tn, text := w.compile(t, 10)
		c := policy.Compile(doc, tn)
		primary := primaries(tn)
		for _, v := range tn.Nodes {
			carriers := map[netip.Prefix]policy.NodeID{}
			for _, p := range tn.Nodes {
				for _, r := range c.Routes(v.ID, p.ID, primary) {
					if other, twice := carriers[r]; twice && r.Bits() > 0 {
						t.Fatalf("seed %d: node %d has %v on %d and %d\n%s", seed, v.ID, r, other, p.ID, text)
					}
					carriers[r] = p.ID
					if !c.Visible(c.Class(v.ID), c.Class(p.ID)) && !slices.Contains(v.Approved, r) {
						t.Fatalf("seed %d: node %d has %v on %d, which it does not see\n%s", seed, v.ID, r, p.ID, text)
					}
				}
			}
			for _, r := range routable {
				r := netip.MustParsePrefix(r)
				if owner := primary(r); owner == 0 || owner == v.ID || slices.Contains(v.Approved, r) {
					continue
				}
				reached := false
				for _, src := range []netip.Addr{v.IPv4, v.IPv6} {
					dst := r.Addr().Next()
					e := c.Explain(src, dst, 6, 22)
					reached = reached || src.Is4() == dst.Is4() && e.Allowed
				}
				covered := false // a via grant may lead over a wider prefix
				for p := range carriers {
					covered = covered || p.Bits() > 0 && p.Contains(r.Addr().Next())
				}
				if reached && !covered {
					t.Fatalf("seed %d: node %d may reach into %v and has no route\n%s\n%+v", seed, v.ID, r, text, v)
				}
			}
		}
	}
}

func primaries(t policy.Tailnet) func(netip.Prefix) policy.NodeID {
	m := map[netip.Prefix]policy.NodeID{}
	for _, n := range t.Nodes {
		for _, p := range n.Approved {
			if id, ok := m[p]; !ok || n.ID < id {
				m[p] = n.ID
			}
		}
	}
	return func(p netip.Prefix) policy.NodeID { return m[p] }
}

// dump is everything that a Compiled says about a tailnet, but for the numbers
// of classes. The classes are checked on the way: equal class, equal answers.
func dump(t *testing.T, c *policy.Compiled, tn policy.Tailnet) map[string]string {
	t.Helper()
	text := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	primary := primaries(tn)
	out := map[string]string{}
	byClass := map[policy.Class]policy.Node{}
	for _, n := range tn.Nodes {
		key := fmt.Sprintf("%04d ", n.ID)
		out[key+"filter"] = text(c.Filter(n.ID))
		out[key+"ssh"] = text(c.SSH(n.ID))
		out[key+"caps"] = text(c.Caps(n.ID)) + text(c.IPv4Off(n.ID))
		seen := map[policy.NodeID]string{}
		like, known := byClass[c.Class(n.ID)]
		byClass[c.Class(n.ID)] = n
		for _, p := range tn.Nodes {
			if p.ID == n.ID {
				continue
			}
			answer := ""
			if c.Visible(c.Class(n.ID), c.Class(p.ID)) {
				answer = text(c.Routes(n.ID, p.ID, primary)) + text(c.PeerCaps(n.ID, p.ID))
				seen[p.ID] = answer
			}
			if known && like.ID != p.ID {
				same := ""
				if c.Visible(c.Class(like.ID), c.Class(p.ID)) {
					same = text(c.Routes(like.ID, p.ID, primary)) + text(c.PeerCaps(like.ID, p.ID))
				}
				if same != answer {
					t.Fatalf("nodes %d and %d have one class and see node %d differently: %q %q", n.ID, like.ID, p.ID, answer, same)
				}
			}
		}
		out[key+"peers"] = text(seen)
	}
	return out
}

// TestInputOrder: the order of users, nodes, tags and routes means nothing.
func TestInputOrder(t *testing.T) {
	for seed := range uint64(60) {
		w := newWorld(seed)
		doc, tn, text := w.compile(t, 12)
		want := dump(t, policy.Compile(doc, tn), tn)
		tn.Nodes, tn.Users = slices.Clone(tn.Nodes), slices.Clone(tn.Users)
		for i := range tn.Nodes {
			n := &tn.Nodes[i]
			n.Tags, n.Approved = slices.Clone(n.Tags), slices.Clone(n.Approved)
			w.Shuffle(len(n.Tags), func(i, j int) { n.Tags[i], n.Tags[j] = n.Tags[j], n.Tags[i] })
			w.Shuffle(len(n.Approved), func(i, j int) { n.Approved[i], n.Approved[j] = n.Approved[j], n.Approved[i] })
		}
		w.Shuffle(len(tn.Nodes), func(i, j int) { tn.Nodes[i], tn.Nodes[j] = tn.Nodes[j], tn.Nodes[i] })
		w.Shuffle(len(tn.Users), func(i, j int) { tn.Users[i], tn.Users[j] = tn.Users[j], tn.Users[i] })
		if diff := cmp.Diff(want, dump(t, policy.Compile(doc, tn), tn)); diff != "" {
			t.Fatalf("seed %d (-in order +shuffled):\n%s\n%s", seed, diff, text)
		}
	}
}

// TestRecompileEqualsCompile: any sequence of changes, recompiled step by step,
// gives what compiling the last state gives, and leaves the older ones alone.
func TestRecompileEqualsCompile(t *testing.T) {
	for seed := range uint64(40) {
		w := newWorld(seed)
		doc, tn, text := w.compile(t, 8)
		c := policy.Compile(doc, tn)
		first, firstTailnet := c, tn
		before := dump(t, c, tn)
		for step := range 12 {
			was := tn
			tn = w.change(tn)
			if slices.EqualFunc(was.Users, tn.Users, func(a, b policy.User) bool { return fmt.Sprint(a) == fmt.Sprint(b) }) && w.chance(50) {
				c = amend(c, was, tn)
			} else {
				c = c.Recompile(tn)
			}
			if w.chance(50) { // what was asked before must not matter
				if diff := cmp.Diff(dump(t, policy.Compile(doc, tn), tn), dump(t, c, tn)); diff != "" {
					t.Fatalf("seed %d step %d (-fresh +recompiled):\n%s\n%s", seed, step, diff, text)
				}
			}
		}
		if diff := cmp.Diff(dump(t, policy.Compile(doc, tn), tn), dump(t, c, tn)); diff != "" {
			t.Fatalf("seed %d (-fresh +recompiled):\n%s\n%s", seed, diff, text)
		}
		if diff := cmp.Diff(before, dump(t, first, firstTailnet)); diff != "" {
			t.Fatalf("seed %d: the first one changed:\n%s", seed, diff)
		}
	}
}

// amend is told what changed.
func amend(c *policy.Compiled, was, is policy.Tailnet) *policy.Compiled {
	gone := map[policy.NodeID]string{}
	for _, n := range was.Nodes {
		gone[n.ID] = fmt.Sprint(n)
	}
	var changed []policy.Node
	ids := []policy.NodeID{77777} // never there
	for _, n := range slices.Backward(is.Nodes) {
		if gone[n.ID] != fmt.Sprint(n) {
			changed = append(changed, n)
		}
		delete(gone, n.ID)
	}
	for id := range gone {
		ids = append(ids, id)
	}
	return c.Amend(changed, ids)
}

// change makes one random change to a copy of a tailnet.
func (w world) change(t policy.Tailnet) policy.Tailnet {
	t.Nodes, t.Users = slices.Clone(t.Nodes), slices.Clone(t.Users)
	i := -1
	if len(t.Nodes) > 0 {
		i = w.IntN(len(t.Nodes))
	}
	switch k := w.IntN(7); {
	case k == 0 || i < 0:
		t.Nodes = append(t.Nodes, w.node(policy.NodeID(100+w.IntN(100))))
		slices.SortFunc(t.Nodes, func(a, b policy.Node) int { return int(a.ID - b.ID) })
		t.Nodes = slices.CompactFunc(t.Nodes, func(a, b policy.Node) bool { return a.ID == b.ID })
	case k == 1:
		t.Nodes = slices.Delete(t.Nodes, i, i+1)
	case k == 2:
		t.Nodes[i].Attrs = map[string]any{"node:os": pick(w, "linux", "windows")}
	case k == 3:
		t.Users[w.IntN(len(t.Users))].Role = pick(w, policy.Member, policy.Admin)
	case k == 4:
		t.Users[w.IntN(len(t.Users))].Groups = pick(w, nil, []string{"synced"})
	case k == 5 && w.chance(20):
		t.Users = slices.Delete(t.Users, 0, 1)
		if len(t.Users) == 0 {
			t.Users = []policy.User{{ID: 1, Login: logins[0]}}
		}
	default:
		t.Nodes[i] = w.node(t.Nodes[i].ID)
	}
	return t
}

// TestRuleOrder: the order of rules and of what is in their lists means nothing
// for the packet filter.
func TestRuleOrder(t *testing.T) {
	canonical := func(c *policy.Compiled, id policy.NodeID) []string {
		var out []string
		for _, r := range rules(c, id) {
			for _, s := range r.SrcIPs {
				for _, d := range r.DstPorts {
					out = append(out, fmt.Sprint(s, d.IP, d.Ports, r.IPProto))
				}
				for _, g := range r.CapGrant {
					for _, d := range g.Dsts {
						out = append(out, fmt.Sprint(s, d, g.CapMap))
					}
				}
			}
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	for seed := range uint64(60) {
		w := newWorld(seed)
		doc, tn, text := w.compile(t, 10)
		var p map[string]any
		if err := json.NewDecoder(strings.NewReader(text)).Decode(&p); err != nil {
			t.Fatal(err)
		}
		for _, section := range []string{"acls", "grants"} {
			list, _ := p[section].([]any)
			w.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
			for _, r := range list {
				for _, f := range []string{"src", "dst"} {
					l := r.(map[string]any)[f].([]any)
					w.Shuffle(len(l), func(i, j int) { l[i], l[j] = l[j], l[i] })
				}
			}
		}
		shuffled, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		doc2, err := policy.Parse(shuffled)
		if err != nil {
			t.Fatal(err)
		}
		a, b := policy.Compile(doc, tn), policy.Compile(doc2, tn)
		for _, n := range tn.Nodes {
			if diff := cmp.Diff(canonical(a, n.ID), canonical(b, n.ID)); diff != "" {
				t.Fatalf("seed %d node %d:\n%s\n%s", seed, n.ID, diff, text)
			}
		}
	}
}
