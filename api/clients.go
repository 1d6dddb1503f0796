package api

import (
	"context"
	"strconv"

	"heddle/api/wire"
	"heddle/control/tailnet"
	v1 "heddle/proto/heddle/v1"
)

type oauthClients struct {
	*Server
	v1.UnimplementedOAuthClientServiceServer
}

// isClient tells OAuth clients and federated identities from the other things that are kept as API keys.
func isClient(k *tailnet.APIKey) bool {
	return k.Kind == tailnet.KeyClient || k.Kind == tailnet.KeyFederated
}

func (s oauthClients) CreateOAuthClient(ctx context.Context, req *v1.CreateOAuthClientRequest) (*v1.CreateOAuthClientResponse, error) {
	var secret string
	var k *tailnet.APIKey
	snap, err := s.update(ctx, func(tx *tailnet.Tx) (err error) {
		secret, k, err = tx.CreateClient(tailnet.ClientSpec{
			Scopes: req.GetScopes(), Tags: req.GetTags(), Description: req.GetDescription(), Trust: trust(req.GetTrust()),
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &v1.CreateOAuthClientResponse{Secret: secret, Client: wire.Client(snap, k)}, nil
}

// trust returns what a request says of an issuer; nil if it says nothing.
func trust(t *v1.OAuthTrust) *tailnet.Trust {
	if t == nil {
		return nil
	}
	return &tailnet.Trust{Issuer: t.GetIssuer(), Subject: t.GetSubject(), Audience: t.GetAudience(), Claims: t.GetClaims()}
}

func (s oauthClients) ListOAuthClients(ctx context.Context, req *v1.ListOAuthClientsRequest) (*v1.ListOAuthClientsResponse, error) {
	snap := s.snapshot()
	list, next, err := page(req, snap.APIKeys(), func(k *tailnet.APIKey) tailnet.APIKeyID { return k.ID }, isClient)
	if err != nil {
		return nil, err
	}
	resp := &v1.ListOAuthClientsResponse{NextPageToken: next}
	for _, k := range list {
		resp.Clients = append(resp.Clients, wire.Client(snap, k))
	}
	return resp, nil
}

// findClient returns the client that a request names by its client ID, its secret or its ID.
func findClient(snap *tailnet.Snapshot, ref string) (*tailnet.APIKey, error) {
	name := public(ref, wire.ClientPrefix)
	id, _ := strconv.ParseInt(name, 10, 64)
	var byID *tailnet.APIKey
	for k := range snap.APIKeys() {
		switch {
		case !isClient(k):
		case k.Public == name:
			return k, nil
		case int64(k.ID) == id:
			byID = k
		}
	}
	if byID == nil {
		return nil, tailnet.Errorf(tailnet.NotFound, "no such OAuth client; `heddle oauth-clients list` shows them with their IDs")
	}
	return byID, nil
}

func (s oauthClients) UpdateOAuthClient(ctx context.Context, req *v1.UpdateOAuthClientRequest) (*v1.UpdateOAuthClientResponse, error) {
	if len(req.GetUpdateMask().GetPaths()) == 0 {
		return nil, tailnet.Errorf(tailnet.Invalid, "update_mask must say what to change: scopes, tags, description or trust")
	}
	var id tailnet.APIKeyID
	snap, err := s.update(ctx, func(tx *tailnet.Tx) error {
		k, err := findClient(tx.Snapshot(), req.GetClient())
		if err != nil {
			return err
		}
		spec := tailnet.ClientSpec{Scopes: k.Scopes, Tags: k.Tags, Description: k.Description, Trust: k.Trust}
		for _, path := range req.GetUpdateMask().GetPaths() {
			switch path {
			case "scopes":
				spec.Scopes = req.GetScopes()
			case "tags":
				spec.Tags = req.GetTags()
			case "description":
				spec.Description = req.GetDescription()
			case "trust":
				spec.Trust = trust(req.GetTrust())
			default:
				return tailnet.Errorf(tailnet.Invalid, "update_mask: %q cannot be changed; scopes, tags, description and trust can", path)
			}
		}
		id = k.ID
		return tx.EditClient(k.ID, spec)
	})
	if err != nil {
		return nil, err
	}
	k := snap.APIKey(id)
	if k == nil { // another update of the same batch deleted it
		return nil, tailnet.Errorf(tailnet.NotFound, "OAuth client %d was deleted just now", id)
	}
	return &v1.UpdateOAuthClientResponse{Client: wire.Client(snap, k)}, nil
}

func (s oauthClients) DeleteOAuthClient(ctx context.Context, req *v1.DeleteOAuthClientRequest) (*v1.DeleteOAuthClientResponse, error) {
	_, err := s.update(ctx, func(tx *tailnet.Tx) error {
		k, err := findClient(tx.Snapshot(), req.GetClient())
		if err != nil {
			return err
		}
		return tx.DeleteAPIKey(k.ID)
	})
	if err != nil {
		return nil, err
	}
	return &v1.DeleteOAuthClientResponse{}, nil
}
