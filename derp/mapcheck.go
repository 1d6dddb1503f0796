package derp

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"

	"tailscale.com/tailcfg"
)

// maxRegionID is the largest integer that a JavaScript number holds exactly;
// tailcfg asks for that.
const maxRegionID = 1<<53 - 1

// maxProblems bounds the list of what is wrong with one DERP map: it ends up in
// the log.
const maxProblems = 20

// problems collects what is wrong.
type problems []error

func (p *problems) add(err error) {
	if err != nil && len(*p) < maxProblems {
		*p = append(*p, err)
	}
}

func (p problems) err() error { return errors.Join(p...) }

// checkMap returns what is wrong with m, nil if nothing. A nil region is
// right: it removes the region of that ID.
func checkMap(m *tailcfg.DERPMap) error {
	var errs problems
	seen := map[string]int{}
	for _, id := range slices.Sorted(maps.Keys(m.Regions)) {
		r := m.Regions[id]
		if r == nil {
			continue
		}
		if err := checkRegion(id, r); err != nil {
			errs.add(err)
			continue
		}
		for _, n := range r.Nodes {
			if other, ok := seen[n.Name]; ok {
				errs.add(fmt.Errorf("regions %d and %d both have a node named %q; names must differ", other, id, n.Name))
			}
			seen[n.Name] = id
		}
	}
	if m.HomeParams != nil {
		for _, id := range slices.Sorted(maps.Keys(m.HomeParams.RegionScore)) {
			if score := m.HomeParams.RegionScore[id]; !(score > 0 && score < math.Inf(1)) {
				errs.add(fmt.Errorf("region score %v of region %d is not a positive number", score, id))
			}
		}
	}
	return errs.err()
}

// checkRegion returns what is wrong with the region of the given ID.
func checkRegion(id int, r *tailcfg.DERPRegion) error {
	var errs problems
	fail := func(format string, args ...any) {
		errs.add(fmt.Errorf("region %d: "+format, append([]any{id}, args...)...))
	}
	if id <= 0 || id > maxRegionID {
		fail("the region ID must be positive (900 to 999 are for your own relays)")
	}
	if r.RegionID != id {
		fail("its RegionID is %d", r.RegionID)
	}
	if !(math.Abs(r.Latitude) <= 90) || !(math.Abs(r.Longitude) <= 180) {
		fail("latitude %v, longitude %v is no place on earth", r.Latitude, r.Longitude)
	}
	if !slices.ContainsFunc(r.Nodes, func(n *tailcfg.DERPNode) bool { return n != nil && !n.STUNOnly }) {
		fail("it has no node that relays")
	}
	names := map[string]bool{}
	for i, n := range r.Nodes {
		if n == nil {
			fail("node %d is null", i+1)
			continue
		}
		if names[n.Name] {
			fail("it has two nodes named %q", n.Name)
		}
		names[n.Name] = true
		for _, err := range checkNode(id, n) {
			fail("node %s: %w", cmp.Or(n.Name, fmt.Sprint(i+1)), err)
		}
	}
	return errs.err()
}

func checkNode(region int, n *tailcfg.DERPNode) (errs []error) {
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if n.Name == "" {
		fail("it has no name")
	}
	if n.RegionID != region {
		fail("its RegionID is %d", n.RegionID)
	}
	if n.HostName == "" || len(n.HostName) > 253 || strings.ContainsAny(n.HostName, "/@ \t\r\n") {
		fail("host name %q is not a host name", n.HostName)
	}
	if ip, err := netip.ParseAddr(n.IPv4); n.IPv4 != "" && n.IPv4 != "none" && (err != nil || !ip.Is4()) {
		fail("%q is neither an IPv4 address nor none", n.IPv4)
	}
	if ip, err := netip.ParseAddr(n.IPv6); n.IPv6 != "" && n.IPv6 != "none" && (err != nil || !ip.Is6() || ip.Zone() != "") {
		fail("%q is neither an IPv6 address nor none", n.IPv6)
	}
	if n.STUNPort < -1 || n.STUNPort > math.MaxUint16 {
		fail("STUN port %d is neither a port nor -1 (no STUN)", n.STUNPort)
	}
	if n.DERPPort < 0 || n.DERPPort > math.MaxUint16 {
		fail("DERP port %d is not a port", n.DERPPort)
	}
	// Clients compare the text, in lower case (tlsdial.SetConfigExpectedCertHash).
	if pin, ok := strings.CutPrefix(n.CertName, "sha256-raw:"); ok {
		if b, err := hex.DecodeString(pin); err != nil || len(b) != 32 || strings.ToLower(pin) != pin {
			fail("certificate pin %q is not sha256-raw: and 64 lower-case hex digits", n.CertName)
		}
	}
	return errs
}

// layer is one source's regions, and the source's name for messages.
type layer struct {
	name string
	m    *tailcfg.DERPMap // nil: the source gave nothing yet
}

// mergeLayers returns the union of the layers; later ones win. A region whose
// node has the same name as one of a later layer is left out, and a line about
// it returned. The result has no nil regions, which crash old clients, and
// shares the regions with the layers.
func mergeLayers(layers []layer) (m *tailcfg.DERPMap, clashes []string) {
	m = &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{}}
	scores := map[int]float64{}
	from := map[int]int{} // region ID to the index of its layer
	for i, l := range layers {
		if l.m == nil {
			continue
		}
		for id, r := range l.m.Regions {
			m.Regions[id], from[id] = r, i
		}
		if l.m.HomeParams != nil {
			maps.Copy(scores, l.m.HomeParams.RegionScore)
		}
		m.OmitDefaultRegions = m.OmitDefaultRegions || l.m.OmitDefaultRegions
	}
	maps.DeleteFunc(m.Regions, func(_ int, r *tailcfg.DERPRegion) bool { return r == nil })
	if len(scores) > 0 {
		m.HomeParams = &tailcfg.DERPHomeParams{RegionScore: scores}
	}
	ids := slices.SortedFunc(maps.Keys(m.Regions), func(a, b int) int {
		return cmp.Or(cmp.Compare(from[b], from[a]), cmp.Compare(a, b)) // the latest layer first
	})
	owner := map[string]int{} // node name to region ID
	for _, id := range ids {
		nodes := m.Regions[id].Nodes
		taken := slices.IndexFunc(nodes, func(n *tailcfg.DERPNode) bool { return owner[n.Name] != 0 })
		if taken >= 0 {
			name := nodes[taken].Name
			clashes = append(clashes, fmt.Sprintf("region %d of %s is left out: region %d of %s has a node named %q too",
				id, layers[from[id]].name, owner[name], layers[from[owner[name]]].name, name))
			delete(m.Regions, id)
			continue
		}
		for _, n := range nodes {
			owner[n.Name] = id
		}
	}
	return m, clashes
}
