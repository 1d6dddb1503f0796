package tailnet

import (
	"net/netip"
	"slices"

	"tailscale.com/net/tsaddr"
)

// RouteEdit says which routes of a node shall be approved.
type RouteEdit struct {
	Replace     bool           // approve exactly Set; otherwise Add and Remove change what is approved
	Set         []netip.Prefix // empty with Replace: approve none
	Add, Remove []netip.Prefix
	Force       bool // also routes that the node does not advertise (yet)
}

// ApproveRoutes changes the approved routes of a node. Either exit route
// stands for both: a client uses an exit node for both families or not at all.
func (tx *Tx) ApproveRoutes(id NodeID, e RouteEdit) error {
	n, err := tx.node(id, AreaRoutes, "approve routes")
	if err != nil {
		return err
	}
	want := e.Set
	if !e.Replace {
		want = slices.Concat(n.Approved, e.Add)
	}
	if want, err = cleanRoutes(want); err != nil {
		return err
	}
	remove, err := cleanRoutes(e.Remove)
	if err != nil {
		return err
	}
	want = slices.DeleteFunc(want, func(p netip.Prefix) bool { return slices.Contains(remove, p) })
	for _, p := range want {
		if e.Force || slices.Contains(n.Approved, p) || slices.Contains(n.Advertised(), p) {
			continue
		}
		if tsaddr.IsExitRoute(p) && n.advertisesExit() {
			continue
		}
		return Errorf(Conflict, "%s does not advertise %s (it advertises %s); run `tailscale set --advertise-routes` there first, or use --force to approve it in advance",
			n.Name, p, orNone(prefixText(n.Advertised())))
	}
	tx.approve(n, want)
	return nil
}

// approve sets the approved routes.
func (tx *Tx) approve(n *Node, routes []netip.Prefix) {
	out := n.clone()
	out.Approved, _ = cleanRoutes(routes)
	tx.edit("routes.approve", n, out)
}

func (n *Node) advertisesExit() bool {
	return slices.ContainsFunc(n.Advertised(), tsaddr.IsExitRoute)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// cleanRoutes returns the routes sorted, without doubles, exit routes as a pair.
func cleanRoutes(in []netip.Prefix) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, p := range in {
		if !p.IsValid() {
			return nil, Errorf(Invalid, "a route is not a valid prefix; routes look like 192.168.1.0/24")
		}
		if p != p.Masked() {
			return nil, Errorf(Invalid, "route %s has bits beyond its length; did you mean %s?", p, p.Masked())
		}
		if tsaddr.IsExitRoute(p) {
			out = append(out, tsaddr.ExitRoutes()...)
			continue
		}
		out = append(out, p)
	}
	tsaddr.SortPrefixes(out)
	return slices.Compact(out), nil
}
