package hosted_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"heddle/api/callers"
	"heddle/api/hosted"
	"heddle/control/tailnet"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// post sends a form to a handler, from an address.
func post(h http.Handler, from, path string, form url.Values) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.RemoteAddr = from
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// server makes another server of the same tailnet.
func (w *world) server(client *http.Client) http.Handler {
	log := slog.New(slog.DiscardHandler)
	return hosted.New(hosted.Options{State: w.state, Gate: callers.NewGate(w.state, time.Now, log), Log: log, Now: time.Now, HTTP: client})
}

func TestClientSecrets(t *testing.T) {
	w := newWorld(t)
	var secret string
	w.update(func(tx *tailnet.Tx) (err error) {
		secret, _, err = tx.CreateClient(tailnet.ClientSpec{Scopes: []string{"dns"}})
		return err
	})
	h := w.server(nil)
	try := func(from, secret string) int {
		return post(h, from, "/api/v2/oauth/token", url.Values{"client_secret": {secret}}).Code
	}
	const local, away = "127.0.0.1:1", "192.0.2.1:1"
	last := 0
	for range 20 {
		last = try(local, secret[:len(secret)-1]+"-")
	}
	if last != http.StatusTooManyRequests {
		t.Errorf("the last of 20 guesses is answered with %d", last)
	}
	if got := try(local, secret); got != http.StatusOK {
		t.Errorf("guesses of others keep a client out: %d", got)
	}
	for _, s := range []string{secret, "wrong"} {
		if got := try(away, s); got != http.StatusUnauthorized {
			t.Errorf("without TLS: %d", got)
		}
	}
}

// An issuer's keys come by TLS alone, whatever the issuer says.
func TestKeysOfIssuersByTLS(t *testing.T) {
	var asked atomic.Int32
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Write([]byte(`{"keys": []}`))
	}))
	defer plain.Close()
	var issuer *httptest.Server
	issuer = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"issuer": %q, "jwks_uri": %q, "id_token_signing_alg_values_supported": ["RS256"]}`, issuer.URL, plain.URL)
	}))
	defer issuer.Close()
	w := newWorld(t)
	var id string
	w.update(func(tx *tailnet.Tx) error {
		_, k, err := tx.CreateClient(tailnet.ClientSpec{Scopes: []string{"dns"}, Trust: &tailnet.Trust{Issuer: issuer.URL, Subject: "*", Audience: "heddle"}})
		if err == nil {
			id = k.Public
		}
		return err
	})
	part := base64.RawURLEncoding.EncodeToString
	token := part([]byte(`{"alg":"RS256","kid":"1"}`)) + "." +
		part(fmt.Appendf(nil, `{"iss":%q,"sub":"x","aud":"heddle","iat":%d,"exp":%d}`, issuer.URL, time.Now().Unix(), time.Now().Add(time.Hour).Unix())) + "." + part([]byte("x"))
	got := post(w.server(issuer.Client()), "127.0.0.1:1", "/api/v2/oauth/token-exchange", url.Values{"client_id": {id}, "jwt": {token}})
	if got.Code != http.StatusForbidden || asked.Load() != 0 {
		t.Errorf("%d %s; keys were asked for without TLS %d times", got.Code, got.Body, asked.Load())
	}
}

// provider is an issuer of ID tokens that counts what it is asked for.
type provider struct {
	*httptest.Server
	key              jose.SigningKey
	documents, lists atomic.Int32  // that it was asked for: about itself, of keys
	hold             chan struct{} // closed when it is to answer
}

func newProvider(t *testing.T) *provider {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{hold: make(chan struct{}), key: jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: private, KeyID: "1"}}}
	p.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-p.hold
		if r.URL.Path == "/keys" {
			p.lists.Add(1)
			json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &private.PublicKey, KeyID: "1"}}})
			return
		}
		p.documents.Add(1)
		fmt.Fprintf(w, `{"issuer": %q, "jwks_uri": %q, "id_token_signing_alg_values_supported": ["RS256"]}`, p.URL, p.URL+"/keys")
	}))
	t.Cleanup(p.Close)
	return p
}

// token makes one that was issued at a time.
func (p *provider) token(t *testing.T, issued time.Time) string {
	t.Helper()
	signer, err := jose.NewSigner(p.key, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: p.URL, Subject: "job", Audience: jwt.Audience{"heddle"},
		IssuedAt: jwt.NewNumericDate(issued), Expiry: jwt.NewNumericDate(time.Now().Add(time.Hour)),
	}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Jobs that begin together make the server ask their issuer once, and no more for a while. A token from the
// future is none.
func TestIssuerIsAskedOnce(t *testing.T) {
	p, w := newProvider(t), newWorld(t)
	var id string
	w.update(func(tx *tailnet.Tx) error {
		_, k, err := tx.CreateClient(tailnet.ClientSpec{Scopes: []string{"dns"}, Trust: &tailnet.Trust{Issuer: p.URL, Subject: "*", Audience: "heddle"}})
		if err == nil {
			id = k.Public
		}
		return err
	})
	h := w.server(p.Client())
	exchange := func(token string) *httptest.ResponseRecorder {
		return post(h, "127.0.0.1:1", "/api/v2/oauth/token-exchange", url.Values{"client_id": {id}, "jwt": {token}})
	}
	now := p.token(t, time.Now())
	var begun, done sync.WaitGroup
	for range 8 {
		begun.Add(1)
		done.Go(func() {
			begun.Done()
			if got := exchange(now); got.Code != http.StatusOK {
				t.Errorf("%d %s", got.Code, got.Body)
			}
		})
	}
	begun.Wait()
	close(p.hold)
	done.Wait()
	if got := exchange(p.token(t, time.Now().Add(30*time.Second))); got.Code != http.StatusOK {
		t.Errorf("of an issuer whose clock is a little ahead: %d %s", got.Code, got.Body)
	}
	if got := exchange(p.token(t, time.Now().Add(10*time.Minute))); got.Code != http.StatusForbidden {
		t.Errorf("from the future: %d %s", got.Code, got.Body)
	}
	if d, l := p.documents.Load(), p.lists.Load(); d != 1 || l != 1 {
		t.Errorf("the issuer was asked %d times about itself and %d times for its keys", d, l)
	}
}
