package api

import (
	"context"

	"heddle/api/wire"
	"heddle/control/tailnet"
	"heddle/policy"
	v1 "heddle/proto/heddle/v1"
)

type users struct {
	*Server
	v1.UnimplementedUserServiceServer
}

func (s users) CreateUser(ctx context.Context, req *v1.CreateUserRequest) (*v1.CreateUserResponse, error) {
	role, err := parseRole(req.GetRole())
	if err != nil {
		return nil, err
	}
	var u *tailnet.User
	_, err = s.update(ctx, func(tx *tailnet.Tx) (err error) {
		u, err = tx.CreateUser(tailnet.User{
			Name: req.GetName(), DisplayName: req.GetDisplayName(), Email: req.GetEmail(), PictureURL: req.GetPictureUrl(), Role: role,
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &v1.CreateUserResponse{User: wire.User(u)}, nil
}

func (s users) GetUser(_ context.Context, req *v1.GetUserRequest) (*v1.GetUserResponse, error) {
	u, err := s.snapshot().ParseUserRef(req.GetUser())
	if err != nil {
		return nil, err
	}
	return &v1.GetUserResponse{User: wire.User(u)}, nil
}

func (s users) ListUsers(ctx context.Context, req *v1.ListUsersRequest) (*v1.ListUsersResponse, error) {
	list, next, err := page(req, s.snapshot().Users(),
		func(u *tailnet.User) tailnet.UserID { return u.ID },
		func(u *tailnet.User) bool {
			return (req.GetId() == 0 || uint64(u.ID) == req.GetId()) &&
				(req.GetName() == "" || u.Name == req.GetName()) &&
				(req.GetEmail() == "" || u.Email == req.GetEmail())
		})
	if err != nil {
		return nil, err
	}
	resp := &v1.ListUsersResponse{NextPageToken: next}
	for _, u := range list {
		resp.Users = append(resp.Users, wire.User(u))
	}
	return resp, nil
}

func (s users) RenameUser(ctx context.Context, req *v1.RenameUserRequest) (*v1.RenameUserResponse, error) {
	var id tailnet.UserID
	snap, err := s.update(ctx, func(tx *tailnet.Tx) error {
		u, err := tx.Snapshot().ParseUserRef(req.GetUser())
		if err != nil {
			return err
		}
		id = u.ID
		return tx.RenameUser(id, req.GetNewName())
	})
	if err != nil {
		return nil, err
	}
	return &v1.RenameUserResponse{User: wire.Owner(snap, id)}, nil
}

func (s users) DeleteUser(ctx context.Context, req *v1.DeleteUserRequest) (*v1.DeleteUserResponse, error) {
	_, err := s.update(ctx, func(tx *tailnet.Tx) error {
		u, err := tx.Snapshot().ParseUserRef(req.GetUser())
		if err != nil {
			return err
		}
		return tx.DeleteUser(u.ID)
	})
	if err != nil {
		return nil, err
	}
	return &v1.DeleteUserResponse{}, nil
}

// parseRole returns the role of that name; none for an empty name.
func parseRole(name string) (policy.Role, error) {
	switch r := policy.Role(name); r {
	case "", policy.Owner, policy.Admin, policy.ITAdmin, policy.NetworkAdmin, policy.BillingAdmin, policy.Auditor, policy.Member:
		return r, nil
	}
	return "", tailnet.Errorf(tailnet.Invalid,
		"unknown role %q: there are owner, admin, it-admin, network-admin, billing-admin, auditor and member", name)
}
