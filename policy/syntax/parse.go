package syntax

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"

	"github.com/tailscale/hujson"
	"tailscale.com/tailcfg"
)

var topLevel = newSchema("policy",
	"groups", "hosts", "ipsets", "tagOwners", "postures", "defaultSrcPosture", "acls", "grants", "ssh", "autoApprovers", "nodeAttrs",
	"attrConfig", "tests", "sshTests", "derpMap", "randomizeClientPort", "disableIPv4", "OneCGNATRoute")

// Parse reads a policy. The error is an Errors with all problems found, in the
// order of the text. What cannot be judged without the tailnet is left to
// Deferred.
//
// A text that can be read at all gives a Policy even if there are problems:
// one without the entries that have them, which never allows more than the
// text does to a reader who understands all of it.
func Parse(src []byte) (*Policy, error) {
	src = bytes.TrimPrefix(src, []byte("\ufeff")) // some editors write a byte order mark
	p := &parser{reader: newReader(src), d: newPolicy(), users: map[string]int{}}
	root, err := p.parse()
	if err != nil {
		return nil, err
	}
	if isNull(root) {
		p.fail(root.StartOffset, "policy must be an object")
	}
	sections := map[string]*hujson.Value{}
	p.fields(root, topLevel, func(name string, v *hujson.Value) { sections[name] = v })
	p.d.Open = sections["acls"] == nil && sections["grants"] == nil && p.noted == 0
	read := func(name string, fn func(v *hujson.Value)) {
		if v := sections[name]; v != nil {
			fn(v)
		}
	}
	// Names first: what follows looks them up.
	read("tagOwners", p.tagNames)
	read("groups", p.groups)
	read("hosts", p.hosts)
	read("ipsets", p.ipsets)
	read("postures", p.postures)
	before := p.noted
	read("defaultSrcPosture", func(v *hujson.Value) { p.defaultCheck = p.check("defaultSrcPosture", v) })
	unchecked := p.noted > before
	read("tagOwners", p.tagOwners)
	read("acls", p.acls)
	read("grants", p.grants)
	if unchecked {
		p.d.Rules = nil // which of them it was to narrow is not known
	}
	read("ssh", p.sshRules)
	read("autoApprovers", p.autoApprovers)
	read("nodeAttrs", p.nodeAttrs)
	read("attrConfig", p.attrConfig)
	read("tests", p.accessTests)
	read("sshTests", p.sshTests)
	read("derpMap", p.derpMap)
	read("randomizeClientPort", func(v *hujson.Value) { p.d.RandomizeClientPort = p.boolean(v, "randomizeClientPort") })
	read("disableIPv4", func(v *hujson.Value) { p.d.DisableIPv4 = p.boolean(v, "disableIPv4") })
	read("OneCGNATRoute", p.oneCGNAT)
	slices.SortFunc(p.d.Features, func(a, b Feature) int { return cmp.Or(a.Line-b.Line, a.Column-b.Column) })
	p.d.Users = p.placedUsers()
	return p.d, p.result()
}

// tagNames reads only which tags there are: owners may be tags.
func (p *parser) tagNames(v *hujson.Value) {
	p.members(v, "tagOwners", func(key text, _ *hujson.Value) {
		if msg := badTag(key.s); msg != "" {
			p.fail(key.off, "tagOwners[%q]: %s", key.s, msg)
		}
		p.d.TagOwners[key.s] = nil // also if bad: one problem is enough
	})
}

func badTag(s string) string {
	name, ok := strings.CutPrefix(s, "tag:")
	switch {
	case !ok:
		return "tags start with 'tag:'"
	case name == "" || !isLetter(name[0]):
		return "tag names must start with a letter, after 'tag:'"
	case strings.ContainsFunc(name, func(r rune) bool { return r > 127 || !isLetter(byte(r)) && !(r >= '0' && r <= '9') && r != '-' }):
		return "tag names have letters, digits and '-' only"
	}
	return ""
}

func isLetter(b byte) bool { return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' }

func (p *parser) tagOwners(v *hujson.Value) {
	if p.memberProblems(v) {
		return
	}
	p.members(v, "tagOwners", func(key text, v *hujson.Value) {
		list := p.strs(v, "tagOwners["+key.s+"]")
		for _, o := range list {
			t, err := p.selector(o, owners)
			if err != nil {
				p.fail(o.off, "tagOwners[%q]: %v", key.s, err)
				continue
			}
			p.d.TagOwners[key.s] = append(p.d.TagOwners[key.s], t.Name)
		}
	})
}

// memberProblems reports whether reading the members of v a second time would
// repeat problems that were noted the first time.
func (p *parser) memberProblems(v *hujson.Value) bool {
	errs, noted := len(p.errs), p.noted
	p.members(v, "", func(text, *hujson.Value) {})
	bad := p.noted > noted
	p.errs, p.noted = p.errs[:errs], noted
	return bad
}

func (p *parser) groups(v *hujson.Value) {
	p.members(v, "groups", func(key text, v *hujson.Value) {
		if !strings.HasPrefix(key.s, "group:") || len(key.s) == len("group:") {
			p.fail(key.off, "groups[%q]: group names start with 'group:'", key.s)
			return
		}
		members := []string{} // not nil: an empty group is a group
		for _, m := range p.strs(v, "groups["+key.s+"]") {
			login := strings.TrimSpace(m.s)
			switch t, err := p.d.Lookup(login); {
			case strings.HasPrefix(login, "group:"):
				p.fail(m.off, "groups[%q]: %q: groups in groups are not allowed", key.s, login)
			case err != nil || t.Kind != User:
				p.fail(m.off, "groups[%q]: %q is not a user (user@example.com)", key.s, login)
			case !slices.Contains(p.d.GroupsOf[login], key.s):
				p.user(login, m.off)
				members = append(members, login)
				p.d.GroupsOf[login] = append(p.d.GroupsOf[login], key.s)
			}
		}
		p.d.Groups[key.s] = members
	})
}

func (p *parser) hosts(v *hujson.Value) {
	p.members(v, "hosts", func(key text, v *hujson.Value) {
		t, ok := p.str(v, "hosts["+key.s+"]")
		if !ok {
			return
		}
		if key.s == "" || key.s == "*" || strings.ContainsAny(key.s, "@:/ \t\r\n") {
			p.fail(key.off, "hosts[%q]: a host name is a plain word", key.s)
			return
		}
		if _, err := ParsePrefixes(key.s); err == nil {
			p.fail(key.off, "hosts[%q]: an address cannot be the name of a host", key.s)
			return
		}
		ps, err := ParsePrefixes(strings.TrimSpace(t.s))
		if err != nil || len(ps) != 1 {
			p.fail(t.off, "hosts[%q]: %q is not an address or a CIDR", key.s, t.s)
			return
		}
		p.d.Hosts[key.s] = ps[0]
		p.d.wideHosts[key.s] = strings.Contains(t.s, "/")
	})
}

var approverFields = newSchema("autoApprovers", "routes", "exitNode", "services")

func (p *parser) autoApprovers(v *hujson.Value) {
	p.fields(v, approverFields, func(name string, v *hujson.Value) {
		switch name {
		case "exitNode":
			p.d.ExitNode, _ = p.selectors("autoApprovers.exitNode", p.strs(v, "autoApprovers.exitNode"), approvals)
		case "routes":
			p.members(v, "autoApprovers.routes", func(key text, v *hujson.Value) {
				field := "autoApprovers.routes[" + key.s + "]"
				before := p.noted
				prefix, err := netip.ParsePrefix(strings.TrimSpace(key.s))
				if err != nil {
					p.fail(key.off, "%s: %q is not a CIDR", field, key.s)
				}
				ids, _ := p.selectors(field, p.strs(v, field), approvals)
				if p.noted == before {
					p.d.Routes = append(p.d.Routes, RouteApprover{prefix.Masked(), ids})
				}
			})
		case "services":
			p.feature(FeatureServices, v.StartOffset)
			p.members(v, "autoApprovers.services", func(key text, v *hujson.Value) {
				field := "autoApprovers.services[" + key.s + "]"
				if !strings.HasPrefix(key.s, "svc:") && !strings.HasPrefix(key.s, "tag:") {
					p.fail(key.off, "%s: services are named svc:NAME or by a tag", field)
				}
				p.d.Services[key.s], _ = p.selectors(field, p.strs(v, field), approvals)
			})
		}
	})
}

func (p *parser) derpMap(v *hujson.Value) {
	if isNull(v) {
		return
	}
	m := new(tailcfg.DERPMap)
	if err := json.Unmarshal(p.raw(v), m); err != nil {
		p.fail(v.StartOffset, "derpMap: %v", err)
		return
	}
	before := p.noted
	for id, r := range m.Regions {
		if r != nil && (r.RegionID != id || id <= 0) {
			p.fail(v.StartOffset, "derpMap: region %d has the RegionID %d", id, r.RegionID)
		}
	}
	if p.noted > before {
		return
	}
	p.d.DERPMap = m
	p.feature(FeatureDERPMap, v.StartOffset)
}

func (p *parser) oneCGNAT(v *hujson.Value) {
	t, ok := p.str(v, "OneCGNATRoute")
	switch {
	case !ok:
	case t.s == "" || t.s == "mac-always" || t.s == "mac-never":
		p.d.OneCGNAT = t.s
	default:
		p.fail(t.off, `OneCGNATRoute: %q is not "mac-always", "mac-never" or ""`, t.s)
	}
}
