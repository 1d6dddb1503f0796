package oidc_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"heddle/control/oidc"
	"heddle/control/tailnet"
	"heddle/integration/idp"

	"github.com/google/go-cmp/cmp"
)

// TestChangedWhileAway changes the providers while somebody is at one of them.
func TestChangedWhileAway(t *testing.T) {
	s := newSite(t)
	back := []string{s.redirect().String()}
	p := idp.Start(t, idp.Options{
		Clients: []idp.Client{{ID: clientID, Secret: secret, RedirectURIs: back}, {ID: "other", Secret: secret, RedirectURIs: back}},
		People:  map[string]idp.Claims{"ann": ann},
		Scopes:  map[string][]string{"more": {"https://example.com/groups", "realm_access"}},
	})
	const changed = "logging in through Corp was changed here while you were there: begin anew"
	first := func(edit func(*oidc.Config)) func(oidc.Config) []oidc.Config {
		return func(c oidc.Config) []oidc.Config { edit(&c); return []oidc.Config{c} }
	}
	for _, tt := range []struct {
		name   string
		began  func(*oidc.Config)
		change func(oidc.Config) []oidc.Config
		want   string // the beginning of the message; "" if the person gets in
	}{
		{"nothing", nil, first(func(*oidc.Config) {}), ""},
		{"its label", nil, first(func(c *oidc.Config) { c.Label = "Corporation" }), ""},
		{"another one is added before it", nil, func(c oidc.Config) []oidc.Config {
			return []oidc.Config{{Name: "more", Issuer: "https://more.example", ClientID: "x"}, c}
		}, ""},
		{"the secret is put right", func(c *oidc.Config) { c.ClientSecret = "old" }, first(func(c *oidc.Config) { c.ClientSecret = secret }), ""},
		{"its rules", nil, first(func(c *oidc.Config) { c.Allow.Domains = []string{"other.org"} }), "ann@example.com may not join, as example.com is none of the domains that may"},
		{"it is removed", nil, func(oidc.Config) []oidc.Config { return nil }, changed},
		{"its name", nil, first(func(c *oidc.Config) { c.Name = "company" }), changed},
		{"its client ID", nil, first(func(c *oidc.Config) { c.ClientID = "other" }), changed},
		{"its issuer", nil, first(func(c *oidc.Config) { c.Issuer = "https://evil.example" }), changed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := configFor(p.Issuer)
			if tt.began != nil {
				tt.began(&before)
			}
			s.open(before)
			b := browser(t)
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
			after := tt.change(before)
			s.providers.Use(after)
			get(t, b, at.String())
			_, err = s.last(t)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.HasPrefix(tailnet.Message(err), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			var want, got []string
			for _, c := range after {
				want = append(want, c.Name)
			}
			for _, info := range s.providers.List() {
				got = append(got, info.Name)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestChangesKeepWhatIsKnown: a provider that stays as it is need not be asked for its configuration again.
func TestChangesKeepWhatIsKnown(t *testing.T) {
	s := newSite(t)
	h := newHostile(t, s.clock.Now)
	c := oidc.Config{Name: "corp", Issuer: h.URL, ClientID: clientID, ClientSecret: secret}
	s.open(c)
	for range 3 {
		get(t, browser(t), s.URL+"/login/corp")
		if _, err := s.last(t); err != nil {
			t.Fatal(err)
		}
		s.providers.Use([]oidc.Config{c, {Name: "more", Issuer: "https://more.example"}})
	}
	if n := h.requested["/.well-known/openid-configuration"]; n != 1 {
		t.Errorf("it was asked %d times", n)
	}
}

func TestChangesWhilePeopleLogIn(t *testing.T) {
	s := newSite(t)
	h := newHostile(t, s.clock.Now)
	c := oidc.Config{Name: "corp", Issuer: h.URL, ClientID: clientID, ClientSecret: secret}
	s.open(c)
	var people sync.WaitGroup
	for range 8 {
		b := browser(t)
		people.Go(func() {
			for range 5 {
				if resp, err := b.Get(s.URL + "/login/corp"); err != nil {
					t.Error(err)
				} else {
					resp.Body.Close()
				}
			}
		})
	}
	for n := range 100 {
		d := c
		d.Params = map[string]string{"n": string(rune('a' + n%26))}
		s.providers.Use([]oidc.Config{d})
		s.providers.List()
		s.providers.Trouble("corp")
	}
	people.Wait()
	for _, err := range s.errs {
		if err != nil {
			t.Error(err)
		}
	}
}
