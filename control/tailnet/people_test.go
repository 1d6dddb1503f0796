package tailnet_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"heddle/control/tailnet"
	"heddle/policy"
)

// logIn lets somebody log in whose provider says p.
func (w *world) logIn(p tailnet.Profile) (*tailnet.User, error) {
	var u *tailnet.User
	a := tailnet.Actor{Kind: tailnet.ByUser, Name: p.Email, From: "192.0.2.1"}
	snap, err := w.state.Update(context.Background(), a, func(tx *tailnet.Tx) (err error) {
		u, err = tx.LogIn(p)
		return err
	})
	if err != nil {
		return nil, err
	}
	return snap.User(u.ID), nil
}

func (w *world) mustLogIn(p tailnet.Profile) *tailnet.User {
	w.t.Helper()
	u, err := w.logIn(p)
	if err != nil {
		w.t.Fatal(err)
	}
	return u
}

func person(subject, email string) tailnet.Profile {
	return tailnet.Profile{Identity: tailnet.Identity{Issuer: "https://id.example.com", Subject: subject}, Provider: "main", Email: email}
}

// by does something as a user.
func (w *world) by(u *tailnet.User, fn func(tx *tailnet.Tx) error) error {
	_, err := w.state.Update(context.Background(), tailnet.Actor{Kind: tailnet.ByUser, Name: u.Name, User: u.ID, Role: u.Role}, fn)
	return err
}

func TestIdentityIsIssuerAndSubject(t *testing.T) {
	inWorld(t, func(w *world) {
		alice := w.mustLogIn(person("1", "alice@example.com"))
		if alice.Role != policy.Owner || alice.Login() != "alice@example.com" || alice.Status != tailnet.UserActive {
			t.Errorf("the first to log in is %+v, not the owner", alice)
		}
		again := person("1", "alice@married.example.com")
		again.DisplayName, again.Groups = "Alice", []string{"ops", "dev", "ops"}
		if u := w.mustLogIn(again); u.ID != alice.ID || u.Login() != "alice@married.example.com" || !slices.Equal(u.Groups, []string{"dev", "ops"}) {
			t.Errorf("with a new address she is %+v", u)
		}

		other := person("1", "alice@married.example.com")
		other.Identity.Issuer = "https://other.example.com"
		twin := w.mustLogIn(other)
		if twin.ID == alice.ID || twin.Login() == "alice@married.example.com" || twin.Role != policy.Member {
			t.Errorf("the same address at another provider gave %+v", twin)
		}

		wantCode(t, w.update(func(tx *tailnet.Tx) error { return tx.LinkIdentity(alice.ID, other.Identity) }), tailnet.Conflict)
		w.must(func(tx *tailnet.Tx) error { return tx.DeleteUser(twin.ID) })
		w.must(func(tx *tailnet.Tx) error { return tx.LinkIdentity(alice.ID, other.Identity) })
		w.restart()
		if u := w.mustLogIn(other); u.ID != alice.ID {
			t.Errorf("after linking and a restart the other provider gives user %d, not %d", u.ID, alice.ID)
		}
		w.must(func(tx *tailnet.Tx) error { return tx.UnlinkIdentity(alice.ID, other.Identity) })
		if u := w.mustLogIn(other); u.ID == alice.ID {
			t.Error("an unlinked identity still is hers")
		}
	})
}

func TestLocalUsersAreNotTakenOver(t *testing.T) {
	inWorld(t, func(w *world) {
		local := w.user("bob@example.com")
		if u := w.mustLogIn(person("7", "bob@example.com")); u.ID == local.ID || u.Login() == local.Login() {
			t.Errorf("logging in with the address of a local user gave %+v", u)
		}
		_, err := w.state.Update(context.Background(), cli, func(tx *tailnet.Tx) error {
			_, err := tx.CreateUser(tailnet.User{Name: "bobby", Email: "bob@example.com"})
			return err
		})
		wantCode(t, err, tailnet.Conflict)
	})
}

func TestGroupsOfTheProvider(t *testing.T) {
	inWorld(t, func(w *world) {
		w.mustLogIn(person("0", "boss@example.com"))
		p := person("1", "alice@example.com")
		p.Groups = []string{"eng"}
		alice := w.mustLogIn(p)
		a := w.mustRegister(newDevice("a").registration(), w.authKey(tailnet.AuthKeySpec{Owner: alice.ID}))
		b := w.mustRegister(newDevice("b").registration(), w.authKey(tailnet.AuthKeySpec{Owner: w.user("bob").ID}))
		w.mustSet(`{"grants": [{"src": ["group:eng"], "dst": ["bob@"], "ip": ["*"]}]}`)
		sees := func() bool {
			c := w.snap().Policy().Compiled
			return c.Visible(c.Class(policy.NodeID(a.ID)), c.Class(policy.NodeID(b.ID)))
		}
		if !sees() {
			t.Error("a member of the synced group sees nothing")
		}
		before := w.snap().Policy().Compiled
		w.mustLogIn(p)
		if w.snap().Policy().Compiled != before {
			t.Error("a login that changes nothing compiled the policy again")
		}
		p.Groups = []string{}
		w.mustLogIn(p)
		if sees() {
			t.Error("who left the group still sees what it may")
		}
		p.Groups, p.Role = nil, policy.NetworkAdmin
		if u := w.mustLogIn(p); u.Role != policy.NetworkAdmin {
			t.Errorf("the provider's role gave %s", u.Role)
		}
	})
}

func TestOffboarding(t *testing.T) {
	inWorld(t, func(w *world) {
		owner := w.mustLogIn(person("0", "boss@example.com"))
		alice := w.mustLogIn(person("1", "alice@example.com"))
		d := newDevice("laptop")
		secret := w.authKey(tailnet.AuthKeySpec{Owner: alice.ID, Reusable: true})
		n := w.mustRegister(d.registration(), secret)
		w.connect(n.ID)
		server := w.mustRegister(newDevice("server").registration(), w.authKey(tailnet.AuthKeySpec{Owner: alice.ID, Tags: []string{"tag:server"}}))
		var apiSecret string
		w.must(func(tx *tailnet.Tx) (err error) {
			if err := tx.SetRole(alice.ID, policy.ITAdmin); err != nil {
				return err
			}
			apiSecret, _, err = tx.CreateAPIKey(tailnet.APIKeySpec{Owner: alice.ID, Expires: tx.Now().Add(time.Hour)})
			return err
		})
		wantCode(t, w.by(w.snap().User(alice.ID), func(tx *tailnet.Tx) error { return tx.SuspendUser(owner.ID) }), tailnet.Denied)
		wantCode(t, w.by(owner, func(tx *tailnet.Tx) error { return tx.SuspendUser(owner.ID) }), tailnet.Conflict)

		if err := w.by(owner, func(tx *tailnet.Tx) error { return tx.SuspendUser(alice.ID) }); err != nil {
			t.Fatal(err)
		}
		if s := w.snap(); !s.Node(n.ID).Status.Expired || s.Node(server.ID).Status.Expired {
			t.Errorf("her laptop expired: %v, the server: %v", s.Node(n.ID).Status.Expired, s.Node(server.ID).Status.Expired)
		}
		_, err := w.snap().FindAPIKey(apiSecret, time.Now())
		wantCode(t, err, tailnet.Denied)
		_, err = w.register(newDevice("new").registration(), secret)
		wantCode(t, err, tailnet.Denied)
		_, err = w.logIn(person("1", "alice@example.com"))
		wantCode(t, err, tailnet.Denied)
		wantCode(t, w.by(w.snap().User(alice.ID), func(tx *tailnet.Tx) error {
			_, err := tx.RegisterForUser(d.rotated(), alice.ID, tailnet.ByOIDC)
			return err
		}), tailnet.Denied)

		w.must(func(tx *tailnet.Tx) error { return tx.RestoreUser(alice.ID) })
		if !w.snap().Node(n.ID).Status.Expired {
			t.Error("restoring her restored the laptop silently")
		}
		_, err = w.snap().FindAPIKey(apiSecret, time.Now())
		wantCode(t, err, tailnet.Denied)
		w.mustLogIn(person("1", "alice@example.com"))
	})
}

func TestApprovals(t *testing.T) {
	inWorld(t, func(w *world) {
		owner := w.mustLogIn(person("0", "boss@example.com"))
		w.must(func(tx *tailnet.Tx) error {
			return tx.SetAdmission(tailnet.Admission{DeviceApproval: true, UserApproval: true, KeyExpiry: 24 * time.Hour})
		})
		alice := w.mustLogIn(person("1", "alice@example.com"))
		if alice.Status != tailnet.UserPending {
			t.Fatalf("a new user is %s", alice.Status)
		}
		var n *tailnet.Node
		own := func(tx *tailnet.Tx) (err error) {
			n, err = tx.RegisterForUser(newDevice("laptop").registration(), alice.ID, tailnet.ByOIDC)
			return err
		}
		if err := w.by(alice, own); err != nil {
			t.Fatal(err)
		}
		if got := w.snap().Node(n.ID); !got.Pending || got.Expiry.Sub(time.Now()) > 24*time.Hour {
			t.Errorf("her device: %+v", got)
		}
		wantCode(t, w.by(owner, func(tx *tailnet.Tx) error { return tx.ApproveNode(n.ID) }), tailnet.Conflict)
		w.must(func(tx *tailnet.Tx) error { return tx.ApproveUser(alice.ID) })
		if !w.snap().Node(n.ID).Pending {
			t.Error("approving her approved the device, which needs an approval of its own")
		}
		if c := w.snap().Policy().Compiled; c.Class(policy.NodeID(n.ID)) != 0 {
			t.Error("the policy knows a device that waits")
		}
		wantCode(t, w.by(alice, func(tx *tailnet.Tx) error { return tx.ApproveNode(n.ID) }), tailnet.Denied)
		if err := w.by(owner, func(tx *tailnet.Tx) error { return tx.ApproveNode(n.ID) }); err != nil {
			t.Error(err)
		}
		if c := w.snap().Policy().Compiled; w.snap().Node(n.ID).Pending || c.Class(policy.NodeID(n.ID)) == 0 {
			t.Error("an approved device is not in the policy")
		}
		wantCode(t, w.update(func(tx *tailnet.Tx) error { return tx.RejectNode(n.ID) }), tailnet.Conflict)

		ready := w.mustRegister(newDevice("ready").registration(), w.authKey(tailnet.AuthKeySpec{Owner: owner.ID, Approved: true}))
		waits := w.mustRegister(newDevice("waits").registration(), w.authKey(tailnet.AuthKeySpec{Owner: owner.ID}))
		if ready.Pending || !waits.Pending {
			t.Errorf("with an approved key the device waits: %v, without: %v", ready.Pending, waits.Pending)
		}
		w.restart()
		if !w.snap().Node(waits.ID).Pending {
			t.Error("a restart approved a device")
		}
		w.must(func(tx *tailnet.Tx) error { return tx.RejectNode(waits.ID) })
	})
}

// What an admin holds, an admin alone releases.
func TestHeldDevices(t *testing.T) {
	inWorld(t, func(w *world) {
		w.must(func(tx *tailnet.Tx) error { return tx.SetAdmission(tailnet.Admission{UserApproval: true}) })
		boss := w.mustLogIn(person("0", "boss@example.com"))
		alice := w.mustLogIn(person("1", "alice@example.com"))
		key := func(owner tailnet.UserID, tags ...string) string {
			return w.authKey(tailnet.AuthKeySpec{Owner: owner, Tags: tags, Reusable: true, Approved: true})
		}
		bossKey, tagKey := key(boss.ID), key(0, "tag:web")
		d, hers := newDevice("laptop"), newDevice("phone")
		id := w.mustRegister(d.registration(), bossKey).ID
		var phone *tailnet.Node
		if err := w.by(alice, func(tx *tailnet.Tx) (err error) {
			phone, err = tx.RegisterForUser(hers.registration(), alice.ID, tailnet.ByOIDC)
			return err
		}); err != nil || !phone.Pending {
			t.Fatalf("%+v, %v", phone, err)
		}
		for _, n := range []tailnet.NodeID{id, phone.ID} { // one that takes part and one that waits
			w.must(func(tx *tailnet.Tx) error { return tx.HoldNode(n) })
		}
		held := func(id tailnet.NodeID, what string) {
			t.Helper()
			if n := w.snap().Node(id); !n.Pending || !n.Held {
				t.Errorf("%s released a device that an admin holds: %+v", what, n.Terms)
			}
		}
		w.restart()
		held(id, "a restart")
		for _, secret := range []string{bossKey, tagKey, bossKey} { // it changes hands and comes back
			if n := w.mustRegister(d.rotated(), secret); n.ID != id {
				t.Fatalf("it became node %d", n.ID)
			}
			held(id, "a key that needs no approval")
		}
		if err := w.by(boss, func(tx *tailnet.Tx) error {
			_, err := tx.RegisterForUser(d.rotated(), boss.ID, tailnet.ByOIDC)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		held(id, "a login")
		w.must(func(tx *tailnet.Tx) error { return tx.ApproveUser(alice.ID) })
		held(phone.ID, "the approval of its user")

		w.must(func(tx *tailnet.Tx) error { return tx.ApproveNode(phone.ID) })
		w.must(func(tx *tailnet.Tx) error { // an admin vouches for it
			_, err := tx.RegisterForUser(d.rotated(), boss.ID, tailnet.ByCLI)
			return err
		})
		for _, n := range []tailnet.NodeID{id, phone.ID} {
			if n := w.snap().Node(n); n.Pending || n.Held {
				t.Errorf("an admin does not release %s: %+v", n.Name, n.Terms)
			}
		}
	})
}

func TestKeyExpiryWarning(t *testing.T) {
	inWorld(t, func(w *world) {
		d := newDevice("laptop")
		secret := w.authKey(tailnet.AuthKeySpec{Owner: w.user("alice").ID, Reusable: true, Expires: time.Now().Add(1000 * 24 * time.Hour)})
		n := w.mustRegister(d.registration(), secret)
		at := func(left time.Duration) tailnet.Status {
			time.Sleep(time.Until(n.Expiry.Add(-left)))
			return w.settled().Node(n.ID).Status
		}
		if s := at(tailnet.ExpiryWarning + time.Hour); s.Expiring || s.Expired {
			t.Errorf("long before: %+v", s)
		}
		if s := at(tailnet.ExpiryWarning - time.Hour); !s.Expiring || s.Expired {
			t.Errorf("shortly before: %+v", s)
		}
		w.restart()
		w.must(func(tx *tailnet.Tx) error { return tx.SetDNSPins(tailnet.DNSPins{BaseDomain: "example.net"}) })
		if s := at(-time.Hour); s.Expiring || !s.Expired {
			t.Errorf("after: %+v", s)
		}
		w.must(func(tx *tailnet.Tx) error { return tx.SetNodeExpiry(n.ID, time.Time{}) })
		if s := w.snap().Node(n.ID); s.Status.Expired || !s.NoExpiry {
			t.Errorf("disabled: %+v", s)
		}
		if n := w.mustRegister(d.rotated(), secret); !n.Expiry.IsZero() {
			t.Error("a login brought the expiry back that an admin disabled")
		}
		w.must(func(tx *tailnet.Tx) error { return tx.SetNoExpiry(n.ID, false) })
		if s := w.snap().Node(n.ID); s.NoExpiry || s.Expiry.Sub(time.Now()) < 179*24*time.Hour {
			t.Errorf("enabled again: %+v", s)
		}
		before := w.snap().Node(n.ID).Expiry
		time.Sleep(time.Hour)
		w.must(func(tx *tailnet.Tx) error { return tx.SetNoExpiry(n.ID, false) })
		if s := w.snap().Node(n.ID); !s.Expiry.Equal(before) {
			t.Errorf("it was not disabled, but got %v instead of %v", s.Expiry, before)
		}
	})
}

func TestRoles(t *testing.T) {
	for _, c := range []struct {
		role           policy.Role
		reads, changes []tailnet.Area
		not            []tailnet.Area // to change
	}{
		{policy.Owner, tailnet.Areas, tailnet.Areas, nil},
		{policy.Admin, tailnet.Areas, tailnet.Areas, nil},
		{policy.NetworkAdmin, tailnet.Areas, []tailnet.Area{tailnet.AreaPolicy, tailnet.AreaDNS, tailnet.AreaRoutes, tailnet.AreaAuthKeys}, []tailnet.Area{tailnet.AreaDevices, tailnet.AreaUsers}},
		{policy.ITAdmin, tailnet.Areas, []tailnet.Area{tailnet.AreaDevices, tailnet.AreaUsers}, []tailnet.Area{tailnet.AreaPolicy, tailnet.AreaDNS}},
		{policy.Auditor, tailnet.Areas, nil, tailnet.Areas},
		{policy.BillingAdmin, []tailnet.Area{tailnet.AreaAccount}, nil, []tailnet.Area{tailnet.AreaDevices}},
		{policy.Member, nil, nil, tailnet.Areas},
		{"stranger", nil, nil, tailnet.Areas},
	} {
		for _, a := range c.reads {
			if !tailnet.RoleMay(c.role, tailnet.Read(a)) {
				t.Errorf("%s may not read %s", c.role, a)
			}
		}
		for _, a := range c.changes {
			if !tailnet.RoleMay(c.role, tailnet.Write(a)) {
				t.Errorf("%s may not change %s", c.role, a)
			}
		}
		for _, a := range c.not {
			if tailnet.RoleMay(c.role, tailnet.Write(a)) {
				t.Errorf("%s may change %s", c.role, a)
			}
		}
	}
}

func TestScopes(t *testing.T) {
	for _, c := range []struct {
		scope string
		right tailnet.Right
		want  bool
	}{
		{"all", tailnet.Write(tailnet.AreaDNS), true},
		{"all:read", tailnet.Read(tailnet.AreaDNS), true},
		{"all:read", tailnet.Write(tailnet.AreaDNS), false},
		{"devices", tailnet.Write(tailnet.AreaRoutes), true},
		{"devices:core", tailnet.Write(tailnet.AreaRoutes), false},
		{"devices:core:read", tailnet.Read(tailnet.AreaDevices), true},
		{"devices:core:read", tailnet.Write(tailnet.AreaDevices), false},
		{"dns", tailnet.Read(tailnet.AreaDNS), true},
		{"d", tailnet.Read(tailnet.AreaDNS), false},
		{"", tailnet.Read(tailnet.AreaDNS), false},
	} {
		if got := tailnet.ScopeMay(c.scope, c.right); got != c.want {
			t.Errorf("scope %q gives %s: %v", c.scope, c.right, got)
		}
	}
}

// A key has at most the rights of whoever makes it, and later at most those that its owner has left.
func TestKeysHaveNoMoreRightsThanTheirOwner(t *testing.T) {
	inWorld(t, func(w *world) {
		w.mustLogIn(person("0", "boss@example.com"))
		it := w.mustLogIn(person("1", "it@example.com"))
		w.must(func(tx *tailnet.Tx) error { return tx.SetRole(it.ID, policy.ITAdmin) })
		it = w.snap().User(it.ID)
		mint := func(s tailnet.APIKeySpec) error {
			return w.by(it, func(tx *tailnet.Tx) error {
				s.Expires = tx.Now().Add(time.Hour)
				_, _, err := tx.CreateAPIKey(s)
				return err
			})
		}
		wantCode(t, mint(tailnet.APIKeySpec{Role: policy.Admin}), tailnet.Denied)
		wantCode(t, mint(tailnet.APIKeySpec{Scopes: []string{"policy_file"}}), tailnet.Denied)
		wantCode(t, mint(tailnet.APIKeySpec{Scopes: []string{"everything"}}), tailnet.Invalid)
		if err := mint(tailnet.APIKeySpec{Scopes: []string{"devices"}}); err != nil {
			t.Error(err)
		}
		a := tailnet.Actor{Kind: tailnet.ByAPIKey, User: it.ID, Scopes: []string{"devices"}}
		if !w.snap().Can(a, tailnet.Write(tailnet.AreaDevices)) {
			t.Error("the key cannot do what it was made for")
		}
		w.must(func(tx *tailnet.Tx) error { return tx.SetRole(it.ID, policy.Member) })
		if w.snap().Can(a, tailnet.Read(tailnet.AreaDevices)) {
			t.Error("the key outlives its owner's role")
		}
	})
}

// settled lets timers that are due run first.
func (w *world) settled() *tailnet.Snapshot {
	synctest.Wait()
	return w.snap()
}

// Nobody gives others, or themselves, rights that they do not have.
func TestRightsThatOneDoesNotHave(t *testing.T) {
	inWorld(t, func(w *world) {
		owner := w.mustLogIn(person("0", "boss@example.com"))
		it, net, member := w.mustLogIn(person("1", "it@example.com")), w.mustLogIn(person("2", "net@example.com")), w.mustLogIn(person("3", "m@example.com"))
		w.must(func(tx *tailnet.Tx) error { return tx.SetRole(it.ID, policy.ITAdmin) })
		w.must(func(tx *tailnet.Tx) error { return tx.SetRole(net.ID, policy.NetworkAdmin) })
		it, net = w.snap().User(it.ID), w.snap().User(net.ID)
		for _, id := range []tailnet.UserID{it.ID, member.ID} {
			wantCode(t, w.by(it, func(tx *tailnet.Tx) error { return tx.SetRole(id, policy.NetworkAdmin) }), tailnet.Denied)
		}
		create := func(name string, role policy.Role) func(*tailnet.Tx) error {
			return func(tx *tailnet.Tx) error {
				_, err := tx.CreateUser(tailnet.User{Name: name, Role: role})
				return err
			}
		}
		wantCode(t, w.by(it, create("net2", policy.NetworkAdmin)), tailnet.Denied)
		wantCode(t, w.as(tailnet.Actor{Kind: tailnet.ByAPIKey, Scopes: []string{"users"}}, create("it2", policy.ITAdmin)), tailnet.Denied)
		for name, role := range map[string]policy.Role{"it3": policy.ITAdmin, "plain": ""} {
			if err := w.by(it, create(name, role)); err != nil {
				t.Error(err)
			}
		}
		wantCode(t, w.by(it, func(tx *tailnet.Tx) error {
			return tx.LinkIdentity(net.ID, tailnet.Identity{Issuer: "https://id.example.com", Subject: "9"})
		}), tailnet.Denied)
		if err := w.by(it, func(tx *tailnet.Tx) error { return tx.SetRole(member.ID, policy.Auditor) }); err != nil {
			t.Error(err)
		}
		key := func(of tailnet.UserID) func(*tailnet.Tx) error {
			return func(tx *tailnet.Tx) error {
				_, _, err := tx.CreateAuthKey(tailnet.AuthKeySpec{Owner: of, Expires: tx.Now().Add(time.Hour)})
				return err
			}
		}
		wantCode(t, w.by(net, key(owner.ID)), tailnet.Denied)
		if err := w.by(net, key(net.ID)); err != nil {
			t.Error(err)
		}
		if err := w.by(it, key(member.ID)); err != nil {
			t.Error(err)
		}
	})
}
