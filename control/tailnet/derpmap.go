package tailnet

import (
	"fmt"
	"maps"
	"slices"

	"heddle/policy"

	"tailscale.com/tailcfg"
)

// refreshDERPMap brings the DERP map in line with its source and the policy.
func (tx *Tx) refreshDERPMap() {
	tx.snap.inputs.derpMap = effectiveDERPMap(&tx.snap)
}

// effectiveDERPMap lays the policy's regions over those of the config: a
// region with the ID of another, or with a node of the same name, replaces it, and null
// removes it. With omitDefaultRegions only the policy's are left.
func effectiveDERPMap(s *Snapshot) *tailcfg.DERPMap {
	base, own := s.inputs.derpSource, s.policy.Doc.DERPMap()
	if own == nil {
		return base
	}
	m := &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{}, OmitDefaultRegions: base.OmitDefaultRegions}
	scores := map[int]float64{}
	if !own.OmitDefaultRegions {
		maps.Copy(m.Regions, base.Regions)
		if base.HomeParams != nil {
			maps.Copy(scores, base.HomeParams.RegionScore)
		}
	}
	for id, r := range own.Regions {
		delete(m.Regions, id)
		if r == nil || badRegion(id, r) != "" { // stored by a version that let it pass
			continue
		}
		maps.DeleteFunc(m.Regions, func(_ int, other *tailcfg.DERPRegion) bool { return other != nil && sharesNode(r, other) })
	}
	for id, r := range own.Regions {
		if r != nil && badRegion(id, r) == "" {
			m.Regions[id] = r
		}
	}
	if own.HomeParams != nil {
		maps.Copy(scores, own.HomeParams.RegionScore)
	}
	if len(scores) > 0 {
		m.HomeParams = &tailcfg.DERPHomeParams{RegionScore: scores}
	}
	return m
}

func sharesNode(a, b *tailcfg.DERPRegion) bool {
	return slices.ContainsFunc(a.Nodes, func(n *tailcfg.DERPNode) bool {
		return slices.ContainsFunc(b.Nodes, func(o *tailcfg.DERPNode) bool { return o != nil && o.Name == n.Name })
	})
}

// checkDERPMap refuses regions of a policy that clients choke on. A null
// region is right: it removes one. The error is a policy.Errors.
func checkDERPMap(m *tailcfg.DERPMap) error {
	if m == nil {
		return nil
	}
	var out policy.Errors
	fail := func(format string, args ...any) {
		out = append(out, &policy.Error{Msg: "derpMap: " + fmt.Sprintf(format, args...)})
	}
	owner := map[string]int{} // node name to region
	for _, id := range slices.Sorted(maps.Keys(m.Regions)) {
		r := m.Regions[id]
		if r == nil {
			continue
		}
		if msg := badRegion(id, r); msg != "" {
			fail("%s", msg)
			continue
		}
		for _, n := range r.Nodes {
			if other, taken := owner[n.Name]; taken {
				fail("regions %d and %d both have a node named %q", other, id, n.Name)
			}
			owner[n.Name] = id
		}
	}
	if m.HomeParams != nil {
		for _, id := range slices.Sorted(maps.Keys(m.HomeParams.RegionScore)) {
			if score := m.HomeParams.RegionScore[id]; !(score > 0) {
				fail("the score %v of region %d is not a positive number", score, id)
			}
		}
	}
	return out.OrNil()
}

// badRegion says what is wrong with a region, "" if nothing.
func badRegion(id int, r *tailcfg.DERPRegion) string {
	if id <= 0 || r.RegionID != id {
		return fmt.Sprintf("region %d has the RegionID %d", id, r.RegionID)
	}
	relays := false
	names := map[string]bool{}
	for i, n := range r.Nodes {
		switch {
		case n == nil:
			return fmt.Sprintf("region %d: node %d is null", id, i+1)
		case n.Name == "" || names[n.Name]:
			return fmt.Sprintf("region %d: node %d needs a name of its own", id, i+1)
		case n.RegionID != id:
			return fmt.Sprintf("region %d: node %s has the RegionID %d", id, n.Name, n.RegionID)
		case n.HostName == "":
			return fmt.Sprintf("region %d: node %s has no HostName", id, n.Name)
		}
		names[n.Name] = true
		relays = relays || !n.STUNOnly
	}
	if !relays {
		return fmt.Sprintf("region %d has no node that relays", id)
	}
	return ""
}
