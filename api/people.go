package api

import (
	"context"

	"heddle/api/wire"
	"heddle/control/tailnet"
	"heddle/policy"
	v1 "heddle/proto/heddle/v1"
)

// change runs fn on the user that ref names, and returns the user afterwards.
func (s users) change(ctx context.Context, ref string, fn func(*tailnet.Tx, tailnet.UserID) error) (*v1.User, error) {
	var id tailnet.UserID
	snap, err := s.update(ctx, func(tx *tailnet.Tx) error {
		u, err := tx.Snapshot().ParseUserRef(ref)
		if err != nil {
			return err
		}
		id = u.ID
		return fn(tx, id)
	})
	if err != nil {
		return nil, err
	}
	u := snap.User(id)
	if u == nil { // another update of the same batch deleted it
		return nil, tailnet.Errorf(tailnet.NotFound, "user %s was deleted just now", id)
	}
	return wire.User(u), nil
}

func (s users) ApproveUser(ctx context.Context, req *v1.ApproveUserRequest) (*v1.ApproveUserResponse, error) {
	u, err := s.change(ctx, req.GetUser(), (*tailnet.Tx).ApproveUser)
	return &v1.ApproveUserResponse{User: u}, err
}

func (s users) SuspendUser(ctx context.Context, req *v1.SuspendUserRequest) (*v1.SuspendUserResponse, error) {
	u, err := s.change(ctx, req.GetUser(), (*tailnet.Tx).SuspendUser)
	return &v1.SuspendUserResponse{User: u}, err
}

func (s users) RestoreUser(ctx context.Context, req *v1.RestoreUserRequest) (*v1.RestoreUserResponse, error) {
	u, err := s.change(ctx, req.GetUser(), (*tailnet.Tx).RestoreUser)
	return &v1.RestoreUserResponse{User: u}, err
}

func (s users) SetUserRole(ctx context.Context, req *v1.SetUserRoleRequest) (*v1.SetUserRoleResponse, error) {
	u, err := s.change(ctx, req.GetUser(), func(tx *tailnet.Tx, id tailnet.UserID) error {
		return tx.SetRole(id, policy.Role(req.GetRole()))
	})
	return &v1.SetUserRoleResponse{User: u}, err
}

func (s users) LinkIdentity(ctx context.Context, req *v1.LinkIdentityRequest) (*v1.LinkIdentityResponse, error) {
	u, err := s.change(ctx, req.GetUser(), func(tx *tailnet.Tx, id tailnet.UserID) error {
		return tx.LinkIdentity(id, identity(req))
	})
	return &v1.LinkIdentityResponse{User: u}, err
}

func (s users) UnlinkIdentity(ctx context.Context, req *v1.UnlinkIdentityRequest) (*v1.UnlinkIdentityResponse, error) {
	u, err := s.change(ctx, req.GetUser(), func(tx *tailnet.Tx, id tailnet.UserID) error {
		return tx.UnlinkIdentity(id, identity(req))
	})
	return &v1.UnlinkIdentityResponse{User: u}, err
}

func identity(req interface{ GetIdentity() *v1.Identity }) tailnet.Identity {
	return tailnet.Identity{Issuer: req.GetIdentity().GetIssuer(), Subject: req.GetIdentity().GetSubject()}
}

func (s nodes) ApproveNode(ctx context.Context, req *v1.ApproveNodeRequest) (*v1.ApproveNodeResponse, error) {
	n, err := s.change(ctx, req.GetNode(), func(tx *tailnet.Tx, id tailnet.NodeID) error {
		if n := tx.Snapshot().Node(id); !n.Pending {
			return tailnet.Errorf(tailnet.Conflict, "%s does not wait for approval", n.Name)
		}
		return tx.ApproveNode(id)
	})
	return &v1.ApproveNodeResponse{Node: n}, err
}

func (s nodes) RejectNode(ctx context.Context, req *v1.RejectNodeRequest) (*v1.RejectNodeResponse, error) {
	_, err := s.update(ctx, func(tx *tailnet.Tx) error {
		n, err := tx.Snapshot().ParseNodeRef(req.GetNode())
		if err != nil {
			return err
		}
		return tx.RejectNode(n.ID)
	})
	return &v1.RejectNodeResponse{}, err
}

func (s nodes) SetKeyExpiry(ctx context.Context, req *v1.SetKeyExpiryRequest) (*v1.SetKeyExpiryResponse, error) {
	n, err := s.change(ctx, req.GetNode(), func(tx *tailnet.Tx, id tailnet.NodeID) error {
		return tx.SetNoExpiry(id, req.GetDisabled())
	})
	return &v1.SetKeyExpiryResponse{Node: n}, err
}
