//go:build linux

package lab

import (
	"fmt"
	"net/netip"
)

// Internet is the lab's public network, both address families, with a router that leads to
// networks elsewhere. Its addresses are those set aside for documentation.
type Internet struct {
	*Switch
}

// Internet adds the public network.
func (l *Lab) Internet() *Internet {
	l.t.Helper()
	return &Internet{l.Switch("inet", publicPrefix4(1), publicPrefix6(1))}
}

// publicPrefix4 and publicPrefix6 are the address of the nth host with the network's length.
func publicPrefix4(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(n)}), 24)
}

func publicPrefix6(n int) netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf("2001:db8:1::%d/64", n))
}

// Host adds a dual-stack public machine, 198.51.100.n and 2001:db8:1::n, with n from 2 to 254.
func (i *Internet) Host(name string, n int) *Host {
	i.lab.t.Helper()
	h := i.lab.Host(name)
	h.Attach(i.Switch, publicPrefix4(n), publicPrefix6(n))
	h.Gateway(publicPrefix4(1).Addr())
	h.Gateway(publicPrefix6(1).Addr())
	return h
}

// Elsewhere adds a machine on a public network of its own, 203.0.113.80 and 2001:db8:2::80: an
// address that is reached only through a router.
func (i *Internet) Elsewhere(name string) *Host {
	i.lab.t.Helper()
	sw := i.lab.Switch("elsewhere",
		netip.MustParsePrefix("203.0.113.1/24"), netip.MustParsePrefix("2001:db8:2::1/64"))
	h := i.lab.Host(name)
	h.Attach(sw, netip.MustParsePrefix("203.0.113.80/24"), netip.MustParsePrefix("2001:db8:2::80/64"))
	h.Gateway(netip.MustParseAddr("203.0.113.1"))
	h.Gateway(netip.MustParseAddr("2001:db8:2::1"))
	return h
}

// Site is a private IPv4 network behind a NAT router.
type Site struct {
	LAN    *Switch
	Router *Host
	Prefix netip.Prefix
}

// Site adds a router at 198.51.100.n with the network 10.n.0.0/24 behind it. Names are at most six
// letters long.
func (i *Internet) Site(name string, n int) *Site {
	l := i.lab
	l.t.Helper()
	s := &Site{
		LAN:    l.Switch("lan-" + name),
		Router: l.Host("router-" + name),
		Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n), 0, 0}), 24),
	}
	s.Router.Attach(i.Switch, publicPrefix4(n))
	s.Router.Gateway(publicPrefix4(1).Addr())
	s.Router.Attach(s.LAN, s.Addr(1))
	s.Router.NAT(s.LAN, i.Switch)
	return s
}

// Addr is the address of the site's nth host with the network's length; the router is the first.
func (s *Site) Addr(n int) netip.Prefix {
	a := s.Prefix.Addr().As4()
	a[3] = byte(n)
	return netip.PrefixFrom(netip.AddrFrom4(a), s.Prefix.Bits())
}

// Host adds the site's nth machine, n from 2 to 254.
func (s *Site) Host(name string, n int) *Host {
	s.LAN.lab.t.Helper()
	h := s.LAN.lab.Host(name)
	h.Attach(s.LAN, s.Addr(n))
	h.Gateway(s.Addr(1).Addr())
	return h
}
