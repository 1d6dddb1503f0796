package policy

import (
	"net/netip"
	"slices"
	"strings"

	"tailscale.com/tailcfg"

	"heddle/policy/syntax"
)

// Error is one problem of a policy, and Errors are all of them.
type (
	Error  = syntax.Error
	Errors = syntax.Errors
)

// Doc is a parsed policy. It is immutable.
//
// All selectors are interned as terms and all lists of selectors as sets, so
// that what nodes and rules have in common is looked at once. Nothing in it
// depends on the state of the tailnet.
type Doc struct {
	text    *syntax.Policy
	terms   []term
	termIDs map[string]int32 // by name
	sets    []set
	setIDs  map[string]int32
	// checks are the distinct lists of postures that rules ask for; any
	// posture of a list will do. Entry 0 is the empty list: no condition.
	checks   [][]string
	checkIDs map[string]int32

	rules []rule // acls and grants, in the order of the text
	ssh   []sshRule
	// sshSlots counts the ssh rules that may be about somebody's own devices.
	sshSlots int
	attrs    []attrRule
	routes   []routeApprover
	exit     []int32 // terms of autoApprovers.exitNode
	edges            // derived from the above by index
}

// term is one distinct selector. Hosts, ranges and ipsets are prefixes too, so
// there are any, danger, internet, prefixes, and identities: what a node is by
// its user or its tags.
type term struct {
	syntax.Selector
	texts []string // of Prefixes, as a filter has them
	ruled bool     // some acl or grant names it: it counts for classes
}

// set is an interned list of terms with what narrows it.
type set struct {
	terms []int32 // sorted, unique
	check int32   // index of Doc.checks: what a source must satisfy
	via   []int32 // tag terms; not nil: routers with such a tag stand for the terms
	parts []int32 // of terms, in their order
	wild  bool    // "*" as a source: its addresses do not depend on single nodes
	key   string  // canonical text
	hash  string  // of key, short
}

// rule is a syntax.Rule with its selectors interned.
type rule struct {
	*syntax.Rule
	src  int32 // set
	dst  int32 // set; may be empty
	base int32 // set of src without its check
}

type sshRule struct {
	*syntax.SSHRule
	src, dst, recorder int32 // sets
	slot               int   // if it may be about somebody's own devices
}

type attrRule struct {
	*syntax.Attr
	target int32 // set
}

type routeApprover struct {
	prefix netip.Prefix
	terms  []int32
}

// Parse reads a policy. The error is an Errors with all problems found, in the
// order of the text. What cannot be judged without the tailnet is left to
// Compiled.Check, and the policy's own tests to Compiled.RunTests.
func Parse(src []byte) (*Doc, error) {
	p, err := syntax.Parse(src)
	if err != nil {
		return nil, err
	}
	return newDoc(p), nil
}

// ParseStored reads a policy that was accepted before, maybe by another version
// of this program. The Doc is never nil: entries that are refused now are left
// out, so it allows nothing that the text does not, and a text that cannot be
// read allows nothing at all. The error is that of Parse, for the operator.
func ParseStored(src []byte) (*Doc, error) {
	p, err := syntax.Parse(src)
	if p == nil {
		p = syntax.Nothing()
	}
	return newDoc(p), err
}

// AllowAll returns the policy of a tailnet that has none: every node may reach
// every other, no tag has an owner.
func AllowAll() *Doc { return newDoc(syntax.Empty()) }

func newDoc(p *syntax.Policy) *Doc {
	d := &Doc{
		text: p, termIDs: map[string]int32{}, setIDs: map[string]int32{},
		checks: [][]string{nil}, checkIDs: map[string]int32{"": 0},
	}
	d.set(nil, 0, nil) // set 0 is empty
	if p.Open {
		all := []syntax.Selector{{Kind: syntax.Any, Name: "*"}}
		d.addRule(&syntax.Rule{Src: all, Dst: all, Flows: []syntax.Flows{{Ports: []tailcfg.PortRange{tailcfg.PortRangeAny}}}})
	}
	for i := range p.Rules {
		d.addRule(&p.Rules[i])
	}
	for i := range p.SSH {
		r := &p.SSH[i]
		d.ssh = append(d.ssh, sshRule{r, d.set(d.ids(r.Src), d.checkID(r.Postures), nil), d.set(d.ids(r.Dst), 0, nil), d.set(d.ids(r.Recorder), 0, nil), d.sshSlots})
		if r.Self || r.DstUser != "" || len(r.Localparts) > 0 {
			d.sshSlots++
		}
	}
	for i := range p.Attrs {
		d.attrs = append(d.attrs, attrRule{&p.Attrs[i], d.set(d.ids(p.Attrs[i].Target), 0, nil)})
	}
	for _, r := range p.Routes {
		d.routes = append(d.routes, routeApprover{r.Prefix, sorted(d.ids(r.By))})
	}
	d.exit = sorted(d.ids(p.ExitNode))
	d.index()
	return d
}

func (d *Doc) addRule(r *syntax.Rule) {
	src, dst := d.ids(r.Src), d.ids(r.Dst)
	d.rules = append(d.rules, rule{r, d.set(src, d.checkID(r.Postures), nil), d.set(dst, 0, d.ids(r.Via)), d.set(src, 0, nil)})
}

// ids interns selectors.
func (d *Doc) ids(list []syntax.Selector) []int32 {
	out := make([]int32, len(list))
	for i, s := range list {
		out[i] = d.term(s)
	}
	return out
}

// term interns a selector by its name.
func (d *Doc) term(s syntax.Selector) int32 {
	id, ok := d.termIDs[s.Name]
	if !ok {
		id = int32(len(d.terms))
		t := term{Selector: s}
		for _, p := range s.Prefixes {
			if p.IsSingleIP() {
				t.texts = append(t.texts, p.Addr().String())
			} else {
				t.texts = append(t.texts, p.String())
			}
		}
		d.terms = append(d.terms, t)
		d.termIDs[s.Name] = id
	}
	return id
}

// set interns a list of terms. It keeps neither slice.
func (d *Doc) set(terms []int32, check int32, via []int32) int32 {
	terms, via = sorted(terms), sorted(via)
	names := make([]string, 0, len(terms))
	for _, t := range terms {
		names = append(names, d.terms[t].Name)
	}
	slices.Sort(names)
	var b strings.Builder
	b.WriteString(strings.Join(names, " "))
	if check != 0 {
		b.WriteString(" if " + strings.Join(d.checks[check], " or "))
	}
	for _, t := range via {
		b.WriteString(" via " + d.terms[t].Name)
	}
	key := b.String()
	id, ok := d.setIDs[key]
	if !ok {
		id = int32(len(d.sets))
		d.sets = append(d.sets, set{terms: terms, check: check, via: via, key: key})
		d.setIDs[key] = id
	}
	return id
}

func (d *Doc) checkID(postures []string) int32 {
	postures = slices.Compact(slices.Sorted(slices.Values(postures)))
	key := strings.Join(postures, " ")
	id, ok := d.checkIDs[key]
	if !ok {
		id = int32(len(d.checks))
		d.checks = append(d.checks, postures)
		d.checkIDs[key] = id
	}
	return id
}

func sorted(s []int32) []int32 {
	s = slices.Clone(s)
	slices.Sort(s)
	return slices.Compact(s)
}

// TagDefined reports whether the policy defines owners for the tag.
func (d *Doc) TagDefined(tag string) bool {
	_, ok := d.text.TagOwners[tag]
	return ok
}

// HasTags reports whether the policy defines any tag.
func (d *Doc) HasTags() bool { return len(d.text.TagOwners) > 0 }

// MayTag reports whether somebody may apply a tag: the user u, or, if u is
// nil, a node that holds tags. Who owns a tag owns what that tag owns; owners,
// admins and network admins own every defined tag. A tag that the policy does
// not define may not be applied.
func (d *Doc) MayTag(u *User, tags []string, tag string) bool {
	if !d.TagDefined(tag) {
		return false
	}
	if u != nil && (u.Role == Owner || u.Role == Admin || u.Role == NetworkAdmin) {
		return true
	}
	names := map[string]bool{}
	if u != nil {
		for _, n := range d.userNames(u) {
			names[n] = true
		}
	} else {
		for _, t := range tagNames(tags) {
			names[t] = true
		}
	}
	seen := map[string]bool{tag: true}
	for todo := []string{tag}; len(todo) > 0; {
		t := todo[0]
		todo = todo[1:]
		for _, o := range d.text.TagOwners[t] {
			if names[o] {
				return true
			}
			if strings.HasPrefix(o, "tag:") && !seen[o] {
				seen[o] = true
				todo = append(todo, o)
			}
		}
	}
	return false
}

// userNames are the canonical names of all identity selectors that a user's
// untagged nodes match. What users are called comes from elsewhere: a login
// must not pass for a selector of another kind.
func (d *Doc) userNames(u *User) []string {
	names := []string{"autogroup:member"}
	switch u.Role {
	case Owner, Admin, ITAdmin, NetworkAdmin, BillingAdmin, Auditor:
		names = append(names, "autogroup:"+string(u.Role))
	}
	if at := strings.LastIndexByte(u.Login, '@'); at > 0 && !strings.ContainsAny(u.Login, " :*/,") {
		names = append(names, u.Login)
		if domain := u.Login[at:]; domain != "@" {
			names = append(names, "user:*"+domain)
		}
		names = append(names, d.text.GroupsOf[u.Login]...)
	}
	for _, g := range u.Groups {
		name := "group:" + g
		if _, defined := d.text.Groups[name]; !defined {
			names = append(names, name)
		}
	}
	return names
}

// tagNames are the same for a node with these tags.
func tagNames(tags []string) []string {
	names := []string{"autogroup:tagged"}
	for _, t := range tags {
		if strings.HasPrefix(t, "tag:") {
			names = append(names, t)
		}
	}
	return names
}

// named reports whether a node matches an identity selector, which need not
// occur in any rule.
func (d *Doc) named(n *Node, u *user, s syntax.Selector) bool {
	if len(n.Tags) > 0 {
		return slices.Contains(tagNames(n.Tags), s.Name)
	}
	return u != nil && slices.Contains(d.userNames(&u.User), s.Name)
}

// Features returns what the policy needs beyond what Compiled answers, in the
// order of the text. Read only.
func (d *Doc) Features() []syntax.Feature { return d.text.Features }

// Users returns the users that the policy names outside of its tests, each at
// its first use, in the order of the text. Read only.
func (d *Doc) Users() []syntax.Placed { return d.text.Users }

// Refuse reports the uses of features that a server cannot honour; why has the
// reason by the name of the feature. The error is an Errors.
func (d *Doc) Refuse(why map[string]string) error {
	var out Errors
	for _, f := range d.text.Features {
		if reason, ok := why[f.Name]; ok {
			out = append(out, &Error{Line: f.Line, Column: f.Column, Msg: f.Name + " is not supported by this server yet: " + reason})
		}
	}
	return out.OrNil()
}

// Custom returns what attrConfig says of a posture attribute, "custom:x". Nodes may not set
// one that it does not name.
func (d *Doc) Custom(name string) syntax.Custom { return d.text.Customs[name] }

// DERPMap returns the derpMap section, nil if there is none. Read only.
func (d *Doc) DERPMap() *tailcfg.DERPMap { return d.text.DERPMap }
