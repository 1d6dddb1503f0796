// Package prefixes owns an index of IP prefixes by what contains what. It
// refuses to know what the numbers that it keeps with them stand for.
package prefixes

import (
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// Index finds the prefixes that contain another one, or have addresses in
// common with it, each with a list of numbers. It does one map look-up per distinct
// prefix length, of which policies have few. Immutable.
type Index struct {
	at     map[netip.Prefix][]int32
	bits4  []int // distinct lengths, ascending
	bits6  []int
	sorted []netip.Prefix // in the order of Compare
}

// NewIndex indexes the keys of at, which are masked. It keeps the map.
func NewIndex(at map[netip.Prefix][]int32) *Index {
	x := &Index{at: at}
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
	slices.SortFunc(x.sorted, Compare)
	return x
}

// Compare orders prefixes by address, then by length.
func Compare(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// Host is the prefix of one address.
func Host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// Texts returns a set of addresses, and what packet filters call it: addresses, prefixes, and ranges. Both
// are nil if an invalid prefix is in it.
func Texts(b *netipx.IPSetBuilder) ([]string, *netipx.IPSet) {
	set, err := b.IPSet()
	if err != nil {
		return nil, nil
	}
	var out []string
	for _, r := range set.Ranges() {
		out = append(out, RangeText(r))
	}
	return out, set
}

// RangeText is what packet filters call a range.
func RangeText(r netipx.IPRange) string {
	if r.From() == r.To() {
		return r.From().String()
	}
	if p, ok := r.Prefix(); ok {
		return p.String()
	}
	return r.String()
}

// Containing appends the numbers of all prefixes that contain p.
func (x *Index) Containing(out []int32, p netip.Prefix) []int32 {
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

// Overlapping appends the numbers of all prefixes that have an address in
// common with p.
func (x *Index) Overlapping(out []int32, p netip.Prefix) []int32 {
	out = x.Containing(out, p)
	i, _ := slices.BinarySearchFunc(x.sorted, p, Compare)
	for ; i < len(x.sorted) && p.Contains(x.sorted[i].Addr()); i++ {
		if x.sorted[i].Bits() > p.Bits() {
			out = append(out, x.at[x.sorted[i]]...)
		}
	}
	return out
}
