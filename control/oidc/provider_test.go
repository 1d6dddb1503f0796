package oidc_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"heddle/control/oidc"
	"heddle/control/tailnet"
	"heddle/integration/idp"
	"heddle/policy"

	"github.com/google/go-cmp/cmp"
)

const (
	clientID = "heddle"
	secret   = "hunter2-hunter2-hunter2-hunter2"
)

// clock is a clock that tests set.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Now()} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// logbook keeps what was logged.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// take returns the lines since the last time.
func (l *logbook) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return strings.FieldsFunc(l.text.String(), func(r rune) bool { return r == '\n' })
}

// site is a web site that people log in to, as heddle's pages are.
type site struct {
	*httptest.Server
	providers *oidc.Providers
	log       *logbook
	clock     *clock

	mu     sync.Mutex
	logins []oidc.Login // those that were told, and
	errs   []error      // the errors of the requests, nil for each login
}

func (s *site) redirect() *url.URL {
	u, err := url.Parse(s.URL + "/oidc/callback")
	if err != nil {
		panic(err) // of our own making
	}
	return u
}

// newSite makes a site whose providers, which may depend on its URL, are set by open.
func newSite(t *testing.T) *site {
	s := &site{log: new(logbook), clock: newClock()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /login/{provider}", func(w http.ResponseWriter, r *http.Request) {
		if err := s.providers.Begin(w, r, r.PathValue("provider"), r.FormValue("then"), r.FormValue("fresh") != ""); err != nil {
			s.note(oidc.Login{}, err)
			http.Error(w, tailnet.Message(err), http.StatusBadRequest)
		}
	})
	mux.HandleFunc("GET /oidc/callback", func(w http.ResponseWriter, r *http.Request) {
		login, err := s.providers.Finish(w, r)
		s.note(login, err)
		if err != nil {
			http.Error(w, tailnet.Message(err), http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "hello %s", login.Profile.Name)
	})
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func (s *site) open(configs ...oidc.Config) *site {
	s.providers = oidc.New(oidc.Options{
		Providers: configs, Redirect: s.redirect(), Now: s.clock.Now,
		Log: slog.New(slog.NewTextHandler(s.log, nil)),
	})
	return s
}

func (s *site) note(l oidc.Login, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logins, s.errs = append(s.logins, l), append(s.errs, err)
}

// last returns what the last request came to.
func (s *site) last(t *testing.T) (oidc.Login, error) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.logins) == 0 {
		t.Fatal("no request came")
	}
	return s.logins[len(s.logins)-1], s.errs[len(s.errs)-1]
}

// browser returns a client with a cookie jar of its own.
func browser(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Jar: jar}
}

// logIn goes through the provider's pages, and returns the URL that it ended at.
func (s *site) logIn(t *testing.T, p *idp.Provider, b *http.Client, from string, c idp.Choice) string {
	t.Helper()
	resp, err := p.Visit(context.Background(), b, s.URL+from, c)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.Request.URL.String()
}

func get(t *testing.T, b *http.Client, url string) {
	t.Helper()
	resp, err := b.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

var ann = idp.Claims{
	"sub": "u-1", "email": "Ann@Example.com", "email_verified": true, "name": "Ann Arbor", "preferred_username": "ann",
	"picture": "https://example.com/ann.png", "https://example.com/groups": []string{"dev", "ops", "dev"},
	"realm_access": map[string]any{"roles": []string{"offline_access", "admin"}},
}

// realProvider runs the provider for a site. Both ways to deliver claims are tested.
func realProvider(t *testing.T, s *site, idTokenClaims bool) *idp.Provider {
	return idp.Start(t, idp.Options{
		Clients:       []idp.Client{{ID: clientID, Secret: secret, RedirectURIs: []string{s.redirect().String()}}},
		People:        map[string]idp.Claims{"ann": ann, "bob": {"email": "bob@other.org", "email_verified": false}},
		Scopes:        map[string][]string{"more": {"https://example.com/groups", "realm_access"}},
		IDTokenClaims: idTokenClaims,
	})
}

func configFor(issuer string) oidc.Config {
	return oidc.Config{
		Name: "corp", Label: "Corp", Issuer: issuer, ClientID: clientID, ClientSecret: secret,
		Scopes: []string{"profile", "email", "more"},
		Claims: oidc.Claims{Groups: "https://example.com/groups", Role: "realm_access.roles"},
	}
}

func TestRealProvider(t *testing.T) {
	for _, idTokenClaims := range []bool{true, false} {
		t.Run(fmt.Sprintf("claims in the ID token %v", idTokenClaims), func(t *testing.T) {
			s := newSite(t)
			p := realProvider(t, s, idTokenClaims)
			s.open(configFor(p.Issuer))
			b := browser(t)
			at := s.logIn(t, p, b, "/login/corp?then=pending-1", idp.Choice{Login: "ann"})
			got, err := s.last(t)
			if err != nil {
				t.Fatal(err, s.log.take())
			}
			want := oidc.Login{
				Provider: "corp", Then: "pending-1",
				Profile: tailnet.Profile{
					Identity: tailnet.Identity{Issuer: p.Issuer, Subject: "u-1"}, Provider: "corp",
					Email: "ann@example.com", Name: "ann", DisplayName: "Ann Arbor",
					PictureURL: "https://example.com/ann.png", Groups: []string{"dev", "ops"}, Role: policy.Admin,
				},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the login differs: %s", diff)
			}

			// A reload shows the same; another browser, or another code, is refused.
			get(t, b, at)
			want.Again = true
			if got, err := s.last(t); err != nil || !cmp.Equal(want, got) {
				t.Errorf("a reload gives %+v, %v", got, err)
			}
			get(t, browser(t), at)
			if _, err := s.last(t); tailnet.CodeOf(err) != tailnet.Denied {
				t.Errorf("another browser gets %v", err)
			}
			get(t, b, strings.Replace(at, "code=", "code=x", 1))
			if _, err := s.last(t); tailnet.CodeOf(err) != tailnet.Denied {
				t.Errorf("another code gets %v", err)
			}
			s.clock.Add(5 * time.Minute)
			get(t, b, at)
			if _, err := s.last(t); tailnet.CodeOf(err) != tailnet.Invalid {
				t.Errorf("a late reload gets %v", err)
			}
			if err := s.providers.Trouble("corp"); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestFreshLogin asks a person who has a session at the provider to authenticate anew.
func TestFreshLogin(t *testing.T) {
	s := newSite(t)
	p := realProvider(t, s, false)
	s.open(configFor(p.Issuer))
	b := browser(t)
	s.logIn(t, p, b, "/login/corp", idp.Choice{Login: "ann"})
	if _, err := s.last(t); err != nil {
		t.Fatal(err)
	}
	// With the session the provider asks nothing: the choice to cancel finds no page to do so.
	s.logIn(t, p, b, "/login/corp", idp.Choice{Cancel: true})
	if l, err := s.last(t); err != nil || l.Fresh {
		t.Fatal(l, err)
	}
	began := time.Now().Truncate(time.Second)
	s.logIn(t, p, b, "/login/corp?fresh=1&then=ssh", idp.Choice{Login: "ann"})
	l, err := s.last(t)
	if err != nil || !l.Fresh || l.Then != "ssh" || l.AuthTime.Before(began) {
		t.Errorf("a fresh login gives %+v, %v", l, err)
	}
	s.logIn(t, p, b, "/login/corp?fresh=1", idp.Choice{Cancel: true})
	if _, err := s.last(t); tailnet.CodeOf(err) != tailnet.Denied || !strings.Contains(tailnet.Message(err), "cancelled") {
		t.Errorf("a cancelled login gives %v", err)
	}
}

// TestProviderIsAway begins while the provider is down, and loses it between two steps.
func TestProviderIsAway(t *testing.T) {
	s := newSite(t)
	p := realProvider(t, s, false)
	s.open(configFor(p.Issuer))
	p.Stop()
	get(t, browser(t), s.URL+"/login/corp")
	if _, err := s.last(t); tailnet.CodeOf(err) != tailnet.Unavailable || !strings.HasPrefix(tailnet.Message(err), "Corp does not answer") {
		t.Fatalf("without the provider: %v", err)
	}
	if err := s.providers.Trouble("corp"); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("trouble: %v", err)
	}
	if lines := s.log.take(); len(lines) != 1 || !strings.Contains(lines[0], "connection refused") || !strings.Contains(lines[0], "level=WARN") {
		t.Errorf("logged: %q", lines)
	}

	p.Start(t)
	s.clock.Add(time.Second)
	b := browser(t)
	s.logIn(t, p, b, "/login/corp", idp.Choice{Login: "ann"})
	if _, err := s.last(t); err != nil || s.providers.Trouble("corp") != nil {
		t.Fatal(err, s.providers.Trouble("corp"))
	}

	// A login that was begun with the provider away can be finished by loading the page again, and
	// a provider that came back with other keys is believed. What is known of it is used meanwhile.
	b.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(r.URL.String(), s.URL+"/oidc/callback") {
			return http.ErrUseLastResponse
		}
		return nil
	}
	resp, err := p.Visit(t.Context(), b, s.URL+"/login/corp", idp.Choice{Login: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	at, err := resp.Location()
	if err != nil {
		t.Fatal(err)
	}
	p.Stop()
	get(t, b, at.String())
	if _, err := s.last(t); tailnet.CodeOf(err) != tailnet.Unavailable || s.providers.Trouble("corp") == nil {
		t.Fatalf("the provider left before the code was redeemed: %v", err)
	}
	p.Start(t) // it has forgotten the code
	get(t, b, at.String())
	if _, err := s.last(t); tailnet.CodeOf(err) != tailnet.Denied || !strings.Contains(tailnet.Message(err), "begin anew") {
		t.Errorf("the provider forgot the code: %v", err)
	}
	b = browser(t)
	s.logIn(t, p, b, "/login/corp", idp.Choice{Login: "ann"})
	if _, err := s.last(t); err != nil || s.providers.Trouble("corp") != nil {
		t.Errorf("with new keys: %v, %v", err, s.providers.Trouble("corp"))
	}
}

func TestClientsAndPeople(t *testing.T) {
	s := newSite(t)
	back := []string{s.redirect().String()}
	p := idp.Start(t, idp.Options{
		Clients: []idp.Client{
			{ID: clientID, Secret: secret, RedirectURIs: back},
			{ID: "post", Secret: secret, RedirectURIs: back, Auth: "client_secret_post"},
			{ID: "public", RedirectURIs: back},
		},
		People: map[string]idp.Claims{
			"ann": ann,
			"bob": {"email": "bob@other.org", "email_verified": false},
			"cy":  {"email": "cy@example.com", "email_verified": true},
			"dee": {},
		},
		Scopes: map[string][]string{"more": {"https://example.com/groups", "realm_access"}},
	})
	for _, tt := range []struct {
		name, login string
		change      func(*oidc.Config)
		want        string // the beginning of the message; "" if the person gets in
	}{
		{"plain", "ann", func(*oidc.Config) {}, ""},
		{"public client", "ann", func(c *oidc.Config) { c.ClientID, c.ClientSecret = "public", "" }, ""},
		{"client with its secret in the body", "ann", func(c *oidc.Config) { c.ClientID = "post" }, ""},
		{"wrong secret", "ann", func(c *oidc.Config) { c.ClientSecret = "wrong" }, "Corp does not accept this server: an administrator must correct its client ID or client secret"},
		{"no more claims", "ann", func(c *oidc.Config) { c.Claims = oidc.Claims{} }, ""},
		{"domain", "ann", func(c *oidc.Config) { c.Allow.Domains = []string{"EXAMPLE.com"} }, ""},
		{"another domain", "ann", func(c *oidc.Config) { c.Allow.Domains = []string{"le.com", "x.example.com"} }, "ann@example.com may not join, as example.com is none of the domains that may"},
		{"user", "ann", func(c *oidc.Config) { c.Allow.Users = []string{"ann@example.com"} }, ""},
		{"another user", "cy", func(c *oidc.Config) { c.Allow.Users = []string{"ann@example.com"} }, "cy@example.com may not join, as it is not on the list"},
		{"user of another domain", "ann", func(c *oidc.Config) {
			c.Allow = oidc.Allow{Domains: []string{"other.org"}, Users: []string{"ann@example.com"}}
		}, "ann@example.com may not join, as example.com is none"},
		{"group", "ann", func(c *oidc.Config) { c.Allow.Groups = []string{"x", "ops"} }, ""},
		{"another group", "ann", func(c *oidc.Config) { c.Allow.Groups = []string{"OPS"} }, "ann@example.com may not join, as Corp does not count you to any"},
		{"no group", "cy", func(c *oidc.Config) { c.Allow.Groups = []string{"ops"} }, "cy@example.com may not join, as Corp does not count you to any"},
		{"no groups claim", "ann", func(c *oidc.Config) { c.Allow.Groups, c.Claims.Groups = []string{"ops"}, "" }, "ann@example.com may not join, as Corp does not count you to any"},
		{"unverified", "bob", func(*oidc.Config) {}, "Corp does not say that bob@other.org is verified to be your e-mail address"},
		{"unverified and allowed", "bob", func(c *oidc.Config) { c.AllowUnverifiedEmail = true }, ""},
		{"no address", "dee", func(*oidc.Config) {}, ""},
		{"no address and a rule", "dee", func(c *oidc.Config) { c.Allow.Domains = []string{"example.com"} }, "Corp does not tell your e-mail address"},
		{"a parameter", "ann", func(c *oidc.Config) {
			c.Params = map[string]string{"ui_locales": "de", "state": "x", "redirect_uri": "https://evil.example"}
		}, ""},
		{"a scope too much", "ann", func(c *oidc.Config) { c.Scopes = []string{"email", "openid", "nonsense"} }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.log.take()
			c := configFor(p.Issuer)
			tt.change(&c)
			s.open(c)
			s.logIn(t, p, browser(t), "/login/corp", idp.Choice{Login: tt.login})
			_, err := s.last(t)
			switch lines := s.log.take(); {
			case tt.want == "" && (err != nil || len(lines) > 0):
				t.Errorf("got %v, logged %q", err, lines)
			case tt.want != "" && (err == nil || !strings.HasPrefix(tailnet.Message(err), tt.want) || len(lines) != 1):
				t.Errorf("got %v, logged %q; want %q", err, lines, tt.want)
			}
		})
	}
}
