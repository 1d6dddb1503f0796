package hosted

import (
	"slices"
	"time"

	"heddle/control/tailnet"

	"github.com/go-chi/chi/v5"
)

// What can be a "key": auth keys, API keys, OAuth clients and federated identities. Their ID is the
// public part of the secret.
const (
	typeAuth      = "auth"
	typeAPI       = "api"
	typeClient    = "client"
	typeFederated = "federated"
)

type key struct {
	ID           string        `json:"id"`
	KeyType      string        `json:"keyType"`
	Key          string        `json:"key,omitempty"` // only when it is made
	Description  string        `json:"description"`
	Invalid      bool          `json:"invalid"`
	Capabilities *capabilities `json:"capabilities,omitempty"`
	Scopes       []string      `json:"scopes,omitempty"`
	Tags         []string      `json:"tags,omitempty"`
	UserID       string        `json:"userId,omitempty"`
	keyTimes
	federated
}

type keyTimes struct {
	ExpirySeconds *int64     `json:"expirySeconds,omitempty"`
	Created       time.Time  `json:"created"`
	Expires       *time.Time `json:"expires,omitempty"`
	Revoked       *time.Time `json:"revoked,omitempty"`
	LastUsed      *time.Time `json:"lastUsed,omitempty"`
}

type federated struct {
	Audience         string            `json:"audience,omitempty"`
	Issuer           string            `json:"issuer,omitempty"`
	Subject          string            `json:"subject,omitempty"`
	CustomClaimRules map[string]string `json:"customClaimRules,omitempty"`
}

type capabilities struct {
	Devices struct {
		Create struct {
			Reusable      bool     `json:"reusable"`
			Ephemeral     bool     `json:"ephemeral"`
			Preauthorized bool     `json:"preauthorized"`
			Tags          []string `json:"tags"`
		} `json:"create"`
	} `json:"devices"`
}

// keyRequest makes or changes a key.
type keyRequest struct {
	KeyType       string        `json:"keyType"`
	Description   string        `json:"description"`
	ExpirySeconds int64         `json:"expirySeconds"`
	Capabilities  *capabilities `json:"capabilities"`
	Scopes        []string      `json:"scopes"`
	Tags          []string      `json:"tags"`
	federated
}

// defaultKeyLife is how long an auth key is good if the request does not say, as at the hosted service.
const defaultKeyLife = 90 * 24 * time.Hour

func (s *Server) keyRoutes(r chi.Router) {
	any := tailnet.Right{} // it depends on the sort of the key
	r.Get("/keys", s.admin(any, s.listKeys))
	r.Post("/keys", s.admin(any, s.createKey))
	r.Get("/keys/{id}", s.admin(any, s.getKey))
	r.Put("/keys/{id}", s.admin(any, s.setKey))
	r.Delete("/keys/{id}", s.admin(any, s.deleteKey))
}

func stamp(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func (c *call) authKey(k *tailnet.AuthKey) key {
	out := key{
		ID: k.Public, KeyType: typeAuth, Description: k.Description,
		keyTimes: keyTimes{Created: k.Created.UTC(), Expires: stamp(k.Expires), Revoked: stamp(k.Revoked), LastUsed: stamp(k.Used)},
		Invalid:  k.Usable(c.server.Now()) != nil, Tags: k.Tags, Capabilities: &capabilities{},
	}
	seconds := int64(k.Expires.Sub(k.Created) / time.Second)
	out.ExpirySeconds = &seconds
	if k.Owner != 0 {
		out.UserID = k.Owner.String()
	}
	may := &out.Capabilities.Devices.Create
	may.Reusable, may.Ephemeral, may.Preauthorized, may.Tags = k.Reusable, k.Ephemeral, k.Approved, k.Tags
	return out
}

func (c *call) apiKey(k *tailnet.APIKey) key {
	out := key{
		ID: k.Public, KeyType: string(k.Kind), Description: k.Description, Scopes: k.Scopes, Tags: k.Tags,
		keyTimes: keyTimes{Created: k.Created.UTC(), Expires: stamp(k.Expires), Revoked: stamp(k.Revoked), LastUsed: stamp(k.LastUsed)},
		Invalid:  !k.Revoked.IsZero() || !k.Expires.IsZero() && !c.server.Now().Before(k.Expires),
	}
	if k.Owner != 0 {
		out.UserID = k.Owner.String()
	}
	if t := k.Trust; t != nil {
		out.federated = federated{t.Audience, t.Issuer, t.Subject, t.Claims}
	}
	return out
}

// listKeys lists the caller's own keys, or with all=true everybody's. What belongs to
// nobody is always listed.
func (s *Server) listKeys(c *call) (any, error) {
	all := c.URL.Query().Get("all") == "true"
	mine := func(owner tailnet.UserID) bool {
		return all || owner == 0 || owner == c.actor.User || c.actor.User == 0
	}
	keys := []key{}
	snap := c.snapshot()
	auths := snap.Can(c.actor, tailnet.Read(tailnet.AreaAuthKeys))
	for k := range snap.AuthKeys() {
		if auths && mine(k.Owner) {
			keys = append(keys, c.authKey(k))
		}
	}
	for k := range snap.APIKeys() {
		if c.maySee(k) && mine(k.Owner) {
			keys = append(keys, c.apiKey(k))
		}
	}
	return map[string][]key{"keys": keys}, nil
}

// maySee reports whether the caller may know of a key. Tokens are nobody's business.
func (c *call) maySee(k *tailnet.APIKey) bool {
	area := tailnet.AreaOAuth
	switch k.Kind {
	case tailnet.KeyToken:
		return false
	case tailnet.KeyAPI:
		area = tailnet.AreaAPIKeys
	}
	return c.snapshot().Can(c.actor, tailnet.Read(area))
}

// find returns the key of the path: one of the two is nil.
func (c *call) find() (*tailnet.AuthKey, *tailnet.APIKey, error) {
	id, snap := chi.URLParam(c.Request, "id"), c.snapshot()
	auths := snap.Can(c.actor, tailnet.Read(tailnet.AreaAuthKeys))
	for k := range snap.AuthKeys() {
		if auths && k.Public == id {
			return k, nil, nil
		}
	}
	for k := range snap.APIKeys() {
		if k.Public == id && c.maySee(k) {
			return nil, k, nil
		}
	}
	return nil, nil, tailnet.Errorf(tailnet.NotFound, "there is no key with the ID %.40q", id)
}

func (s *Server) getKey(c *call) (any, error) {
	auth, other, err := c.find()
	switch {
	case err != nil:
		return nil, err
	case auth != nil:
		return c.authKey(auth), nil
	}
	return c.apiKey(other), nil
}

func (s *Server) createKey(c *call) (any, error) {
	var req keyRequest
	if err := c.body(&req); err != nil {
		return nil, err
	}
	var secret string
	var out key
	_, err := c.update(func(tx *tailnet.Tx) (err error) {
		switch req.KeyType {
		case "", typeAuth:
			secret, out, err = c.createAuthKey(tx, req)
		case typeClient, typeFederated:
			var k *tailnet.APIKey
			if secret, k, err = tx.CreateClient(req.client()); err == nil {
				out = c.apiKey(k)
			}
		default:
			err = tailnet.Errorf(tailnet.Invalid, "keyType %.40q cannot be made here; it must be auth, client or federated", req.KeyType)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	out.Key = secret
	return out, nil
}

func (c *call) createAuthKey(tx *tailnet.Tx, req keyRequest) (string, key, error) {
	life := time.Duration(req.ExpirySeconds) * time.Second
	switch {
	case req.Capabilities == nil:
		return "", key{}, tailnet.Errorf(tailnet.Invalid, "an auth key needs capabilities.devices.create")
	case req.ExpirySeconds < 0 || req.ExpirySeconds > int64(10*365*24*time.Hour/time.Second):
		return "", key{}, tailnet.Errorf(tailnet.Invalid, "expirySeconds must be positive and at most ten years")
	case life == 0:
		life = defaultKeyLife
	}
	may := req.Capabilities.Devices.Create
	secret, k, err := tx.CreateAuthKey(tailnet.AuthKeySpec{
		Owner: c.actor.User, Tags: may.Tags, Reusable: may.Reusable, Ephemeral: may.Ephemeral, Approved: may.Preauthorized,
		Description: req.Description, Expires: tx.Now().Add(life),
	})
	if err != nil {
		return "", key{}, err
	}
	return secret, c.authKey(k), nil
}

func (r keyRequest) client() tailnet.ClientSpec {
	spec := tailnet.ClientSpec{Scopes: r.Scopes, Tags: slices.Clone(r.Tags), Description: r.Description}
	if r.KeyType == typeFederated {
		spec.Trust = &tailnet.Trust{Issuer: r.Issuer, Subject: r.Subject, Audience: r.Audience, Claims: r.CustomClaimRules}
	}
	return spec
}

func (s *Server) setKey(c *call) (any, error) {
	_, k, err := c.find()
	if err != nil {
		return nil, err
	}
	if k == nil {
		return nil, tailnet.Errorf(tailnet.Invalid, "an auth key cannot be changed; make another")
	}
	req := keyRequest{KeyType: string(k.Kind)}
	if err := c.body(&req); err != nil {
		return nil, err
	}
	snap, err := c.update(func(tx *tailnet.Tx) error { return tx.EditClient(k.ID, req.client()) })
	if err != nil {
		return nil, err
	}
	if k = snap.APIKey(k.ID); k == nil {
		return nil, tailnet.Errorf(tailnet.NotFound, "the OAuth client was deleted in the same moment")
	}
	return c.apiKey(k), nil
}

func (s *Server) deleteKey(c *call) (any, error) {
	auth, other, err := c.find()
	if err != nil {
		return nil, err
	}
	_, err = c.update(func(tx *tailnet.Tx) error {
		if auth != nil {
			return tx.DeleteAuthKey(auth.ID)
		}
		return tx.DeleteAPIKey(other.ID)
	})
	return nil, err
}
