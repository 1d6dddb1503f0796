package api

import (
	"context"
	"errors"

	"heddle/control/tailnet"
	v1 "heddle/proto/heddle/v1"
)

type policies struct {
	*Server
	v1.UnimplementedPolicyServiceServer
}

func (s policies) GetPolicy(context.Context, *v1.GetPolicyRequest) (*v1.GetPolicyResponse, error) {
	p := s.snapshot().Policy()
	return &v1.GetPolicyResponse{Policy: p.Source, UpdatedAt: timestamp(p.Updated), Etag: p.ETag, UpdatedBy: p.By}, nil
}

func (s policies) SetPolicy(ctx context.Context, req *v1.SetPolicyRequest) (*v1.SetPolicyResponse, error) {
	if s.opts.PolicyFile != "" {
		return nil, tailnet.Errorf(tailnet.Conflict, "the policy comes from %s (policy.path in the config): edit that file instead", s.opts.PolicyFile)
	}
	snap, err := s.update(ctx, func(tx *tailnet.Tx) error {
		return tx.SetPolicy(req.GetPolicy(), req.GetIfMatch())
	})
	if err != nil {
		return nil, err
	}
	p := snap.Policy()
	return &v1.SetPolicyResponse{Policy: p.Source, UpdatedAt: timestamp(p.Updated), Etag: p.ETag}, nil
}

// errOnlyChecked ends an update that must not happen.
var errOnlyChecked = errors.New("only checked")

// CheckPolicy sets the policy in an update that then fails, so that it says
// exactly what SetPolicy would.
func (s policies) CheckPolicy(ctx context.Context, req *v1.CheckPolicyRequest) (*v1.CheckPolicyResponse, error) {
	_, err := s.update(ctx, func(tx *tailnet.Tx) error {
		if err := tx.SetPolicy(req.GetPolicy(), ""); err != nil {
			return err
		}
		return errOnlyChecked
	})
	if errors.Is(err, errOnlyChecked) {
		return &v1.CheckPolicyResponse{}, nil
	}
	if problems := problemsOf(err); problems != nil {
		return &v1.CheckPolicyResponse{Problems: problems}, nil
	}
	return nil, err
}
