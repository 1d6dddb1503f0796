package policy

import (
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

// RunTests runs the policy's own tests and sshTests. The error is an Errors
// with all that failed.
func (c *Compiled) RunTests() error {
	r := &testRun{Compiled: c, groups: c.syncedGroups()}
	for i := range c.doc.text.Tests {
		r.access(&c.doc.text.Tests[i])
	}
	for i := range c.doc.text.SSHTests {
		r.ssh(&c.doc.text.SSHTests[i])
	}
	return r.errs.OrNil()
}

type testRun struct {
	*Compiled
	groups map[string]bool
	errs   Errors
}

func (r *testRun) fail(at syntax.Placed, format string, args ...any) {
	if len(r.errs) < syntax.MaxProblems {
		r.errs = append(r.errs, &Error{Line: at.Line, Column: at.Column, Msg: "test failed: " + fmt.Sprintf(format, args...)})
	}
}

// subjects returns the nodes that a selector of a test means: those there are,
// or else one that would match it, or for an address a host outside.
func (r *testRun) subjects(at syntax.Placed, allowed syntax.Kind) ([]*node, error) {
	s := strings.TrimSpace(at.S)
	tm, err := r.doc.text.Lookup(s)
	if err != nil {
		return nil, err
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
		return []*node{r.at(tm.Prefixes[0].Addr())}, nil
	}
	var out []*node
	for _, n := range r.nodes {
		if r.doc.named(&n.Node, n.ident.user, tm) {
			out = append(out, n)
		}
	}
	if len(out) == 0 {
		out = r.imagined(tm)
	}
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
			if s, d, bad := firstPair(sources, targets, func(s, d *node) bool { return r.reaches(s, d, proto[0], port) != list.want }); bad {
				verb := map[bool]string{true: "may not reach", false: "may reach"}[list.want]
				r.fail(dst, "%s%s %s %s%s", t.Src.S, s.nameFor(), verb, dst.S, d.nameFor())
			}
		}
	}
}

func firstPair(src, dst []*node, bad func(s, d *node) bool) (*node, *node, bool) {
	for _, s := range src {
		for _, d := range dst {
			if bad(s, d) {
				return s, d, true
			}
		}
	}
	return nil, nil, false
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
		same := *n
		same.sat = r.doc.satisfied(attrs)
		out[i] = &same
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

// reaches evaluates the rules for one flow.
func (r *testRun) reaches(s, t *node, proto int, port uint16) bool {
	for i := range r.doc.rules {
		rl := &r.doc.rules[i]
		if r.from(rl, s) && (r.toSelf(rl, s, t) || r.to(rl, t)) && rl.allows(proto, port) {
			return true
		}
	}
	return false
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
	for _, l := range logins {
		if strings.TrimSpace(l.S) == "" {
			r.fail(l, "an empty login is not valid")
			continue
		}
		if s, d, bad := firstPair(sources, targets, func(s, d *node) bool { return !ok(r.sshVerdict(s, d, strings.TrimSpace(l.S))) }); bad {
			r.fail(l, "%s%s %s %s%s as %q", src.S, s.nameFor(), verb, dst.S, d.nameFor(), l.S)
		}
	}
}
