package tailnet_test

import (
	"context"
	"testing"
	"time"

	"heddle/control/tailnet"
	"heddle/policy"

	"tailscale.com/tailcfg"
)

// as does something as an actor.
func (w *world) as(a tailnet.Actor, fn func(tx *tailnet.Tx) error) error {
	_, err := w.state.Update(context.Background(), a, fn)
	return err
}

// withRole makes a user of that role who has logged in.
func (w *world) withRole(subject string, role policy.Role) *tailnet.User {
	w.t.Helper()
	u := w.mustLogIn(person(subject, subject+"@example.com"))
	w.must(func(tx *tailnet.Tx) error { return tx.SetRole(u.ID, role) })
	return w.snap().User(u.ID)
}

func apiKey(spec tailnet.APIKeySpec) func(*tailnet.Tx) error {
	return func(tx *tailnet.Tx) error {
		spec.Expires = tx.Now().Add(time.Hour)
		_, _, err := tx.CreateAPIKey(spec)
		return err
	}
}

// A key of an owner that is less than an owner must not make one, and nobody gets at
// the rights of others by making keys for them.
func TestKeysDoNotMakeOwners(t *testing.T) {
	inWorld(t, func(w *world) {
		owner := w.withRole("boss", policy.Owner)
		admin, it, member := w.withRole("admin", policy.Admin), w.withRole("it", policy.ITAdmin), w.withRole("member", policy.Member)
		for name, a := range map[string]tailnet.Actor{
			"scopes":                 {Kind: tailnet.ByAPIKey, User: owner.ID, Scopes: []string{"users"}},
			"all scopes":             {Kind: tailnet.ByAPIKey, User: owner.ID, Scopes: []string{"all"}},
			"an IT admin's role":     {Kind: tailnet.ByAPIKey, User: owner.ID, Role: policy.ITAdmin},
			"an owner's that is not": {Kind: tailnet.ByAPIKey, User: it.ID, Role: policy.Owner},
			"a token":                {Kind: tailnet.ByAPIKey, Scopes: []string{"all"}},
		} {
			for _, role := range []policy.Role{policy.Admin, policy.Owner} {
				if err := w.as(a, func(tx *tailnet.Tx) error { return tx.SetRole(member.ID, role) }); tailnet.CodeOf(err) != tailnet.Denied {
					t.Errorf("a key with %s made an %s: %v", name, role, err)
				}
			}
			if err := w.as(a, func(tx *tailnet.Tx) error { return tx.LinkIdentity(owner.ID, person("x", "").Identity) }); tailnet.CodeOf(err) != tailnet.Denied {
				t.Errorf("a key with %s let somebody log in as the owner: %v", name, err)
			}
		}
		for name, err := range map[string]error{
			"IT admin, for the owner": w.by(it, apiKey(tailnet.APIKeySpec{Owner: owner.ID, Role: policy.ITAdmin})),
			"admin, for the owner":    w.by(admin, apiKey(tailnet.APIKeySpec{Owner: owner.ID, Role: policy.Admin})),
			"admin, an owner's":       w.by(admin, apiKey(tailnet.APIKeySpec{Role: policy.Owner})),
			"admin's key":             w.as(tailnet.Actor{Kind: tailnet.ByAPIKey, Role: policy.Admin}, apiKey(tailnet.APIKeySpec{Role: policy.Owner})),
			"admin's key, for owner":  w.as(tailnet.Actor{Kind: tailnet.ByAPIKey, Role: policy.Admin}, apiKey(tailnet.APIKeySpec{Owner: owner.ID})),
		} {
			wantCode(t, err, tailnet.Denied)
			if err == nil {
				t.Error(name)
			}
		}
		if err := w.by(admin, apiKey(tailnet.APIKeySpec{})); err != nil {
			t.Error(err)
		}
		if err := w.update(apiKey(tailnet.APIKeySpec{Owner: owner.ID})); err != nil {
			t.Errorf("on the server: %v", err)
		}
	})
}

// What is limited to tags makes nothing that is not.
func TestTagsLimitWhatCredentialsMake(t *testing.T) {
	inWorld(t, func(w *world) {
		w.mustSet(`{"tagOwners": {"tag:ci": [], "tag:build": ["tag:ci"], "tag:prod": ["autogroup:member"]}}`)
		alice := w.user("alice")
		token := tailnet.Actor{Kind: tailnet.ByAPIKey, Scopes: []string{"all"}, Tags: []string{"tag:ci"}}
		client := func(tags ...string) func(*tailnet.Tx) error {
			return func(tx *tailnet.Tx) error {
				_, _, err := tx.CreateClient(tailnet.ClientSpec{Scopes: []string{"auth_keys"}, Tags: tags})
				return err
			}
		}
		device := func(name string, tags ...string) func(*tailnet.Tx) error {
			r := newDevice(name).registration()
			r.Hostinfo = &tailcfg.Hostinfo{Hostname: name, RequestTags: tags}
			return func(tx *tailnet.Tx) error {
				_, err := tx.RegisterForUser(r, alice.ID, tailnet.ByCLI)
				return err
			}
		}
		wantCode(t, w.as(token, apiKey(tailnet.APIKeySpec{Scopes: []string{"auth_keys"}})), tailnet.Denied)
		wantCode(t, w.as(token, client("tag:prod")), tailnet.Denied)
		wantCode(t, w.as(token, device("hers")), tailnet.Denied)
		wantCode(t, w.as(token, device("prod", "tag:prod")), tailnet.Denied)
		if err := w.as(token, client("tag:build")); err != nil {
			t.Error(err)
		}
		var id tailnet.APIKeyID
		for k := range w.snap().APIKeys() {
			id = k.ID
		}
		wantCode(t, w.as(token, func(tx *tailnet.Tx) error {
			return tx.EditClient(id, tailnet.ClientSpec{Scopes: []string{"auth_keys"}, Tags: []string{"tag:prod"}})
		}), tailnet.Denied)
	})
}

// Tags make a device nobody's. Neither who waits for approval nor who was shut out comes in by them.
func TestTagsAreNoWayIn(t *testing.T) {
	inWorld(t, func(w *world) {
		w.mustSet(`{"tagOwners": {"tag:web": ["autogroup:member"]}}`)
		owner := w.mustLogIn(person("0", "boss@example.com"))
		w.must(func(tx *tailnet.Tx) error { return tx.SetAdmission(tailnet.Admission{UserApproval: true}) })
		alice := w.mustLogIn(person("1", "alice@example.com"))
		register := func(u *tailnet.User, r tailnet.Registration, tags ...string) (n *tailnet.Node, err error) {
			r.Hostinfo = &tailcfg.Hostinfo{Hostname: "laptop", RequestTags: tags}
			err = w.by(u, func(tx *tailnet.Tx) (err error) {
				n, err = tx.RegisterForUser(r, u.ID, tailnet.ByOIDC)
				return err
			})
			return n, err
		}
		_, err := register(alice, newDevice("laptop").registration(), "tag:web")
		wantCode(t, err, tailnet.Denied)

		server := newDevice("server")
		w.mustRegister(server.registration(), w.authKey(tailnet.AuthKeySpec{Tags: []string{"tag:web"}}))
		if n, err := register(alice, server.rotated()); err != nil || !n.Pending {
			t.Errorf("a server became the device of somebody who waits for approval: %+v, %v", n, err)
		}

		waiting, err := register(alice, newDevice("phone").registration())
		if err != nil || !waiting.Pending {
			t.Fatalf("%+v, %v", waiting, err)
		}
		w.must(func(tx *tailnet.Tx) error {
			return tx.Report(waiting.ID, tailnet.Update{Hostinfo: &tailcfg.Hostinfo{Hostname: "phone", RequestTags: []string{"tag:web"}}})
		})
		if got := w.snap().Node(waiting.ID); len(got.Tags) > 0 || !got.Pending || !got.Status.Expired {
			t.Errorf("a device of somebody who waits has tags: %+v", got)
		}

		n, err := register(owner, newDevice("desk").registration())
		if err != nil {
			t.Fatal(err)
		}
		w.must(func(tx *tailnet.Tx) error { return tx.SuspendUser(owner.ID) })
		ask := func() tailnet.Node {
			host := n.Report.Hostinfo.Clone()
			host.RequestTags = []string{"tag:web"}
			w.must(func(tx *tailnet.Tx) error { return tx.Report(n.ID, tailnet.Update{Hostinfo: host}) })
			return *w.snap().Node(n.ID)
		}
		if got := ask(); !got.Status.Expired || len(got.Tags) > 0 || got.Owner != owner.ID {
			t.Errorf("a device of a suspended user came back by asking for tags: %+v", got)
		}
		for _, at := range []time.Time{{}, time.Now().Add(time.Hour)} {
			wantCode(t, w.update(func(tx *tailnet.Tx) error { return tx.SetNodeExpiry(n.ID, at) }), tailnet.Conflict)
		}
		wantCode(t, w.update(func(tx *tailnet.Tx) error { return tx.SetNoExpiry(n.ID, true) }), tailnet.Conflict)
		w.must(func(tx *tailnet.Tx) error { return tx.ExpireNode(n.ID) })
		tagged := w.mustRegister(newDevice("lost").registration(), w.authKey(tailnet.AuthKeySpec{Owner: w.user("bob").ID}))
		w.must(func(tx *tailnet.Tx) error { return tx.ExpireNode(tagged.ID) })
		w.must(func(tx *tailnet.Tx) error { return tx.SetTags(tagged.ID, []string{"tag:web"}) })
		if got := w.snap().Node(tagged.ID); !got.Status.Expired || got.Expiry.IsZero() || !got.Tagged() {
			t.Errorf("tags brought back a device whose key had expired: %+v", got)
		}
		w.must(func(tx *tailnet.Tx) error { return tx.SetNodeExpiry(tagged.ID, time.Time{}) }) // which says so
		if w.snap().Node(tagged.ID).Status.Expired {
			t.Error("a device with tags cannot be brought back")
		}
		w.must(func(tx *tailnet.Tx) error { return tx.RestoreUser(owner.ID) })
		if !w.snap().Node(n.ID).Status.Expired {
			t.Error("restoring a user brought a device back")
		}
		w.must(func(tx *tailnet.Tx) error { return tx.SetNodeExpiry(n.ID, time.Now().Add(time.Hour)) })
	})
}

// Policies know people by their address, which nobody can make up.
func TestNobodyIsKnownAsSomebodyElse(t *testing.T) {
	inWorld(t, func(w *world) {
		boss := w.mustLogIn(person("0", "boss@example.com"))
		logins := func() {
			t.Helper()
			seen := map[string]bool{}
			for u := range w.snap().Users() {
				if seen[u.Login()] {
					t.Errorf("two users are known as %s", u.Login())
				}
				seen[u.Login()] = true
			}
		}
		p := person("1", "")
		p.Name = "ceo@example.com"
		if u := w.mustLogIn(p); u.Login() == "ceo@example.com" {
			t.Errorf("a name that its person chose is taken for an address: %+v", u)
		}
		p = person("2", "")
		p.DisplayName = "cfo@example.com"
		if u := w.mustLogIn(p); u.Login() == "cfo@example.com" {
			t.Errorf("a display name is taken for an address: %+v", u)
		}
		p = person("3", "")
		p.Name = "mallory"
		w.mustLogIn(p)
		p.Email = boss.Login()
		w.mustLogIn(p)
		logins()
		p.Email = "mallory@example.com"
		if u := w.mustLogIn(p); u.Login() != "mallory@example.com" {
			t.Errorf("with an address of their own: %+v", u)
		}

		for i, email := range []string{"o'brien@example.com", "o-brien@example.com"} {
			if u := w.mustLogIn(person("brien"+string(rune('0'+i)), email)); u.Login() != email {
				t.Errorf("%s is known as %s", email, u.Login())
			}
		}
		brien := person("brien0", "o'brien@example.com")
		brien.Identity.Issuer = "https://other.example.com"
		w.mustLogIn(brien)
		if u := w.mustLogIn(person("brien1", "o'neil@example.com")); u.Login() != "o'neil@example.com" || u.Name == u.Login() {
			t.Errorf("with an address that cannot be a name: %+v", u)
		}
		logins()

		other := person("0", "boss@example.com")
		other.Identity.Issuer = "https://other.example.com"
		twin := w.mustLogIn(other)
		wantCode(t, w.update(func(tx *tailnet.Tx) error { return tx.RenameUser(twin.ID, "twin") }), tailnet.Conflict)
		w.must(func(tx *tailnet.Tx) error { return tx.RenameUser(twin.ID, "twin@example.com") })
		logins()
	})
}
