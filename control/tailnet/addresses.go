package tailnet

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"

	"heddle/policy"

	"go4.org/netipx"
	"tailscale.com/net/tsaddr"
)

// Ranges say where nodes' addresses come from. Clients accept only parts of
// 100.64.0.0/10 and fd7a:115c:a1e0::/48. A zero prefix means the whole range.
type Ranges struct {
	V4, V6 netip.Prefix
	Random bool // else the next free one in order
}

// allocator gives out addresses. It belongs to the writer.
type allocator struct {
	random bool
	v4, v6 pool
}

// A pool is one family's range without what must never be given out.
type pool struct {
	ranges []netipx.IPRange // in order, not empty
	last   netip.Addr       // last one given out in order
}

func newAllocator(r Ranges) (*allocator, error) {
	a := &allocator{random: r.Random}
	for _, f := range []struct {
		pool     *pool
		want     netip.Prefix
		whole    netip.Prefix
		reserved []netip.Prefix
	}{
		{&a.v4, r.V4, tsaddr.CGNATRange(), []netip.Prefix{
			tsaddr.ChromeOSVMRange(), // clients on ChromeOS use it themselves
			netip.PrefixFrom(tsaddr.TailscaleServiceIP(), 32),
		}},
		{&a.v6, r.V6, tsaddr.TailscaleULARange(), []netip.Prefix{
			netip.PrefixFrom(tsaddr.TailscaleServiceIPv6(), 128),
			tsaddr.TailscaleViaRange(), // 4via6 routes
		}},
	} {
		want := f.want
		if !want.IsValid() {
			want = f.whole
		}
		if !f.whole.Contains(want.Addr()) || want.Bits() < f.whole.Bits() {
			return nil, fmt.Errorf("address range %s is not inside %s", want, f.whole)
		}
		var b netipx.IPSetBuilder
		b.AddPrefix(want)
		for _, p := range f.reserved {
			b.RemovePrefix(p)
		}
		b.Remove(want.Masked().Addr()) // the network's own address looks like a mistake
		set, err := b.IPSet()
		if err != nil {
			return nil, err
		}
		if f.pool.ranges = set.Ranges(); len(f.pool.ranges) == 0 {
			return nil, fmt.Errorf("address range %s has no address to give out", want)
		}
	}
	return a, nil
}

// taken tells of addresses in use, so that the order goes on behind them.
func (a *allocator) taken(addrs Addrs) {
	for _, f := range []struct {
		pool *pool
		ip   netip.Addr
	}{{&a.v4, addrs.V4}, {&a.v6, addrs.V6}} {
		if f.pool.contains(f.ip) && (!f.pool.last.IsValid() || f.pool.last.Less(f.ip)) {
			f.pool.last = f.ip
		}
	}
}

// next returns a free address of each family: neither a node nor a tombstone
// has it. The IPv4 address comes from within, if that is not nil (the policy's ipPool).
func (a *allocator) next(s *Snapshot, within []netip.Prefix) (Addrs, error) {
	free := func(ip netip.Addr) bool {
		_, resting := s.index.resting.Get(ip)
		return !resting && s.NodeByIP(ip) == nil
	}
	v4s := &a.v4
	if within != nil {
		v4s = a.v4.within(within)
		if len(v4s.ranges) == 0 {
			return Addrs{}, Errorf(Exhausted, "the policy's ipPool for this device lies outside addresses.ipv4 of the config; an admin must mend one of them")
		}
	}
	v4, ok4 := v4s.next(free, a.random)
	if within != nil && !ok4 {
		return Addrs{}, Errorf(Exhausted, "all addresses of the policy's ipPool for this device are given out; an admin can widen it")
	}
	v6, ok6 := a.v6.next(free, a.random)
	if !ok4 || !ok6 {
		return Addrs{}, Errorf(Exhausted, "all addresses of this tailnet are given out; the admin can widen addresses.ipv4 and addresses.ipv6 in the config")
	}
	return Addrs{v4, v6}, nil
}

// BackfillAddresses gives an address to every node that lacks one of a family, as
// nodes from elsewhere may, and returns those that did.
func (tx *Tx) BackfillAddresses() ([]*Node, error) {
	if err := tx.may(Write(AreaDevices), "give nodes addresses"); err != nil {
		return nil, err
	}
	var filled []*Node
	for n := range tx.snap.Nodes() {
		if n.Addrs.V4.IsValid() && n.Addrs.V6.IsValid() {
			continue
		}
		var within []netip.Prefix
		if p := tx.snap.policy; needs(p.Doc, "nodeAttrs ipPool") {
			within = p.Compiled.IPPool(policy.NodeID(n.ID))
		}
		fresh, err := tx.state.alloc.next(&tx.snap, within)
		if err != nil {
			return nil, err
		}
		out := n.clone()
		if !n.Addrs.V4.IsValid() {
			out.Addrs.V4 = fresh.V4
		}
		if !n.Addrs.V6.IsValid() {
			out.Addrs.V6 = fresh.V6
		}
		tx.edit("node.address", n, out)
		filled = append(filled, out)
	}
	return filled, nil
}

// within returns the part of the pool that lies in the prefixes.
func (p *pool) within(prefixes []netip.Prefix) *pool {
	var mine, wanted netipx.IPSetBuilder
	for _, r := range p.ranges {
		mine.AddRange(r)
	}
	for _, w := range prefixes {
		wanted.AddPrefix(w)
	}
	set, err := wanted.IPSet()
	if err != nil {
		return &pool{}
	}
	mine.Intersect(set)
	if set, err = mine.IPSet(); err != nil {
		return &pool{}
	}
	return &pool{ranges: set.Ranges()}
}

// randomTries is how often a random address is drawn before the pool is
// taken to be so full that the order is quicker.
const randomTries = 64

func (p *pool) next(free func(netip.Addr) bool, random bool) (netip.Addr, bool) {
	if random {
		for range randomTries {
			if ip := p.draw(); free(ip) {
				return ip, true
			}
		}
	}
	start := p.last
	if !p.contains(start) {
		start = p.ranges[len(p.ranges)-1].To() // the one after it is the first
	}
	for ip := p.after(start); ; ip = p.after(ip) {
		if free(ip) {
			p.last = ip
			return ip, true
		}
		if ip == start {
			return netip.Addr{}, false
		}
	}
}

func (p *pool) contains(ip netip.Addr) bool {
	for _, r := range p.ranges {
		if r.Contains(ip) {
			return true
		}
	}
	return false
}

// after returns the address after ip, which is in the pool, going round at the end.
func (p *pool) after(ip netip.Addr) netip.Addr {
	for i, r := range p.ranges {
		if !r.Contains(ip) {
			continue
		}
		if ip != r.To() {
			return ip.Next()
		}
		return p.ranges[(i+1)%len(p.ranges)].From()
	}
	return p.ranges[0].From()
}

// draw returns a random address of the pool. Ranges are drawn by their
// share of the last 32 bits only where that matters: IPv4.
func (p *pool) draw() netip.Addr {
	var raw [16]byte
	for {
		rand.Read(raw[:])
		r := p.ranges[0]
		first, last := r.From(), p.ranges[len(p.ranges)-1].To()
		if first.Is4() {
			a, b := first.As4(), last.As4()
			lo, hi := binary.BigEndian.Uint32(a[:]), binary.BigEndian.Uint32(b[:])
			n := lo + binary.BigEndian.Uint32(raw[:4])%(hi-lo+1)
			ip := netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
			if p.contains(ip) {
				return ip
			}
			continue
		}
		// Keep the bits that first and last share, take random ones for the rest.
		a, b := first.As16(), last.As16()
		shared := 0
		for shared < 128 && bit(a, shared) == bit(b, shared) {
			shared++
		}
		for i := range shared {
			mask := byte(0x80) >> (i % 8)
			raw[i/8] = raw[i/8]&^mask | a[i/8]&mask
		}
		if ip := netip.AddrFrom16(raw); p.contains(ip) {
			return ip
		}
	}
}

func bit(a [16]byte, i int) bool { return a[i/8]&(0x80>>(i%8)) != 0 }
