package idp_test

import (
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"

	"heddle/integration/idp"
)

// TestVisit goes through the pages of the provider, and comes back with a code or a refusal.
func TestVisit(t *testing.T) {
	const back = "http://127.0.0.1:1/back"
	p := idp.Start(t, idp.Options{
		Clients: []idp.Client{{ID: "c", Secret: "0123456789", RedirectURIs: []string{back}}},
		People:  map[string]idp.Claims{"ann": {"email": "ann@example.com"}},
	})
	visit := func(c idp.Choice) url.Values {
		t.Helper()
		jar, err := cookiejar.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
			if strings.HasPrefix(r.URL.String(), back) {
				return http.ErrUseLastResponse
			}
			return nil
		}}
		q := url.Values{
			"client_id": {"c"}, "redirect_uri": {back}, "response_type": {"code"}, "scope": {"openid email"}, "state": {"s"},
			"code_challenge": {strings.Repeat("x", 43)}, "code_challenge_method": {"S256"},
		}
		resp, err := p.Visit(t.Context(), client, p.Issuer+"/auth?"+q.Encode(), c)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		to, err := resp.Location()
		if err != nil {
			t.Fatal(resp.Status, err)
		}
		return to.Query()
	}
	if got := visit(idp.Choice{Login: "ann"}); got.Get("code") == "" || got.Get("state") != "s" || got.Get("iss") != p.Issuer {
		t.Errorf("logging in gives %v", got)
	}
	p.Stop()
	p.Start(t)
	if got := visit(idp.Choice{Cancel: true}); got.Get("error") != "access_denied" {
		t.Errorf("cancelling gives %v", got)
	}
}
