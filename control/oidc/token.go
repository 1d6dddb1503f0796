package oidc

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"heddle/control/tailnet"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// redeem exchanges the code for tokens.
func (p *provider) redeem(ctx context.Context, m *metadata, f *flow, code, redirect string) (*oauth2.Token, string, error) {
	exchange := func(style oauth2.AuthStyle) (*oauth2.Token, error) {
		o := p.oauth(m, redirect)
		o.Endpoint.AuthStyle = style
		return o.Exchange(ctx, code, oauth2.VerifierOption(f.verifier))
	}
	token, err := exchange(m.style)
	var refusal *oauth2.RetrieveError
	if m.style == oauth2.AuthStyleInHeader && errors.As(err, &refusal) && refusal.ErrorCode == "invalid_client" {
		token, err = exchange(oauth2.AuthStyleInParams) // some take it only as the client is registered there
	}
	switch {
	case errors.As(err, &refusal) && refusal.ErrorCode == "invalid_grant":
		return nil, "", &tailnet.Error{
			Code: tailnet.Denied,
			Msg:  fmt.Sprintf("%s does not accept this login any more, as it took too long, was used already, or was begun elsewhere: begin anew", p.Label),
			Err:  refused(refusal),
		}
	case errors.As(err, &refusal) && (refusal.ErrorCode == "invalid_client" || refusal.ErrorCode == "unauthorized_client"):
		p.note(refused(refusal))
		return nil, "", &tailnet.Error{
			Code: tailnet.Internal,
			Msg:  fmt.Sprintf("%s does not accept this server: an administrator must correct its client ID or client secret there or here", p.Label),
			Err:  refused(refusal),
		}
	case errors.As(err, &refusal):
		p.note(refused(refusal))
		return nil, "", p.unavailable(refused(refusal))
	case err != nil:
		p.note(clipped(err))
		return nil, "", p.unavailable(err)
	}
	p.note(nil)
	id, _ := token.Extra("id_token").(string)
	if id == "" {
		return nil, "", p.distrust("the token endpoint gave no ID token: does the scope hold openid?")
	}
	return token, id, nil
}

// refused tells of a refusal without its body, which is the provider's to fill.
func refused(e *oauth2.RetrieveError) error {
	status := "no status"
	if e.Response != nil {
		status = e.Response.Status
	}
	return fmt.Errorf("its token endpoint answers %.60q, error %.60q, %.200q", status, e.ErrorCode, e.ErrorDescription)
}

// algorithms are those whose keys can be published. Never none, and never those of a shared
// secret: somebody could sign with a published key as if it were one.
var algorithms = []string{
	oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512,
	oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA,
}

// verify returns the claims of an ID token that was made by the provider, for us, for this login and now
// (OpenID Connect Core §3.1.3.7).
func (p *provider) verify(ctx context.Context, m *metadata, f *flow, token *oauth2.Token, raw string) (claims, error) {
	config := &oidc.Config{ClientID: p.ClientID, SupportedSigningAlgs: algorithms, SkipExpiryCheck: true} // see checkTimes
	id, err := oidc.NewVerifier(p.Issuer, m.keys, config).Verify(ctx, raw)
	if err != nil && strings.Contains(err.Error(), "fetching keys") { // which is all that the package tells
		p.note(clipped(err))
		return nil, p.unavailable(err)
	}
	if err != nil {
		return nil, p.distrust("%w", err)
	}
	var payload json.RawMessage
	if err := id.Claims(&payload); err != nil {
		return nil, p.distrust("the ID token: %w", err)
	}
	c, err := readClaims(payload)
	if err != nil {
		return nil, p.distrust("the ID token: %w", err)
	}
	if err := p.checkParties(c, id, f); err != nil {
		return nil, p.distrust("the ID token: %w", err)
	}
	if err := checkTimes(c, p.now()); err != nil {
		return nil, p.distrust("the ID token: %w", err)
	}
	if err := checkFresh(c, f); err != nil {
		return nil, &tailnet.Error{
			Code: tailnet.Denied,
			Msg:  fmt.Sprintf("%s did not make you log in anew, or does not say when you did, which is needed here: begin anew, or ask your administrator, whose log has the reason", p.Label),
			Err:  err,
		}
	}
	if id.AccessTokenHash != "" {
		if err := id.VerifyAccessToken(token.AccessToken); err != nil {
			return nil, p.distrust("the access token is not the one of the ID token")
		}
	}
	return c, nil
}

// checkParties checks whom the token is about, for whom it is, and for which login.
func (p *provider) checkParties(c claims, id *oidc.IDToken, f *flow) error {
	audience, azp := c.list("aud"), c["azp"]
	switch {
	case c["sub"] != id.Subject || !isSubject(id.Subject): // the package ignores the case of claim names
		return errors.New("its subject is missing or none")
	case !slices.Contains(audience, p.ClientID):
		return fmt.Errorf("it is for %.100q", audience)
	case len(audience) > 1 && azp == nil:
		return fmt.Errorf("it is for %.100q, and does not say which of them asked (azp)", audience)
	case azp != nil && azp != p.ClientID:
		return fmt.Errorf("it was made for another client (azp)")
	case f.nonce == "" || subtle.ConstantTimeCompare([]byte(c.raw("nonce")), []byte(f.nonce)) != 1:
		return errors.New("it belongs to another login (nonce)")
	}
	return nil
}

// skew is how much the provider's clock may differ from ours.
const skew = time.Minute

// checkTimes checks that the token is valid now.
func checkTimes(c claims, now time.Time) error {
	expires, issued, from, seen := c.time("exp"), c.time("iat"), c.time("nbf"), c.time("auth_time")
	switch {
	case expires.IsZero() || issued.IsZero():
		return errors.New("it does not say when it was made or until when it is valid")
	case !now.Before(expires.Add(skew)):
		return fmt.Errorf("it expired %v ago; are the clocks right?", now.Sub(expires).Round(time.Second))
	case issued.After(now.Add(skew)):
		return fmt.Errorf("it was made in the future, in %v; are the clocks right?", issued.Sub(now).Round(time.Second))
	case from.After(now.Add(skew)):
		return fmt.Errorf("it is not valid before %v from now; are the clocks right?", from.Sub(now).Round(time.Second))
	case seen.After(now.Add(skew)):
		return errors.New("it says that the person authenticated in the future (auth_time); are the clocks right?")
	}
	return nil
}

// checkFresh checks that the person authenticated for this login if that was asked for. Not all providers
// can do that, though OpenID Connect Core §3.1.2.1 has them answer max_age with auth_time.
func checkFresh(c claims, f *flow) error {
	seen := c.time("auth_time")
	switch {
	case f.fresh && seen.IsZero():
		return errors.New("the ID token does not say when the person authenticated (auth_time), which was asked for by max_age")
	case f.fresh && seen.Before(f.began.Add(-skew)):
		return fmt.Errorf("the person authenticated %v before being asked to (auth_time)", f.began.Sub(seen).Round(time.Second))
	}
	return nil
}

// userinfo fetches what the ID token lacks. The claims are nil if the provider has no endpoint for it.
func (p *provider) userinfo(ctx context.Context, m *metadata, token *oauth2.Token, subject string) (claims, error) {
	if m.issuer.UserInfoEndpoint() == "" {
		return nil, nil
	}
	info, err := m.issuer.UserInfo(ctx, oauth2.StaticTokenSource(token))
	if err != nil {
		err = clipped(fmt.Errorf("its userinfo endpoint: %w", err))
		p.note(err)
		return nil, p.unavailable(err)
	}
	p.note(nil)
	var payload json.RawMessage
	if err := info.Claims(&payload); err != nil {
		return nil, p.unavailable(err)
	}
	c, err := readClaims(payload)
	if err != nil {
		return nil, p.unavailable(err)
	}
	if c["sub"] != subject { // OpenID Connect Core §5.3.2
		return nil, p.distrust("the userinfo endpoint tells of somebody else")
	}
	return c, nil
}
