// Package syntax owns the text of a policy: it reads HuJSON into a Policy, with
// every name in it resolved, and reports all problems with line and column. It
// refuses to know nodes, users and what a rule amounts to; that is package
// policy.
package syntax

import (
	"net/netip"
	"strings"
	"time"

	"tailscale.com/tailcfg"
)

// Policy is a policy file as written. It is immutable once parsed.
type Policy struct {
	Definitions
	Approvers
	Network
	// Open: there are neither acls nor grants, so everything is allowed. That
	// is not the same as empty ones.
	Open     bool
	Rules    []Rule // acls, then grants
	SSH      []SSHRule
	Attrs    []Attr
	Tests    []Test
	SSHTests []SSHTest
	Features []Feature // in the order of the text, the first use of each
	// Deferred are the names that only the tailnet can confirm.
	Deferred []Deferred
	// Users are the users that groups, owners, approvers and rules name, each at its first use, in the order of the text.
	Users []Placed
}

// Definitions are the names that a policy introduces.
type Definitions struct {
	Groups    map[string][]string // "group:x" → logins; empty groups are there
	GroupsOf  map[string][]string // login → "group:x"
	Hosts     map[string]netip.Prefix
	IPSets    map[string][]netip.Prefix // "ipset:x"
	TagOwners map[string][]string       // "tag:x" → canonical names of selectors
	Postures  map[string][]Condition    // "posture:x"
	Customs   map[string]Custom         // "custom:x"
	wideHosts map[string]bool           // hosts written as a CIDR, even of one address
}

// Custom is what attrConfig says of a posture attribute.
type Custom struct {
	Type      string // "string", "bool", "number"; "": any of them
	SetByNode bool   // a device may set it of itself
}

// Approvers are the autoApprovers section.
type Approvers struct {
	Routes   []RouteApprover
	ExitNode []Selector
	Services map[string][]Selector // "svc:x"
}

// RouteApprover is who may advertise routes inside a prefix.
type RouteApprover struct {
	Prefix netip.Prefix
	By     []Selector
}

// Network are the settings that are not about access.
type Network struct {
	DERPMap             *tailcfg.DERPMap // nil: none
	RandomizeClientPort bool
	DisableIPv4         bool
	OneCGNAT            string // "mac-always", "mac-never", ""
}

// Feature is something that needs more of a server than sending what the
// policy compiles to.
type Feature struct {
	Name         string
	Line, Column int
}

// The names of features.
const (
	FeatureDERPMap       = "derpMap"
	FeatureIPPool        = "nodeAttrs ipPool"
	FeatureServices      = "autoApprovers services"
	FeatureSSHCheck      = "ssh check"
	FeatureSSHRecorder   = "ssh recorder"
	FeaturePosture       = "postures"
	FeatureCustomPosture = "custom posture attributes"
	FeatureFunnel        = "nodeAttrs funnel"
	FeatureBroadcast     = "attrConfig broadcastToPeers"
)

// Deferred is a use of a domain, or of a group that the policy does not define.
type Deferred struct {
	Line, Column  int
	Domain, Group string // one of them
}

// Kind is what a selector names. Kinds are bits, so that a place can say which
// it takes.
type Kind uint16

// The kinds of selectors.
const (
	Any      Kind = 1 << iota // *
	Danger                    // autogroup:danger-all
	Member                    // autogroup:member
	Tagged                    // autogroup:tagged
	Role                      // autogroup:admin ...
	User                      // user@example.com
	Domain                    // user:*@example.com
	Group                     // group:x
	Tag                       // tag:x
	Prefix                    // address, CIDR, range
	Host                      // alias of an address or CIDR
	IPSet                     // ipset:x
	Self                      // autogroup:self
	Internet                  // autogroup:internet
)

// Selector names nodes or addresses. Selectors of equal names are equal.
type Selector struct {
	Kind     Kind
	Name     string         // canonical
	Prefixes []netip.Prefix // of Prefix, Host and IPSet
}

// Flows are destination ports of one protocol list.
type Flows struct {
	Protos []int // nil: DefaultProtos
	Ports  []tailcfg.PortRange
}

// Rule is one acl (or the part of it that shares ports) or one grant.
type Rule struct {
	Line     int
	Src, Dst []Selector
	Via      []Selector // tags
	Postures []string   // of the source, any of them; nil: no condition
	Self     bool       // autogroup:self is (also) a destination
	Flows    []Flows
	App      tailcfg.PeerCapMap
	// Companion goes from the destinations back to the sources.
	Companion tailcfg.PeerCapMap
}

// SSHRule is one entry of ssh.
type SSHRule struct {
	Line     int
	Src, Dst []Selector // Dst: tags
	Postures []string
	Self     bool
	DstUser  string // not "": a user's own devices; Src is the same user
	Check    bool
	Period   time.Duration // of Check; 0: ask always
	// Logins maps requested logins, or "*", to local users; "=": the same, "":
	// not allowed.
	Logins     map[string]string
	Localparts []string // the domains of localpart:*@domain
	AcceptEnv  []string
	Recorder   []Selector // tags
	Enforce    bool       // no session without Recorder
}

// Attr is one entry of nodeAttrs.
type Attr struct {
	Target []Selector
	Caps   tailcfg.NodeCapMap
	Pool   []netip.Prefix
}

func newPolicy() *Policy {
	return &Policy{
		Definitions: Definitions{
			Groups: map[string][]string{}, GroupsOf: map[string][]string{}, Hosts: map[string]netip.Prefix{},
			IPSets: map[string][]netip.Prefix{}, TagOwners: map[string][]string{}, Postures: map[string][]Condition{},
			Customs:   map[string]Custom{},
			wideHosts: map[string]bool{},
		},
		Approvers: Approvers{Services: map[string][]Selector{}},
	}
}

// Empty is the policy of a tailnet that has none: everything is allowed.
func Empty() *Policy {
	p := newPolicy()
	p.Open = true
	return p
}

// Nothing is a policy that allows nothing.
func Nothing() *Policy { return newPolicy() }

func (p *Policy) tagDefined(tag string) bool {
	_, ok := p.TagOwners[tag]
	return ok
}

// CIDR reports whether the selector of an address is written as a CIDR, even
// of one address, by an alias or not.
func (p *Policy) CIDR(s string) bool {
	s = strings.TrimPrefix(s, "host:")
	return strings.Contains(s, "/") || p.wideHosts[s]
}
