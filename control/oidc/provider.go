package oidc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"heddle/control/tailnet"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

const (
	// maxAsking is how many logins may wait for one provider at a time. More
	// means that it does not answer, and each is a goroutine.
	maxAsking = 64

	// metadataLife is how long a provider's configuration and keys are used
	// before they are fetched anew, so that a key that was withdrawn is not believed for ever.
	metadataLife = time.Hour
)

// A provider is one issuer and what is known of it at present.
type provider struct {
	Config
	client *http.Client
	now    func() time.Time
	asking chan struct{} // holds one element for each request that may wait for the provider

	mu       sync.Mutex
	known    *metadata     // nil until the provider answered
	attempt  chan struct{} // closed when the fetch that is under way ends; nil if none is
	failures int           // of fetching, in a row
	retry    time.Time     // not to be asked before
	trouble  error
}

// metadata is what a provider says of itself.
type metadata struct {
	issuer   *oidc.Provider
	keys     *oidc.RemoteKeySet
	style    oauth2.AuthStyle
	tellsIss bool // it always names itself in its answers (RFC 9207)
	chooses  bool // it lets people choose an account
	fetched  time.Time
}

func newProvider(c Config, client *http.Client, now func() time.Time) *provider {
	c.Label = cmp.Or(c.Label, c.Name)
	if c.Scopes == nil {
		c.Scopes = []string{"profile", "email"}
	}
	return &provider{Config: c, client: client, now: now, asking: make(chan struct{}, maxAsking)}
}

// enter takes a place among those who may wait for the provider; leave gives it back.
func (p *provider) enter() (leave func(), err error) {
	select {
	case p.asking <- struct{}{}:
		return func() { <-p.asking }, nil
	default:
		return nil, p.unavailable(errors.New("too many logins wait for it"))
	}
}

// unavailable is the error for whatever keeps the provider from answering.
func (p *provider) unavailable(err error) *tailnet.Error {
	return &tailnet.Error{
		Code: tailnet.Unavailable,
		Msg:  fmt.Sprintf("%s does not answer as it should at present: try again in a minute. Devices that are logged in keep working.", p.Label),
		Err:  clipped(err),
	}
}

// distrust is the error for an answer that is not what was asked for.
func (p *provider) distrust(format string, args ...any) *tailnet.Error {
	return &tailnet.Error{
		Code: tailnet.Denied,
		Msg:  fmt.Sprintf("the answer of %s cannot be trusted, so nobody was logged in: begin anew; if that does not help, ask your administrator, whose log has the reason", p.Label),
		Err:  clipped(fmt.Errorf(format, args...)),
	}
}

// note keeps what Trouble tells: the outcome of the last time that the provider was asked.
func (p *provider) note(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trouble = err
}

// discover returns what the provider says of itself, which is asked for if it is not known or old.
// One request at a time does so, the others wait; after a failure none does for a moment.
func (p *provider) discover(ctx context.Context) (*metadata, error) {
	for {
		p.mu.Lock()
		now := p.now()
		switch m := p.known; {
		case m != nil && (now.Sub(m.fetched) < metadataLife || p.attempt != nil || now.Before(p.retry)):
			p.mu.Unlock()
			return m, nil
		case now.Before(p.retry):
			defer p.mu.Unlock()
			return nil, p.unavailable(p.trouble)
		case p.attempt == nil:
			p.attempt = make(chan struct{})
			p.mu.Unlock()
			return p.fetch(ctx)
		}
		attempt := p.attempt
		p.mu.Unlock()
		leave, err := p.enter()
		if err != nil {
			return nil, err
		}
		select {
		case <-attempt:
		case <-ctx.Done():
		}
		leave()
		if ctx.Err() != nil {
			return nil, p.unavailable(ctx.Err())
		}
	}
}

// fetch asks the provider, for the one who set p.attempt. If it does not answer, what is known already stays.
func (p *provider) fetch(ctx context.Context) (*metadata, error) {
	ctx, cancel := apart(ctx)
	defer cancel()
	m, err := p.ask(oidc.ClientContext(ctx, p.client))
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.attempt)
	p.attempt = nil
	if err != nil {
		p.failures++
		p.retry = p.now().Add(backoff(p.failures))
		p.trouble = clipped(fmt.Errorf("its configuration cannot be used: %w", err))
		if p.known == nil {
			return nil, p.unavailable(p.trouble)
		}
		return p.known, nil
	}
	p.failures, p.trouble = 0, nil
	p.known = m
	return m, nil
}

func (p *provider) ask(ctx context.Context) (*metadata, error) {
	issuer, err := oidc.NewProvider(ctx, p.Issuer)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Keys     string   `json:"jwks_uri"`
		Auth     []string `json:"token_endpoint_auth_methods_supported"`
		TellsIss bool     `json:"authorization_response_iss_parameter_supported"`
		Prompts  []string `json:"prompt_values_supported"`
	}
	if err := issuer.Claims(&doc); err != nil {
		return nil, err
	}
	for _, e := range []struct{ name, url string }{
		{"authorization_endpoint", issuer.Endpoint().AuthURL},
		{"token_endpoint", issuer.Endpoint().TokenURL},
		{"jwks_uri", doc.Keys},
		{"userinfo_endpoint", cmp.Or(issuer.UserInfoEndpoint(), p.Issuer)}, // it may have none
	} {
		if err := endpoint(p.Issuer, e.name, e.url); err != nil {
			return nil, err
		}
	}
	return &metadata{
		issuer: issuer, keys: oidc.NewRemoteKeySet(oidc.ClientContext(context.Background(), p.client), doc.Keys),
		style: p.style(doc.Auth), tellsIss: doc.TellsIss, fetched: p.now(),
		chooses: slices.Contains(doc.Prompts, "select_account") || p.Issuer == google,
	}, nil
}

// style is how the client secret is sent: in a header unless the provider takes it only in the
// body (OpenID Connect Core §9).
func (p *provider) style(methods []string) oauth2.AuthStyle {
	basic := len(methods) == 0 || slices.Contains(methods, "client_secret_basic")
	if p.ClientSecret == "" || !basic && slices.Contains(methods, "client_secret_post") {
		return oauth2.AuthStyleInParams
	}
	return oauth2.AuthStyleInHeader
}

func (p *provider) oauth(m *metadata, redirect string) *oauth2.Config {
	e := m.issuer.Endpoint()
	e.AuthStyle = m.style
	return &oauth2.Config{
		ClientID: p.ClientID, ClientSecret: p.ClientSecret, Endpoint: e, RedirectURL: redirect,
		Scopes: append([]string{oidc.ScopeOpenID}, slices.DeleteFunc(slices.Clone(p.Scopes), func(s string) bool { return s == oidc.ScopeOpenID })...),
	}
}

// reserved are the parameters that a configuration cannot set: the protocol needs them as
// they are, or as they are when absent.
var reserved = []string{
	"client_id", "redirect_uri", "response_type", "response_mode", "scope", "state", "nonce",
	"code_challenge", "code_challenge_method", "request", "request_uri",
}

// google does not know prompt=login, and does not say what it knows.
const google = "https://accounts.google.com"

// authURL returns where to send the browser.
func (p *provider) authURL(m *metadata, f *flow, redirect string) string {
	var params []oauth2.AuthCodeOption
	for name, value := range p.Params {
		if !slices.Contains(reserved, name) {
			params = append(params, oauth2.SetAuthURLParam(name, value))
		}
	}
	params = append(params, oidc.Nonce(f.nonce), oauth2.S256ChallengeOption(f.verifier))
	switch {
	case f.another && m.chooses:
		params = append(params, oauth2.SetAuthURLParam("prompt", "select_account"))
	case f.another:
		params = append(params, oauth2.SetAuthURLParam("prompt", "login"))
	case f.fresh:
		params = append(params, oauth2.SetAuthURLParam("prompt", "login"), oauth2.SetAuthURLParam("max_age", "0"))
	}
	return p.oauth(m, redirect).AuthCodeURL(f.state, params...)
}
