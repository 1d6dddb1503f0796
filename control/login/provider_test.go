package login_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"heddle/control/controltest"
	"heddle/control/oidc"
	"heddle/control/tailnet"
)

const (
	server = "http://heddle.test"
	issuer = "https://idp.test"
)

// idp is an OpenID provider on which a test can log anybody in without a password. The browser
// test has a real one; this one can be told to be down, and whom to vouch for.
type idp struct {
	key *rsa.PrivateKey

	mu     sync.Mutex
	person string // who is at the browser: the local part of an address
	down   bool
	knows  []string              // values of prompt; nil if it does not say
	codes  map[string]url.Values // what was asked for
	asked  []url.Values
}

var signingKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

func newIDP() *idp {
	return &idp{key: signingKey(), person: "anna", codes: map[string]url.Values{}}
}

func (p *idp) is(person string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.person = person
}

func (p *idp) setDown(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
}

// requests returns what was asked of the provider by browsers.
func (p *idp) requests() []url.Values {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func (p *idp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		http.Error(w, "down", http.StatusBadGateway)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	b64 := base64.RawURLEncoding.EncodeToString
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		json.NewEncoder(w).Encode(map[string]any{
			"prompt_values_supported": p.knows,
			"issuer":                  issuer, "authorization_endpoint": issuer + "/authorize", "token_endpoint": issuer + "/token", "jwks_uri": issuer + "/keys",
			"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
			"id_token_signing_alg_values_supported": []string{"RS256"}, "code_challenge_methods_supported": []string{"S256"},
		})
	case "/keys":
		json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]string{
			"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1",
			"n": b64(p.key.N.Bytes()), "e": b64(big.NewInt(int64(p.key.E)).Bytes()),
		}}})
	case "/authorize":
		q := r.URL.Query()
		p.asked = append(p.asked, q)
		code := rand.Text()
		p.codes[code] = q
		q.Set("person", p.person)
		http.Redirect(w, r, q.Get("redirect_uri")+"?"+url.Values{"code": {code}, "state": {q.Get("state")}}.Encode(), http.StatusFound)
	case "/token":
		q, ok := p.codes[r.PostFormValue("code")]
		if !ok {
			w.WriteHeader(http.StatusBadRequest)
			io.WriteString(w, `{"error": "invalid_grant"}`)
			return
		}
		delete(p.codes, r.PostFormValue("code"))
		now := time.Now().Unix()
		claims, _ := json.Marshal(map[string]any{
			"iss": issuer, "aud": "heddle", "sub": "sub-" + q.Get("person"), "nonce": q.Get("nonce"), "iat": now, "exp": now + 60, "auth_time": now,
			"email": q.Get("person") + "@example.com", "email_verified": true, "name": strings.ToUpper(q.Get("person")[:1]) + q.Get("person")[1:],
		})
		signed := b64([]byte(`{"alg":"RS256","kid":"1"}`)) + "." + b64(claims)
		hash := sha256.Sum256([]byte(signed))
		sig, err := rsa.SignPKCS1v15(nil, p.key, crypto.SHA256, hash[:])
		if err != nil {
			panic(err)
		}
		json.NewEncoder(w).Encode(map[string]any{"access_token": "a", "token_type": "Bearer", "id_token": signed + "." + b64(sig)})
	default:
		http.NotFound(w, r)
	}
}

// hosts sends requests to the handler of their host.
type hosts map[string]http.Handler

func (h hosts) RoundTrip(r *http.Request) (*http.Response, error) {
	handler := h[r.URL.Host]
	if handler == nil {
		return nil, fmt.Errorf("nobody is %q", r.URL.Host)
	}
	body := r.Body
	if body == nil {
		body = http.NoBody
	}
	in := httptest.NewRequest(r.Method, r.URL.String(), body).WithContext(r.Context())
	in.Header = r.Header.Clone()
	in.RemoteAddr = "198.51.100.20:5000"
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, in)
	res := w.Result()
	res.Request = r
	return res, nil
}

// world is a server with a provider.
type world struct {
	*controltest.Server
	t   *testing.T
	idp *idp
}

// inWorld runs a test with a clock of its own.
func inWorld(t *testing.T, change func(*oidc.Options), test func(*testing.T, *world)) {
	t.Helper()
	signingKey() // its making may wait for goroutines outside
	controltest.Bubble(t, func(t *testing.T) {
		p := newIDP()
		o := oidc.Options{
			Providers: []oidc.Config{{Name: "example", Label: "Example", Issuer: issuer, ClientID: "heddle", ClientSecret: "s3cret"}},
			Redirect:  must(url.Parse(server + "/oidc/callback")),
			Transport: hosts{"idp.test": p},
		}
		if change != nil {
			change(&o)
		}
		test(t, &world{controltest.Start(t, controltest.Config{Providers: oidc.New(o)}), t, p})
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// browser is a browser with its cookies, at one of the clients' addresses.
type browser struct {
	*http.Client
	t    *testing.T
	jar  *cookiejar.Jar
	went []string // every URL that it was at, the last one last
}

func (w *world) browser() *browser {
	b := &browser{t: w.t, jar: must(cookiejar.New(nil))}
	b.Client = &http.Client{
		Jar: b.jar, Transport: hosts{"heddle.test": w.Handler, "idp.test": w.idp},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			b.went = append(b.went, r.URL.String())
			return nil
		},
	}
	return b
}

// view is a page as a person gets it.
type view struct {
	Status int
	Text   string
	URL    *url.URL
	Header http.Header
}

func (b *browser) do(r *http.Request) view {
	b.t.Helper()
	b.went = append(b.went, r.URL.String())
	res, err := b.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	text, _ := io.ReadAll(res.Body)
	return view{res.StatusCode, string(text), res.Request.URL, res.Header}
}

// get follows a link of our own or types an address.
func (b *browser) get(path string, header ...string) view {
	b.t.Helper()
	return b.do(request("GET", path, "", header...))
}

// post sends a form, as a page of ours would.
func (b *browser) post(path string, form url.Values, header ...string) view {
	b.t.Helper()
	header = append([]string{"Origin", server, "Content-Type", "application/x-www-form-urlencoded"}, header...)
	return b.do(request("POST", path, form.Encode(), header...))
}

func request(method, path, body string, header ...string) *http.Request {
	r := must(http.NewRequest(method, path, strings.NewReader(body)))
	if strings.HasPrefix(path, "/") {
		r = must(http.NewRequest(method, server+path, strings.NewReader(body)))
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

var consentField = regexp.MustCompile(`name="consent" value="([^"]+)"`)

// consent returns the form that a page shows.
func (v view) consent() url.Values {
	m := consentField.FindStringSubmatch(v.Text)
	if m == nil {
		return nil
	}
	return url.Values{"consent": {m[1]}}
}

// device makes a device that asks to join, and returns the path of its page.
func (w *world) device(name string) (*controltest.Client, string) {
	w.t.Helper()
	c := w.Client(name)
	return c, w.ask(c)
}

// ask registers c without a key.
func (w *world) ask(c *controltest.Client) string {
	w.t.Helper()
	resp, err := c.Register(w.t.Context(), nil)
	if err != nil || !strings.HasPrefix(resp.AuthURL, server+"/register/") {
		w.t.Fatalf("%+v, %v", resp, err)
	}
	return strings.TrimPrefix(resp.AuthURL, server)
}

// logIn takes a browser from a page to the provider and back.
func (w *world) logIn(b *browser, path, person string) view {
	w.t.Helper()
	w.idp.is(person)
	return b.get(path + "/with/example?anew")
}

// add adds a device for a person who logs in for that.
func (w *world) add(b *browser, path, person string) view {
	w.t.Helper()
	v := w.logIn(b, path, person)
	if v.Status != 200 || v.consent() == nil {
		w.t.Fatalf("%s: %d %s", v.URL, v.Status, v.Text)
	}
	return b.post(path, v.consent())
}

// user returns the user of a person; nil if there is none.
func (w *world) user(person string) *tailnet.User {
	return w.State.Snapshot().UserByIdentity(tailnet.Identity{Issuer: issuer, Subject: "sub-" + person})
}
