// Package matches owns which acls and grants of a policy are about a user or an address, in
// the words of the policy, for people who preview a change.
//
// It refuses to know who asks, and decides nothing: whether one may reach the other is
// policy.Compiled's to say.
package matches

import (
	"net/netip"
	"slices"
	"strings"

	"heddle/policy"
	"heddle/policy/syntax"
)

// A Match is one acl or grant.
type Match struct {
	Line  int      // where it begins in the text; zero for what a policy without rules allows
	Users []string // its sources
	Ports []string // its destinations as DESTINATION:PORTS; without a port for capabilities alone
}

// maxPorts bounds the destinations of one answer: a grant has as many as it has destinations times ports.
const maxPorts = 100_000

// Of returns the rules that devices of a user are a source of, in the order of the text; posture is
// not asked for. None for a user that c does not know.
func Of(c *policy.Compiled, u policy.UserID) []Match { return matches(c.RulesFrom(u)) }

// To returns the rules that let somebody reach a port of an address, over whatever protocol.
func To(c *policy.Compiled, to netip.AddrPort) []Match { return matches(c.RulesTo(to)) }

// matches joins the rules that one entry of the policy became: those of one acl have different ports.
func matches(rules []*syntax.Rule) []Match {
	out := []Match{}
	left := maxPorts
	for i, r := range rules {
		ports := portsOf(r, &left)
		if i > 0 && rules[i-1].Line == r.Line && slices.EqualFunc(rules[i-1].Src, r.Src, same) {
			last := &out[len(out)-1]
			last.Ports = append(last.Ports, ports...)
			continue
		}
		m := Match{Line: r.Line, Users: []string{}, Ports: ports}
		for _, s := range r.Src {
			m.Users = append(m.Users, word(s))
		}
		out = append(out, m)
	}
	return out
}

func same(a, b syntax.Selector) bool { return a.Name == b.Name }

// word is a selector as people write it: an address alone without its length.
func word(s syntax.Selector) string {
	if len(s.Prefixes) == 1 && s.Prefixes[0].IsSingleIP() && s.Kind != syntax.IPSet {
		return s.Prefixes[0].Addr().String()
	}
	return s.Name
}

// portsOf lists the destinations of a rule, as long as there are some left to list.
func portsOf(r *syntax.Rule, left *int) []string {
	var names []string
	for _, d := range r.Dst {
		name := word(d)
		if len(d.Prefixes) == 1 && d.Prefixes[0].Addr().Is6() {
			name = "[" + name + "]"
		}
		names = append(names, name)
	}
	if r.Self {
		names = append(names, "autogroup:self")
	}
	var texts []string
	for _, f := range r.Flows {
		for _, p := range f.Ports {
			texts = append(texts, p.String())
		}
	}
	out := []string{}
	for _, name := range names {
		if len(texts) == 0 {
			texts = []string{""}
		}
		for _, p := range texts {
			if *left == 0 {
				return out
			}
			*left--
			out = append(out, strings.TrimSuffix(name+":"+p, ":"))
		}
	}
	return out
}
