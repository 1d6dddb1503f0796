package api

import (
	"context"
	"strings"
	"time"

	"heddle/api/wire"
	"heddle/control/tailnet"
	v1 "heddle/proto/heddle/v1"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	defaultAuthKeyLife = time.Hour
	defaultAPIKeyLife  = 90 * 24 * time.Hour
)

// lifespan is the part of a request that says how long a key, or what else ends, shall live.
type lifespan interface {
	GetExpiration() *timestamppb.Timestamp
	GetLifetime() *durationpb.Duration
}

// expires returns when what is made at now shall expire.
func expires(req lifespan, now time.Time, otherwise time.Duration) (time.Time, error) {
	at, life := req.GetExpiration(), req.GetLifetime()
	switch {
	case at != nil && life != nil:
		return time.Time{}, tailnet.Errorf(tailnet.Invalid, "give either expiration or lifetime")
	case at != nil && at.CheckValid() != nil, life != nil && life.CheckValid() != nil:
		return time.Time{}, tailnet.Errorf(tailnet.Invalid, "expiration is not a valid time")
	case at != nil:
		return at.AsTime(), nil
	case life != nil:
		return now.Add(life.AsDuration()), nil
	}
	return now.Add(otherwise), nil
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
		until, err := expires(req, tx.Now(), defaultAuthKeyLife)
		if err != nil {
			return err
		}
		secret, key, err = tx.CreateAuthKey(tailnet.AuthKeySpec{
			Owner: user, Tags: req.GetAclTags(), Reusable: req.GetReusable(), Ephemeral: req.GetEphemeral(),
			Description: req.GetDescription(), Expires: until, Approved: req.GetPreauthorized(),
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	out := wire.AuthKey(snap, key, s.opts.Now())
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
		resp.PreAuthKeys = append(resp.PreAuthKeys, wire.AuthKey(snap, k, s.opts.Now()))
	}
	return resp, nil
}

// authKeyRef is how a request names an auth key.
type authKeyRef interface {
	GetId() uint64
	GetKey() string
	GetUser() string
}

// findAuthKey returns the key that a request names by ID or text.
func findAuthKey(snap *tailnet.Snapshot, req authKeyRef) (tailnet.AuthKeyID, error) {
	user, err := optionalUser(snap, req.GetUser())
	if err != nil {
		return 0, err
	}
	if k := snap.AuthKey(tailnet.AuthKeyID(req.GetId())); k != nil && (user == 0 || k.Owner == user) {
		return k.ID, nil
	}
	if text := req.GetKey(); text != "" {
		name := public(text, wire.AuthKeyPrefix)
		for k := range snap.AuthKeys() {
			if k.Public == name && (user == 0 || k.Owner == user) {
				return k.ID, nil
			}
		}
	}
	return 0, tailnet.Errorf(tailnet.NotFound, "no such pre-auth key; `heddle preauthkeys list` shows them with their IDs")
}

func (s preAuthKeys) ExpirePreAuthKey(ctx context.Context, req *v1.ExpirePreAuthKeyRequest) (*v1.ExpirePreAuthKeyResponse, error) {
	_, err := s.update(ctx, func(tx *tailnet.Tx) error {
		id, err := findAuthKey(tx.Snapshot(), req)
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
		id, err := findAuthKey(tx.Snapshot(), req)
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
	var secret string
	var key *tailnet.APIKey
	snap, err := s.update(ctx, func(tx *tailnet.Tx) error {
		user, err := optionalUser(tx.Snapshot(), req.GetUser())
		if err != nil {
			return err
		}
		until, err := expires(req, tx.Now(), defaultAPIKeyLife)
		if err != nil {
			return err
		}
		secret, key, err = tx.CreateAPIKey(tailnet.APIKeySpec{Owner: user, Role: role, Scopes: req.GetScopes(), Description: req.GetDescription(), Expires: until})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &v1.CreateApiKeyResponse{ApiKey: secret, Key: wire.APIKey(snap, key, s.opts.Now())}, nil
}

func (s apiKeys) ListApiKeys(ctx context.Context, req *v1.ListApiKeysRequest) (*v1.ListApiKeysResponse, error) {
	snap := s.snapshot()
	list, next, err := page(req, snap.APIKeys(),
		func(k *tailnet.APIKey) tailnet.APIKeyID { return k.ID },
		func(k *tailnet.APIKey) bool { return k.Kind == tailnet.KeyAPI }) // OAuth clients have a service of their own
	if err != nil {
		return nil, err
	}
	resp := &v1.ListApiKeysResponse{NextPageToken: next}
	for _, k := range list {
		resp.ApiKeys = append(resp.ApiKeys, wire.APIKey(snap, k, s.opts.Now()))
	}
	return resp, nil
}

// findAPIKey returns the key that a request names by ID or text. OAuth clients and their tokens are none.
func findAPIKey(snap *tailnet.Snapshot, id uint64, text string) (tailnet.APIKeyID, error) {
	if k := snap.APIKey(tailnet.APIKeyID(id)); k != nil && k.Kind == tailnet.KeyAPI {
		return k.ID, nil
	}
	if text != "" {
		name := public(text, wire.APIKeyPrefix)
		for k := range snap.APIKeys() {
			if k.Public == name && k.Kind == tailnet.KeyAPI {
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
