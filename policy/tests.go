package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tailscale/hujson"
)

var (
	testFields    = newSchema("test", "src|user", "srcPostureAttrs", "proto", "accept|allow", "deny")
	sshTestFields = newSchema("ssh test", "src", "srcPostureAttrs", "dst", "accept", "deny", "check")
)

// placed is a string of the policy with its place.
type placed struct {
	s            string
	line, column int
}

type accessTest struct {
	at           placed // of the test, s is empty
	src          placed
	attrs        map[string]any // nil: those of the node
	proto        placed
	accept, deny []placed
}

type sshTest struct {
	at                  placed
	src                 placed
	attrs               map[string]any
	dst                 []placed
	accept, deny, check []placed
}

func (p *parser) placed(t text) placed {
	line, col := p.place(t.off)
	return placed{t.s, line, col}
}

func (p *parser) placedList(v *hujson.Value, what string) []placed {
	var out []placed
	for _, t := range p.strs(v, what) {
		out = append(out, p.placed(t))
	}
	return out
}

func (p *parser) accessTests(v *hujson.Value) {
	p.elements(v, "tests", func(v *hujson.Value) {
		t := accessTest{at: p.placed(text{off: v.StartOffset})}
		p.fields(v, testFields, func(name string, v *hujson.Value) {
			switch name {
			case "src", "proto":
				s, _ := p.str(v, name)
				if name == "src" {
					t.src = p.placed(s)
				} else {
					t.proto = p.placed(s)
				}
			case "srcPostureAttrs":
				t.attrs = p.postureAttrs(v)
			case "accept":
				t.accept = p.placedList(v, name)
			case "deny":
				t.deny = p.placedList(v, name)
			}
		})
		p.d.tests = append(p.d.tests, t)
	})
}

func (p *parser) postureAttrs(v *hujson.Value) map[string]any {
	out := map[string]any{}
	p.members(v, "srcPostureAttrs", func(key text, v *hujson.Value) {
		val, err := p.scalar(v, "srcPostureAttrs["+key.s+"]")
		if err != nil {
			p.fail(v.StartOffset, "%v", err)
			return
		}
		out[key.s] = val
	})
	return out
}

func (p *parser) sshTests(v *hujson.Value) {
	p.elements(v, "sshTests", func(v *hujson.Value) {
		t := sshTest{at: p.placed(text{off: v.StartOffset})}
		p.fields(v, sshTestFields, func(name string, v *hujson.Value) {
			switch name {
			case "src":
				s, _ := p.str(v, name)
				t.src = p.placed(s)
			case "srcPostureAttrs":
				t.attrs = p.postureAttrs(v)
			case "dst":
				t.dst = p.placedList(v, name)
			case "accept":
				t.accept = p.placedList(v, name)
			case "deny":
				t.deny = p.placedList(v, name)
			case "check":
				t.check = p.placedList(v, name)
			}
		})
		p.d.sshTests = append(p.d.sshTests, t)
	})
}

// Check judges what Parse could not without the tailnet: domains that do not
// belong to it, groups that neither the policy nor the identity provider has.
// They grant nothing in c. The error is an Errors.
func (c *Compiled) Check() error {
	var out Errors
	groups := c.syncedGroups()
	for _, d := range c.doc.deferred {
		switch {
		case d.domain != "" && !slices.Contains(c.settings.Domains, d.domain):
			out = append(out, &Error{d.line, d.column, fmt.Sprintf("the domain %q is not associated with this tailnet", d.domain)})
		case d.group != "" && !groups[d.group]:
			out = append(out, &Error{d.line, d.column, fmt.Sprintf("group not found: %q; define it in groups, or let the identity provider have it", d.group)})
		}
	}
	return out.orNil()
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
	for i := range c.doc.tests {
		r.access(&c.doc.tests[i])
	}
	for i := range c.doc.sshTests {
		r.ssh(&c.doc.sshTests[i])
	}
	return r.errs.orNil()
}

type testRun struct {
	*Compiled
	groups map[string]bool
	errs   Errors
}

func (r *testRun) fail(at placed, format string, args ...any) {
	if len(r.errs) < maxProblems {
		r.errs = append(r.errs, &Error{at.line, at.column, "test failed: " + fmt.Sprintf(format, args...)})
	}
}

// subjects returns the nodes that a selector of a test means: those there are,
// or else one that would match it, or for an address a host outside.
func (r *testRun) subjects(at placed, allowed kind) ([]*node, error) {
	s := strings.TrimSpace(at.s)
	tm, err := r.doc.lookup(s)
	if err != nil {
		return nil, err
	}
	if tm.kind&allowed == 0 {
		return nil, fmt.Errorf("%q is not valid in a test", s)
	}
	if tm.kind == kGroup && r.doc.groups[tm.name] == nil && !r.groups[tm.name] {
		return nil, fmt.Errorf("group not found: %q", s)
	}
	if tm.prefixes != nil {
		if r.doc.cidr(s) || len(tm.prefixes) != 1 || !tm.prefixes[0].IsSingleIP() {
			return nil, fmt.Errorf("%q is not one host", s)
		}
		return []*node{r.at(tm.prefixes[0].Addr())}, nil
	}
	var out []*node
	for _, n := range r.nodes {
		if r.named(n, tm) {
			out = append(out, n)
		}
	}
	if len(out) == 0 {
		out = r.imagined(tm)
	}
	return out, nil
}

// named reports whether a node matches an identity selector, which need not
// occur in any rule.
func (r *testRun) named(n *node, tm term) bool {
	if u := n.ident.user; u != nil {
		return slices.Contains(r.doc.userNames(&u.User), tm.name)
	}
	return len(n.Tags) > 0 && (tm.kind == kTagged || slices.Contains(n.Tags, tm.name))
}

// imagined is a node as it would be if the selector had one: of the users
// that it has, or of nobody in particular.
func (r *testRun) imagined(tm term) []*node {
	var out []*node
	for _, u := range r.users {
		if slices.Contains(r.doc.userNames(&u.User), tm.name) {
			out = append(out, &node{Node: Node{User: u.ID}, ident: u.ident, sat: r.doc.satisfied(nil)})
		}
	}
	if len(out) > 0 {
		return out
	}
	var i *identity
	switch tm.kind {
	case kTag:
		i = r.doc.newIdentity([]string{tm.name, "autogroup:tagged"})
	case kTagged:
		i = r.doc.newIdentity([]string{tm.name})
	case kUser:
		i = r.doc.newUser(User{Login: tm.name}).ident
	default:
		i = r.doc.newIdentity([]string{tm.name, "autogroup:member"})
	}
	return []*node{{ident: i, sat: r.doc.satisfied(nil)}}
}

func (r *testRun) access(t *accessTest) {
	if len(t.accept)+len(t.deny) == 0 {
		r.fail(t.at, "it has neither accept nor deny")
		return
	}
	proto, err := parseProto(strings.TrimSpace(t.proto.s))
	if err != nil {
		r.fail(t.proto, "%v", err)
		return
	}
	if proto == nil {
		proto = []int{protocols["tcp"]}
	}
	sources, err := r.sources(t.at, t.src, t.attrs)
	if err != nil {
		r.fail(t.src, "src: %v", err)
		return
	}
	for _, list := range []struct {
		dsts []placed
		want bool
	}{{t.accept, true}, {t.deny, false}} {
		for _, dst := range list.dsts {
			targets, port, err := r.target(dst)
			if err != nil {
				r.fail(dst, "%v", err)
				continue
			}
			if s, d, bad := firstPair(sources, targets, func(s, d *node) bool { return r.reaches(s, d, proto[0], port) != list.want }); bad {
				verb := map[bool]string{true: "may not reach", false: "may reach"}[list.want]
				r.fail(dst, "%s%s %s %s%s", t.src.s, s.nameFor(), verb, dst.s, d.nameFor())
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
func (r *testRun) sources(at, src placed, attrs map[string]any) ([]*node, error) {
	if strings.TrimSpace(src.s) == "" {
		return nil, fmt.Errorf("there is none")
	}
	list, err := r.subjects(src, testSubjects)
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
func (r *testRun) target(dst placed) ([]*node, uint16, error) {
	s, ports, err := splitPorts(strings.TrimSpace(dst.s))
	if err != nil {
		return nil, 0, err
	}
	port, err := strconv.ParseUint(ports, 10, 16)
	if err != nil || port == 0 {
		return nil, 0, fmt.Errorf("%q: a test needs one port, not %q", dst.s, ports)
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Is6() {
		return nil, 0, fmt.Errorf("%q: write an IPv6 address as [%s]:%s", dst.s, s, ports)
	}
	targets, err := r.subjects(placed{s, dst.line, dst.column}, testSubjects)
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

func (r *testRun) ssh(t *sshTest) {
	if len(t.accept)+len(t.deny)+len(t.check) == 0 {
		r.fail(t.at, "it has neither accept nor deny nor check")
		return
	}
	sources, err := r.sources(t.at, t.src, t.attrs)
	if err != nil {
		r.fail(t.src, "src: %v", err)
		return
	}
	if len(t.dst) == 0 {
		r.fail(t.at, "it has no dst")
	}
	for _, dst := range t.dst {
		targets, err := r.subjects(dst, kTag|kUser|kPrefix|kHost)
		if err != nil {
			r.fail(dst, "dst: %v", err)
			continue
		}
		r.sshLogins(t.src, dst, t.accept, sources, targets, func(v SSHVerdict) bool { return v.Allowed }, "may not log in to")
		r.sshLogins(t.src, dst, t.deny, sources, targets, func(v SSHVerdict) bool { return !v.Allowed }, "may log in to")
		r.sshLogins(t.src, dst, t.check, sources, targets, func(v SSHVerdict) bool { return v.Allowed && v.Check }, "is not checked at")
	}
}

func (r *testRun) sshLogins(src, dst placed, logins []placed, sources, targets []*node, ok func(SSHVerdict) bool, verb string) {
	for _, l := range logins {
		if strings.TrimSpace(l.s) == "" {
			r.fail(l, "an empty login is not valid")
			continue
		}
		if s, d, bad := firstPair(sources, targets, func(s, d *node) bool { return !ok(r.sshVerdict(s, d, strings.TrimSpace(l.s))) }); bad {
			r.fail(l, "%s%s %s %s%s as %q", src.s, s.nameFor(), verb, dst.s, d.nameFor(), l.s)
		}
	}
}
