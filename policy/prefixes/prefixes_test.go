package prefixes_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"heddle/policy/prefixes"
)

// The index finds what looking at every prefix finds.
func TestIndex(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	// Few addresses and lengths, so that many overlap.
	random := func() netip.Prefix {
		a := netip.AddrFrom4([4]byte{10, byte(rnd.IntN(2)), byte(rnd.IntN(3)), byte(rnd.IntN(4))})
		bits := []int{0, 8, 16, 23, 24, 31, 32}
		if rnd.IntN(2) == 0 {
			a, bits = netip.AddrFrom16([16]byte{0xfd, 7: byte(rnd.IntN(2)), 15: byte(rnd.IntN(3))}), []int{0, 7, 64, 127, 128}
		}
		return netip.PrefixFrom(a, bits[rnd.IntN(len(bits))]).Masked()
	}
	for range 200 {
		at := map[netip.Prefix][]int32{}
		for i := range 1 + rnd.IntN(20) {
			p := random()
			at[p] = append(at[p], int32(i))
		}
		x := prefixes.NewIndex(at)
		for range 20 {
			p := random()
			var containing, overlapping []int32
			for q, ids := range at {
				if q.Overlaps(p) {
					overlapping = append(overlapping, ids...)
					if q.Bits() <= p.Bits() {
						containing = append(containing, ids...)
					}
				}
			}
			sorted := func(s []int32) []int32 { slices.Sort(s); return s }
			if diff := cmp.Diff(sorted(containing), sorted(x.Containing(nil, p))); diff != "" {
				t.Fatalf("Containing %v in %v (-want +got):\n%s", p, at, diff)
			}
			if diff := cmp.Diff(sorted(overlapping), sorted(x.Overlapping(nil, p))); diff != "" {
				t.Fatalf("Overlapping %v in %v (-want +got):\n%s", p, at, diff)
			}
		}
	}
}

func TestCompare(t *testing.T) {
	list := []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/24"),
		prefixes.Host(netip.MustParseAddr("10.0.0.1")), netip.MustParsePrefix("fd00::/8"), prefixes.Host(netip.MustParseAddr("fd00::1")),
	}
	if !slices.IsSortedFunc(list, prefixes.Compare) || prefixes.Compare(list[0], list[0]) != 0 {
		t.Errorf("%v is not in order", list)
	}
}
