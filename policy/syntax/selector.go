package syntax

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"go4.org/netipx"
	"tailscale.com/tailcfg"
)

// parser fills a Policy. Definitions are read before what uses them, wherever
// they stand in the text.
type parser struct {
	*reader
	d *Policy
	// defaultCheck is what defaultSrcPosture asks of sources.
	defaultCheck []string
	users        map[string]int // by login, the offset of the first use
}

// The selectors that the places of a policy take.
const (
	identities   = Member | Tagged | Role | User | Domain | Group | Tag
	places       = Prefix | Host | IPSet
	aclSources   = Any | Danger | identities | places
	aclTargets   = Any | Self | Internet | identities | places
	attrTargets  = Any | identities | places
	approvals    = Member | Tagged | Role | User | Group | Tag
	owners       = Member | Role | User | Domain | Group | Tag
	sshSources   = identities
	sshTargets   = Tag | Tagged | User | Self
	TestSubjects = Member | Tagged | Role | User | Domain | Group | Tag | Prefix | Host
	tagsOnly     = Tag
)

// terms resolves selectors to interned terms. Self is reported apart: it is
// not a term. Problems are noted with the field's name.
func (p *parser) selectors(field string, list []text, allowed Kind) (out []Selector, self bool) {
	for _, t := range list {
		tm, err := p.selector(t, allowed)
		switch {
		case err != nil:
			p.fail(t.off, "%s: %v", field, err)
		case tm.Kind == Self:
			self = true
		default:
			out = append(out, tm)
		}
	}
	return out, self
}

// selector resolves one selector. An error names what is wrong, not where.
func (p *parser) selector(t text, allowed Kind) (Selector, error) {
	s := strings.TrimSpace(t.s)
	tm, err := p.d.Lookup(s)
	if err != nil {
		return Selector{}, err
	}
	if tm.Kind&allowed == 0 {
		return Selector{}, fmt.Errorf("%q is not valid here", s)
	}
	switch tm.Kind {
	case User:
		p.user(tm.Name, t.off)
	case Domain:
		p.deferCheck(t.off, strings.TrimPrefix(tm.Name, "user:*@"), "")
	case Group:
		if _, ok := p.d.Groups[tm.Name]; !ok {
			p.deferCheck(t.off, "", tm.Name)
		}
	}
	return tm, nil
}

// feature notes the first use of a feature.
func (p *parser) feature(name string, off int) {
	if !slices.ContainsFunc(p.d.Features, func(f Feature) bool { return f.Name == name }) {
		line, col := p.place(off)
		p.d.Features = append(p.d.Features, Feature{name, line, col})
	}
}

// user notes a use of a login.
func (p *parser) user(login string, off int) {
	if was, ok := p.users[login]; !ok || off < was {
		p.users[login] = off
	}
}

// placedUsers returns the first use of each login.
func (p *parser) placedUsers() []Placed {
	out := make([]Placed, 0, len(p.users))
	for login, off := range p.users {
		out = append(out, p.placed(text{login, off}))
	}
	slices.SortFunc(out, func(a, b Placed) int { return cmp.Or(a.Line-b.Line, a.Column-b.Column) })
	return out
}

func (p *parser) deferCheck(off int, domain, group string) {
	line, col := p.place(off)
	p.d.Deferred = append(p.d.Deferred, Deferred{line, col, domain, group})
}

// Lookup turns a trimmed selector into a Selector. A user without a mail
// address is written with a final "@". Groups that the policy does not
// define are fine here; the identity provider may have them.
func (p *Policy) Lookup(s string) (Selector, error) {
	prefix, rest, _ := strings.Cut(s, ":")
	switch {
	case s == "":
		return Selector{}, fmt.Errorf("empty selector")
	case s == "*":
		return Selector{Kind: Any, Name: s}, nil
	case prefix == "autogroup":
		return autogroup(s, rest)
	case prefix == "group":
		if rest == "" {
			return Selector{}, fmt.Errorf("%q has no name", s)
		}
		return Selector{Kind: Group, Name: s}, nil
	case prefix == "tag":
		if !p.tagDefined(s) {
			return Selector{}, fmt.Errorf("tag not found: %q; define it in tagOwners", s)
		}
		return Selector{Kind: Tag, Name: s}, nil
	case s == "user:*@":
		return Selector{}, fmt.Errorf("%q: the domain is missing", s)
	case strings.HasPrefix(s, "user:*@"):
		return Selector{Kind: Domain, Name: s}, nil
	case prefix == "ipset":
		ps, ok := p.IPSets[s]
		if !ok {
			return Selector{}, fmt.Errorf("ipset not found: %q", s)
		}
		return Selector{Kind: IPSet, Name: s, Prefixes: ps}, nil
	case prefix == "svc":
		return Selector{}, fmt.Errorf("%q: services are not supported by this server; name the hosts of the service instead", s)
	case prefix == "localpart":
		return Selector{}, fmt.Errorf("%q: localpart is only valid in users of ssh rules", s)
	case prefix == "host":
		s = rest
	}
	if ps, err := ParsePrefixes(s); err == nil {
		return prefixSelector(ps), nil
	}
	if one, ok := p.Hosts[s]; ok {
		t := prefixSelector([]netip.Prefix{one})
		t.Kind = Host
		return t, nil
	}
	if at := strings.LastIndexByte(s, '@'); at > 0 && !strings.ContainsAny(s, " \t\r\n:*/,") {
		return Selector{Kind: User, Name: s}, nil
	}
	return Selector{}, fmt.Errorf("%q: invalid address, and no host, user or group has this name", s)
}

// prefixSelector names a selector after its prefixes, so that an alias and the address
// that it stands for are the same.
func prefixSelector(ps []netip.Prefix) Selector {
	names := make([]string, len(ps))
	for i, p := range ps {
		names[i] = p.String()
	}
	return Selector{Kind: Prefix, Name: strings.Join(names, ","), Prefixes: ps}
}

func autogroup(s, name string) (Selector, error) {
	switch name {
	case "member", "members":
		return Selector{Kind: Member, Name: "autogroup:member"}, nil
	case "tagged":
		return Selector{Kind: Tagged, Name: s}, nil
	case "self":
		return Selector{Kind: Self, Name: s}, nil
	case "internet":
		return Selector{Kind: Internet, Name: s}, nil
	case "danger-all":
		return Selector{Kind: Danger, Name: s}, nil
	case "owner", "admin", "it-admin", "network-admin", "billing-admin", "auditor":
		return Selector{Kind: Role, Name: s}, nil
	case "shared":
		return Selector{}, fmt.Errorf("%q is not supported by this server: it has no sharing of nodes between tailnets", s)
	case "nonroot":
		return Selector{}, fmt.Errorf("%q is only valid in users of ssh rules", s)
	}
	return Selector{}, fmt.Errorf("unknown autogroup %q", s)
}

// ParsePrefixes reads an address, a CIDR (host bits are cleared) or a range of
// two addresses.
func ParsePrefixes(s string) ([]netip.Prefix, error) {
	s = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" || a.Is4In6() {
			return nil, fmt.Errorf("%q: invalid address", s)
		}
		return []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}, nil
	}
	if p, err := netip.ParsePrefix(s); err == nil && !p.Addr().Is4In6() {
		return []netip.Prefix{p.Masked()}, nil
	}
	if r, err := netipx.ParseIPRange(s); err == nil && !r.From().Is4In6() {
		return r.Prefixes(), nil
	}
	return nil, fmt.Errorf("%q: invalid address", s)
}

// protocols are the names that "proto" takes.
var protocols = map[string]int{
	"icmp": 1, "igmp": 2, "ipv4": 4, "ip-in-ip": 4, "tcp": 6, "egp": 8, "igp": 9, "udp": 17, "gre": 47,
	"esp": 50, "ah": 51, "ipv6-icmp": 58, "icmpv6": 58, "sctp": 132,
}

// DefaultProtos are what a client makes of a rule without protocols.
var DefaultProtos = []int{1, 6, 17, 58}

// ParseProto reads a protocol; "" is the default protocols, nil.
func ParseProto(s string) ([]int, error) {
	if s == "" {
		return nil, nil
	}
	if n, ok := protocols[s]; ok {
		return []int{n}, nil
	}
	if n, err := strconv.Atoi(s); err == nil && n >= 1 && n <= 255 && strconv.Itoa(n) == s {
		return []int{n}, nil
	}
	return nil, fmt.Errorf("proto %q is neither a known name nor a number from 1 to 255", s)
}

// HasPorts reports whether ports mean something for the protocols.
func HasPorts(protos []int) bool {
	return len(protos) == 0 || slices.Contains(PortProtos, protos[0])
}

// PortProtos are the protocols with ports: TCP, UDP and SCTP.
var PortProtos = []int{6, 17, 132}

// parsePorts reads "*", "22", "80-443" and comma separated lists of them, and
// returns merged ranges in order.
func parsePorts(s string) ([]tailcfg.PortRange, error) {
	if s == "*" {
		return []tailcfg.PortRange{tailcfg.PortRangeAny}, nil
	}
	var out []tailcfg.PortRange
	for one := range strings.SplitSeq(s, ",") {
		one = strings.TrimSpace(one)
		if one == "*" {
			return []tailcfg.PortRange{tailcfg.PortRangeAny}, nil
		}
		first, last, isRange := strings.Cut(one, "-")
		a, err := strconv.ParseUint(first, 10, 16)
		if err != nil || a == 0 {
			return nil, fmt.Errorf("port range %q: invalid first integer", one)
		}
		b := a
		if isRange {
			if b, err = strconv.ParseUint(last, 10, 16); err != nil {
				return nil, fmt.Errorf("port range %q: invalid last integer", one)
			}
		}
		if b < a {
			return nil, fmt.Errorf("port range %q ends before it starts", one)
		}
		out = append(out, tailcfg.PortRange{First: uint16(a), Last: uint16(b)})
	}
	return mergePorts(out), nil
}

func mergePorts(in []tailcfg.PortRange) []tailcfg.PortRange {
	slices.SortFunc(in, func(a, b tailcfg.PortRange) int { return cmp.Compare(a.First, b.First) })
	out := in[:0]
	for _, r := range in {
		if n := len(out); n > 0 && int(r.First) <= int(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
		} else {
			out = append(out, r)
		}
	}
	return out
}

// SplitPorts splits "selector:ports" at the last colon. An IPv6 address may
// stand in brackets.
func SplitPorts(s string) (selector, ports string, err error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", "", fmt.Errorf("%q has no port; write %q for all ports", s, s+":*")
	}
	selector, ports = strings.TrimSpace(s[:i]), strings.TrimSpace(s[i+1:])
	if selector == "" || ports == "" {
		return "", "", fmt.Errorf("%q is not of the form HOST:PORTS", s)
	}
	return selector, ports, nil
}
