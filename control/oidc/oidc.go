// Package oidc owns logging in through OpenID Connect providers: any number of them, each asked
// only when somebody logs in. It sends a browser to a provider, checks what comes back, and says
// who the person is and whether the provider's rules let that person in. It refuses to know
// nodes, users, pages, and what a login is for.
package oidc

import (
	"crypto/rand"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"sync/atomic"
	"time"

	"heddle/control/tailnet"
	"heddle/control/tailnet/site"

	"golang.org/x/oauth2"
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
	Role   string // the name of a role, or a list that may hold some; without the claim a person is a member
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
	Then     string    // as given to Begin; beside an error, too, if that is known
	Fresh    bool      // as given to Begin; the person authenticated after it then
	Again    bool      // a reload: whatever follows a login, or an error, happened already
}

// Providers logs people in. Its methods may be called concurrently.
type Providers struct {
	opts   Options
	client *http.Client
	set    atomic.Pointer[set]
	flows  *flows
}

// A set is the providers that there are at a time. It never changes.
type set struct {
	list   []*provider
	byName map[string]*provider
}

// New returns the providers. It contacts none of them and starts nothing.
func New(o Options) *Providers {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &Providers{opts: o, client: newClient(o.Transport), flows: newFlows(o.Limits, o.Now)}
	p.Use(o.Providers)
	return p
}

// Use replaces the providers. Who has begun to log in at one of them is judged by what it is asked
// when they come back, and must begin anew if it is gone by then, or has another issuer or client ID. It contacts nobody.
func (p *Providers) Use(configs []Config) {
	next, old := &set{byName: map[string]*provider{}}, p.set.Load()
	for _, c := range configs {
		one := newProvider(c, p.client, p.opts.Now)
		if was := old.get(c.Name); was != nil && reflect.DeepEqual(was.Config, one.Config) {
			one = was // with what is known of it
		}
		next.list = append(next.list, one)
		next.byName[c.Name] = one
	}
	p.set.Store(next)
}

// get returns a provider; nil if there is none of that name.
func (s *set) get(name string) *provider {
	if s == nil {
		return nil
	}
	return s.byName[name]
}

// List returns the providers in the order of the configuration.
func (p *Providers) List() []Info {
	var list []Info
	for _, one := range p.set.Load().list {
		list = append(list, Info{Name: one.Name, Label: one.Label})
	}
	return list
}

// Trouble tells why a provider could not be used the last time that it was needed; nil if it
// answered, was not needed yet, or does not exist. It never waits.
func (p *Providers) Trouble(name string) error {
	one := p.set.Load().get(name)
	if one == nil {
		return nil
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	return one.trouble
}

// maxThen bounds Login.Then, which strangers make the table keep.
const maxThen = 512

// Begin sends the browser to a provider and binds the login to this browser by a cookie. then
// comes back with the Login: at most 512 bytes that say what the login is for, such as an ID. It is nowhere
// a place to redirect to. With fresh the person must authenticate anew, even with a session at the provider.
//
// Errors are of type *tailnet.Error: NotFound (no such provider), Unavailable (it does not answer),
// Exhausted (too many logins were begun at this address). They are logged here, and nothing
// was answered.
func (p *Providers) Begin(w http.ResponseWriter, r *http.Request, provider, then string, fresh bool) error {
	return p.begin(w, r, provider, &flow{then: strings.Clone(then), fresh: fresh})
}

// BeginAnother is Begin for somebody who wants to be another person than the one of the session at
// the provider: it asks who they are, if it can.
func (p *Providers) BeginAnother(w http.ResponseWriter, r *http.Request, provider, then string) error {
	return p.begin(w, r, provider, &flow{then: strings.Clone(then), another: true})
}

// begin completes f, which says what is asked for.
func (p *Providers) begin(w http.ResponseWriter, r *http.Request, provider string, f *flow) error {
	err := p.send(w, r, provider, f)
	if err != nil {
		p.logFailure("login not begun", provider, r, err)
	}
	return err
}

func (p *Providers) send(w http.ResponseWriter, r *http.Request, name string, f *flow) error {
	one := p.set.Load().get(name)
	if one == nil {
		return tailnet.Errorf(tailnet.NotFound, "there is no way to log in called %.40q here: begin anew", name)
	}
	if len(f.then) > maxThen {
		return tailnet.Errorf(tailnet.Invalid, "this login says too much about what it is for: begin anew")
	}
	m, err := one.discover(r.Context())
	if err != nil {
		return err
	}
	browser := p.browser(r)
	if browser == "" {
		browser = rand.Text()
	}
	ap, _ := netip.ParseAddrPort(r.RemoteAddr)
	f.state, f.nonce, f.verifier = rand.Text(), rand.Text(), oauth2.GenerateVerifier()
	f.provider, f.browser, f.from = one, digestOf(browser), site.Of(ap.Addr())
	if err := p.flows.add(f); err != nil {
		return err
	}
	p.setBrowser(w, browser)
	noStore(w)
	http.Redirect(w, r, one.authURL(m, f, p.opts.Redirect.String()), http.StatusSeeOther)
	return nil
}

// Finish handles what the provider sent the browser back with. The same URL in the same browser
// gives the same Login, or error, for some minutes. It writes nothing but headers. With an error the
// Login holds Then if the login is known to be this browser's, and nothing else.
//
// Errors are of type *tailnet.Error, and are logged here: Invalid (no login of ours, or too old),
// Denied (another browser's, cancelled, not to be trusted, or the person may not join), Internal (the
// provider rejects us), Unavailable (it does not answer; loading the page again may help), Exhausted.
func (p *Providers) Finish(w http.ResponseWriter, r *http.Request) (Login, error) {
	noStore(w) // the code is in the URL
	q := r.URL.Query()
	back, err := readAnswer(q)
	if err != nil {
		p.logFailure("login refused", "", r, err)
		return Login{}, err
	}
	f, end, err := p.flows.claim(r.Context(), back.state, digestOf(p.browser(r)), back.digest())
	if err != nil {
		p.logFailure("login refused", "", r, err)
		return Login{}, err
	}
	if end != nil {
		login := end.login
		login.Again = true
		return login, end.err
	}
	defer func() { p.flows.settle(f, end) }()
	login, err := p.finish(r, f, back)
	login.Then = f.then // of a refusal, too: there is a page to go back to
	if err != nil {
		p.logFailure("login refused", f.provider.Name, r, err)
	}
	if err == nil || tailnet.CodeOf(err) != tailnet.Unavailable {
		end = &ending{answer: back.digest(), login: login, err: err}
	}
	return login, err
}
