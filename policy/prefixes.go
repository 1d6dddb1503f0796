package policy

import (
	"net/netip"
	"slices"
)

// prefixIndex finds the prefixes that contain or are inside another one, each
// with a list of numbers. It does one map look-up per distinct prefix length,
// of which policies have few.
type prefixIndex struct {
	at     map[netip.Prefix][]int32
	bits4  []int // distinct lengths, ascending
	bits6  []int
	sorted []netip.Prefix // by address, then length
}

func newPrefixIndex(at map[netip.Prefix][]int32) *prefixIndex {
	x := &prefixIndex{at: at}
	for p := range at {
		x.sorted = append(x.sorted, p)
		bits := &x.bits6
		if p.Addr().Is4() {
			bits = &x.bits4
		}
		if !slices.Contains(*bits, p.Bits()) {
			*bits = append(*bits, p.Bits())
		}
	}
	slices.Sort(x.bits4)
	slices.Sort(x.bits6)
	slices.SortFunc(x.sorted, comparePrefixes)
	return x
}

func comparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// containing appends the numbers of all prefixes that contain p.
func (x *prefixIndex) containing(out []int32, p netip.Prefix) []int32 {
	bits := x.bits6
	if p.Addr().Is4() {
		bits = x.bits4
	}
	for _, n := range bits {
		if n > p.Bits() {
			break
		}
		wider, _ := p.Addr().Prefix(n)
		out = append(out, x.at[wider]...)
	}
	return out
}

// overlapping appends the numbers of all prefixes that have an address in
// common with p.
func (x *prefixIndex) overlapping(out []int32, p netip.Prefix) []int32 {
	out = x.containing(out, p)
	i, _ := slices.BinarySearchFunc(x.sorted, p, comparePrefixes)
	for ; i < len(x.sorted) && p.Contains(x.sorted[i].Addr()); i++ {
		if x.sorted[i].Bits() > p.Bits() {
			out = append(out, x.at[x.sorted[i]]...)
		}
	}
	return out
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// hasAny reports whether two sorted lists have an element in common.
func hasAny(a, b []int32) bool {
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0] == b[0]:
			return true
		case a[0] < b[0]:
			a = a[1:]
		default:
			b = b[1:]
		}
	}
	return false
}

// bitset is a set of small numbers.
type bitset []uint64

func newBitset(n int) bitset { return make(bitset, (n+63)/64) }

func (b bitset) add(i int32)      { b[i>>6] |= 1 << (i & 63) }
func (b bitset) has(i int32) bool { return b[i>>6]&(1<<(i&63)) != 0 }

func (b bitset) hasAny(list []int32) bool {
	for _, i := range list {
		if b.has(i) {
			return true
		}
	}
	return false
}
