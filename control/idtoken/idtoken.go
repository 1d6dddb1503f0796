// Package idtoken owns the signed statements of who a device is, which clouds and
// other services accept in place of passwords (`tailscale id-token`), and the keys that sign
// them. It refuses to know how devices ask for them, and where the keys are kept.
package idtoken

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"heddle/control/tailnet"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	// Life is how long a token is good: it is exchanged for something else at once.
	Life = 15 * time.Minute
	// rotateAfter is how long a key signs.
	rotateAfter = 30 * 24 * time.Hour
	// announce is how long a key is published before it signs: relying parties keep the
	// list of keys for hours, some for a day.
	announce = 48 * time.Hour
	// keysFor is what relying parties are told about how long they may keep the list.
	keysFor = time.Hour
	// retire is how long a key is still published after it signed last.
	retire = 24 * time.Hour
	// keyBits: every relying party takes RS256, some nothing else (OpenID Connect Core §15.1 requires it).
	keyBits = 2048
)

// A Vault keeps the signing keys.
type Vault interface {
	// Load returns what was saved last, nil if nothing was.
	Load() ([]byte, error)
	// Save replaces it, whole or not at all.
	Save([]byte) error
}

// Issuer signs tokens. Make one with Open, serve its documents, and let Run run.
type Issuer struct {
	url   *url.URL
	vault Vault
	now   func() time.Time
	log   *slog.Logger
	keys  atomic.Pointer[[]signingKey] // ascending by Created; never empty
}

type signingKey struct {
	Created time.Time       `json:"created"`
	Key     jose.JSONWebKey `json:"key"` // private
}

// Open reads the keys, or makes the first. The issuer's name is the server's URL.
func Open(server *url.URL, v Vault, now func() time.Time, log *slog.Logger) (*Issuer, error) {
	i := &Issuer{url: server, vault: v, now: now, log: log}
	text, err := v.Load()
	if err != nil {
		return nil, fmt.Errorf("read the keys for identity tokens: %w", err)
	}
	var keys []signingKey
	if text != nil {
		if err := json.Unmarshal(text, &keys); err != nil {
			return nil, fmt.Errorf("the keys for identity tokens are damaged (%w): restore them from a backup, or remove them to make new ones", err)
		}
		for _, k := range keys {
			if _, ok := k.Key.Key.(*rsa.PrivateKey); !ok || k.Key.KeyID == "" {
				return nil, fmt.Errorf("the keys for identity tokens are damaged (key %q is no RSA private key): restore them from a backup, or remove them to make new ones", k.Key.KeyID)
			}
		}
	}
	if len(keys) == 0 {
		// Nobody has a list of keys yet, so the first one need not be announced.
		first, err := newKey(now().Add(-announce))
		if err != nil {
			return nil, err
		}
		keys = []signingKey{first}
		if err := i.save(keys); err != nil {
			return nil, err
		}
	}
	i.keys.Store(&keys)
	return i, nil
}

func newKey(created time.Time) (signingKey, error) {
	private, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return signingKey{}, fmt.Errorf("make a key for identity tokens: %w", err)
	}
	k := jose.JSONWebKey{Key: private, Algorithm: string(jose.RS256), Use: "sig"}
	sum, err := k.Thumbprint(crypto.SHA256)
	if err != nil {
		return signingKey{}, fmt.Errorf("make a key for identity tokens: %w", err)
	}
	k.KeyID = fmt.Sprintf("%x", sum[:10])
	return signingKey{created.UTC(), k}, nil
}

func (i *Issuer) save(keys []signingKey) error {
	text, err := json.Marshal(keys)
	if err != nil {
		return fmt.Errorf("save the keys for identity tokens: %w", err)
	}
	if err := i.vault.Save(text); err != nil {
		return fmt.Errorf("save the keys for identity tokens: %w", err)
	}
	return nil
}

// Run makes new keys in time, until ctx ends.
func (i *Issuer) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		if err := i.rotate(); err != nil {
			i.log.Error("keys for identity tokens not rotated: the old ones stay in use", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// rotate announces the next key if it is time to, and drops keys that signed long ago.
func (i *Issuer) rotate() error {
	now := i.now()
	old := *i.keys.Load()
	keys := slices.Clone(old)
	if now.Sub(keys[len(keys)-1].Created) >= rotateAfter {
		next, err := newKey(now)
		if err != nil {
			return err
		}
		keys = append(keys, next)
	}
	// A key signs until its successor was announced for long enough.
	for len(keys) > 1 && now.Sub(keys[1].Created) >= announce+Life+retire {
		keys = keys[1:]
	}
	if len(keys) == len(old) && keys[0].Key.KeyID == old[0].Key.KeyID {
		return nil
	}
	if err := i.save(keys); err != nil {
		return err
	}
	i.keys.Store(&keys)
	i.log.Info("keys for identity tokens rotated", "keys", len(keys))
	return nil
}

// signer is the newest key that was announced for long enough.
func (i *Issuer) signer() jose.JSONWebKey {
	keys := *i.keys.Load()
	now := i.now()
	for _, k := range slices.Backward(keys) {
		if now.Sub(k.Created) >= announce {
			return k.Key
		}
	}
	return keys[0].Key
}

// claims are those that tailcfg.TokenResponse lists.
type claims struct {
	jwt.Claims
	Key       string         `json:"key"`
	Addresses []string       `json:"addresses"`
	NodeID    tailnet.NodeID `json:"nid"`
	Node      string         `json:"node"`
	Domain    string         `json:"domain"`
	Tags      []string       `json:"tags,omitempty"`
	User      string         `json:"user,omitempty"`
	UserID    tailnet.UserID `json:"uid,omitempty"`
}

// Sign states to an audience who a node of the snapshot is.
func (i *Issuer) Sign(s *tailnet.Snapshot, n *tailnet.Node, audience string) (string, error) {
	now := i.now()
	domain := s.DNS().BaseDomain
	name := strings.TrimSuffix(s.FQDN(n), ".")
	c := claims{
		Claims: jwt.Claims{
			Issuer: i.url.String(), Subject: name, Audience: jwt.Audience{audience}, ID: rand.Text(),
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(Life)),
		},
		Key: n.Key.String(), NodeID: n.ID, Node: name, Domain: domain,
	}
	for _, p := range n.Addrs.Prefixes() {
		c.Addresses = append(c.Addresses, p.String())
	}
	for _, tag := range n.Tags {
		c.Tags = append(c.Tags, domain+":"+tag)
	}
	if u := s.User(n.Owner); u != nil {
		c.User, c.UserID = domain+":"+u.Login(), u.ID
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: i.signer()}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", fmt.Errorf("sign an identity token: %w", err)
	}
	return jwt.Signed(signer).Claims(c).Serialize()
}

// Paths of the documents, relative to the server's URL.
const (
	ConfigurationPath = "/.well-known/openid-configuration"
	KeysPath          = "/.well-known/jwks.json"
)

// ServeConfiguration tells relying parties how tokens are signed (OpenID Connect Discovery §3).
// There is nowhere to log in, and so no more than they need.
func (i *Issuer) ServeConfiguration(w http.ResponseWriter, r *http.Request) {
	writeDocument(w, map[string]any{
		"issuer":                                i.url.String(),
		"jwks_uri":                              i.url.JoinPath(KeysPath).String(),
		"claims_supported":                      []string{"sub", "aud", "exp", "iat", "iss", "jti", "nbf", "key", "addresses", "nid", "node", "domain", "tags", "user", "uid"},
		"id_token_signing_alg_values_supported": []string{string(jose.RS256)},
		"response_types_supported":              []string{"id_token"},
		"scopes_supported":                      []string{"openid"},
		"subject_types_supported":               []string{"public"},
	})
}

// ServeKeys publishes the public keys (RFC 7517).
func (i *Issuer) ServeKeys(w http.ResponseWriter, r *http.Request) {
	var set jose.JSONWebKeySet
	for _, k := range *i.keys.Load() {
		set.Keys = append(set.Keys, k.Key.Public())
	}
	writeDocument(w, set)
}

func writeDocument(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", fmt.Sprintf("public, max-age=%d", int(keysFor.Seconds())))
	w.Header().Set("Access-Control-Allow-Origin", "*")
	json.NewEncoder(w).Encode(v) // an error means that the caller has left
}
