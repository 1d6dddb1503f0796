package derp

import (
	"errors"
	"fmt"
	"net/netip"

	"tailscale.com/tailcfg"
)

// DefaultRegionID is the embedded region's ID unless the config says otherwise.
// Clients leave 900 to 999 to people's own relays.
const DefaultRegionID = 999

// Region describes the embedded relay to clients.
type Region struct {
	ID   int    // 0 means DefaultRegionID
	Code string // short, such as "home"
	Name string // for people

	HostName string     // what clients dial, and verify unless CertName pins
	IPv4     netip.Addr // zero: clients ask DNS for HostName
	IPv6     netip.Addr // zero: clients ask DNS for HostName
	NoIPv4   bool       // clients must not try IPv4
	NoIPv6   bool       // clients must not try IPv6

	DERPPort  int    // TLS port; 0 means 443
	STUNPort  int    // 0 means 3478, -1 none
	CertName  string // "" or Pinned.Pin
	CanPort80 bool   // /generate_204 is served on port 80 of the same host
}

// DERPRegion returns the region as the DERP map has it.
func (r Region) DERPRegion() (*tailcfg.DERPRegion, error) {
	if r.ID == 0 {
		r.ID = DefaultRegionID
	}
	v4, err4 := addrText(r.IPv4.Unmap(), r.NoIPv4, "IPv4", netip.Addr.Is4)
	v6, err6 := addrText(r.IPv6, r.NoIPv6, "IPv6", netip.Addr.Is6)
	region := &tailcfg.DERPRegion{
		RegionID:   r.ID,
		RegionCode: r.Code,
		RegionName: r.Name,
		Nodes: []*tailcfg.DERPNode{{
			Name:      fmt.Sprintf("%da", r.ID),
			RegionID:  r.ID,
			HostName:  r.HostName,
			CertName:  r.CertName,
			IPv4:      v4,
			IPv6:      v6,
			STUNPort:  r.STUNPort,
			DERPPort:  r.DERPPort,
			CanPort80: r.CanPort80,
		}},
	}
	if err := errors.Join(err4, err6, checkRegion(r.ID, region)); err != nil {
		return nil, fmt.Errorf("derp: embedded region: %w", err)
	}
	return region, nil
}

func addrText(a netip.Addr, none bool, family string, is func(netip.Addr) bool) (string, error) {
	switch {
	case none:
		return "none", nil
	case !a.IsValid():
		return "", nil
	case !is(a):
		return "", fmt.Errorf("%v is not an %s address", a, family)
	}
	return a.String(), nil
}
