package policy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"heddle/policy"
)

// big is a policy and a tailnet of a large organisation: every user is in some
// of 500 groups, groups may reach tags and each other's machines.
type big struct {
	rules, groups, users, nodes int
	self, via                   int
}

func (b big) text() []byte {
	w := newWorld(7)
	var p bytes.Buffer
	login := func() string { return fmt.Sprintf("user%d@example.com", w.IntN(b.users)) }
	list := func(n int, fn func() string) string {
		out := make([]string, n)
		for i := range out {
			out[i] = fn()
		}
		s, err := json.Marshal(out)
		if err != nil {
			panic(err)
		}
		return string(s)
	}
	group := func() string { return fmt.Sprintf("group:g%d", w.IntN(b.groups)) }
	tag := func() string { return fmt.Sprintf("tag:t%d", w.IntN(200)) }
	p.WriteString("{\n\"groups\": {\n")
	for i := range b.groups {
		fmt.Fprintf(&p, "%q: %s,\n", fmt.Sprintf("group:g%d", i), list(max(1, 5*b.users/b.groups), login))
	}
	p.WriteString("},\n\"tagOwners\": {\n")
	for i := range 200 {
		fmt.Fprintf(&p, "\"tag:t%d\": [\"group:g0\"],\n", i)
	}
	p.WriteString("},\n\"acls\": [\n")
	for range b.self {
		p.WriteString(`{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"]},` + "\n")
	}
	for i := range b.rules {
		src := list(2, func() string { return pick(w, group(), group(), login()) })
		dst := list(2, func() string {
			host := pick(w, tag(), tag(), group(), fmt.Sprintf("10.%d.%d.0/24", w.IntN(200), w.IntN(200)))
			return fmt.Sprintf("%s:%d", host, 1+w.IntN(9000))
		})
		if i%1000 == 0 {
			src = `["autogroup:member"]`
		}
		fmt.Fprintf(&p, "{\"action\": \"accept\", \"src\": %s, \"dst\": %s},\n", src, dst)
	}
	p.WriteString("],\n\"grants\": [\n")
	for i := range b.via {
		fmt.Fprintf(&p, `{"src": ["group:g%d"], "dst": ["10.%d.0.0/16"], "ip": ["*"], "via": ["tag:t%d"]},`+"\n", i%b.groups, i%200, i%200)
	}
	p.WriteString("],\n}\n")
	return p.Bytes()
}

func (b big) tailnet() policy.Tailnet {
	w := newWorld(8)
	t := policy.Tailnet{Domains: []string{"example.com"}}
	for i := range b.users {
		t.Users = append(t.Users, policy.User{ID: policy.UserID(i + 1), Login: fmt.Sprintf("user%d@example.com", i), Role: policy.Member})
	}
	for i := range b.nodes {
		n := policy.Node{ID: policy.NodeID(i + 1), User: policy.UserID(i%b.users + 1)}
		n.IPv4 = netip.AddrFrom4([4]byte{100, 64 + byte(i>>16), byte(i >> 8), byte(i)})
		n.IPv6 = netip.AddrFrom16([16]byte{0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})
		n.Attrs = map[string]any{"node:os": "linux"}
		if i%10 == 0 {
			n.User, n.Tags = 0, []string{fmt.Sprintf("tag:t%d", w.IntN(200))}
		}
		if i%100 == 0 {
			n.Approved = []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", w.IntN(200)))}
		}
		t.Nodes = append(t.Nodes, n)
	}
	return t
}

func (b big) parse(tb testing.TB) *policy.Doc {
	tb.Helper()
	doc, err := policy.Parse(b.text())
	if err != nil {
		tb.Fatal(err)
	}
	return doc
}

var sizes = []int{100, 1000, 5000, 20000}

func bySize(b *testing.B, fn func(b *testing.B, nodes int)) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("nodes=%d", n), func(b *testing.B) { fn(b, n) })
	}
}

func organisation(nodes int) big { return big{rules: 15000, groups: 500, users: 5000, nodes: nodes} }

// loop is the loop of a benchmark. It reports the CPU time of an operation
// with that of the collector, which on a busy machine says more than the time
// that passed.
func loop(b *testing.B, fn func()) {
	b.Helper()
	b.ReportAllocs()
	start, n := cpuTime(b), 0
	for b.Loop() {
		fn()
		n++
	}
	b.ReportMetric(float64(cpuTime(b)-start)/float64(n), "cpu-ns/op")
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkParse(b *testing.B) {
	text := organisation(100).text()
	b.SetBytes(int64(len(text)))
	loop(b, func() {
		if _, err := policy.Parse(text); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkCompile is (a): text to Compiled, 15,000 rules, 500 groups, 5,000
// users, and every node's class.
func BenchmarkCompile(b *testing.B) {
	bySize(b, func(b *testing.B, nodes int) {
		o := organisation(nodes)
		doc, t := o.parse(b), o.tailnet()
		loop(b, func() {
			policy.Compile(doc, t)
		})
	})
}

// BenchmarkEverything is (a) with every node's filter and the visible classes
// of every class: all that a tailnet can be asked after a change of policy.
func BenchmarkEverything(b *testing.B) {
	bySize(b, func(b *testing.B, nodes int) {
		o := organisation(nodes)
		doc, t := o.parse(b), o.tailnet()
		loop(b, func() {
			c := policy.Compile(doc, t)
			for i := range t.Nodes {
				c.Filter(t.Nodes[i].ID)
				c.Visible(c.Class(t.Nodes[i].ID), c.Class(1))
			}
		})
	})
}

// BenchmarkRecompile is (b): one node joins, leaves, or changes its tags.
func BenchmarkRecompile(b *testing.B) {
	bySize(b, func(b *testing.B, nodes int) {
		o := organisation(nodes)
		doc, t := o.parse(b), o.tailnet()
		without := t
		without.Nodes = slices.Clone(t.Nodes[:nodes-1])
		retagged := t
		retagged.Nodes = slices.Clone(t.Nodes)
		retagged.Nodes[nodes/2].User, retagged.Nodes[nodes/2].Tags = 0, []string{"tag:t1", "tag:t2"}
		all, fewer := policy.Compile(doc, t), policy.Compile(doc, without)
		for _, c := range []struct {
			name string
			from *policy.Compiled
			to   policy.Tailnet
		}{{"join", fewer, t}, {"leave", all, without}, {"tags", all, retagged}} {
			b.Run(c.name, func(b *testing.B) { loop(b, func() { c.from.Recompile(c.to) }) })
		}
		b.Run("amend", func(b *testing.B) { loop(b, func() { fewer.Amend(t.Nodes[nodes-1:], nil) }) })
	})
}

// BenchmarkNode is (c): one node's filter and everything that it sees.
func BenchmarkNode(b *testing.B) {
	bySize(b, func(b *testing.B, nodes int) {
		o := organisation(nodes)
		doc, t := o.parse(b), o.tailnet()
		c := policy.Compile(doc, t)
		i := 0
		b.Run("filter", func(b *testing.B) {
			loop(b, func() {
				c.Filter(t.Nodes[i%nodes].ID)
				i += 7
			})
		})
		b.Run("visible", func(b *testing.B) {
			loop(b, func() {
				v := c.Class(t.Nodes[i%nodes].ID)
				for k := range t.Nodes {
					c.Visible(v, c.Class(t.Nodes[k].ID))
				}
				i += 7
			})
		})
	})
}

// BenchmarkSelf is (d): autogroup:self with 10,000 users.
func BenchmarkSelf(b *testing.B) {
	bySize(b, func(b *testing.B, nodes int) {
		o := big{rules: 50, groups: 50, users: 10000, nodes: nodes, self: 1}
		doc, t := o.parse(b), o.tailnet()
		b.Run("compile", func(b *testing.B) {
			loop(b, func() {
				policy.Compile(doc, t)
			})
		})
		c := policy.Compile(doc, t)
		i := 0
		b.Run("filter", func(b *testing.B) {
			loop(b, func() {
				c.Filter(t.Nodes[i%nodes].ID)
				i += 7
			})
		})
	})
}

// BenchmarkSelfRecompile is (b) where every user is a class.
func BenchmarkSelfRecompile(b *testing.B) {
	bySize(b, func(b *testing.B, nodes int) {
		o := big{rules: 50, groups: 50, users: 10000, nodes: nodes, self: 1}
		doc, t := o.parse(b), o.tailnet()
		without := t
		without.Nodes = slices.Clone(t.Nodes[:nodes-1])
		c := policy.Compile(doc, without)
		loop(b, func() { c.Recompile(t) })
	})
}

// BenchmarkVia is (e): 200 via grants; compile and one node's routes over all
// routers.
func BenchmarkVia(b *testing.B) {
	bySize(b, func(b *testing.B, nodes int) {
		o := big{rules: 100, groups: 500, users: 5000, nodes: nodes, via: 200}
		doc, t := o.parse(b), o.tailnet()
		b.Run("compile", func(b *testing.B) {
			loop(b, func() {
				policy.Compile(doc, t)
			})
		})
		c, primary := policy.Compile(doc, t), primaries(t)
		i := 0
		b.Run("routes", func(b *testing.B) {
			loop(b, func() {
				for k := 0; k < nodes; k += 100 {
					c.Routes(t.Nodes[i%nodes].ID, t.Nodes[k].ID, primary)
				}
				i += 7
			})
		})
	})
}
