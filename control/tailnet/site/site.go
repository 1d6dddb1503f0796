// Package site owns what counts as one address when the addresses of strangers are counted. It refuses to
// know what is counted, and how much is too much.
package site

import "net/netip"

// Of returns what an address counts as: itself or, for IPv6, the /64 in which hosts choose freely. An IPv4
// address is the same one in IPv6's clothes, and zones do not matter. The zero Prefix stands for an
// address that is not known.
func Of(a netip.Addr) netip.Prefix {
	a = a.Unmap()
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.WithZone("").Prefix(bits) // it fails for the zero address alone
	return p
}
