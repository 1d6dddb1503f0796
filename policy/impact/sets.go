package impact

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"heddle/policy"

	"go4.org/netipx"
)

// set is a set of nodes, by their index.
type set []uint64

func newSet(n int) set { return make(set, (n+63)/64) }

func (s set) add(i int)      { s[i/64] |= 1 << (i % 64) }
func (s set) has(i int) bool { return s[i/64]&(1<<(i%64)) != 0 }

func (s set) addAll(t set) {
	for i := range t {
		s[i] |= t[i]
	}
}

func (s set) any() bool { return slices.ContainsFunc(s, func(w uint64) bool { return w != 0 }) }

// only reports whether i is the only member.
func (s set) only(i int) bool {
	n := 0
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n == 1 && s.has(i)
}

// within reports whether t has all members.
func (s set) within(t set) bool {
	for i := range s {
		if s[i]&^t[i] != 0 {
			return false
		}
	}
	return true
}

func (s set) meets(t set) bool {
	for i := range t {
		if s[i]&t[i] != 0 {
			return true
		}
	}
	return false
}

func (s set) without(t set) set {
	out := slices.Clone(s)
	for i := range t {
		out[i] &^= t[i]
	}
	return out
}

// each calls fn for the members in order.
func (s set) each(fn func(i int)) {
	for at, w := range s {
		for ; w != 0; w &= w - 1 {
			fn(at*64 + bits.TrailingZeros64(w))
		}
	}
}

func (s set) key() string {
	b := make([]byte, 0, 8*len(s))
	for _, w := range s {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return string(b)
}

// interned numbers values by a text that names their content.
type interned[T any] struct {
	ids map[string]int
	at  []T
}

func (in *interned[T]) id(key string, v T) int {
	id, ok := in.ids[key]
	if !ok {
		if in.ids == nil {
			in.ids = map[string]int{}
		}
		id = len(in.at)
		in.ids[key] = id
		in.at = append(in.at, v)
	}
	return id
}

// finder finds nodes by lists of addresses.
type finder struct {
	nodes int
	addrs []address // in order
	known map[*string]known
}

type address struct {
	netip.Addr
	node int
}

// known is what was found for a list. The engine shares lists: their place in memory
// names them as long as they are alive.
type known struct {
	list  []string
	cover set
}

func newFinder(nodes []policy.Node) *finder {
	f := &finder{nodes: len(nodes), known: map[*string]known{}}
	for i := range nodes {
		for _, a := range []netip.Addr{nodes[i].IPv4, nodes[i].IPv6} {
			if a.IsValid() {
				f.addrs = append(f.addrs, address{a, i})
			}
		}
	}
	slices.SortFunc(f.addrs, func(a, b address) int { return a.Compare(b.Addr) })
	return f
}

// find returns the nodes that have an address in a list as filters have it.
func (f *finder) find(list []string) set {
	if len(list) == 0 {
		return newSet(f.nodes)
	}
	if k, ok := f.known[&list[0]]; ok && len(k.list) == len(list) {
		return k.cover
	}
	out := newSet(f.nodes)
	for _, text := range list {
		r := parseRange(text)
		if !r.IsValid() {
			continue
		}
		from, _ := slices.BinarySearchFunc(f.addrs, r.From(), func(a address, ip netip.Addr) int { return a.Compare(ip) })
		for ; from < len(f.addrs) && !r.To().Less(f.addrs[from].Addr); from++ {
			out.add(f.addrs[from].node)
		}
		if text == "*" {
			for i := range f.nodes {
				out.add(i)
			}
		}
	}
	f.known[&list[0]] = known{list, out}
	return out
}

// parseRange reads an address, a CIDR or a range; "*" is all of IPv4 here.
func parseRange(s string) netipx.IPRange {
	if s == "*" {
		return netipx.RangeOfPrefix(netip.MustParsePrefix("0.0.0.0/0"))
	}
	if strings.Contains(s, "-") {
		r, _ := netipx.ParseIPRange(s)
		return r
	}
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return netipx.IPRange{}
		}
		return netipx.RangeOfPrefix(p)
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netipx.IPRange{}
	}
	return netipx.IPRangeFrom(a, a)
}
