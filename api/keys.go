package api

import (
	"context"
	"strings"
	"time"

	"heddle/control/tailnet"
	"heddle/policy"
	v1 "heddle/proto/heddle/v1"

	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	defaultAuthKeyLife = time.Hour
	defaultAPIKeyLife  = 90 * 24 * time.Hour
)

// expiration returns the time of a request, or the default if it has none.
func expiration(t *timestamppb.Timestamp, now time.Time, life time.Duration) (time.Time, error) {
	if t == nil {
		return now.Add(life), nil
	}
	if t.CheckValid() != nil || !t.AsTime().After(now) {
		return time.Time{}, tailnet.Errorf(tailnet.Invalid, "expiration must be a time in the future")
	}
	return t.AsTime(), nil
}

// public returns the part that names a key of what people may give for it: the
// secret, what lists show, or that part itself.
func public(text, prefix string) string {
	rest, isKey := strings.CutPrefix(strings.TrimSpace(text), prefix)
	if isKey {
		rest, _, _ = strings.Cut(rest, "-")
	}
	return rest
}

type preAuthKeys struct {
	*Server
	v1.UnimplementedPreAuthKeyServiceServer
}

func (s preAuthKeys) CreatePreAuthKey(ctx context.Context, req *v1.CreatePreAuthKeyRequest) (*v1.CreatePreAuthKeyResponse, error) {
	var secret string
	var key *tailnet.AuthKey
	snap, err := s.update(ctx, func(tx *tailnet.Tx) error {
		user, err := optionalUser(tx.Snapshot(), req.GetUser())
		if err != nil {
			return err
		}
		expires, err := expiration(req.GetExpiration(), tx.Now(), defaultAuthKeyLife)
		if err != nil {
			return err
		}
		secret, key, err = tx.CreateAuthKey(tailnet.AuthKeySpec{
			Owner: user, Tags: req.GetAclTags(), Reusable: req.GetReusable(), Ephemeral: req.GetEphemeral(),
			Description: req.GetDescription(), Expires: expires,
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	out := protoAuthKey(snap, key)
	out.Key = secret
	return &v1.CreatePreAuthKeyResponse{PreAuthKey: out}, nil
}

func (s preAuthKeys) ListPreAuthKeys(ctx context.Context, req *v1.ListPreAuthKeysRequest) (*v1.ListPreAuthKeysResponse, error) {
	snap := s.snapshot()
	user, err := optionalUser(snap, req.GetUser())
	if err != nil {
		return nil, err
	}
	list, next, err := page(req, snap.AuthKeys(),
		func(k *tailnet.AuthKey) tailnet.AuthKeyID { return k.ID },
		func(k *tailnet.AuthKey) bool { return user == 0 || k.Owner == user })
	if err != nil {
		return nil, err
	}
	resp := &v1.ListPreAuthKeysResponse{NextPageToken: next}
	for _, k := range list {
		resp.PreAuthKeys = append(resp.PreAuthKeys, protoAuthKey(snap, k))
	}
	return resp, nil
}

// findAuthKey returns the key that a request names by ID or text.
func findAuthKey(snap *tailnet.Snapshot, id uint64, text string) (tailnet.AuthKeyID, error) {
	if k := snap.AuthKey(tailnet.AuthKeyID(id)); id != 0 && k != nil {
		return k.ID, nil
	}
	if text != "" {
		name := public(text, authKeyPrefix)
		for k := range snap.AuthKeys() {
			if k.Public == name {
				return k.ID, nil
			}
		}
	}
	return 0, tailnet.Errorf(tailnet.NotFound, "no such pre-auth key; `heddle preauthkeys list` shows them with their IDs")
}

func (s preAuthKeys) ExpirePreAuthKey(ctx context.Context, req *v1.ExpirePreAuthKeyRequest) (*v1.ExpirePreAuthKeyResponse, error) {
	_, err := s.update(ctx, func(tx *tailnet.Tx) error {
		id, err := findAuthKey(tx.Snapshot(), req.GetId(), req.GetKey())
		if err != nil {
			return err
		}
		return tx.RevokeAuthKey(id)
	})
	if err != nil {
		return nil, err
	}
	return &v1.ExpirePreAuthKeyResponse{}, nil
}

func (s preAuthKeys) DeletePreAuthKey(ctx context.Context, req *v1.DeletePreAuthKeyRequest) (*v1.DeletePreAuthKeyResponse, error) {
	_, err := s.update(ctx, func(tx *tailnet.Tx) error {
		id, err := findAuthKey(tx.Snapshot(), req.GetId(), req.GetKey())
		if err != nil {
			return err
		}
		return tx.DeleteAuthKey(id)
	})
	if err != nil {
		return nil, err
	}
	return &v1.DeletePreAuthKeyResponse{}, nil
}

type apiKeys struct {
	*Server
	v1.UnimplementedApiKeyServiceServer
}

func (s apiKeys) CreateApiKey(ctx context.Context, req *v1.CreateApiKeyRequest) (*v1.CreateApiKeyResponse, error) {
	role, err := parseRole(req.GetRole())
	if err != nil {
		return nil, err
	}
	if role == "" {
		role = policy.Admin
	}
	var secret string
	var key *tailnet.APIKey
	_, err = s.update(ctx, func(tx *tailnet.Tx) error {
		expires, err := expiration(req.GetExpiration(), tx.Now(), defaultAPIKeyLife)
		if err != nil {
			return err
		}
		secret, key, err = tx.CreateAPIKey(tailnet.APIKeySpec{Role: role, Expires: expires})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &v1.CreateApiKeyResponse{ApiKey: secret, Key: protoAPIKey(key)}, nil
}

func (s apiKeys) ListApiKeys(ctx context.Context, req *v1.ListApiKeysRequest) (*v1.ListApiKeysResponse, error) {
	list, next, err := page(req, s.snapshot().APIKeys(),
		func(k *tailnet.APIKey) tailnet.APIKeyID { return k.ID },
		func(*tailnet.APIKey) bool { return true })
	if err != nil {
		return nil, err
	}
	resp := &v1.ListApiKeysResponse{NextPageToken: next}
	for _, k := range list {
		resp.ApiKeys = append(resp.ApiKeys, protoAPIKey(k))
	}
	return resp, nil
}

// findAPIKey returns the key that a request names by ID or text.
func findAPIKey(snap *tailnet.Snapshot, id uint64, text string) (tailnet.APIKeyID, error) {
	if k := snap.APIKey(tailnet.APIKeyID(id)); id != 0 && k != nil {
		return k.ID, nil
	}
	if text != "" {
		name := public(text, apiKeyPrefix)
		for k := range snap.APIKeys() {
			if k.Public == name {
				return k.ID, nil
			}
		}
	}
	return 0, tailnet.Errorf(tailnet.NotFound, "no such API key; `heddle apikeys list` shows them with their IDs")
}

func (s apiKeys) ExpireApiKey(ctx context.Context, req *v1.ExpireApiKeyRequest) (*v1.ExpireApiKeyResponse, error) {
	_, err := s.update(ctx, func(tx *tailnet.Tx) error {
		id, err := findAPIKey(tx.Snapshot(), req.GetId(), req.GetPrefix())
		if err != nil {
			return err
		}
		return tx.RevokeAPIKey(id)
	})
	if err != nil {
		return nil, err
	}
	return &v1.ExpireApiKeyResponse{}, nil
}

func (s apiKeys) DeleteApiKey(ctx context.Context, req *v1.DeleteApiKeyRequest) (*v1.DeleteApiKeyResponse, error) {
	_, err := s.update(ctx, func(tx *tailnet.Tx) error {
		id, err := findAPIKey(tx.Snapshot(), req.GetId(), req.GetPrefix())
		if err != nil {
			return err
		}
		return tx.DeleteAPIKey(id)
	})
	if err != nil {
		return nil, err
	}
	return &v1.DeleteApiKeyResponse{}, nil
}
