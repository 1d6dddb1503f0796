package explain

import (
	"context"
	"maps"
	"net/netip"
	"slices"

	"heddle/control/tailnet"
	"heddle/policy"
	v1 "heddle/proto/heddle/v1"

	"tailscale.com/tailcfg"
)

// Node shows what a node is sent because of a policy.
func Node(ctx context.Context, snap *tailnet.Snapshot, compiled *policy.Compiled, n *tailnet.Node) (*v1.PreviewPolicyResponse, error) {
	id := policy.NodeID(n.ID)
	out := &v1.PreviewPolicyResponse{NodeId: uint64(n.ID), Node: n.Name}
	left := ration(maxTexts)
	for _, g := range compiled.Filter(id) {
		for _, r := range g.Rules {
			if out.FilterCount++; out.FilterCount <= maxListed && left > 0 {
				out.Filter = append(out.Filter, protoFilterRule(r, &left))
			}
		}
	}
	primary := func(r netip.Prefix) policy.NodeID { return policy.NodeID(snap.Primaries().Of(r)) }
	for peer := range snap.Nodes() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		p := policy.NodeID(peer.ID)
		if p == id || !compiled.Visible(compiled.Class(id), compiled.Class(p)) {
			continue
		}
		if out.PeerCount++; out.PeerCount <= maxListed && left > 0 {
			seen := &v1.PolicyPeer{NodeId: uint64(peer.ID), Node: peer.Name}
			routes := compiled.Routes(id, p, primary)
			for _, r := range routes[:left.take(len(routes))] {
				seen.Routes = append(seen.Routes, r.String())
			}
			out.Peers = append(out.Peers, seen)
		}
	}
	if ssh := compiled.SSH(id); ssh != nil {
		out.SshCount = uint32(len(ssh.Rules))
		for _, r := range ssh.Rules[:min(len(ssh.Rules), maxListed)] {
			if left == 0 {
				break
			}
			out.Ssh = append(out.Ssh, protoSSHRule(r, &left))
		}
	}
	caps := compiled.Caps(id)
	for _, name := range slices.Sorted(maps.Keys(caps)) {
		c := &v1.PolicyCapability{Name: string(name)}
		for _, v := range caps[name] {
			c.Values = append(c.Values, string(v))
		}
		out.Capabilities = append(out.Capabilities, c)
	}
	return out, nil
}

func protoSSHRule(r *tailcfg.SSHRule, left *ration) *v1.PolicySSHRule {
	out := &v1.PolicySSHRule{SourceCount: uint32(len(r.Principals)), Users: r.SSHUsers, AcceptEnv: r.AcceptEnv, Action: "check"}
	for _, p := range r.Principals[:left.take(len(r.Principals))] {
		out.Sources = append(out.Sources, p.NodeIP)
	}
	switch {
	case r.Action.Accept:
		out.Action = "accept"
	case r.Action.Reject:
		out.Action = "reject"
	}
	return out
}
