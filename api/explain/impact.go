package explain

import (
	"fmt"
	"slices"

	"heddle/control/tailnet"
	"heddle/policy"
	"heddle/policy/impact"
	v1 "heddle/proto/heddle/v1"
)

const (
	maxNames     = 10  // of nodes in one list
	maxApprovals = 100 // in one answer
)

// Impact tells what a prepared policy would change, also by the routes that
// it approves.
func Impact(snap *tailnet.Snapshot, p *tailnet.PreparedPolicy) *v1.PolicyImpact {
	out := &v1.PolicyImpact{}
	before := impact.State{Compiled: snap.Policy().Compiled, Nodes: snap.PolicyInput().Nodes}
	in := snap.PolicyInput()
	for i := range in.Nodes {
		n := &in.Nodes[i]
		for _, route := range n.Advertised {
			if !slices.Contains(n.Approved, route) && p.Compiled.AutoApproves(n.ID, route) {
				n.Approved = append(slices.Clip(n.Approved), route)
				if len(out.Approvals) < maxApprovals {
					out.Approvals = append(out.Approvals, nodeName(snap, n.ID)+" "+route.String())
				}
			}
		}
	}
	r := impact.Compare(before, impact.State{Compiled: p.Compiled.Recompile(in), Nodes: in.Nodes})
	out.Omitted, out.Partial = uint32(r.Omitted), r.Partial
	for _, c := range r.Changes {
		out.Changes = append(out.Changes, &v1.PolicyChange{
			Sources: names(snap, c.Sources), Destinations: names(snap, c.Destinations), Relation: string(c.Relation), Gained: c.Gained, Lost: c.Lost,
		})
	}
	if len(r.Caps) > 0 {
		out.Capabilities = names(snap, r.Caps)
	}
	return out
}

func names(snap *tailnet.Snapshot, ids []policy.NodeID) *v1.PolicyNodes {
	out := &v1.PolicyNodes{Count: uint32(len(ids))}
	for _, id := range ids[:min(len(ids), maxNames)] {
		out.Names = append(out.Names, nodeName(snap, id))
	}
	return out
}

func nodeName(snap *tailnet.Snapshot, id policy.NodeID) string {
	if n := snap.Node(tailnet.NodeID(id)); n != nil {
		return n.Name
	}
	return fmt.Sprint("node ", id)
}
