package api

import (
	"context"

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
	prepared, err := tailnet.PreparePolicy(s.snapshot(), req.GetPolicy())
	if err != nil {
		return nil, err
	}
	snap, err := s.update(ctx, func(tx *tailnet.Tx) error { return tx.SetPolicy(prepared, req.GetIfMatch()) })
	if err != nil {
		return nil, err
	}
	p := snap.Policy()
	return &v1.SetPolicyResponse{Policy: p.Source, UpdatedAt: timestamp(p.Updated), Etag: p.ETag}, nil
}

func (s policies) CheckPolicy(_ context.Context, req *v1.CheckPolicyRequest) (*v1.CheckPolicyResponse, error) {
	_, err := tailnet.PreparePolicy(s.snapshot(), req.GetPolicy())
	if problems := problemsOf(err); problems != nil {
		return &v1.CheckPolicyResponse{Problems: problems}, nil
	}
	return &v1.CheckPolicyResponse{}, err
}
