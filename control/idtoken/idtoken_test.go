package idtoken_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"heddle/control/idtoken"
	"heddle/control/tailnet"
	"heddle/control/tailnet/tailnettest"

	"github.com/coreos/go-oidc/v3/oidc"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// vault keeps keys in memory.
type vault struct {
	data []byte
	err  error
}

func (v *vault) Load() ([]byte, error) { return v.data, v.err }
func (v *vault) Save(b []byte) error {
	if v.err == nil {
		v.data = b
	}
	return v.err
}

var server = &url.URL{Scheme: "https", Host: "vpn.example.com"}

// tailnetWith returns a snapshot with a user's laptop and a tagged server.
func tailnetWith(t *testing.T) *tailnet.Snapshot {
	state, err := tailnet.Open(t.Context(), new(tailnettest.Store), tailnet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- state.Run(ctx) }()
	defer func() { cancel(); <-done }()
	snap, err := state.Update(ctx, tailnet.SystemActor("test"), func(tx *tailnet.Tx) error {
		if err := tx.SetDNSPins(tailnet.DNSPins{BaseDomain: "tail.example.com"}); err != nil {
			return err
		}
		u, err := tx.CreateUser(tailnet.User{Name: "alice@example.com"})
		if err != nil {
			return err
		}
		for name, spec := range map[string]tailnet.AuthKeySpec{"laptop": {Owner: u.ID}, "server": {Tags: []string{"tag:ci"}}} {
			spec.Expires = tx.Now().Add(time.Hour)
			secret, _, err := tx.CreateAuthKey(spec)
			if err != nil {
				return err
			}
			_, err = tx.RegisterWithAuthKey(tailnet.Registration{
				Machine: key.NewMachine().Public(), Key: key.NewNode().Public(), Hostinfo: &tailcfg.Hostinfo{Hostname: name}, CapVer: 142,
			}, secret)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

// relying is a party that has only the issuer's documents.
type relying struct{ issuer *idtoken.Issuer }

func (p relying) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	switch r.URL.Path {
	case idtoken.ConfigurationPath:
		p.issuer.ServeConfiguration(w, r)
	case idtoken.KeysPath:
		p.issuer.ServeKeys(w, r)
	default:
		http.NotFound(w, r)
	}
	return w.Result(), nil
}

// verify does what a relying party does, with go-oidc.
func (p relying) verify(token, audience string) (*oidc.IDToken, error) {
	ctx := oidc.ClientContext(context.Background(), &http.Client{Transport: p})
	provider, err := oidc.NewProvider(ctx, server.String())
	if err != nil {
		return nil, err
	}
	return provider.Verifier(&oidc.Config{ClientID: audience}).Verify(ctx, token)
}

func TestToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := tailnetWith(t)
		issuer, err := idtoken.Open(server, new(vault), time.Now, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		laptop := s.NodeByName("laptop")
		token, err := issuer.Sign(s, laptop, "sts.example.com")
		if err != nil {
			t.Fatal(err)
		}
		got, err := relying{issuer}.verify(token, "sts.example.com")
		if err != nil {
			t.Fatal(err)
		}
		var c map[string]any
		if err := got.Claims(&c); err != nil {
			t.Fatal(err)
		}
		if got.Subject != "laptop.tail.example.com" || c["user"] != "tail.example.com:alice@example.com" || c["key"] != laptop.Key.String() ||
			c["node"] != got.Subject || c["nid"] != float64(laptop.ID) || c["jti"] == "" || len(c["addresses"].([]any)) != 2 || c["tags"] != nil {
			t.Errorf("claims: %v", c)
		}
		if _, err := (relying{issuer}).verify(token, "other.example.com"); err == nil {
			t.Error("the token is good for another audience")
		}
		tagged, err := issuer.Sign(s, s.NodeByName("server"), "a")
		if err != nil {
			t.Fatal(err)
		}
		if got, err = (relying{issuer}).verify(tagged, "a"); err != nil {
			t.Fatal(err)
		}
		c = nil
		got.Claims(&c)
		if tags := c["tags"].([]any); len(tags) != 1 || tags[0] != "tail.example.com:tag:ci" || c["user"] != nil {
			t.Errorf("claims of a tagged node: %v", c)
		}
		time.Sleep(idtoken.Life + time.Minute)
		if _, err := (relying{issuer}).verify(token, "sts.example.com"); err == nil {
			t.Error("the token outlives its life")
		}
	})
}

// Whoever keeps the list of keys for a day can verify every token all the time, also across a restart.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := tailnetWith(t)
		v := new(vault)
		used := map[string]bool{}
		keyIDs := func(issuer *idtoken.Issuer) map[string]bool {
			w := httptest.NewRecorder()
			issuer.ServeKeys(w, nil)
			if strings.Contains(w.Body.String(), `"d"`) {
				t.Fatal("a private key is published")
			}
			var set struct{ Keys []struct{ Kid string } }
			if err := json.Unmarshal(w.Body.Bytes(), &set); err != nil {
				t.Fatal(err)
			}
			ids := map[string]bool{}
			for _, k := range set.Keys {
				ids[k.Kid] = true
			}
			return ids
		}
		for range 5 { // restarts
			issuer, err := idtoken.Open(server, v, time.Now, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error)
			go func() { done <- issuer.Run(ctx) }()
			yesterday := keyIDs(issuer)
			for range 20 { // days
				token, err := issuer.Sign(s, s.NodeByName("laptop"), "a")
				if err != nil {
					t.Fatal(err)
				}
				_, err = relying{issuer}.verify(token, "a")
				if err != nil {
					t.Fatalf("%v", err)
				}
				kid := keyID(t, token)
				used[kid] = true
				if !yesterday[kid] {
					t.Fatal("signed with a key that was not published a day before")
				}
				yesterday = keyIDs(issuer)
				if len(yesterday) > 2 {
					t.Errorf("%d keys are published", len(yesterday))
				}
				time.Sleep(24 * time.Hour)
			}
			cancel()
			<-done
		}
		if len(used) < 3 {
			t.Errorf("in a hundred days %d keys signed", len(used))
		}
	})
}

func keyID(t *testing.T, token string) string {
	t.Helper()
	head, _, _ := strings.Cut(token, ".")
	var h struct{ Kid, Alg string }
	if err := json.Unmarshal(decode(t, head), &h); err != nil || h.Alg != "RS256" {
		t.Fatalf("header %+v, %v", h, err)
	}
	return h.Kid
}

func TestVaultTrouble(t *testing.T) {
	open := func(v *vault) error {
		_, err := idtoken.Open(server, v, time.Now, slog.New(slog.DiscardHandler))
		return err
	}
	broken := errors.New("broken disk")
	if err := open(&vault{err: broken}); !errors.Is(err, broken) {
		t.Errorf("unreadable: %v", err)
	}
	for _, text := range []string{"{", `[{"created":"2026-01-01T00:00:00Z","key":{"kty":"oct","k":"AAAA","kid":"x"}}]`} {
		if err := open(&vault{data: []byte(text)}); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func decode(t *testing.T, part string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
