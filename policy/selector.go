package policy

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

// parser fills a Doc. Definitions are read before what uses them, wherever
// they stand in the text.
type parser struct {
	*reader
	d *Doc
	// defaultCheck is what defaultSrcPosture asks of sources.
	defaultCheck int32
}

// deferredCheck is a name that only the tailnet can confirm.
type deferredCheck struct {
	line, column  int
	domain, group string // one of them
}

// The selectors that the places of a policy take.
const (
	identities   = kMember | kTagged | kRole | kUser | kDomain | kGroup | kTag
	places       = kPrefix | kHost | kIPSet
	aclSources   = kAny | kDanger | identities | places
	aclTargets   = kAny | kSelf | kInternet | identities | places
	attrTargets  = kAny | identities | places
	approvals    = kMember | kTagged | kRole | kUser | kGroup | kTag
	owners       = kMember | kRole | kUser | kDomain | kGroup | kTag
	sshSources   = identities
	sshTargets   = kTag | kTagged | kUser | kSelf
	testSubjects = kMember | kTagged | kRole | kUser | kDomain | kGroup | kTag | kPrefix | kHost
	tagsOnly     = kTag
)

// terms resolves selectors to interned terms. Self is reported apart: it is
// not a term. Problems are noted with the field's name.
func (p *parser) terms(field string, list []text, allowed kind) (ids []int32, self bool) {
	for _, t := range list {
		tm, err := p.selector(t, allowed)
		switch {
		case err != nil:
			p.fail(t.off, "%s: %v", field, err)
		case tm.kind == kSelf:
			self = true
		default:
			ids = append(ids, p.d.term(tm))
		}
	}
	return ids, self
}

// selector resolves one selector. An error names what is wrong, not where.
func (p *parser) selector(t text, allowed kind) (term, error) {
	s := strings.TrimSpace(t.s)
	tm, err := p.d.lookup(s)
	if err != nil {
		return term{}, err
	}
	if tm.kind&allowed == 0 {
		return term{}, fmt.Errorf("%q is not valid here", s)
	}
	switch tm.kind {
	case kDomain:
		p.deferCheck(t.off, strings.TrimPrefix(tm.name, "user:*@"), "")
	case kGroup:
		if _, ok := p.d.groups[tm.name]; !ok {
			p.deferCheck(t.off, "", tm.name)
		}
	}
	return tm, nil
}

func (p *parser) deferCheck(off int, domain, group string) {
	line, col := p.place(off)
	p.d.deferred = append(p.d.deferred, deferredCheck{line, col, domain, group})
}

// lookup turns a trimmed selector into a term. Groups that the policy does not
// define are fine here; the identity provider may have them.
func (d *Doc) lookup(s string) (term, error) {
	prefix, rest, _ := strings.Cut(s, ":")
	switch {
	case s == "":
		return term{}, fmt.Errorf("empty selector")
	case s == "*":
		return term{kind: kAny, name: s}, nil
	case prefix == "autogroup":
		return autogroup(s, rest)
	case prefix == "group":
		if rest == "" {
			return term{}, fmt.Errorf("%q has no name", s)
		}
		return term{kind: kGroup, name: s}, nil
	case prefix == "tag":
		if !d.TagDefined(s) {
			return term{}, fmt.Errorf("tag not found: %q; define it in tagOwners", s)
		}
		return term{kind: kTag, name: s}, nil
	case strings.HasPrefix(s, "user:*@"):
		return term{kind: kDomain, name: s}, nil
	case prefix == "ipset":
		ps, ok := d.ipsets[s]
		if !ok {
			return term{}, fmt.Errorf("ipset not found: %q", s)
		}
		return term{kind: kIPSet, name: s, prefixes: ps}, nil
	case prefix == "svc":
		return term{}, fmt.Errorf("%q: services are not supported by this server; name the hosts of the service instead", s)
	case prefix == "localpart":
		return term{}, fmt.Errorf("%q: localpart is only valid in users of ssh rules", s)
	case prefix == "host":
		s = rest
	}
	if ps, err := parsePrefixes(s); err == nil {
		return prefixTerm(ps), nil
	}
	if p, ok := d.hosts[s]; ok {
		t := prefixTerm([]netip.Prefix{p})
		t.kind = kHost
		return t, nil
	}
	if at := strings.IndexByte(s, '@'); at > 0 && at < len(s)-1 && !strings.ContainsAny(s, " \t\r\n*,") {
		return term{kind: kUser, name: s}, nil
	}
	return term{}, fmt.Errorf("%q: invalid address, and no host, user or group has this name", s)
}

// prefixTerm names a term after its prefixes, so that an alias and the address
// that it stands for are the same term.
func prefixTerm(ps []netip.Prefix) term {
	names := make([]string, len(ps))
	for i, p := range ps {
		names[i] = p.String()
	}
	return term{kind: kPrefix, name: strings.Join(names, ","), prefixes: ps}
}

func autogroup(s, name string) (term, error) {
	switch name {
	case "member", "members":
		return term{kind: kMember, name: "autogroup:member"}, nil
	case "tagged":
		return term{kind: kTagged, name: s}, nil
	case "self":
		return term{kind: kSelf, name: s}, nil
	case "internet":
		return term{kind: kInternet, name: s}, nil
	case "danger-all":
		return term{kind: kDanger, name: s}, nil
	case string(Owner), string(Admin), string(ITAdmin), string(NetworkAdmin), string(BillingAdmin), string(Auditor):
		return term{kind: kRole, name: s}, nil
	case "shared":
		return term{}, fmt.Errorf("%q is not supported by this server: it has no sharing of nodes between tailnets", s)
	case "nonroot":
		return term{}, fmt.Errorf("%q is only valid in users of ssh rules", s)
	}
	return term{}, fmt.Errorf("unknown autogroup %q", s)
}

// parsePrefixes reads an address, a CIDR (host bits are cleared) or a range of
// two addresses.
func parsePrefixes(s string) ([]netip.Prefix, error) {
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

// defaultProtos are what a client makes of a rule without protocols.
var defaultProtos = []int{1, 6, 17, 58}

// parseProto reads a protocol; "" is the default protocols, nil.
func parseProto(s string) ([]int, error) {
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

// hasPorts reports whether ports mean something for the protocols.
func hasPorts(protos []int) bool {
	return len(protos) == 0 || protos[0] == 6 || protos[0] == 17 || protos[0] == 132
}

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

// splitPorts splits "selector:ports" at the last colon. An IPv6 address may
// stand in brackets.
func splitPorts(s string) (selector, ports string, err error) {
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
