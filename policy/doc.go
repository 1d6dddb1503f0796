package policy

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"tailscale.com/tailcfg"
)

// Doc is a parsed policy. It is immutable.
//
// All selectors are interned as terms and all lists of selectors as sets, so
// that what nodes and rules have in common is looked at once. Nothing in it
// depends on the state of the tailnet.
type Doc struct {
	terms   []term
	termIDs map[string]int32 // by canonical name
	sets    []set
	setIDs  map[string]int32
	rules   []rule // acls and grants, in the order of the text
	ssh     []sshRule
	attrs   []attrRule

	definitions
	approvers
	network
	tests    []accessTest
	sshTests []sshTest

	edges // derived from the above by index
	// deferred are the places that need the tailnet to be judged: domains,
	// and groups that only the identity provider can have.
	deferred []deferredCheck
}

// definitions are the names that a policy introduces.
type definitions struct {
	groups    map[string][]string // "group:x" → logins
	groupsOf  map[string][]string // login → "group:x"
	hosts     map[string]netip.Prefix
	wideHosts map[string]bool // hosts written as a CIDR, even of one address
	ipsets    map[string][]netip.Prefix
	tagOwners map[string][]string
	postures  map[string][]condition
	// checks are the distinct lists of postures that rules ask for; any
	// posture of a list will do. Entry 0 is the empty list: no condition.
	checks   [][]string
	checkIDs map[string]int32
}

// approvers are the autoApprovers section.
type approvers struct {
	routes   []routeApprover
	exitNode []int32 // terms
	services map[string][]int32
}

type routeApprover struct {
	prefix netip.Prefix
	terms  []int32
}

// network are the settings that are not about access.
type network struct {
	derpMap             *tailcfg.DERPMap
	randomizeClientPort bool
	disableIPv4         bool
	oneCGNAT            string
}

type kind uint16

const (
	kAny      kind = 1 << iota // *
	kDanger                    // autogroup:danger-all
	kMember                    // autogroup:member
	kTagged                    // autogroup:tagged
	kRole                      // autogroup:admin ...
	kUser                      // user@example.com
	kDomain                    // user:*@example.com
	kGroup                     // group:x
	kTag                       // tag:x
	kPrefix                    // address, CIDR, range
	kHost                      // alias of an address or CIDR
	kIPSet                     // ipset:x
	kSelf                      // autogroup:self
	kInternet                  // autogroup:internet
)

// term is one distinct selector. Hosts, ranges and ipsets are prefixes too, so
// after parsing there are any, danger, internet, prefixes, and identities: what
// a node is by its user or its tags.
type term struct {
	kind     kind
	name     string // canonical; unique
	prefixes []netip.Prefix
	texts    []string // of prefixes, as a filter has them
	ruled    bool     // some acl or grant names it: it counts for classes
}

// set is an interned list of terms with what narrows it.
type set struct {
	terms []int32 // sorted, unique
	check int32   // index of definitions.checks: what a source must satisfy
	via   []int32 // tag terms; not nil: routers with such a tag stand for the terms
	key   string  // canonical text
	hash  string  // of key, short
}

// flows are destination ports of one protocol list.
type flows struct {
	protos []int // nil: the default ones
	ports  []tailcfg.PortRange
}

// rule is one ACL entry (or the part of it that shares ports) or one grant.
type rule struct {
	line  int
	src   int32 // set
	dst   int32 // set; may be empty
	base  int32 // set of src without its check
	self  bool  // autogroup:self is (also) a destination
	flows []flows
	app   tailcfg.PeerCapMap
	// companion goes from the destinations back to the sources.
	companion tailcfg.PeerCapMap
}

type sshRule struct {
	line       int
	src        int32 // set
	dst        int32 // set
	self       bool
	dstUser    string // not "": a user's own devices; src is the same user
	check      bool
	period     time.Duration // of check; 0: ask always
	logins     map[string]string
	localparts []string // the domains of localpart:*@domain
	acceptEnv  []string
	recorder   int32 // set; of tags
	enforce    bool
}

type attrRule struct {
	target int32 // set
	caps   tailcfg.NodeCapMap
	pool   []netip.Prefix
}

func newDoc() *Doc {
	d := &Doc{termIDs: map[string]int32{}, setIDs: map[string]int32{}}
	d.definitions = definitions{
		groups: map[string][]string{}, groupsOf: map[string][]string{}, hosts: map[string]netip.Prefix{}, wideHosts: map[string]bool{},
		ipsets: map[string][]netip.Prefix{}, tagOwners: map[string][]string{}, postures: map[string][]condition{},
		checks: [][]string{nil}, checkIDs: map[string]int32{"": 0},
	}
	d.services = map[string][]int32{}
	d.set(nil, 0, nil) // set 0 is empty
	return d
}

// AllowAll returns the policy of a tailnet that has none: every node may reach
// every other, no tag has an owner.
func AllowAll() *Doc {
	d := newDoc()
	d.allowAll()
	d.index()
	return d
}

func (d *Doc) allowAll() {
	all := d.set([]int32{d.term(term{kind: kAny, name: "*"})}, 0, nil)
	d.rules = append(d.rules, rule{src: all, dst: all, base: all, flows: []flows{{ports: []tailcfg.PortRange{tailcfg.PortRangeAny}}}})
}

// term interns t by its name.
func (d *Doc) term(t term) int32 {
	id, ok := d.termIDs[t.name]
	if !ok {
		id = int32(len(d.terms))
		for _, p := range t.prefixes {
			if p.IsSingleIP() {
				t.texts = append(t.texts, p.Addr().String())
			} else {
				t.texts = append(t.texts, p.String())
			}
		}
		d.terms = append(d.terms, t)
		d.termIDs[t.name] = id
	}
	return id
}

// set interns a list of terms. It keeps neither slice.
func (d *Doc) set(terms []int32, check int32, via []int32) int32 {
	terms, via = sorted(terms), sorted(via)
	names := make([]string, 0, len(terms))
	for _, t := range terms {
		names = append(names, d.terms[t].name)
	}
	slices.Sort(names)
	var b strings.Builder
	b.WriteString(strings.Join(names, " "))
	if check != 0 {
		b.WriteString(" if " + strings.Join(d.checks[check], " or "))
	}
	for _, t := range via {
		b.WriteString(" via " + d.terms[t].name)
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
	_, ok := d.tagOwners[tag]
	return ok
}

// HasTags reports whether the policy defines any tag.
func (d *Doc) HasTags() bool { return len(d.tagOwners) > 0 }

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
		for _, t := range tags {
			names[t] = true
		}
	}
	seen := map[string]bool{tag: true}
	for todo := []string{tag}; len(todo) > 0; {
		t := todo[0]
		todo = todo[1:]
		for _, o := range d.tagOwners[t] {
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
// untagged nodes match.
func (d *Doc) userNames(u *User) []string {
	names := []string{u.Login, "autogroup:member"}
	if u.Role != "" {
		names = append(names, "autogroup:"+string(u.Role))
	}
	if i := strings.LastIndexByte(u.Login, '@'); i >= 0 {
		names = append(names, "user:*"+u.Login[i:])
	}
	names = append(names, d.groupsOf[u.Login]...)
	for _, g := range u.Groups {
		name := "group:" + g
		if _, defined := d.groups[name]; !defined {
			names = append(names, name)
		}
	}
	return names
}

// cidr reports whether a selector of an address is written as a CIDR, by an
// alias or not.
func (d *Doc) cidr(s string) bool {
	s = strings.TrimPrefix(s, "host:")
	return strings.Contains(s, "/") || d.wideHosts[s]
}

// DERPMap returns the derpMap section, nil if there is none. Read only.
func (d *Doc) DERPMap() *tailcfg.DERPMap { return d.derpMap }
