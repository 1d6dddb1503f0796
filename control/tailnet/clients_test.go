package tailnet_test

import (
	"context"
	"testing"
	"time"

	"heddle/control/tailnet"
)

func TestTrust(t *testing.T) {
	trust := &tailnet.Trust{Subject: "repo:acme/*:ref:refs/heads/main", Claims: map[string]string{"env": "prod-*"}}
	for _, c := range []struct {
		subject, env string
		want         bool
	}{
		{"repo:acme/app:ref:refs/heads/main", "prod-eu", true},
		{"repo:acme/app:ref:refs/heads/main", "dev", false},
		{"repo:acme/app:ref:refs/heads/evil", "prod-eu", false},
		{"repo:acme/a/b:ref:refs/heads/main", "prod-eu", false}, // a star does not cross a slash
		{"repo:acme/[a]:ref:refs/heads/main", "prod-eu", true},
		{"", "prod-eu", false},
	} {
		if got := trust.Matches(c.subject, map[string]string{"env": c.env}); got != c.want {
			t.Errorf("%q, %q: %v", c.subject, c.env, got)
		}
	}
	if trust.Matches("repo:acme/app:ref:refs/heads/main", nil) {
		t.Error("a token without the claim is trusted")
	}
	odd := &tailnet.Trust{Subject: "a[b]?"}
	if odd.Matches("abx", nil) || !odd.Matches("a[b]?", nil) {
		t.Error("characters other than * are not taken for themselves")
	}
}

func TestClients(t *testing.T) {
	inWorld(t, func(w *world) {
		w.mustSet(`{"tagOwners": {"tag:operator": [], "tag:k8s": ["tag:operator"], "tag:other": []}}`)
		var secret string
		var client *tailnet.APIKey
		w.must(func(tx *tailnet.Tx) (err error) {
			secret, client, err = tx.CreateClient(tailnet.ClientSpec{Scopes: []string{"auth_keys", "devices:core"}, Tags: []string{"tag:operator"}})
			return err
		})
		wantCode(t, w.update(func(tx *tailnet.Tx) error {
			_, _, err := tx.CreateClient(tailnet.ClientSpec{Scopes: []string{"auth_keys"}})
			return err
		}), tailnet.Invalid)
		w.restart()

		found, err := w.snap().FindClient(secret)
		if err != nil || found.ID != client.ID {
			t.Fatalf("client %+v, %v", found, err)
		}
		_, err = w.snap().FindAPIKey(secret, time.Now())
		wantCode(t, err, tailnet.Denied)
		mint := func(scopes, tags []string) (string, error) {
			var token string
			err := w.update(func(tx *tailnet.Tx) (err error) {
				token, _, err = tx.MintToken(client.ID, scopes, tags)
				return err
			})
			return token, err
		}
		for _, c := range []struct{ scopes, tags []string }{
			{[]string{"dns"}, nil}, {[]string{"all"}, nil}, {nil, []string{"tag:other"}},
		} {
			_, err := mint(c.scopes, c.tags)
			wantCode(t, err, tailnet.Denied)
		}
		token, err := mint([]string{"auth_keys"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		k, err := w.snap().FindAPIKey(token, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		as := tailnet.Actor{Kind: tailnet.ByAPIKey, Name: k.Public, Scopes: k.Scopes, Tags: k.Tags}
		authKey := func(tags ...string) error {
			_, err := w.state.Update(context.Background(), as, func(tx *tailnet.Tx) error {
				_, _, err := tx.CreateAuthKey(tailnet.AuthKeySpec{Tags: tags, Expires: tx.Now().Add(time.Hour)})
				return err
			})
			return err
		}
		for _, tag := range []string{"tag:operator", "tag:k8s"} {
			if err := authKey(tag); err != nil {
				t.Errorf("%s: %v", tag, err)
			}
		}
		wantCode(t, authKey("tag:other"), tailnet.Denied)

		if err := w.update(func(tx *tailnet.Tx) error {
			return tx.EditClient(client.ID, tailnet.ClientSpec{Scopes: []string{"dns:read"}})
		}); err != nil {
			t.Fatal(err)
		}
		_, err = w.snap().FindAPIKey(token, time.Now())
		wantCode(t, err, tailnet.Denied) // tokens of what it was
		token, err = mint(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(tailnet.TokenLife)
		_, err = w.snap().FindAPIKey(token, time.Now())
		wantCode(t, err, tailnet.Denied)
		for range 300 {
			if _, err := mint(nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		n := 0
		for range w.snap().APIKeys() {
			n++
		}
		if n > 110 {
			t.Errorf("one client holds %d keys", n)
		}
		if token, err = mint(nil, nil); err != nil {
			t.Fatal(err)
		}
		w.must(func(tx *tailnet.Tx) error { return tx.RevokeAPIKey(client.ID) })
		_, err = w.snap().FindAPIKey(token, time.Now())
		wantCode(t, err, tailnet.Denied)
		_, err = mint(nil, nil)
		wantCode(t, err, tailnet.Denied)
		w.must(func(tx *tailnet.Tx) error { return tx.DeleteAPIKey(client.ID) })
		for k := range w.snap().APIKeys() {
			t.Fatalf("left over: %+v", k)
		}
	})
}
