package tailnet

import (
	"path"
	"slices"
	"strings"
	"time"
)

// KeyKind is what sort of credential an APIKey is.
type KeyKind string

const (
	KeyAPI       KeyKind = "api"       // a person's or a program's: tskey-api-…
	KeyClient    KeyKind = "client"    // an OAuth client, which exchanges its secret, tskey-client-…, for tokens
	KeyFederated KeyKind = "federated" // has no secret: it exchanges ID tokens of a trusted issuer for tokens
	KeyToken     KeyKind = "token"     // what they get: tskey-api-…, for an hour
)

const (
	clientPrefix = "tskey-client-"
	// TokenLife is how long an access token is good, as at the hosted service.
	TokenLife = time.Hour
	// maxTokens bounds the live tokens of one client: beyond it the oldest ends.
	maxTokens = 100
)

// Trust says whose ID tokens a federated identity takes (OpenID Connect Core §2). Immutable.
type Trust struct {
	Issuer   string            // exactly
	Subject  string            // "*" stands for any run of characters, but "/"
	Audience string            // one of the token's
	Claims   map[string]string // further claims, as patterns like Subject
}

// Matches reports whether a subject and claims, of a token that was verified for the issuer
// and the audience, are those that are trusted.
func (t *Trust) Matches(subject string, claims map[string]string) bool {
	if !like(t.Subject, subject) {
		return false
	}
	for name, pattern := range t.Claims {
		if value, ok := claims[name]; !ok || !like(pattern, value) {
			return false
		}
	}
	return true
}

// like matches "*" alone: the other special characters of path.Match are taken for themselves.
func like(pattern, s string) bool {
	if pattern == "*" {
		return s != ""
	}
	escaped := strings.NewReplacer(`\`, `\\`, `?`, `\?`, `[`, `\[`).Replace(pattern)
	ok, err := path.Match(escaped, s)
	return ok && err == nil
}

// ClientSpec says what OAuth client or federated identity to make.
type ClientSpec struct {
	Scopes      []string // required
	Tags        []string // with which, or with those that they own, it may make auth keys; required for scopes that concern devices and keys
	Description string
	Trust       *Trust // nil for an OAuth client
}

// CreateClient makes an OAuth client, whose secret is returned once and not kept, or a
// federated identity, which has none.
func (tx *Tx) CreateClient(s ClientSpec) (secret string, k *APIKey, err error) {
	if err := tx.may(Write(AreaOAuth), "create OAuth clients"); err != nil {
		return "", nil, err
	}
	if tx.snap.apiKeys.m.Len() >= maxKeys {
		return "", nil, Errorf(Exhausted, "there are %d API keys and clients already; delete some", maxKeys)
	}
	if err := tx.checkClient(&s); err != nil {
		return "", nil, err
	}
	tx.snap.lastID.APIKey++
	k = &APIKey{
		ID: tx.snap.lastID.APIKey, Kind: KeyClient, Owner: tx.actor.User, Scopes: s.Scopes, Tags: s.Tags,
		Description: s.Description, Created: tx.now, Trust: s.Trust,
	}
	secret, k.Public, k.Hash = newSecret(clientPrefix)
	if s.Trust != nil {
		secret, k.Kind = "", KeyFederated
	}
	tx.putAPIKey(k, true)
	tx.audit("client.create", k.label(), clientChanges(&APIKey{}, k)...)
	return secret, k, nil
}

// EditClient changes what an OAuth client or a federated identity may do. It stays what it is; its
// tokens end.
func (tx *Tx) EditClient(id APIKeyID, s ClientSpec) error {
	k, err := tx.apiKey(id, "change OAuth clients")
	if err != nil {
		return err
	}
	if !k.isClient() {
		return Errorf(Conflict, "%s is no OAuth client; make another key instead", k.label())
	}
	if (s.Trust != nil) != (k.Kind == KeyFederated) {
		return Errorf(Invalid, "an OAuth client has a secret and a federated identity an issuer; neither becomes the other")
	}
	if err := tx.checkClient(&s); err != nil {
		return err
	}
	out := *k
	out.Scopes, out.Tags, out.Description, out.Trust = s.Scopes, s.Tags, s.Description, s.Trust
	tx.putAPIKey(&out, true)
	tx.dropTokens(k.ID, 0)
	tx.audit("client.edit", out.label(), clientChanges(k, &out)...)
	return nil
}

func (tx *Tx) checkClient(s *ClientSpec) error {
	if err := checkText(s.Description); err != nil {
		return err
	}
	if len(s.Scopes) == 0 {
		return Errorf(Invalid, "a client needs scopes, such as auth_keys or devices:core:read")
	}
	if err := tx.checkScopes(&s.Scopes); err != nil {
		return err
	}
	var err error
	if s.Tags, err = tx.checkTags(s.Tags); err != nil {
		return err
	}
	client := Actor{Kind: ByAPIKey, Scopes: s.Scopes}
	if len(s.Tags) == 0 && (client.Can(Write(AreaAuthKeys)) || client.Can(Write(AreaDevices))) {
		return Errorf(Invalid, "a client that may change auth keys or devices needs tags for them, such as `--tags tag:ci`")
	}
	if err := tx.limitTags(s.Tags, "a client"); err != nil {
		return err
	}
	if t := s.Trust; t != nil {
		if !strings.HasPrefix(t.Issuer, "https://") || t.Subject == "" || t.Audience == "" {
			return Errorf(Invalid, "a federated identity needs an issuer (https://…), a subject and an audience")
		}
		texts := []string{t.Issuer, t.Subject, t.Audience}
		for name, pattern := range t.Claims {
			texts = append(texts, name, pattern)
		}
		for _, text := range texts {
			if err := checkText(text); err != nil {
				return err
			}
		}
		if len(t.Claims) > maxClaims {
			return Errorf(Invalid, "a federated identity can ask for %d claims at most", maxClaims)
		}
	}
	return nil
}

const maxClaims = 20

// checkScopes sorts scopes and refuses those that do not exist, and rights that the actor does not have.
func (tx *Tx) checkScopes(scopes *[]string) error {
	*scopes = sortedUnique(*scopes)
	for _, scope := range *scopes {
		if !KnownScope(scope) {
			return errUnknownScope(scope)
		}
	}
	return tx.mayGive(Actor{Kind: ByAPIKey, Scopes: *scopes})
}

// mayGive refuses to make a credential with rights that the actor does not have.
func (tx *Tx) mayGive(key Actor) error {
	for _, area := range Areas {
		for _, r := range []Right{Read(area), Write(area)} {
			if key.Can(r) && !tx.snap.Can(tx.actor, r) {
				return Errorf(Denied, "%s may not give away the right %s, which it does not have itself", tx.actor, r)
			}
		}
	}
	return nil
}

func clientChanges(old, k *APIKey) []Change {
	trust := func(t *Trust) string {
		if t == nil {
			return ""
		}
		return t.Issuer + " " + t.Subject + " " + t.Audience
	}
	return differing(
		Change{"scopes", strings.Join(old.Scopes, " "), strings.Join(k.Scopes, " ")},
		Change{"tags", strings.Join(old.Tags, ","), strings.Join(k.Tags, ",")},
		Change{"description", old.Description, k.Description},
		Change{"trust", trust(old.Trust), trust(k.Trust)},
	)
}

// FindClient returns the OAuth client with that secret.
func (s *Snapshot) FindClient(secret string) (*APIKey, error) {
	secret = strings.TrimSpace(secret)
	id, _ := s.index.apiKey.Get(publicPart(secret, clientPrefix))
	k := s.APIKey(id)
	if k == nil || k.Kind != KeyClient || !matches(secret, k.Hash) || !k.Revoked.IsZero() {
		return nil, Errorf(Denied, "this client secret is not valid here")
	}
	return k, nil
}

// FederatedIdentity returns the federated identity with that public ID, or nil.
func (s *Snapshot) FederatedIdentity(public string) *APIKey {
	id, _ := s.index.apiKey.Get(public)
	if k := s.APIKey(id); k != nil && k.Kind == KeyFederated && k.Revoked.IsZero() {
		return k
	}
	return nil
}

// MintToken makes an access token for an OAuth client or a federated identity, whose
// secret or ID token the caller has checked. It has the client's scopes and tags, or those of them
// that are asked for. The secret is returned once and not kept.
func (tx *Tx) MintToken(client APIKeyID, scopes, tags []string) (secret string, k *APIKey, err error) {
	c := tx.snap.APIKey(client)
	if c == nil || !c.Revoked.IsZero() || !c.isClient() {
		return "", nil, Errorf(Denied, "this client does not exist any more")
	}
	k = &APIKey{Kind: KeyToken, Parent: c.ID, Scopes: c.Scopes, Tags: c.Tags, Created: tx.now, Expires: tx.now.Add(TokenLife)}
	if len(scopes) > 0 {
		k.Scopes = sortedUnique(scopes)
		have := Actor{Kind: ByAPIKey, Scopes: c.Scopes}
		for _, scope := range k.Scopes {
			if !KnownScope(scope) {
				return "", nil, errUnknownScope(scope)
			}
			for _, area := range Areas {
				for _, r := range []Right{Read(area), Write(area)} {
					if ScopeMay(scope, r) && !have.Can(r) {
						return "", nil, Errorf(Denied, "client %s does not have the scope %s", c.Public, scope)
					}
				}
			}
		}
	}
	if len(tags) > 0 {
		k.Tags = sortedUnique(tags)
		for _, tag := range k.Tags {
			if !tx.ownsTag(c.Tags, tag) {
				return "", nil, Errorf(Denied, "client %s has neither the tag %s nor one that owns it", c.Public, tag)
			}
		}
	}
	tx.dropTokens(c.ID, maxTokens-1)
	tx.TouchAPIKey(c.ID)
	tx.snap.lastID.APIKey++
	k.ID = tx.snap.lastID.APIKey
	secret, k.Public, k.Hash = newSecret(apiPrefix)
	tx.putAPIKey(k, true)
	tx.audit("client.token", c.label(), Change{"token", "", k.Public}, Change{"scopes", "", strings.Join(k.Scopes, " ")})
	return secret, k, nil
}

// isClient tells OAuth clients and federated identities from keys and tokens.
func (k *APIKey) isClient() bool { return k.Kind == KeyClient || k.Kind == KeyFederated }

// ownsTag reports whether somebody with tags may give a tag: their own, and those that theirs own.
func (tx *Tx) ownsTag(have []string, tag string) bool {
	return slices.Contains(have, tag) || tx.mayTag(nil, have, tag)
}

// dropTokens forgets a client's tokens that have expired, and of the others the oldest but keep.
func (tx *Tx) dropTokens(client APIKeyID, keep int) {
	var live []*APIKey
	for k := range tx.snap.APIKeys() {
		switch {
		case k.Kind != KeyToken || k.Parent != client:
		case tx.now.Before(k.Expires):
			live = append(live, k)
		default:
			tx.forgetAPIKey(k)
		}
	}
	for _, k := range live[:max(0, len(live)-keep)] {
		tx.forgetAPIKey(k)
	}
}

// limitTags keeps credentials with tags to these and those that they own.
func (tx *Tx) limitTags(tags []string, what string) error {
	if tx.actor.Kind != ByAPIKey || len(tx.actor.Tags) == 0 {
		return nil
	}
	if len(tags) == 0 {
		return Errorf(Denied, "%s needs tags for %s", tx.actor, what)
	}
	for _, tag := range tags {
		if !tx.ownsTag(tx.actor.Tags, tag) {
			return Errorf(Denied, "%s may not give the tag %s: it has neither the tag nor one that owns it", tx.actor, tag)
		}
	}
	return nil
}
