package impact

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"heddle/policy"

	"go4.org/netipx"
	"tailscale.com/tailcfg"
)

// result is what some nodes gain and lose at a destination.
type result struct {
	gained, lost []string
	text         string // both, as a name
}

// result compares what two lists of grants amount to at a node; nil if they
// allow the same.
func (c *comparison) result(d *policy.Node, was, is []int) *result {
	if slices.Equal(was, is) {
		return nil
	}
	key := fmt.Sprint(d.Approved, was, is)
	if r, ok := c.results[key]; ok {
		return r
	}
	r := new(result)
	before, after := c.all(was), c.all(is)
	r.apps(before, after)
	r.logins(before, after)
	r.flows(d, before, after)
	if len(r.gained)+len(r.lost) == 0 {
		r = nil
	} else {
		r.text = strings.Join(r.gained, "\x00") + "\x01" + strings.Join(r.lost, "\x00")
		if same, ok := c.results[r.text]; ok {
			r = same // one pointer for one text
		}
		c.results[r.text] = r
	}
	c.results[key] = r
	return r
}

func (c *comparison) all(ids []int) []content {
	out := make([]content, len(ids))
	for i, id := range ids {
		out[i] = c.contents.at[id]
	}
	return out
}

func (r *result) apps(was, is []content) {
	values := func(list []content) map[string]string {
		out := map[string]string{}
		for _, one := range list {
			for name, v := range one.apps {
				if !strings.Contains(out[name], v) || out[name] == "" {
					out[name] += v + ";"
				}
			}
		}
		return out
	}
	a, b := values(was), values(is)
	for _, name := range slices.Sorted(maps.Keys(b)) {
		if a[name] != b[name] {
			r.gained = append(r.gained, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if a[name] != b[name] {
			r.lost = append(r.lost, name)
		}
	}
}

// logins compares the outcome for each login that a rule names, and for any
// other ("*").
func (r *result) logins(was, is []content) {
	names := map[string]bool{}
	for _, one := range slices.Concat(was, is) {
		if one.ssh != nil {
			for name := range one.ssh.SSHUsers {
				names[name] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		a, b := sshOutcome(was, name), sshOutcome(is, name)
		if a == b {
			continue
		}
		if b != "" {
			r.gained = append(r.gained, b)
		}
		if a != "" {
			r.lost = append(r.lost, a)
		}
	}
}

// sshOutcome says what the first rule with the login allows; "": nothing.
func sshOutcome(list []content, login string) string {
	for _, one := range list {
		if one.ssh == nil {
			continue
		}
		to, ok := one.ssh.SSHUsers[login]
		if !ok {
			to = one.ssh.SSHUsers["*"]
		}
		if to == "" {
			continue
		}
		text := "ssh as " + login
		if login == "*" {
			text = "ssh as autogroup:nonroot"
		}
		if to != "=" && to != login {
			text += ", who becomes " + to
		}
		switch action := sshAction(one.ssh.Action); action {
		case "reject":
			return ""
		case "accept":
			return text
		default:
			return text + " (" + action + ")"
		}
	}
	return ""
}

// place is a part of what is at a destination, within which all addresses are
// treated alike.
type place struct {
	self4, self6 bool
	routed       *netipx.IPSet
}

func (p place) has(at portsAt) bool {
	if p.routed != nil {
		return at.routed.IsValid() && p.routed.OverlapsPrefix(at.routed)
	}
	return p.self4 && at.self4 || p.self6 && at.self6
}

// flows compares protocols and ports, place by place.
func (r *result) flows(d *policy.Node, was, is []content) {
	texts := map[[2]string][]place{}
	var order [][2]string
	for _, p := range places(d, slices.Concat(was, is)) {
		a, b := openAt(p, was), openAt(p, is)
		key := [2]string{b.without(a), a.without(b)}
		if key != [2]string{} {
			if texts[key] == nil {
				order = append(order, key)
			}
			texts[key] = append(texts[key], p)
		}
	}
	for _, key := range order {
		for _, w := range where(d, texts[key]) {
			for i, list := range []*[]string{&r.gained, &r.lost} {
				if key[i] != "" {
					for _, flow := range strings.Split(key[i], " ") {
						*list = append(*list, strings.ReplaceAll(flow, "_", " ")+w)
					}
				}
			}
		}
	}
}

// maxPlaces bounds the prefixes behind one destination that are told apart.
const maxPlaces = 256

// places are the destination's own addresses and what it routes to, cut where
// grants begin and end.
func places(d *policy.Node, all []content) []place {
	out := []place{}
	if d.IPv4.IsValid() {
		out = append(out, place{self4: true})
	}
	if d.IPv6.IsValid() {
		out = append(out, place{self6: true})
	}
	cut := map[netip.Prefix]bool{}
	var b netipx.IPSetBuilder
	for _, one := range all {
		for _, at := range one.ports {
			if at.routed.IsValid() && !cut[at.routed] && len(cut) < maxPlaces {
				cut[at.routed] = true
				b.AddPrefix(at.routed)
			}
		}
	}
	whole, err := b.IPSet()
	if err != nil || len(cut) == 0 {
		return out
	}
	cells := []*netipx.IPSet{whole}
	prefixes := slices.SortedFunc(maps.Keys(cut), func(a, b netip.Prefix) int { return a.Compare(b) })
	for _, p := range prefixes {
		var next []*netipx.IPSet
		for _, cell := range cells {
			inside, outside := split(cell, p)
			for _, s := range []*netipx.IPSet{inside, outside} {
				if s != nil && len(s.Ranges()) > 0 {
					next = append(next, s)
				}
			}
		}
		cells = next
	}
	for _, cell := range cells {
		out = append(out, place{routed: cell})
	}
	return out
}

func split(cell *netipx.IPSet, p netip.Prefix) (inside, outside *netipx.IPSet) {
	var in, out, only netipx.IPSetBuilder
	only.AddPrefix(p)
	set, err := only.IPSet()
	if err != nil {
		return nil, cell
	}
	in.AddSet(cell)
	in.Intersect(set)
	out.AddSet(cell)
	out.RemovePrefix(p)
	inside, _ = in.IPSet()
	outside, _ = out.IPSet()
	return inside, outside
}

// where says which places are meant: "" for the destination itself.
func where(d *policy.Node, list []place) []string {
	var out []string
	var self4, self6 bool
	var b netipx.IPSetBuilder
	for _, p := range list {
		self4, self6 = self4 || p.self4, self6 || p.self6
		if p.routed != nil {
			b.AddSet(p.routed)
		}
	}
	switch {
	case self4 && (self6 || !d.IPv6.IsValid()), self6 && !d.IPv4.IsValid():
		out = append(out, "")
	case self4:
		out = append(out, " over IPv4")
	case self6:
		out = append(out, " over IPv6")
	}
	if s, err := b.IPSet(); err == nil {
		for _, p := range s.Prefixes() {
			out = append(out, " at "+p.String())
		}
	}
	return out
}

// open is what is allowed at a place.
type open struct {
	ports  map[int]*portSet // by protocol, of those with ports
	protos map[int]bool     // of those without
	some   bool             // anything at all: clients let ICMP pass then
}

const (
	tcp, udp, sctp = 6, 17, 132
	icmp, icmp6    = 1, 58
)

func openAt(p place, list []content) *open {
	o := &open{ports: map[int]*portSet{}, protos: map[int]bool{}}
	for _, one := range list {
		protos := one.protos
		if len(protos) == 0 {
			protos = []int{tcp, udp}
		}
		for _, at := range one.ports {
			if !p.has(at) {
				continue
			}
			o.some = true
			for _, proto := range protos {
				switch proto {
				case icmp, icmp6:
				case tcp, udp, sctp:
					if o.ports[proto] == nil {
						o.ports[proto] = new(portSet)
					}
					o.ports[proto].add(at.ports)
				default:
					o.protos[proto] = o.protos[proto] || at.ports == tailcfg.PortRangeAny
				}
			}
		}
	}
	return o
}

// without says what o allows and other does not, one word for each, in which
// "_" stands for a space.
func (o *open) without(other *open) string {
	var words []string
	left := map[int]string{}
	for _, proto := range []int{tcp, udp, sctp} {
		left[proto] = o.ports[proto].without(other.ports[proto])
	}
	add := func(prefix, ports string) {
		if ports == "*" && prefix == "" {
			words = append(words, "all_ports")
		} else if ports != "" {
			words = append(words, prefix+ports)
		}
	}
	if left[tcp] == left[udp] {
		add("", left[tcp])
	} else {
		add("tcp:", left[tcp])
		add("udp:", left[udp])
	}
	add("sctp:", left[sctp])
	for _, proto := range slices.Sorted(maps.Keys(o.protos)) {
		if o.protos[proto] && !other.protos[proto] {
			words = append(words, "protocol_"+strconv.Itoa(proto))
		}
	}
	if o.some && !other.some && len(words) == 0 {
		words = append(words, "ping")
	}
	return strings.Join(words, " ")
}

// portSet is a set of ports.
type portSet [1 << 16 / 64]uint64

func (s *portSet) add(r tailcfg.PortRange) {
	if r == tailcfg.PortRangeAny {
		for i := range s {
			s[i] = ^uint64(0)
		}
		return
	}
	for p := int(r.First); p <= int(r.Last); p++ {
		s[p/64] |= 1 << (p % 64)
	}
}

func (s *portSet) has(p int) bool { return s != nil && s[p/64]&(1<<(p%64)) != 0 }

// without returns the ports of s that t has not, like "22,80-90" or "*".
func (s *portSet) without(t *portSet) string {
	if s == nil {
		return ""
	}
	var out []string
	for p := 0; p < 1<<16; p++ {
		if !s.has(p) || t.has(p) {
			continue
		}
		from := p
		for p < 1<<16 && s.has(p) && !t.has(p) {
			p++
		}
		switch {
		case from == 0 && p == 1<<16:
			out = append(out, "*")
		case from == p-1:
			out = append(out, strconv.Itoa(from))
		default:
			out = append(out, strconv.Itoa(from)+"-"+strconv.Itoa(p-1))
		}
	}
	return strings.Join(out, ",")
}
