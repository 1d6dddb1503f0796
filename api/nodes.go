package api

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"heddle/api/wire"
	"heddle/control/tailnet"
	v1 "heddle/proto/heddle/v1"
)

type nodes struct {
	*Server
	v1.UnimplementedNodeServiceServer
}

// change runs fn on the node that ref names, and returns the node afterwards.
func (s nodes) change(ctx context.Context, ref string, fn func(*tailnet.Tx, tailnet.NodeID) error) (*v1.Node, error) {
	var id tailnet.NodeID
	snap, err := s.update(ctx, func(tx *tailnet.Tx) error {
		n, err := tx.Snapshot().ParseNodeRef(ref)
		if err != nil {
			return err
		}
		id = n.ID
		return fn(tx, id)
	})
	if err != nil {
		return nil, err
	}
	n := snap.Node(id)
	if n == nil { // another update of the same batch deleted it
		return nil, tailnet.Errorf(tailnet.NotFound, "node %s was deleted just now", id)
	}
	return wire.Node(snap, n, s.opts.Now()), nil
}

func (s nodes) GetNode(ctx context.Context, req *v1.GetNodeRequest) (*v1.GetNodeResponse, error) {
	snap := s.snapshot()
	n, err := snap.ParseNodeRef(req.GetNode())
	if err != nil {
		return nil, err
	}
	return &v1.GetNodeResponse{Node: wire.Node(snap, n, s.opts.Now())}, nil
}

func (s nodes) ListNodes(ctx context.Context, req *v1.ListNodesRequest) (*v1.ListNodesResponse, error) {
	snap := s.snapshot()
	user, err := optionalUser(snap, req.GetUser())
	if err != nil {
		return nil, err
	}
	list, next, err := page(req, snap.Nodes(), nodeID, func(n *tailnet.Node) bool {
		return (user == 0 || n.Owner == user) && (req.GetTag() == "" || slices.Contains(n.Tags, req.GetTag()))
	})
	if err != nil {
		return nil, err
	}
	resp := &v1.ListNodesResponse{NextPageToken: next}
	for _, n := range list {
		resp.Nodes = append(resp.Nodes, wire.Node(snap, n, s.opts.Now()))
	}
	return resp, nil
}

func nodeID(n *tailnet.Node) tailnet.NodeID { return n.ID }

// optionalUser returns the user that ref names; zero if it is empty.
func optionalUser(snap *tailnet.Snapshot, ref string) (tailnet.UserID, error) {
	if ref == "" {
		return 0, nil
	}
	u, err := snap.ParseUserRef(ref)
	if err != nil {
		return 0, err
	}
	return u.ID, nil
}

func (s nodes) RenameNode(ctx context.Context, req *v1.RenameNodeRequest) (*v1.RenameNodeResponse, error) {
	n, err := s.change(ctx, req.GetNode(), func(tx *tailnet.Tx, id tailnet.NodeID) error {
		return tx.RenameNode(id, req.GetNewName())
	})
	if err != nil {
		return nil, err
	}
	return &v1.RenameNodeResponse{Node: n}, nil
}

func (s nodes) DeleteNode(ctx context.Context, req *v1.DeleteNodeRequest) (*v1.DeleteNodeResponse, error) {
	_, err := s.update(ctx, func(tx *tailnet.Tx) error {
		n, err := tx.Snapshot().ParseNodeRef(req.GetNode())
		if err != nil {
			return err
		}
		return tx.DeleteNode(n.ID)
	})
	if err != nil {
		return nil, err
	}
	return &v1.DeleteNodeResponse{}, nil
}

func (s nodes) ExpireNode(ctx context.Context, req *v1.ExpireNodeRequest) (*v1.ExpireNodeResponse, error) {
	ways := 0
	for _, set := range []bool{req.GetExpiry() != nil, req.GetExtend() != nil, req.GetDisableExpiry()} {
		if set {
			ways++
		}
	}
	if ways > 1 {
		return nil, tailnet.Errorf(tailnet.Invalid, "give only one of expiry, extend and disable_expiry")
	}
	if e := req.GetExpiry(); e != nil && (e.CheckValid() != nil || e.AsTime().IsZero()) {
		return nil, tailnet.Errorf(tailnet.Invalid, "expiry is not a valid time")
	}
	if d := req.GetExtend(); d != nil && (d.CheckValid() != nil || d.AsDuration() <= 0) {
		return nil, tailnet.Errorf(tailnet.Invalid, "extend must be a positive duration")
	}
	n, err := s.change(ctx, req.GetNode(), func(tx *tailnet.Tx, id tailnet.NodeID) error {
		later := req.GetExtend() != nil || req.GetExpiry() != nil
		if n := tx.Snapshot().Node(id); later && len(n.Tags) > 0 && n.Expiry.IsZero() {
			return tailnet.Errorf(tailnet.Conflict, "%s is tagged, and the keys of tagged nodes do not expire: there is nothing to put off", n.Name)
		}
		switch {
		case req.GetDisableExpiry():
			return tx.SetNodeExpiry(id, time.Time{})
		case req.GetExtend() != nil:
			return tx.SetNodeExpiry(id, tx.Now().Add(req.GetExtend().AsDuration()))
		case req.GetExpiry() != nil:
			return tx.SetNodeExpiry(id, req.GetExpiry().AsTime())
		}
		return tx.ExpireNode(id)
	})
	if err != nil {
		return nil, err
	}
	return &v1.ExpireNodeResponse{Node: n}, nil
}

func (s nodes) SetTags(ctx context.Context, req *v1.SetTagsRequest) (*v1.SetTagsResponse, error) {
	n, err := s.change(ctx, req.GetNode(), func(tx *tailnet.Tx, id tailnet.NodeID) error {
		return tx.SetTags(id, req.GetTags())
	})
	if err != nil {
		return nil, err
	}
	return &v1.SetTagsResponse{Node: n}, nil
}

func (s nodes) SetApprovedRoutes(ctx context.Context, req *v1.SetApprovedRoutesRequest) (*v1.SetApprovedRoutesResponse, error) {
	edit := tailnet.RouteEdit{Force: req.GetForce(), Replace: len(req.GetAdd())+len(req.GetRemove()) == 0}
	if !edit.Replace && len(req.GetRoutes()) > 0 {
		return nil, tailnet.Errorf(tailnet.Invalid, "routes replaces what is approved, add and remove change it: give either")
	}
	var err error
	if edit.Set, err = parsePrefixes(req.GetRoutes()); err != nil {
		return nil, err
	}
	if edit.Add, err = parsePrefixes(req.GetAdd()); err != nil {
		return nil, err
	}
	if edit.Remove, err = parsePrefixes(req.GetRemove()); err != nil {
		return nil, err
	}
	n, err := s.change(ctx, req.GetNode(), func(tx *tailnet.Tx, id tailnet.NodeID) error {
		return tx.ApproveRoutes(id, edit)
	})
	if err != nil {
		return nil, err
	}
	return &v1.SetApprovedRoutesResponse{Node: n}, nil
}

// parsePrefixes understands 10.0.0.0/8 and, as one address, 10.0.0.1.
func parsePrefixes(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range list {
		text = strings.TrimSpace(text)
		p, err := netip.ParsePrefix(text)
		if err != nil {
			ip, ipErr := netip.ParseAddr(text)
			if ipErr != nil || ip.Zone() != "" {
				return nil, tailnet.Errorf(tailnet.Invalid, "route %q is not a prefix; routes look like 192.168.1.0/24", text)
			}
			p = netip.PrefixFrom(ip, ip.BitLen())
		}
		out = append(out, p)
	}
	return out, nil
}

func (s nodes) RegisterNode(ctx context.Context, req *v1.RegisterNodeRequest) (*v1.RegisterNodeResponse, error) {
	n, err := s.admit(ctx, req.GetUser(), req.GetKey())
	return &v1.RegisterNodeResponse{Node: n}, err
}

func (s nodes) BackfillNodeIPs(ctx context.Context, req *v1.BackfillNodeIPsRequest) (*v1.BackfillNodeIPsResponse, error) {
	if !req.GetConfirmed() {
		return nil, tailnet.Errorf(tailnet.Invalid, "confirmed must be set: nodes are sent their new addresses at once")
	}
	resp := &v1.BackfillNodeIPsResponse{}
	_, err := s.update(ctx, func(tx *tailnet.Tx) error {
		resp.Changes = nil // the function may run again
		filled, err := tx.BackfillAddresses()
		for _, n := range filled {
			resp.Changes = append(resp.Changes, fmt.Sprintf("node %d (%s) has the addresses %s and %s", n.ID, n.Name, n.Addrs.V4, n.Addrs.V6))
		}
		return err
	})
	return resp, err
}

func (s nodes) ListRoutes(ctx context.Context, req *v1.ListRoutesRequest) (*v1.ListRoutesResponse, error) {
	snap := s.snapshot()
	if req.GetNode() != "" {
		n, err := snap.ParseNodeRef(req.GetNode())
		if err != nil {
			return nil, err
		}
		return &v1.ListRoutesResponse{Routes: wire.Routes(snap, n)}, nil
	}
	list, next, err := page(req, snap.Nodes(), nodeID, func(n *tailnet.Node) bool {
		return len(n.Advertised())+len(n.Approved) > 0
	})
	if err != nil {
		return nil, err
	}
	resp := &v1.ListRoutesResponse{NextPageToken: next}
	for _, n := range list {
		resp.Routes = append(resp.Routes, wire.Routes(snap, n)...)
	}
	return resp, nil
}
