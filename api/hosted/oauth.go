package hosted

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"heddle/api/callers"
	"heddle/control/tailnet"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/sync/singleflight"
)

// maxForm bounds the form that a stranger sends: an ID token has a few KB.
const maxForm = 64 << 10

// form reads the form of a request for a token.
func (c *call) form() error {
	c.Request.Body = http.MaxBytesReader(nil, c.Request.Body, maxForm)
	if err := c.ParseForm(); err != nil {
		return tailnet.Errorf(tailnet.Invalid, "the body is not a form of at most %d bytes", maxForm)
	}
	return nil
}

// granted is what clients of RFC 6749 §5.1 expect.
type granted struct {
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	ExpiresIn   int    `json:"expires_in"` // seconds
	Scope       string `json:"scope"`
}

// token exchanges the secret of an OAuth client for a token (RFC 6749 §4.4). The secret names
// its client: stock clients send another ID.
func (s *Server) token(c *call) (any, error) {
	if err := c.form(); err != nil {
		return nil, err
	}
	secret := c.PostForm.Get("client_secret")
	if _, password, ok := c.BasicAuth(); ok && secret == "" {
		secret = password
	}
	if g := c.PostForm.Get("grant_type"); g != "" && g != "client_credentials" {
		return nil, tailnet.Errorf(tailnet.Invalid, "the grant type %.40q is not known here; it must be client_credentials", g)
	}
	client, err := c.snapshot().FindClient(secret)
	if err != nil {
		// The limit is on guesses alone: who has a secret is served, whoever else calls from there.
		if err := s.Gate.MayTry(c.Request); err != nil {
			return nil, err
		}
		s.Gate.Wrong(c.Request)
		return nil, err
	}
	return s.grant(c, client, strings.Fields(c.PostForm.Get("scope")), strings.Fields(c.PostForm.Get("tags")))
}

// exchange does the same for an ID token of an issuer that a federated identity trusts (RFC 8693 in
// spirit, with the fields of the hosted service).
func (s *Server) exchange(c *call) (any, error) {
	if err := s.Gate.MayTry(c.Request); err != nil {
		return nil, err
	}
	if err := c.form(); err != nil {
		return nil, err
	}
	id, _, _ := strings.Cut(c.PostForm.Get("client_id"), "?")
	client := c.snapshot().FederatedIdentity(strings.TrimPrefix(id, tailnet.Default+"/"))
	if client == nil {
		s.Gate.Wrong(c.Request)
		return nil, tailnet.Errorf(tailnet.Denied, "there is no federated identity of that client ID")
	}
	subject, claims, err := s.issuers.verify(c.Context(), client.Trust, c.PostForm.Get("jwt"))
	if err == nil && !client.Trust.Matches(subject, claims) {
		err = tailnet.Errorf(tailnet.Denied, "the subject %q, or another claim, is not what the federated identity %s trusts", subject, client.Public)
	}
	if err != nil {
		s.Gate.Wrong(c.Request)
		if tailnet.CodeOf(err) == tailnet.Denied {
			s.Log.Warn("identity token refused", "client", client.Public, "remote", c.RemoteAddr, "err", err)
		}
		return nil, err
	}
	return s.grant(c, client, nil, nil)
}

func (s *Server) grant(c *call, client *tailnet.APIKey, scopes, tags []string) (any, error) {
	if err := s.Gate.Pace(c.Request, client); err != nil {
		return nil, err
	}
	var secret string
	var k *tailnet.APIKey
	c.actor = tailnet.Actor{Kind: tailnet.ByAPIKey, Name: client.Public, Scopes: client.Scopes, Tags: client.Tags, From: callers.Address(c.Request)}
	_, err := c.update(func(tx *tailnet.Tx) (err error) {
		secret, k, err = tx.MintToken(client.ID, scopes, tags)
		return err
	})
	if err != nil {
		return nil, err
	}
	return granted{AccessToken: secret, TokenType: "Bearer", ExpiresIn: int(tailnet.TokenLife.Seconds()), Scope: strings.Join(k.Scopes, " ")}, nil
}

// issuers verifies ID tokens. What issuers publish is fetched when it is needed first, and kept.
type issuers struct {
	http   *http.Client
	now    func() time.Time
	asking singleflight.Group // by name: many jobs begin at once

	mu    sync.Mutex
	known map[string]*issuer
}

type issuer struct {
	provider *oidc.Provider // keeps the keys, too
	err      error          // why it could not be reached; nil with provider
	until    time.Time      // when to ask again
}

const (
	// maxIssuers bounds the table; admins fill it.
	maxIssuers = 1000
	// issuerTime bounds the wait for an issuer, maxDocument what it sends.
	issuerTime  = 10 * time.Second
	maxDocument = 1 << 20
	// issuerKept is how long an issuer's keys, and their place, are believed; keys are fetched sooner
	// if a token has a new one. issuerRetry is how long a failure is.
	issuerKept  = time.Hour
	issuerRetry = 10 * time.Second
	// issuerSkew is how much an issuer's clock may be ahead of ours.
	issuerSkew = time.Minute
)

func newIssuers(client *http.Client, now func() time.Time) *issuers {
	if client == nil {
		client = &http.Client{}
	}
	bounded := *client
	bounded.Timeout = issuerTime
	bounded.Transport = boundedTransport{client.Transport}
	return &issuers{http: &bounded, now: now, known: map[string]*issuer{}}
}

// boundedTransport keeps an issuer from sending without end, and from naming keys, or going on to
// places, that others on the way could be.
type boundedTransport struct{ next http.RoundTripper }

func (b boundedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" {
		return nil, fmt.Errorf("%s is not https", r.URL.Redacted())
	}
	next := b.next
	if next == nil {
		next = http.DefaultTransport
	}
	resp, err := next.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxDocument), resp.Body}
	}
	return resp, err
}

// verify checks an ID token against the issuer and the audience of a trust, and returns its
// subject and those claims that are texts.
func (i *issuers) verify(ctx context.Context, t *tailnet.Trust, token string) (subject string, claims map[string]string, err error) {
	provider, err := i.provider(t.Issuer)
	if err != nil {
		return "", nil, &tailnet.Error{Code: tailnet.Unavailable, Msg: fmt.Sprintf("the issuer %s cannot be reached; try again later", t.Issuer), Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, issuerTime)
	defer cancel()
	got, err := provider.Verifier(&oidc.Config{ClientID: t.Audience, Now: i.now}).Verify(ctx, token)
	if err == nil && got.IssuedAt.After(i.now().Add(issuerSkew)) {
		err = fmt.Errorf("it was made in the future, at %v; are the clocks right?", got.IssuedAt)
	}
	if err != nil {
		return "", nil, &tailnet.Error{Code: tailnet.Denied, Msg: "the identity token is not valid here: it must be of the trusted issuer, for the trusted audience, and fresh", Err: err}
	}
	var all map[string]json.RawMessage
	if err := got.Claims(&all); err != nil {
		return "", nil, &tailnet.Error{Code: tailnet.Denied, Msg: "the identity token has no claims", Err: err}
	}
	claims = map[string]string{}
	for name, value := range all {
		var text string
		if json.Unmarshal(value, &text) == nil {
			claims[name] = text
		}
	}
	return got.Subject, claims, nil
}

// provider asks an issuer where its keys are, once for all who wait for that. Failures are remembered for
// a moment, so that strangers cannot make the server ask without end.
func (i *issuers) provider(name string) (*oidc.Provider, error) {
	known := i.fresh(name)
	if known == nil {
		v, _, _ := i.asking.Do(name, func() (any, error) {
			if known := i.fresh(name); known != nil {
				return known, nil // by the one before
			}
			return i.ask(name), nil
		})
		known = v.(*issuer)
	}
	return known.provider, known.err
}

// fresh returns what is known of an issuer; nil if that is nothing, or old.
func (i *issuers) fresh(name string) *issuer {
	i.mu.Lock()
	defer i.mu.Unlock()
	if known := i.known[name]; known != nil && i.now().Before(known.until) {
		return known
	}
	return nil
}

func (i *issuers) ask(name string) *issuer {
	// The provider keeps this context for fetching keys later.
	ctx := oidc.ClientContext(context.Background(), i.http)
	fresh := &issuer{until: i.now().Add(issuerKept)}
	if fresh.provider, fresh.err = oidc.NewProvider(ctx, name); fresh.err != nil {
		fresh.until = i.now().Add(issuerRetry)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.known) >= maxIssuers {
		clear(i.known)
	}
	i.known[name] = fresh
	return fresh
}
