package oidc_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"heddle/control/oidc"
	"heddle/control/tailnet"

	"github.com/google/go-cmp/cmp"
)

// hostile is a provider that asks nobody anything and answers what a test wants. Its fields may be changed
// while nobody asks.
type hostile struct {
	*httptest.Server
	key *rsa.PrivateKey
	kid string
	now func() time.Time

	// What it does instead of what is right; nil is right.
	discovery, keys, token, userinfo http.HandlerFunc

	document  func(map[string]any)       // changes the discovery document
	back      func(url.Values)           // changes what the browser is sent back with
	claims    func(map[string]any)       // changes those of the ID token
	sign      func(claims []byte) string // makes the ID token
	answer    func(map[string]any)       // changes what the token endpoint says
	requested map[string]int             // by path

	mu    sync.Mutex
	codes map[string]url.Values // what was asked for when a code was given
}

// usualKey takes a while to make, so that the providers share it.
var usualKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err) // the system has no randomness
	}
	return key
})

func newHostile(t *testing.T, now func() time.Time) *hostile {
	h := &hostile{key: usualKey(), kid: "1", now: now, codes: map[string]url.Values{}, requested: map[string]int{}}
	mux := http.NewServeMux()
	serve := func(path string, own *http.HandlerFunc, right http.HandlerFunc) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			h.mu.Lock()
			h.requested[path]++
			h.mu.Unlock()
			if *own != nil {
				(*own)(w, r)
				return
			}
			right(w, r)
		})
	}
	var none http.HandlerFunc
	serve("/.well-known/openid-configuration", &h.discovery, h.serveDiscovery)
	serve("/keys", &h.keys, h.serveKeys)
	serve("/authorize", &none, h.serveAuthorize)
	serve("/token", &h.token, h.serveToken)
	serve("/userinfo", &h.userinfo, func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, map[string]any{"sub": "u-1", "email": "ann@example.com", "email_verified": true})
	})
	h.Server = httptest.NewServer(mux)
	t.Cleanup(h.Close)
	return h
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

func (h *hostile) serveDiscovery(w http.ResponseWriter, _ *http.Request) {
	doc := map[string]any{
		"issuer": h.URL, "authorization_endpoint": h.URL + "/authorize", "token_endpoint": h.URL + "/token",
		"jwks_uri": h.URL + "/keys", "userinfo_endpoint": h.URL + "/userinfo",
		"id_token_signing_alg_values_supported": []string{"none", "HS256", "RS256"},
	}
	if h.document != nil {
		h.document(doc)
	}
	writeJSON(w, doc)
}

func (h *hostile) serveKeys(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, map[string]any{"keys": []any{map[string]any{
		"kty": "RSA", "use": "sig", "kid": h.kid,
		"n": b64(h.key.N.Bytes()), "e": b64(big.NewInt(int64(h.key.E)).Bytes()),
	}}})
}

func (h *hostile) serveAuthorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	back := url.Values{"state": {q.Get("state")}, "code": {"code-" + q.Get("state")}}
	if h.back != nil {
		h.back(back)
	}
	h.mu.Lock()
	if code := back.Get("code"); h.codes[code] == nil {
		h.codes[code] = q
	}
	h.mu.Unlock()
	http.Redirect(w, r, q.Get("redirect_uri")+"?"+back.Encode(), http.StatusFound)
}

func (h *hostile) serveToken(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	q := h.codes[r.FormValue("code")]
	h.mu.Unlock()
	sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
	if id, pass, _ := r.BasicAuth(); q == nil || id != clientID || pass != secret || r.FormValue("redirect_uri") != q.Get("redirect_uri") ||
		q.Get("code_challenge_method") != "S256" || b64(sum[:]) != q.Get("code_challenge") {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, `{"error":"invalid_grant","error_description":"no such code"}`)
		return
	}
	now := h.now()
	claims := map[string]any{
		"iss": h.URL, "sub": "u-1", "aud": clientID, "nonce": q.Get("nonce"),
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "auth_time": now.Unix(),
		"name": "Ann Arbor", "email": "ann@example.com", "email_verified": true,
	}
	if h.claims != nil {
		h.claims(claims)
	}
	text, err := json.Marshal(claims)
	if err != nil {
		panic(err) // of the test's making
	}
	sign := h.rs256
	if h.sign != nil {
		sign = h.sign
	}
	answer := map[string]any{"access_token": "access-token", "token_type": "Bearer", "expires_in": 60, "id_token": sign(text)}
	if h.answer != nil {
		h.answer(answer)
	}
	writeJSON(w, answer)
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (h *hostile) rs256(claims []byte) string { return rs256(h.key, h.kid, claims) }

func rs256(key *rsa.PrivateKey, kid string, claims []byte) string {
	signed := b64(fmt.Appendf(nil, `{"alg":"RS256","kid":%q}`, kid)) + "." + b64(claims)
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		panic(err) // a good key
	}
	return signed + "." + b64(signature)
}

// hs256 signs with what is public, as if it were a shared secret.
func (h *hostile) hs256(claims []byte) string {
	der, err := x509.MarshalPKIXPublicKey(&h.key.PublicKey)
	if err != nil {
		panic(err) // a good key
	}
	signed := b64(fmt.Appendf(nil, `{"alg":"HS256","kid":%q}`, h.kid)) + "." + b64(claims)
	mac := hmac.New(sha256.New, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	mac.Write([]byte(signed))
	return signed + "." + b64(mac.Sum(nil))
}

// set returns a change of claims or documents.
func set(name string, value any) func(map[string]any) {
	return func(m map[string]any) { m[name] = value }
}

func without(name string) func(map[string]any) {
	return func(m map[string]any) { delete(m, name) }
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) }
}

// large answers with 5 MB, in which there would be JSON at the end.
func large(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Write([]byte(`{"a":"`))
	block := bytes.Repeat([]byte("x"), 1<<20)
	for range 5 {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
	w.Write([]byte(`"}`))
}

const (
	stale    = "Corp did not make you log in anew, or does not say when you did"
	distrust = "the answer of Corp cannot be trusted, so nobody was logged in"
	away     = "Corp does not answer as it should at present"
)

func TestHostileProvider(t *testing.T) {
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		fresh bool
		set   func(*hostile)
		code  tailnet.Code
		want  string // the beginning of the message; "" if the person gets in
		log   string // what the line of the log tells beside that
	}{
		{name: "right", set: func(h *hostile) {}},
		{name: "right and fresh", fresh: true, set: func(h *hostile) {}},

		{name: "discovery of another issuer", set: func(h *hostile) { h.document = set("issuer", "https://evil.example") }, code: tailnet.Unavailable, want: away, log: "https://evil.example"},
		{name: "discovery without an issuer", set: func(h *hostile) { h.document = without("issuer") }, code: tailnet.Unavailable, want: away, log: "did not match"},
		{name: "discovery of garbage", set: func(h *hostile) { h.discovery = says("<html>") }, code: tailnet.Unavailable, want: away, log: "failed to decode"},
		{name: "discovery of a list", set: func(h *hostile) { h.discovery = says("[]") }, code: tailnet.Unavailable, want: away, log: "failed to decode"},
		{name: "discovery of nothing", set: func(h *hostile) { h.discovery = http.NotFound }, code: tailnet.Unavailable, want: away, log: "404"},
		{name: "discovery of 5 MB", set: func(h *hostile) { h.discovery = large }, code: tailnet.Unavailable, want: away, log: "larger than 256 KB"},
		{name: "discovery that redirects for ever", set: func(h *hostile) {
			h.discovery = func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.String(), http.StatusFound) }
		}, code: tailnet.Unavailable, want: away, log: "too many redirects"},
		{name: "no authorization endpoint", set: func(h *hostile) { h.document = without("authorization_endpoint") }, code: tailnet.Unavailable, want: away, log: "names no authorization_endpoint"},
		{name: "a script as authorization endpoint", set: func(h *hostile) { h.document = set("authorization_endpoint", "javascript:alert(1)") }, code: tailnet.Unavailable, want: away, log: "is no URL"},
		{name: "a path as token endpoint", set: func(h *hostile) { h.document = set("token_endpoint", "/token") }, code: tailnet.Unavailable, want: away, log: "is no URL"},
		{name: "a file of keys", set: func(h *hostile) { h.document = set("jwks_uri", "file:///etc/passwd") }, code: tailnet.Unavailable, want: away, log: "is no URL"},

		{name: "foreign state", set: func(h *hostile) { h.back = func(q url.Values) { q.Set("state", "AAAAAAAAAAAAAAAAAAAAAAAAAA") } }, code: tailnet.Invalid, want: "this login is not known here"},
		{name: "no state", set: func(h *hostile) { h.back = func(q url.Values) { q.Del("state") } }, code: tailnet.Invalid, want: "this is not an address that a login ends at"},
		{name: "two states", set: func(h *hostile) { h.back = func(q url.Values) { q.Add("state", "x") } }, code: tailnet.Invalid, want: "this is not an address that a login ends at (state)"},
		{name: "no code", set: func(h *hostile) { h.back = func(q url.Values) { q.Del("code") } }, code: tailnet.Invalid, want: "this is not an address that a login ends at"},
		{name: "a code of 9 KB", set: func(h *hostile) { h.back = func(q url.Values) { q.Set("code", strings.Repeat("x", 9<<10)) } }, code: tailnet.Invalid, want: "this is not an address that a login ends at (code)"},
		{name: "another issuer answers", set: func(h *hostile) { h.back = func(q url.Values) { q.Set("iss", "https://evil.example") } }, code: tailnet.Denied, want: distrust, log: "comes from the issuer"},
		{name: "no issuer answers where one always does", set: func(h *hostile) { h.document = set("authorization_response_iss_parameter_supported", true) }, code: tailnet.Denied, want: distrust, log: "comes from the issuer"},
		{name: "an error", set: func(h *hostile) {
			h.back = func(q url.Values) {
				q.Del("code")
				q.Set("error", "invalid_scope")
				q.Set("error_description", "no\nsuch")
			}
		}, code: tailnet.Denied, want: "Corp did not log you in (invalid_scope)", log: "invalid_scope"},
		{name: "an error that is markup", set: func(h *hostile) { h.back = func(q url.Values) { q.Del("code"); q.Set("error", "<script>") } }, code: tailnet.Denied, want: "Corp did not log you in: begin anew", log: "script"},
		{name: "trouble", set: func(h *hostile) {
			h.back = func(q url.Values) { q.Del("code"); q.Set("error", "temporarily_unavailable") }
		}, code: tailnet.Denied, want: "Corp has trouble at present"},

		{name: "foreign code", set: func(h *hostile) {
			h.codes["foreign"] = url.Values{"code_challenge": {"x"}, "code_challenge_method": {"S256"}}
			h.back = func(q url.Values) { q.Set("code", "foreign") }
		}, code: tailnet.Denied, want: "Corp does not accept this login any more", log: "invalid_grant"},
		{name: "token endpoint of garbage", set: func(h *hostile) { h.token = says("<html>") }, code: tailnet.Unavailable, want: away, log: "cannot parse"},
		{name: "token endpoint of 5 MB", set: func(h *hostile) { h.token = large }, code: tailnet.Unavailable, want: away, log: "larger than 256 KB"},
		{name: "token endpoint that fails", set: func(h *hostile) { h.token = func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 500) } }, code: tailnet.Unavailable, want: away, log: "500"},
		{name: "token endpoint that redirects", set: func(h *hostile) {
			h.token = func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "/userinfo", http.StatusTemporaryRedirect)
			}
		}, code: tailnet.Unavailable, want: away, log: "must not answer with"},
		{name: "no ID token", set: func(h *hostile) { h.answer = without("id_token") }, code: tailnet.Denied, want: distrust, log: "no ID token"},
		{name: "an ID token that is none", set: func(h *hostile) { h.answer = set("id_token", "x.y.z") }, code: tailnet.Denied, want: distrust, log: "malformed jwt"},
		{name: "an ID token that is a number", set: func(h *hostile) { h.answer = set("id_token", 7) }, code: tailnet.Denied, want: distrust, log: "no ID token"},

		{name: "algorithm none", set: func(h *hostile) {
			h.sign = func(c []byte) string { return b64([]byte(`{"alg":"none"}`)) + "." + b64(c) + "." }
		}, code: tailnet.Denied, want: distrust, log: "algorithm"},
		{name: "HS256 with the public key", set: func(h *hostile) { h.sign = h.hs256 }, code: tailnet.Denied, want: distrust, log: "algorithm"},
		{name: "another key", set: func(h *hostile) { h.sign = func(c []byte) string { return rs256(other, "1", c) } }, code: tailnet.Denied, want: distrust, log: "verify"},
		{name: "an unknown key", set: func(h *hostile) { h.sign = func(c []byte) string { return rs256(other, "2", c) } }, code: tailnet.Denied, want: distrust, log: "verify"},
		{name: "changed claims", set: func(h *hostile) {
			h.sign = func(c []byte) string {
				parts := strings.Split(h.rs256(c), ".")
				return parts[0] + "." + b64(bytes.Replace(c, []byte("u-1"), []byte("u-2"), 1)) + "." + parts[2]
			}
		}, code: tailnet.Denied, want: distrust, log: "verify"},
		{name: "keys of garbage", set: func(h *hostile) { h.keys = says("<html>") }, code: tailnet.Unavailable, want: away, log: "fetching keys"},
		{name: "keys of 5 MB", set: func(h *hostile) { h.keys = large }, code: tailnet.Unavailable, want: away, log: "larger than 256 KB"},
		{name: "no keys", set: func(h *hostile) { h.keys = says("{}") }, code: tailnet.Denied, want: distrust, log: "verify"},

		{name: "wrong nonce", set: func(h *hostile) { h.claims = set("nonce", "x") }, code: tailnet.Denied, want: distrust, log: "nonce"},
		{name: "no nonce", set: func(h *hostile) { h.claims = without("nonce") }, code: tailnet.Denied, want: distrust, log: "nonce"},
		{name: "another issuer", set: func(h *hostile) { h.claims = set("iss", "https://evil.example") }, code: tailnet.Denied, want: distrust, log: "different provider"},
		{name: "another client", set: func(h *hostile) { h.claims = set("aud", "another") }, code: tailnet.Denied, want: distrust, log: "audience"},
		{name: "another client asked", set: func(h *hostile) {
			h.claims = func(c map[string]any) { c["aud"], c["azp"] = []string{clientID, "another"}, "another" }
		}, code: tailnet.Denied, want: distrust, log: "another client (azp)"},
		{name: "several clients and nobody asked", set: func(h *hostile) { h.claims = set("aud", []string{clientID, "another"}) }, code: tailnet.Denied, want: distrust, log: "which of them asked (azp)"},
		{name: "several clients and we asked", set: func(h *hostile) {
			h.claims = func(c map[string]any) { c["aud"], c["azp"] = []string{clientID, "another"}, clientID }
		}},
		{name: "audience in capitals", set: func(h *hostile) { h.claims = func(c map[string]any) { c["aud"], c["AUD"] = "another", clientID } }, code: tailnet.Denied, want: distrust},
		{name: "no subject", set: func(h *hostile) { h.claims = without("sub") }, code: tailnet.Denied, want: distrust, log: "subject"},
		{name: "a subject of lines", set: func(h *hostile) { h.claims = set("sub", "u\n1") }, code: tailnet.Denied, want: distrust, log: "subject"},
		{name: "two subjects, as Go folds the case of letters", set: func(h *hostile) { h.claims = set("\u017fub", "u-2") }, code: tailnet.Denied, want: distrust, log: "subject"},

		{name: "expired", set: func(h *hostile) { h.claims = set("exp", h.now().Add(-2*time.Minute).Unix()) }, code: tailnet.Denied, want: distrust, log: "expired 2m"},
		{name: "just expired", set: func(h *hostile) { h.claims = set("exp", h.now().Add(-50*time.Second).Unix()) }},
		{name: "expires never", set: func(h *hostile) { h.claims = without("exp") }, code: tailnet.Denied, want: distrust, log: "until when"},
		{name: "expires in a million years", set: func(h *hostile) { h.claims = set("exp", 1e300) }, code: tailnet.Denied, want: distrust, log: "until when"},
		{name: "of the future", set: func(h *hostile) { h.claims = set("iat", h.now().Add(2*time.Minute).Unix()) }, code: tailnet.Denied, want: distrust, log: "in the future"},
		{name: "of a clock that is fast", set: func(h *hostile) { h.claims = set("iat", h.now().Add(50*time.Second).Unix()) }},
		{name: "not valid yet", set: func(h *hostile) { h.claims = set("nbf", h.now().Add(2*time.Minute).Unix()) }, code: tailnet.Denied, want: distrust, log: "not valid before"},
		{name: "access token of another", set: func(h *hostile) { h.claims = set("at_hash", "AAAAAAAAAAAAAAAAAAAAAA") }, code: tailnet.Denied, want: distrust, log: "access token"},
		{name: "claims elsewhere", set: func(h *hostile) { h.claims = set("_claim_names", map[string]string{"groups": "gone"}) }, code: tailnet.Denied, want: distrust, log: "source"},

		{name: "fresh without a time", fresh: true, set: func(h *hostile) { h.claims = without("auth_time") }, code: tailnet.Denied, want: stale, log: "auth_time"},
		{name: "fresh from before", fresh: true, set: func(h *hostile) { h.claims = set("auth_time", h.now().Add(-5*time.Minute).Unix()) }, code: tailnet.Denied, want: stale, log: "authenticated 5m"},
		{name: "fresh from the future", fresh: true, set: func(h *hostile) { h.claims = set("auth_time", h.now().Add(5*time.Minute).Unix()) }, code: tailnet.Denied, want: distrust, log: "in the future"},
		{name: "from before", set: func(h *hostile) { h.claims = set("auth_time", h.now().Add(-5*time.Minute).Unix()) }},

		{name: "5 MB of claims", set: func(h *hostile) { h.claims = set("groups", strings.Repeat("x", 5<<20)) }, code: tailnet.Unavailable, want: away, log: "larger than 256 KB"},
		{name: "userinfo", set: func(h *hostile) { h.claims = without("email") }},
		{name: "no userinfo", set: func(h *hostile) { h.claims = without("email"); h.document = without("userinfo_endpoint") }},
		{name: "userinfo of somebody else", set: func(h *hostile) {
			h.claims = without("email")
			h.userinfo = says(`{"sub":"u-2","email":"eve@example.com"}`)
		}, code: tailnet.Denied, want: distrust, log: "somebody else"},
		{name: "userinfo of nobody", set: func(h *hostile) { h.claims = without("email"); h.userinfo = says(`{"email":"eve@example.com"}`) }, code: tailnet.Denied, want: distrust, log: "somebody else"},
		{name: "userinfo of garbage", set: func(h *hostile) { h.claims = without("email"); h.userinfo = says("<html>") }, code: tailnet.Unavailable, want: away, log: "userinfo"},
		{name: "userinfo of null", set: func(h *hostile) { h.claims = without("email"); h.userinfo = says("null") }, code: tailnet.Unavailable, want: away},
		{name: "userinfo of 5 MB", set: func(h *hostile) { h.claims = without("email"); h.userinfo = large }, code: tailnet.Unavailable, want: away, log: "larger than 256 KB"},
		{name: "userinfo that refuses", set: func(h *hostile) {
			h.claims = without("email")
			h.userinfo = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }
		}, code: tailnet.Unavailable, want: away, log: "401"},
		{name: "userinfo verifies another address", set: func(h *hostile) {
			h.claims = func(c map[string]any) { c["email"] = "victim@example.com"; delete(c, "email_verified") }
		}, code: tailnet.Denied, want: "Corp does not say that victim@example.com is verified"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t)
			h := newHostile(t, s.clock.Now)
			tt.set(h)
			s.open(oidc.Config{Name: "corp", Label: "Corp", Issuer: h.URL, ClientID: clientID, ClientSecret: secret})
			from := s.URL + "/login/corp?then=x"
			if tt.fresh {
				from += "&fresh=1"
			}
			get(t, browser(t), from)
			l, err := s.last(t)
			lines := s.log.take()
			for _, private := range []string{secret, "access-token", "code-", "eyJ"} {
				if strings.Contains(strings.Join(lines, ""), private) || err != nil && strings.Contains(err.Error(), private) {
					t.Errorf("%q shows in %q or %v", private, lines, err)
				}
			}
			if tt.want == "" {
				if err != nil || len(lines) > 0 || l.Profile.Identity != (tailnet.Identity{Issuer: h.URL, Subject: "u-1"}) {
					t.Errorf("got %+v, %v; logged %q", l, err, lines)
				}
				return
			}
			if tailnet.CodeOf(err) != tt.code || !strings.HasPrefix(tailnet.Message(err), tt.want) || l.Provider != "" || l.Then != "" && l.Then != "x" {
				t.Errorf("got %v %v, want %v %q", tailnet.CodeOf(err), err, tt.code, tt.want)
			}
			if len(lines) != 1 || !strings.Contains(lines[0], tt.log) || len(lines[0]) > 1000 {
				t.Errorf("logged %.2000q, want one line with %q", lines, tt.log)
			}
		})
	}
}

// TestForgedAnswers brings answers to the wrong place.
func TestForgedAnswers(t *testing.T) {
	s := newSite(t)
	h, other := newHostile(t, s.clock.Now), newHostile(t, s.clock.Now)
	s.open(
		oidc.Config{Name: "corp", Issuer: h.URL, ClientID: clientID, ClientSecret: secret},
		oidc.Config{Name: "other", Issuer: other.URL, ClientID: clientID, ClientSecret: secret},
	)
	// begin returns the state of a login that the provider was asked for.
	begin := func(b *http.Client, provider string) string {
		t.Helper()
		c := *b
		c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		resp, err := c.Get(s.URL + "/login/" + provider)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		to, err := resp.Location()
		if err != nil {
			t.Fatal(err)
		}
		return to.Query().Get("state")
	}
	callback := func(state, code string) string {
		return s.redirect().String() + "?" + url.Values{"state": {state}, "code": {code}}.Encode()
	}
	victim, attacker := browser(t), browser(t)

	// Login CSRF: an attacker's answer in the victim's browser, with and without a login of the victim's own.
	state := begin(attacker, "corp")
	get(t, victim, callback(state, "code-"+state))
	if _, err := s.last(t); tailnet.CodeOf(err) != tailnet.Denied || !strings.Contains(tailnet.Message(err), "another browser") {
		t.Errorf("an attacker's answer: %v", err)
	}
	mine := begin(victim, "corp")
	get(t, victim, callback(state, "code-"+state))
	if _, err := s.last(t); tailnet.CodeOf(err) != tailnet.Denied {
		t.Errorf("an attacker's answer, having begun: %v", err)
	}
	// The victim's state with the attacker's code: the verifier of PKCE does not fit.
	get(t, victim, callback(mine, "code-"+state))
	if _, err := s.last(t); tailnet.CodeOf(err) != tailnet.Denied {
		t.Errorf("an attacker's code: %v", err)
	}
	// An answer of one provider to a login at another.
	state = begin(victim, "other")
	get(t, victim, callback(state, "code-"+begin(victim, "corp")))
	if _, err := s.last(t); tailnet.CodeOf(err) != tailnet.Denied {
		t.Errorf("a code of another provider: %v", err)
	}
	s.log.take()

	// Nobody is sent anywhere but to the provider.
	get(t, victim, s.URL+"/login/"+url.PathEscape("//evil.example"))
	if _, err := s.last(t); tailnet.CodeOf(err) != tailnet.NotFound {
		t.Errorf("no provider: %v", err)
	}
	get(t, victim, s.URL+"/login/corp?then="+strings.Repeat("x", 600))
	if _, err := s.last(t); tailnet.CodeOf(err) != tailnet.Invalid {
		t.Errorf("too much to remember: %v", err)
	}
	if lines := s.log.take(); len(lines) != 2 {
		t.Errorf("logged %q", lines)
	}
}

// TestKeyRotation signs with a key that was unknown a moment ago, then withdraws it.
func TestKeyRotation(t *testing.T) {
	s := newSite(t)
	h := newHostile(t, s.clock.Now)
	s.open(oidc.Config{Name: "corp", Issuer: h.URL, ClientID: clientID, ClientSecret: secret})
	logIn := func() error {
		get(t, browser(t), s.URL+"/login/corp")
		_, err := s.last(t)
		return err
	}
	if err := logIn(); err != nil {
		t.Fatal(err)
	}
	old := h.key
	next, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	h.key, h.kid = next, "2"
	if err := logIn(); err != nil {
		t.Errorf("with the next key: %v", err)
	}
	h.sign = func(c []byte) string { return rs256(old, "1", c) }
	if err := logIn(); tailnet.CodeOf(err) != tailnet.Denied {
		t.Errorf("with the key that was withdrawn: %v", err)
	}
	// A key that is withdrawn without another in its place is believed for an hour.
	h.sign, h.keys = nil, says(`{"keys":[]}`)
	if err := logIn(); err != nil {
		t.Errorf("with a key that is known: %v", err)
	}
	s.clock.Add(time.Hour)
	if err := logIn(); tailnet.CodeOf(err) != tailnet.Denied {
		t.Errorf("an hour after the key was withdrawn: %v", err)
	}
}

// TestOldMetadata goes on with what is known while a provider's documents are broken.
func TestOldMetadata(t *testing.T) {
	s := newSite(t)
	h := newHostile(t, s.clock.Now)
	s.open(oidc.Config{Name: "corp", Issuer: h.URL, ClientID: clientID, ClientSecret: secret})
	for _, discovery := range []http.HandlerFunc{nil, says("garbage"), nil} {
		h.discovery = discovery
		get(t, browser(t), s.URL+"/login/corp")
		if _, err := s.last(t); err != nil {
			t.Error(err)
		}
		s.clock.Add(2 * time.Hour)
	}
	if n := h.requested["/.well-known/openid-configuration"]; n != 3 {
		t.Errorf("the configuration was fetched %d times", n)
	}
}

// TestHangingProvider lets many people wait for a provider that takes every request and never answers.
func TestHangingProvider(t *testing.T) {
	s := newSite(t)
	h := newHostile(t, s.clock.Now)
	asked := make(chan struct{}, 1000)
	h.discovery = func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	}
	s.open(oidc.Config{Name: "corp", Issuer: h.URL, ClientID: clientID})
	const people = 500
	before := runtime.NumGoroutine()
	results := make(chan error, people)
	for range people {
		go func() {
			r := httptest.NewRequest("GET", "/login/corp", nil)
			results <- s.providers.Begin(httptest.NewRecorder(), r, "corp", "", false)
		}()
	}
	// All but the one who asks and those who may wait for it are told at once.
	const waiting = 1 + 64
	for range people - waiting {
		if err := <-results; tailnet.CodeOf(err) != tailnet.Unavailable {
			t.Errorf("got %v", err)
		}
	}
	if n := runtime.NumGoroutine() - before; n > waiting+20 {
		t.Errorf("%d goroutines wait", n)
	}
	<-asked
	h.CloseClientConnections()
	for range waiting {
		if err := <-results; tailnet.CodeOf(err) != tailnet.Unavailable {
			t.Errorf("got %v", err)
		}
	}
	if len(asked) > 0 {
		t.Errorf("the provider was asked %d times", 1+len(asked))
	}
	if s.providers.Trouble("corp") == nil {
		t.Error("no trouble is told")
	}
	h.discovery = nil
	s.clock.Add(time.Second)
	if err := s.providers.Begin(httptest.NewRecorder(), httptest.NewRequest("GET", "/login/corp", nil), "corp", "", false); err != nil || s.providers.Trouble("corp") != nil {
		t.Errorf("it answers again: %v, %v", err, s.providers.Trouble("corp"))
	}
}

// TestDeadline waits for providers that take a request and then say nothing, or little at a time.
func TestDeadline(t *testing.T) {
	for name, serve := range map[string]func(net.Conn){
		"nothing": func(c net.Conn) { io.Copy(io.Discard, c) },
		"drops": func(c net.Conn) {
			defer c.Close()
			http.ReadRequest(bufio.NewReader(c))
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{")
			for {
				time.Sleep(time.Second) // of the bubble
				if _, err := io.WriteString(c, " "); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var served sync.WaitGroup
				defer served.Wait()
				transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
					ours, theirs := net.Pipe()
					served.Go(func() { serve(theirs) })
					return ours, nil
				}}
				defer transport.CloseIdleConnections()
				providers := oidc.New(oidc.Options{
					Providers: []oidc.Config{{Name: "corp", Issuer: "http://idp.example", ClientID: clientID}},
					Redirect:  &url.URL{Scheme: "https", Host: "heddle.example", Path: "/oidc/callback"}, Transport: transport,
				})
				began := time.Now()
				err := providers.Begin(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), "corp", "", false)
				if took := time.Since(began); tailnet.CodeOf(err) != tailnet.Unavailable || took != 10*time.Second {
					t.Errorf("after %v: %v", took, err)
				}
			})
		})
	}
}

// TestAbandonedLogins begins far more logins than anybody would finish.
func TestAbandonedLogins(t *testing.T) {
	s := newSite(t)
	h := newHostile(t, s.clock.Now)
	s.open(oidc.Config{Name: "corp", Issuer: h.URL, ClientID: clientID, ClientSecret: secret})
	type begun struct {
		asked  url.Values // of the provider
		cookie *http.Cookie
	}
	begin := func(from string) (begun, error) {
		t.Helper()
		r, w := httptest.NewRequest("GET", "/", nil), httptest.NewRecorder()
		r.RemoteAddr = from
		if err := s.providers.Begin(w, r, "corp", strings.Repeat("x", 512), false); err != nil {
			return begun{}, err
		}
		to, err := w.Result().Location()
		if err != nil {
			t.Fatal(err)
		}
		return begun{to.Query(), w.Result().Cookies()[0]}, nil
	}
	finish := func(b begun) error {
		code := "code-" + b.asked.Get("state")
		h.codes[code] = b.asked
		r := httptest.NewRequest("GET", s.redirect().String()+"?code="+code+"&state="+b.asked.Get("state"), nil)
		r.AddCookie(b.cookie)
		_, err := s.providers.Finish(httptest.NewRecorder(), r)
		return err
	}

	// One address, in all of its IPv6 addresses, may begin 200.
	for i := range 200 {
		if _, err := begin(fmt.Sprintf("[2001:db8::%x]:1", i+1)); err != nil {
			t.Fatal(i, err)
		}
	}
	if _, err := begin("[2001:db8::ffff]:1"); tailnet.CodeOf(err) != tailnet.Exhausted || !strings.Contains(tailnet.Message(err), "at your address") {
		t.Errorf("number 201 of one address: %v", err)
	}
	another, err := begin("192.0.2.1:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := finish(another); err != nil {
		t.Errorf("somebody else logs in: %v", err)
	}

	// Of 20,000 from everywhere the table keeps the last 10,000.
	kept := map[int]begun{9999: {}, 10000: {}, 19998: {}, 19999: {}}
	before := heap()
	for i := range 20000 {
		b, err := begin(fmt.Sprintf("10.%d.%d.1:1", i>>8, i&255))
		if err != nil {
			t.Fatal(i, err)
		}
		if _, ok := kept[i]; ok {
			kept[i] = b
		}
	}
	if grown := int64(heap()) - int64(before); grown > 20<<20 {
		t.Errorf("10,000 logins take %d KB", grown>>10)
	} else {
		t.Logf("10,000 logins take %d KB", grown>>10)
	}
	if err := finish(kept[9999]); tailnet.CodeOf(err) != tailnet.Invalid {
		t.Errorf("a login that was pushed out: %v", err)
	}
	if err := finish(kept[10000]); err != nil {
		t.Errorf("the oldest login of the table: %v", err)
	}
	s.clock.Add(15*time.Minute - time.Second)
	if err := finish(kept[19998]); err != nil {
		t.Errorf("after almost 15 minutes: %v", err)
	}
	s.clock.Add(time.Second)
	if err := finish(kept[19999]); tailnet.CodeOf(err) != tailnet.Invalid {
		t.Errorf("after 15 minutes: %v", err)
	}
	// All are forgotten, so the address that was full begins again.
	if _, err := begin("[2001:db8::ffff]:1"); err != nil {
		t.Error(err)
	}
}

// heap returns how many bytes are in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestReloadsAtOnce opens the same callback in several tabs of a browser: one finishes, all are told.
func TestReloadsAtOnce(t *testing.T) {
	s := newSite(t)
	h := newHostile(t, s.clock.Now)
	s.open(oidc.Config{Name: "corp", Issuer: h.URL, ClientID: clientID, ClientSecret: secret})
	b := browser(t)
	c := *b
	c.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(r.URL.String(), s.URL+"/oidc/callback") {
			return http.ErrUseLastResponse
		}
		return nil
	}
	resp, err := c.Get(s.URL + "/login/corp")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	at, err := resp.Location()
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			resp, err := b.Get(at.String())
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
		})
	}
	wait.Wait()
	first := 0
	for i, l := range s.logins {
		if s.errs[i] != nil {
			t.Error(s.errs[i])
		}
		if !l.Again {
			first++
		}
	}
	if n := h.requested["/token"]; n != 1 || first != 1 || len(s.logins) != 4 {
		t.Errorf("of %d answers %d are the first; the code was redeemed %d times", len(s.logins), first, n)
	}
}

// TestCookie checks what binds a login to a browser.
func TestCookie(t *testing.T) {
	s := newSite(t)
	h := newHostile(t, s.clock.Now)
	for _, tt := range []struct{ scheme, name string }{{"https", "__Host-heddle-login"}, {"http", "heddle-login"}} {
		p := oidc.New(oidc.Options{
			Providers: []oidc.Config{{
				Name: "corp", Issuer: h.URL, ClientID: clientID, Scopes: []string{"groups", "openid"},
				Params: map[string]string{"hd": "example.com", "nonce": "evil", "response_mode": "form_post"},
			}},
			Redirect: &url.URL{Scheme: tt.scheme, Host: "heddle.example", Path: "/oidc/callback"},
		})
		begin := func(with string) *http.Response {
			t.Helper()
			r, w := httptest.NewRequest("GET", "/", nil), httptest.NewRecorder()
			r.AddCookie(&http.Cookie{Name: tt.name, Value: with})
			if err := p.Begin(w, r, "corp", "", false); err != nil {
				t.Fatal(err)
			}
			return w.Result()
		}
		resp := begin("short")
		c := resp.Cookies()[0]
		if c.Name != tt.name || len(c.Value) != 26 || !c.HttpOnly || c.Secure != (tt.scheme == "https") || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || c.MaxAge != 1200 {
			t.Errorf("%s: the cookie is %v", tt.scheme, c)
		}
		if resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: the headers are %v", tt.scheme, resp.Header)
		}
		to, err := resp.Location()
		if err != nil {
			t.Fatal(err)
		}
		q := to.Query()
		if !strings.HasPrefix(to.String(), h.URL+"/authorize?") || q.Get("redirect_uri") != tt.scheme+"://heddle.example/oidc/callback" ||
			q.Get("scope") != "openid groups" || q.Get("hd") != "example.com" || q.Has("response_mode") || q.Get("code_challenge_method") != "S256" || len(q.Get("nonce")) != 26 || len(q.Get("state")) != 26 {
			t.Errorf("%s: sent to %v", tt.scheme, to)
		}
		// A browser keeps what it has, so that several logins can be under way.
		if again := begin(c.Value).Cookies()[0]; again.Value != c.Value {
			t.Errorf("%s: the browser is taken for another", tt.scheme)
		}
	}
}

// TestNoWayAroundTLS refuses what leads from https to http.
func TestNoWayAroundTLS(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(h *hostile, plain string)
		want string
	}{
		{"right", func(*hostile, string) {}, ""},
		{"endpoint", func(h *hostile, plain string) { h.document = set("token_endpoint", plain) }, "is not https"},
		{"redirect", func(h *hostile, plain string) {
			h.discovery = http.RedirectHandler(plain, http.StatusFound).ServeHTTP
		}, "a redirect from https"},
	} {
		clock := newClock()
		h := newHostile(t, clock.Now)
		secure := httptest.NewTLSServer(h.Config.Handler)
		defer secure.Close()
		plain := h.URL
		h.URL = secure.URL
		tt.set(h, plain)
		p := oidc.New(oidc.Options{
			Providers: []oidc.Config{{Name: "corp", Issuer: h.URL, ClientID: clientID}}, Now: clock.Now, Transport: secure.Client().Transport,
			Redirect: &url.URL{Scheme: "https", Host: "heddle.example", Path: "/oidc/callback"},
		})
		err := p.Begin(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), "corp", "", false)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// TestImpatience loads a callback again and again while the provider takes its time.
func TestImpatience(t *testing.T) {
	s := newSite(t)
	h := newHostile(t, s.clock.Now)
	asked, answer := make(chan struct{}), make(chan struct{})
	h.token = func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-answer
		h.serveToken(w, r)
	}
	s.open(oidc.Config{Name: "corp", Issuer: h.URL, ClientID: clientID, ClientSecret: secret})
	w := httptest.NewRecorder()
	if err := s.providers.Begin(w, httptest.NewRequest("GET", "/", nil), "corp", "x", false); err != nil {
		t.Fatal(err)
	}
	to, err := w.Result().Location()
	if err != nil {
		t.Fatal(err)
	}
	state := to.Query().Get("state")
	h.codes["c"] = to.Query()
	finish := func(ctx context.Context) (oidc.Login, error) {
		r := httptest.NewRequestWithContext(ctx, "GET", s.redirect().String()+"?code=c&state="+state, nil)
		r.AddCookie(w.Result().Cookies()[0])
		return s.providers.Finish(httptest.NewRecorder(), r)
	}
	type result struct {
		oidc.Login
		err error
	}
	results := make(chan result, 10)
	load := func() {
		l, err := finish(t.Context())
		results <- result{l, err}
	}
	go load()
	<-asked
	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, err := finish(gone); tailnet.CodeOf(err) != tailnet.Unavailable {
		t.Errorf("a page that was closed: %v", err)
	}
	// Four may wait; the others are told at once.
	for range 6 {
		go load()
	}
	for range 2 {
		if r := <-results; tailnet.CodeOf(r.err) != tailnet.Exhausted {
			t.Errorf("one too many: %+v", r)
		}
	}
	s.clock.Add(time.Hour) // what is being finished is not forgotten
	if err := s.providers.Begin(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), "corp", "x", false); err != nil {
		t.Error(err)
	}
	close(answer)
	again := 0
	for range 5 {
		r := <-results
		if r.err != nil {
			t.Error(r.err)
		}
		if r.Again {
			again++
		}
	}
	if again != 4 {
		t.Errorf("%d of 5 are told that they are not the first", again)
	}
}

// TestFinishedLogins keeps only so many.
func TestFinishedLogins(t *testing.T) {
	s := newSite(t)
	h := newHostile(t, s.clock.Now)
	s.providers = oidc.New(oidc.Options{
		Providers: []oidc.Config{{Name: "corp", Label: "Corp", Issuer: h.URL, ClientID: clientID, ClientSecret: secret}, {Name: "b"}},
		Redirect:  s.redirect(), Now: s.clock.Now, Limits: oidc.Limits{Finished: 1},
	})
	if diff := cmp.Diff([]oidc.Info{{Name: "corp", Label: "Corp"}, {Name: "b", Label: "b"}}, s.providers.List()); diff != "" {
		t.Error(diff)
	}
	if err := s.providers.Trouble("none"); err != nil {
		t.Error(err)
	}
	b := browser(t)
	var ends []string
	for range 2 {
		resp, err := b.Get(s.URL + "/login/corp")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		ends = append(ends, resp.Request.URL.String())
	}
	get(t, b, ends[0])
	if _, err := s.last(t); tailnet.CodeOf(err) != tailnet.Invalid {
		t.Errorf("a reload of the first: %v", err)
	}
	get(t, b, ends[1])
	if l, err := s.last(t); err != nil || !l.Again {
		t.Errorf("a reload of the last: %+v, %v", l, err)
	}
}
