package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"heddle/policy/syntax"
)

// Check judges what Parse could not without the tailnet: domains that do not
// belong to it, groups that neither the policy nor the identity provider has.
// They grant nothing in c. The error is an Errors.
func (c *Compiled) Check() error {
	var out Errors
	groups := c.syncedGroups()
	for _, d := range c.doc.text.Deferred {
		switch {
		case d.Domain != "" && !slices.Contains(c.settings.Domains, d.Domain):
			out = append(out, &Error{Line: d.Line, Column: d.Column, Msg: fmt.Sprintf("the domain %q is not associated with this tailnet", d.Domain)})
		case d.Group != "" && !groups[d.Group]:
			out = append(out, &Error{Line: d.Line, Column: d.Column, Msg: fmt.Sprintf("group not found: %q; define it in groups, or let the identity provider have it", d.Group)})
		}
	}
	return out.OrNil()
}

func (c *Compiled) syncedGroups() map[string]bool {
	out := map[string]bool{}
	for _, g := range c.settings.Groups {
		out["group:"+g] = true
	}
	for _, u := range c.users {
		for _, g := range u.Groups {
			out["group:"+g] = true
		}
	}
	return out
}

// maxTestWork bounds what the tests of one policy may cost, in looks at a rule
// or a node: about a second of CPU. Tests of thousands of rules and nodes need
// a hundredth of it.
const maxTestWork = 100_000_000

// HasTests reports whether there is something for RunTests to do.
func (c *Compiled) HasTests() bool {
	return len(c.doc.text.Tests)+len(c.doc.text.SSHTests) > 0
}

// RunTests runs the policy's own tests and sshTests. The error is an Errors
// with all that failed. Tests that are too much work fail, and with them all
// that follow are left out.
func (c *Compiled) RunTests() error {
	r := &testRun{Compiled: c, groups: c.syncedGroups(), known: map[string][]*node{}, left: maxTestWork}
	for i := range c.doc.text.Tests {
		t := &c.doc.text.Tests[i]
		if r.access(t); r.exceeded(t.At) {
			return r.errs
		}
	}
	r.byIdentity = true
	r.known = map[string][]*node{}
	for i := range c.doc.text.SSHTests {
		t := &c.doc.text.SSHTests[i]
		if r.ssh(t); r.exceeded(t.At) {
			return r.errs
		}
	}
	return r.errs.OrNil()
}

type testRun struct {
	*Compiled
	groups     map[string]bool
	known      map[string][]*node // subjects of selectors
	byIdentity bool               // nodes of different identities are to be told apart
	left       int                // of maxTestWork; less than zero: give up
	errs       Errors
}

// spend takes work off the budget, and reports whether there was enough left.
func (r *testRun) spend(work int) bool {
	r.left -= work
	return r.left >= 0
}

// exceeded notes that the budget was used up by the test at a place, if so.
func (r *testRun) exceeded(at syntax.Placed) bool {
	if r.left >= 0 {
		return false
	}
	r.errs = append(r.errs, &Error{Line: at.Line, Column: at.Column,
		Msg: "the tests of this policy up to this one compare too many nodes with too many rules, and are not run further; have fewer tests, or name narrower sources and destinations"})
	return true
}

// fail notes what is wrong; nothing once no work is left, since what a test
// finds then is not to be trusted.
func (r *testRun) fail(at syntax.Placed, format string, args ...any) {
	if r.left >= 0 && len(r.errs) < syntax.MaxProblems {
		r.errs = append(r.errs, &Error{Line: at.Line, Column: at.Column, Msg: "test failed: " + fmt.Sprintf(format, args...)})
	}
}

// likeness is what nodes have in common that no test can tell apart.
type likeness struct {
	class    Class
	ident    *identity
	internet bool // its address, which autogroup:internet asks for
}

// subjects returns the nodes that a selector of a test means: those there are,
// the first of each likeness, or else one that would match it, or for an
// address a host outside.
func (r *testRun) subjects(at syntax.Placed, allowed syntax.Kind) ([]*node, error) {
	s := strings.TrimSpace(at.S)
	tm, err := r.doc.text.Lookup(s)
	switch {
	case err != nil:
		return nil, err
	case r.left < 0:
		return nil, errors.New("no work left") // not shown: see exceeded
	}
	if tm.Kind&allowed == 0 {
		return nil, fmt.Errorf("%q is not valid in a test", s)
	}
	if tm.Kind == syntax.Group && r.doc.text.Groups[tm.Name] == nil && !r.groups[tm.Name] {
		return nil, fmt.Errorf("group not found: %q", s)
	}
	if tm.Prefixes != nil {
		if r.doc.text.CIDR(s) || len(tm.Prefixes) != 1 || !tm.Prefixes[0].IsSingleIP() {
			return nil, fmt.Errorf("%q is not one host", s)
		}
		r.spend(len(r.nodes))
		return []*node{r.at(tm.Prefixes[0].Addr())}, nil
	}
	if out := r.known[s]; out != nil {
		return out, nil
	}
	r.spend(looksPerName * (len(r.nodes) + len(r.users)))
	var out []*node
	seen := map[likeness]bool{}
	for _, n := range r.nodes {
		like := likeness{class: n.class, internet: internetSet.Contains(n.IPv4)}
		if r.byIdentity || len(r.doc.selfSets) > 0 {
			like.ident = n.ident
		}
		if !seen[like] && r.doc.named(&n.Node, n.ident.user, tm) {
			seen[like] = true
			out = append(out, n)
		}
	}
	if len(out) == 0 {
		out = r.imagined(tm)
	}
	r.known[s] = out
	return out, nil
}

// imagined is a node as it would be if the selector had one: of the users
// that it has, or of nobody in particular.
func (r *testRun) imagined(tm syntax.Selector) []*node {
	var out []*node
	for _, u := range r.users {
		if slices.Contains(r.doc.userNames(&u.User), tm.Name) {
			out = append(out, &node{Node: Node{User: u.ID}, ident: u.ident, sat: r.doc.satisfied(nil)})
		}
	}
	if len(out) > 0 {
		return out
	}
	var i *identity
	switch tm.Kind {
	case syntax.Tag:
		i = r.doc.newIdentity(tagNames([]string{tm.Name}))
	case syntax.Tagged:
		i = r.doc.newIdentity([]string{tm.Name})
	case syntax.User:
		i = r.doc.newUser(User{Login: tm.Name}).ident
	default:
		i = r.doc.newIdentity([]string{tm.Name, "autogroup:member"})
	}
	return []*node{{ident: i, sat: r.doc.satisfied(nil)}}
}

func (r *testRun) access(t *syntax.Test) {
	if len(t.Accept)+len(t.Deny) == 0 {
		r.fail(t.At, "it has neither accept nor deny")
		return
	}
	proto, err := syntax.ParseProto(strings.TrimSpace(t.Proto.S))
	if err != nil {
		r.fail(t.Proto, "%v", err)
		return
	}
	if proto == nil {
		proto = []int{6}
	}
	sources, err := r.sources(t.At, t.Src, t.Attrs)
	if err != nil {
		r.fail(t.Src, "src: %v", err)
		return
	}
	rules := r.rulesFrom(sources)
	for _, list := range []struct {
		dsts []syntax.Placed
		want bool
	}{{t.Accept, true}, {t.Deny, false}} {
		for _, dst := range list.dsts {
			targets, port, err := r.target(dst)
			if err != nil {
				r.fail(dst, "%v", err)
				continue
			}
			if s, d := r.firstPair(sources, targets, 1, r.under(rules, r.rulesAllowing(proto[0], port), list.want)); s != nil {
				verb := map[bool]string{true: "may not reach", false: "may reach"}[list.want]
				r.fail(dst, "%s%s %s %s%s", t.Src.S, s.nameFor(), verb, dst.S, d.nameFor())
			}
		}
	}
}

// nameFor tells which of several nodes is meant, for messages.
func (n *node) nameFor() string {
	if n.ID == 0 {
		return ""
	}
	return " (node " + strconv.FormatInt(int64(n.ID), 10) + ")"
}

// sources are the subjects of src, with the attributes of the test if any.
func (r *testRun) sources(at, src syntax.Placed, attrs map[string]any) ([]*node, error) {
	if strings.TrimSpace(src.S) == "" {
		return nil, fmt.Errorf("there is none")
	}
	list, err := r.subjects(src, syntax.TestSubjects)
	if err != nil || attrs == nil {
		return list, err
	}
	out := make([]*node, len(list))
	for i, n := range list {
		out[i] = n.copy()
		out[i].sat = r.doc.satisfied(attrs)
	}
	return out, nil
}

// target reads "HOST:PORT" of a test.
func (r *testRun) target(dst syntax.Placed) ([]*node, uint16, error) {
	s, ports, err := syntax.SplitPorts(strings.TrimSpace(dst.S))
	if err != nil {
		return nil, 0, err
	}
	port, err := strconv.ParseUint(ports, 10, 16)
	if err != nil || port == 0 {
		return nil, 0, fmt.Errorf("%q: a test needs one port, not %q", dst.S, ports)
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Is6() {
		return nil, 0, fmt.Errorf("%q: write an IPv6 address as [%s]:%s", dst.S, s, ports)
	}
	targets, err := r.subjects(syntax.Placed{S: s, Line: dst.Line, Column: dst.Column}, syntax.TestSubjects)
	return targets, uint16(port), err
}

// rulesFrom returns the rules that each node is a source of.
func (r *testRun) rulesFrom(sources []*node) [][]int32 {
	out := make([][]int32, len(sources))
	for i, s := range sources {
		for k := range r.doc.rules {
			rl := &r.doc.rules[k]
			if !r.spend(1 + len(r.doc.sets[rl.src].terms)/termsPerLook) {
				return out
			}
			if r.from(rl, s) {
				out[i] = append(out[i], int32(k))
			}
		}
	}
	return out
}

// Other costs, in looks at a rule.
const (
	termsPerLook = 8  // of a set that are compared
	looksPerName = 10 // to see whether a selector means a node
)

// rulesAllowing returns the rules that name a protocol and a port.
func (r *testRun) rulesAllowing(proto int, port uint16) bitset {
	out := newBitset(len(r.doc.rules))
	for k := range r.doc.rules {
		rl := &r.doc.rules[k]
		if !r.spend(len(rl.Flows)) {
			return out
		}
		if rl.allows(proto, port) {
			out.add(int32(k))
		}
	}
	return out
}

// under returns the question whether a source reaches a target other than
// wanted under those of the source's rules that are allowed.
func (r *testRun) under(rules [][]int32, allowed bitset, want bool) func(i int, s, t *node) bool {
	return func(i int, s, t *node) bool {
		return slices.ContainsFunc(rules[i], func(k int32) bool {
			rl := &r.doc.rules[k]
			return r.spend(1) && allowed.has(k) && r.spend(len(r.doc.sets[rl.dst].terms)/termsPerLook) && (r.toSelf(rl, s, t) || r.to(rl, t))
		}) != want
	}
}

// firstPair returns the first source, i of the list, and target that are bad;
// nil if there are none, or no work is left. Each question costs some work.
func (r *testRun) firstPair(sources, targets []*node, cost int, bad func(i int, s, t *node) bool) (*node, *node) {
	for i, s := range sources {
		for _, t := range targets {
			if !r.spend(cost) {
				return nil, nil
			}
			if bad(i, s, t) {
				return s, t
			}
		}
	}
	return nil, nil
}

func (r *testRun) ssh(t *syntax.SSHTest) {
	if len(t.Accept)+len(t.Deny)+len(t.Check) == 0 {
		r.fail(t.At, "it has neither accept nor deny nor check")
		return
	}
	sources, err := r.sources(t.At, t.Src, t.Attrs)
	if err != nil {
		r.fail(t.Src, "src: %v", err)
		return
	}
	if len(t.Dst) == 0 {
		r.fail(t.At, "it has no dst")
	}
	for _, dst := range t.Dst {
		targets, err := r.subjects(dst, syntax.Tag|syntax.User|syntax.Prefix|syntax.Host)
		if err != nil {
			r.fail(dst, "dst: %v", err)
			continue
		}
		r.sshLogins(t.Src, dst, t.Accept, sources, targets, func(v SSHVerdict) bool { return v.Allowed }, "may not log in to")
		r.sshLogins(t.Src, dst, t.Deny, sources, targets, func(v SSHVerdict) bool { return !v.Allowed }, "may log in to")
		r.sshLogins(t.Src, dst, t.Check, sources, targets, func(v SSHVerdict) bool { return v.Allowed && v.Check }, "is not checked at")
	}
}

func (r *testRun) sshLogins(src, dst syntax.Placed, logins []syntax.Placed, sources, targets []*node, ok func(SSHVerdict) bool, verb string) {
	cost := r.loginCost()
	for _, l := range logins {
		if strings.TrimSpace(l.S) == "" {
			r.fail(l, "an empty login is not valid")
			continue
		}
		if s, d := r.firstPair(sources, targets, cost, func(_ int, s, d *node) bool { return !ok(r.sshVerdict(s, d, strings.TrimSpace(l.S))) }); s != nil {
			r.fail(l, "%s%s %s %s%s as %q", src.S, s.nameFor(), verb, dst.S, d.nameFor(), l.S)
		}
	}
}

// loginCost is the work of evaluating the ssh rules once.
func (r *testRun) loginCost() int {
	cost := 1
	for i := range r.doc.ssh {
		rl := &r.doc.ssh[i]
		cost += 1 + (len(r.doc.sets[rl.src].terms)+len(r.doc.sets[rl.dst].terms))/termsPerLook
		for _, t := range r.doc.sets[rl.recorder].terms {
			cost += len(r.members[t])
		}
	}
	return cost
}
