package login_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"heddle/control/controltest"
	"heddle/control/oidc"
)

// FuzzPages: whatever a browser is made to ask, it gets a page or is sent on to one of ours or the provider's,
// and no device joins.
func FuzzPages(f *testing.F) {
	p := newIDP()
	s := controltest.Start(f, controltest.Config{Providers: oidc.New(oidc.Options{
		Providers: []oidc.Config{{Name: "example", Issuer: issuer, ClientID: "heddle", ClientSecret: "s3cret"}},
		Redirect:  must(url.Parse(server + "/oidc/callback")),
		Transport: hosts{"idp.test": p},
	})})
	resp, err := s.Client("laptop").Register(f.Context(), nil)
	if err != nil {
		f.Fatal(err)
	}
	path := strings.TrimPrefix(resp.AuthURL, server)
	for _, seed := range []struct{ method, path, cookie, site, form string }{
		{"GET", path, "", "", ""},
		{"GET", path + "?anew", "heddle-session=x", "none", ""},
		{"GET", path + "/with/example", "", "same-origin", ""},
		{"GET", path + "/with/example?anew", "heddle-login=x", "cross-site", ""},
		{"GET", path + "/status", "", "", ""},
		{"POST", path, "heddle-session=AAAA", "same-origin", "consent=x"},
		{"POST", path, "heddle-session=AAAA; heddle-session=B", "", "consent=%zz&decision=approve"},
		{"GET", "/oidc/callback?code=x&state=y", "heddle-login=x", "cross-site", ""},
		{"GET", "/ssh/x/with/example", "", "", ""},
		{"POST", "/ssh/x", "", "", "decision=approve"},
		{"GET", "//evil.test/%2f..", "", "", ""},
	} {
		f.Add(seed.method, seed.path, seed.cookie, seed.site, seed.form)
	}
	f.Fuzz(func(t *testing.T, method, path, cookie, site, form string) {
		u, err := url.Parse(path)
		if err != nil || method != "GET" && method != "POST" {
			return
		}
		r := httptest.NewRequest(method, "/", strings.NewReader(form))
		r.URL = u
		r.Header = http.Header{"Cookie": {cookie}, "Sec-Fetch-Site": {site}, "Content-Type": {"application/x-www-form-urlencoded"}, "Origin": {server}}
		w := httptest.NewRecorder()
		s.Handler.ServeHTTP(w, r)
		to := w.Header().Get("Location")
		if to != "" && !strings.HasPrefix(to, issuer+"/authorize?") && (!strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//")) {
			t.Errorf("%s %q leads to %q", method, path, to)
		}
		if strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") && to == "" && !strings.Contains(w.Header().Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s %q: a page without a policy", method, path)
		}
		if w.Code == http.StatusInternalServerError || s.State.Snapshot().NumNodes() != 0 {
			t.Errorf("%s %q: %d, %d nodes", method, path, w.Code, s.State.Snapshot().NumNodes())
		}
	})
}
