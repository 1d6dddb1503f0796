// Package oidc owns logging in through OpenID Connect providers: any number of them, each asked
// only when somebody logs in. It sends a browser to a provider, checks what comes back, and says
// who the person is and whether the provider's rules let that person in. It refuses to know
// nodes, users, pages, and what a login is for.
package oidc

import (
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"heddle/control/tailnet"
)

// A Config is one provider and what is asked of the people who log in there.
type Config struct {
	Name         string // in URLs and the audit log: a-z, 0-9 and -
	Label        string // for people; "" means Name
	Issuer       string // exactly as the provider writes it
	ClientID     string
	ClientSecret string   // "" for a public client
	Scopes       []string // beside openid; nil means profile and email

	// Params are added to the URL that the browser is sent to. They cannot replace
	// what the protocol needs there.
	Params map[string]string

	Allow  Allow
	Claims Claims

	// AllowUnverifiedEmail takes the word of the provider for an e-mail address
	// that it does not call verified. Only for providers whose users cannot
	// choose their address.
	AllowUnverifiedEmail bool
}

// Allow says who may log in. Lists that are empty ask for nothing; a person must satisfy all others.
type Allow struct {
	Domains []string // of the verified e-mail address, without subdomains
	Users   []string // verified e-mail addresses
	Groups  []string // names as in the claim; one of them suffices
}

// Claims names the claims that are not standardized: a name such as "groups", also one that is
// a URL, or a path with dots into an object, such as "realm_access.roles". "" means none.
type Claims struct {
	Groups string // a list of names, one name, or an object whose keys are the names
	Role   string // the name of a role, or a list that may hold some
}

// Limits bound the logins that people have begun. Zero fields take the defaults.
type Limits struct {
	Total   int           // default 10000; beyond it the oldest is forgotten
	PerAddr int           // of one address (IPv6: one /64); default 200, beyond it more are refused
	Life    time.Duration // default 15 minutes
	Again   time.Duration // how long a finished login can be told again; default 5 minutes
}

// Options are what New needs.
type Options struct {
	Providers []Config
	Redirect  *url.URL // where providers send browsers back to: server_url and /oidc/callback
	Limits    Limits

	Transport http.RoundTripper // to the providers; nil is one with timeouts and the system's authorities
	Now       func() time.Time  // nil is time.Now
	Log       *slog.Logger      // nil discards
}

// Info is what a page tells of a provider.
type Info struct {
	Name, Label string
}

// A Login is a person who has just logged in, or, with Again, the one of whom Finish told already.
type Login struct {
	Provider string
	Profile  tailnet.Profile
	AuthTime time.Time // when the provider saw the person authenticate; zero if it does not say
	Then     string    // as given to Begin
	Fresh    bool      // as given to Begin; AuthTime is after it then
	Again    bool      // a reload: whatever follows a login happened already
}

// Providers logs people in. Its methods may be called concurrently.
type Providers struct {
	opts Options
}

// New returns the providers. It contacts none of them and starts nothing.
func New(o Options) *Providers { return &Providers{opts: o} }

// List returns the providers in the order of the configuration.
func (p *Providers) List() []Info {
	var list []Info
	for _, c := range p.opts.Providers {
		list = append(list, Info{Name: c.Name, Label: c.Label})
	}
	return list
}

// Trouble tells why a provider could not be reached the last time that it was needed; nil if it
// answered, was not needed yet, or does not exist. It never waits.
func (p *Providers) Trouble(name string) error { return nil }

// Begin sends the browser to a provider and binds the login to this browser by a cookie. then
// comes back with the Login: at most 512 bytes, and no URL to redirect to, unless the caller checks it. With
// fresh the person must authenticate anew, even with a session at the provider.
//
// If it fails, the error is a *tailnet.Error: NotFound (no such provider), Unavailable (it does not answer),
// Exhausted (too many logins have begun at this address). It is logged, and the answer is left to the caller.
func (p *Providers) Begin(w http.ResponseWriter, r *http.Request, provider, then string, fresh bool) error {
	return tailnet.Errorf(tailnet.NotFound, "there is no way to log in called %.40q", provider)
}

// Finish handles what the provider sent the browser back with. The same URL in the same browser
// gives the same Login, or error, for some minutes.
//
// Errors are a *tailnet.Error and are logged already: Invalid (no login of ours, or too old),
// Denied (another browser's, cancelled, not to be trusted, or may not join), Unavailable (the provider does not answer;
// loading the page again may help).
func (p *Providers) Finish(w http.ResponseWriter, r *http.Request) (Login, error) {
	return Login{}, tailnet.Errorf(tailnet.Invalid, "this login is not known here: begin anew")
}
