package api

import (
	"context"
	"net/netip"

	"heddle/api/wire"
	"heddle/control/tailnet"
	v1 "heddle/proto/heddle/v1"
)

func (s nodes) HoldNode(ctx context.Context, req *v1.HoldNodeRequest) (*v1.HoldNodeResponse, error) {
	n, err := s.change(ctx, req.GetNode(), (*tailnet.Tx).HoldNode)
	return &v1.HoldNodeResponse{Node: n}, err
}

func (s nodes) SetAddress(ctx context.Context, req *v1.SetAddressRequest) (*v1.SetAddressResponse, error) {
	addr, err := netip.ParseAddr(req.GetAddress())
	if err != nil {
		return nil, tailnet.Errorf(tailnet.Invalid, "%.60q is not an address such as 100.64.7.7", req.GetAddress())
	}
	n, err := s.change(ctx, req.GetNode(), func(tx *tailnet.Tx, id tailnet.NodeID) error { return tx.SetNodeAddress(id, addr.Unmap()) })
	return &v1.SetAddressResponse{Node: n}, err
}

func (s nodes) ListAttributes(ctx context.Context, req *v1.ListAttributesRequest) (*v1.ListAttributesResponse, error) {
	n, err := s.snapshot().ParseNodeRef(req.GetNode())
	if err != nil {
		return nil, err
	}
	return &v1.ListAttributesResponse{Attributes: wire.Attributes(n)}, nil
}

func (s nodes) SetAttribute(ctx context.Context, req *v1.SetAttributeRequest) (*v1.SetAttributeResponse, error) {
	a := tailnet.Attribute{Value: req.GetValue().AsInterface()}
	_, err := s.change(ctx, req.GetNode(), func(tx *tailnet.Tx, id tailnet.NodeID) (err error) {
		if req.GetExpiration() != nil || req.GetLifetime() != nil {
			if a.Expires, err = expires(req, tx.Now(), 0); err != nil {
				return err
			}
		}
		return tx.SetAttribute(id, req.GetName(), a)
	})
	if err != nil {
		return nil, err
	}
	return &v1.SetAttributeResponse{Attribute: wire.Attribute(req.GetName(), a)}, nil
}

func (s nodes) DeleteAttribute(ctx context.Context, req *v1.DeleteAttributeRequest) (*v1.DeleteAttributeResponse, error) {
	_, err := s.change(ctx, req.GetNode(), func(tx *tailnet.Tx, id tailnet.NodeID) error { return tx.DeleteAttribute(id, req.GetName()) })
	return &v1.DeleteAttributeResponse{}, err
}
