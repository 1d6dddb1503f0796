package oidc

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"heddle/control/tailnet"

	"github.com/coreos/go-oidc/v3/oidc"
)

// An answer is what a provider sends a browser back with (RFC 6749 §4.1.2, RFC 9207).
type answer struct {
	state, code, iss   string
	failure, explained string // error and error_description
}

// digest stands for what the provider said: an answer with another code is not a reload.
func (a answer) digest() digest { return digestOf(a.code + "\x00" + a.failure) }

// maxParam bounds a parameter of the callback: codes of large providers have 2 KB.
const maxParam = 8 << 10

// readAnswer reads a callback's parameters, each of which may stand there once.
func readAnswer(q url.Values) (answer, error) {
	var a answer
	for name, field := range map[string]*string{
		"state": &a.state, "code": &a.code, "iss": &a.iss, "error": &a.failure, "error_description": &a.explained,
	} {
		values := q[name]
		if len(values) > 1 || len(values) == 1 && len(values[0]) > maxParam {
			return answer{}, tailnet.Errorf(tailnet.Invalid, "this is not an address that a login ends at (%s): begin anew", name)
		}
		if len(values) == 1 {
			*field = values[0]
		}
	}
	if a.state == "" || (a.code == "") == (a.failure == "") {
		return answer{}, tailnet.Errorf(tailnet.Invalid, "this is not an address that a login ends at: begin anew")
	}
	return a, nil
}

// finish turns an answer to a claimed flow into a person.
func (p *Providers) finish(r *http.Request, f *flow, back answer) (Login, error) {
	one, err := p.now(f.provider)
	if err != nil {
		return Login{}, err
	}
	leave, err := one.enter()
	if err != nil {
		return Login{}, err
	}
	defer leave()
	ctx, cancel := apart(oidc.ClientContext(r.Context(), one.client))
	defer cancel()
	m, err := one.discover(ctx)
	if err != nil {
		return Login{}, err
	}
	if back.iss != one.Issuer && (back.iss != "" || m.tellsIss) {
		return Login{}, one.distrust("it comes from the issuer %.200q (iss)", back.iss)
	}
	if back.failure != "" {
		return Login{}, one.failure(back)
	}
	token, raw, err := one.redeem(ctx, m, f, back.code, p.opts.Redirect.String())
	if err != nil {
		return Login{}, err
	}
	id, err := one.verify(ctx, m, f, token, raw)
	if err != nil {
		return Login{}, err
	}
	known := sources{id}
	if one.lacks(id) {
		more, err := one.userinfo(ctx, m, token, id.raw("sub"))
		if err != nil {
			return Login{}, err
		}
		known = append(known, more)
	}
	profile, err := one.profile(known, p.opts.Log)
	if err != nil {
		return Login{}, err
	}
	return Login{Provider: one.Name, Profile: profile, AuthTime: id.time("auth_time"), Then: f.then, Fresh: f.fresh}, nil
}

// now returns what has become of the provider at which a login was begun.
func (p *Providers) now(begun *provider) (*provider, error) {
	one := p.set.Load().get(begun.Name)
	if one == nil || one.Issuer != begun.Issuer || one.ClientID != begun.ClientID {
		return nil, tailnet.Errorf(tailnet.Denied, "logging in through %s was changed here while you were there: begin anew", begun.Label)
	}
	return one, nil
}

var errorCode = regexp.MustCompile(`^[a-z_]{1,60}$`)

// failure turns a provider's refusal into one of ours (RFC 6749 §4.1.2.1, OpenID Connect Core §3.1.2.6).
func (p *provider) failure(back answer) error {
	e := &tailnet.Error{Code: tailnet.Denied, Err: fmt.Errorf("the provider answers with error %.60q, %.200q", back.failure, back.explained)}
	switch {
	case back.failure == "access_denied":
		e.Msg = fmt.Sprintf("%s says that the login was cancelled, or that you may not use it here: begin anew to try again", p.Label)
	case back.failure == "server_error" || back.failure == "temporarily_unavailable":
		e.Msg = fmt.Sprintf("%s has trouble at present: begin anew in a minute", p.Label)
	case errorCode.MatchString(back.failure):
		e.Msg = fmt.Sprintf("%s did not log you in (%s): begin anew; if that does not help, ask your administrator, whose log has the reason", p.Label, back.failure)
	default:
		e.Msg = fmt.Sprintf("%s did not log you in: begin anew; if that does not help, ask your administrator, whose log has the reason", p.Label)
	}
	return e
}

// logFailure writes the line of a failure: what strangers can do at will is no warning.
func (p *Providers) logFailure(msg, provider string, r *http.Request, err error) {
	var e *tailnet.Error
	log := p.opts.Log.Info
	if errors.As(err, &e) && e.Err != nil {
		log = p.opts.Log.Warn
	}
	log(msg, "provider", provider, "remote", r.RemoteAddr, "code", tailnet.CodeOf(err).String(), "err", err)
}

// browserCookie names the cookie that a browser is recognized by. The prefix makes browsers refuse
// one that was not set by this very host over TLS.
func (p *Providers) browserCookie() string {
	if p.opts.Redirect.Scheme == "https" {
		return "__Host-heddle-login"
	}
	return "heddle-login"
}

var browserID = regexp.MustCompile(`^[A-Z2-7]{26}$`) // as crypto/rand.Text makes it

// browser returns what the browser was given to be recognized by; "" if nothing of ours.
func (p *Providers) browser(r *http.Request) string {
	c, err := r.Cookie(p.browserCookie())
	if err != nil || !browserID.MatchString(c.Value) {
		return ""
	}
	return c.Value
}

// setBrowser gives it to the browser. Lax lets the cookie come along when a provider sends the browser back.
func (p *Providers) setBrowser(w http.ResponseWriter, id string) {
	limits := p.flows.limits
	http.SetCookie(w, &http.Cookie{
		Name: p.browserCookie(), Value: id, Path: "/", MaxAge: int((limits.Life + limits.Again) / time.Second),
		Secure: p.opts.Redirect.Scheme == "https", HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

// noStore keeps addresses with codes and states out of caches and of other sites' logs.
func noStore(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
}
