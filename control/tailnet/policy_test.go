package tailnet_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"heddle/control/tailnet"
	"heddle/control/tailnet/tailnettest"
	"heddle/policy"

	"tailscale.com/tailcfg"
)

// set sets a policy as the API does: prepared outside of the writer.
func (w *world) set(source string) error {
	p, err := tailnet.PreparePolicy(w.snap(), source)
	if err != nil {
		return err
	}
	return w.update(func(tx *tailnet.Tx) error { return tx.SetPolicy(p, "") })
}

func (w *world) mustSet(source string) {
	w.t.Helper()
	if err := w.set(source); err != nil {
		w.t.Fatal(err)
	}
}

// userOf creates a user with a role.
func (w *world) userOf(name string, role policy.Role) *tailnet.User {
	w.t.Helper()
	var u *tailnet.User
	w.must(func(tx *tailnet.Tx) (err error) {
		u, err = tx.CreateUser(tailnet.User{Name: name, Role: role})
		return err
	})
	return u
}

func TestPoliciesThatAreRefused(t *testing.T) {
	inWorld(t, func(w *world) {
		w.user("alice@example.com")
		before := w.snap().Policy()
		for _, c := range []struct {
			source string
			want   []string // one per problem
		}{
			{"", []string{""}},
			{"{", []string{"line 1"}},
			{"{}" + strings.Repeat(" ", 4<<20), []string{"4194306 bytes"}},
			{"{\n\"acls\": [{\"action\": \"deny\"}],\n\"x\": 1}", []string{"line 2", "line 3, column 1"}},
			{`{"acls": [{"action": "accept", "src": ["group:nobody"], "dst": ["*:*"]}]}`, []string{"group not found"}},
			{"{\"nodeAttrs\": [\n{\"target\": [\"*\"], \"attr\": [\"funnel\"]}]}", []string{"line 2, column 28: nodeAttrs funnel is not supported"}},
			{`{"derpMap": {"Regions": {"900": {"RegionID": 900, "Nodes": [null]}, "901": {"RegionID": 901}}}}`,
				[]string{"region 900: node 1 is null", "region 901 has no node that relays"}},
			// What is wrong with the text alone, and what is only with these users.
			{"{\"acls\": [{\"action\": \"accept\", \"src\": [\n\"group:admin\",\n\"tag:no\"], \"dst\": [\n\"*:99999\"]}],\n\"tests\": [{\"src\": \"alice@example.com\", \"accept\": [\"100.64.0.1:22\"]}]}",
				[]string{"line 2, column 1: group not found", "line 3, column 1: src: tag not found", "line 4, column 1: dst="}},
			{`{"derpMap": {"Regions": {"900": {"RegionID": 901}}}}`, []string{"region 900 has the RegionID 901"}},
			// A failing test and what does not depend on it: all at once.
			{"{\"acls\": [],\n\"tests\": [{\"src\": \"alice@example.com\", \"accept\": [\"100.64.0.1:22\"]}],\n" +
				`"nodeAttrs": [{"target": ["*"], "attr": ["funnel"]}]}`, []string{"line 2, column", "line 3, column"}},
		} {
			err := w.set(c.source)
			wantCode(t, err, tailnet.Invalid)
			var all policy.Errors
			if errors.As(err, &all); len(all) > 0 && len(all) != len(c.want) {
				t.Errorf("%.50s: %d problems, want %d: %v", c.source, len(all), len(c.want), err)
			}
			for i, want := range c.want {
				if len(all) > i && !strings.Contains(all[i].Error(), want) || !strings.Contains(tailnet.Message(err), want) {
					t.Errorf("%.50s: problem %d is not %q: %v", c.source, i+1, want, err)
				}
			}
		}
		if w.snap().Policy() != before {
			t.Error("a refused policy changed something")
		}
	})
}

func TestPolicyWithPromises(t *testing.T) {
	inWorld(t, func(w *world) {
		p, err := tailnet.PreparePolicy(w.snap(), `{
			"autoApprovers": {"services": {"svc:web": ["autogroup:admin"]}}}`)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []string{"line 2"} {
			if len(p.Warnings) != 1 || !strings.Contains(p.Warnings[i].Error(), want) {
				t.Errorf("warnings: %v", p.Warnings)
			}
		}
	})
}

// Whom nobody knows is told of once, at the first place of the text, and refuses nothing.
func TestPolicyOfUsersWhoAreNot(t *testing.T) {
	inWorld(t, func(w *world) {
		for _, name := range []string{"me", "alice", "bob@example.com"} {
			w.user(name)
		}
		for _, c := range []struct {
			source string
			want   []string
		}{
			{`{"acls": [{"action": "accept", "src": ["alice@", "bob@example.com", "group:corp"], "dst": ["me@:22"]}], "groups": {"group:corp": []}}`, nil},
			{`{"acls": [{"action": "accept", "src": ["alise@"], "dst": ["*:*", "alise@:*"]}]}`,
				[]string{"line 1, column 40: no user is called alise@ yet; did you mean alice@?"}},
			{"{\"acls\": [{\"action\": \"accept\", \"src\": [\n\"Bob@example.com\"], \"dst\": [\"*:*\"]}],\n" +
				"\"groups\": {\"group:a\": [\n\"zoe@example.org\", \"Bob@example.com\"]}}",
				[]string{"line 2, column 1: no user is called Bob@example.com yet; did you mean bob@example.com?", "line 4, column 1: no user is called zoe@example.org yet"}},
			{`{"tagOwners": {"tag:a": ["x\u001b@"]}}`, []string{`line 1, column 26: no user is called x\x1b@ yet`}},
			{`{"tests": [{"src": "alise@", "accept": ["100.64.0.1:22"]}]}`, nil}, // tests may be of people to come
		} {
			p, err := tailnet.PreparePolicy(w.snap(), c.source)
			if err != nil {
				t.Errorf("%s: %v", c.source, err)
				continue
			}
			var got []string
			for _, warning := range p.Warnings {
				got = append(got, warning.Error())
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%s: warnings %q, want %q", c.source, got, c.want)
			}
		}
		many := `{"groups": {"group:a": ["x0@"`
		for i := range 1000 {
			many += fmt.Sprintf(`, "x%d@"`, i)
		}
		if p, err := tailnet.PreparePolicy(w.snap(), many+"]}}"); err != nil || len(p.Warnings) != 100 {
			t.Errorf("of a thousand: %d warnings, %v", len(p.Warnings), err)
		}
	})
}

// What was prepared is set only if it holds for the tailnet as it is by then.
func TestPolicyPreparedBeforeAChange(t *testing.T) {
	inWorld(t, func(w *world) {
		alice := w.user("alice@example.com")
		const source = `{"acls": [{"action": "accept", "src": ["autogroup:admin"], "dst": ["*:22"]}],
			"tests": [{"src": "carol@example.com", "deny": ["100.64.0.1:22"]}]}`
		prepare := func() *tailnet.PreparedPolicy {
			p, err := tailnet.PreparePolicy(w.snap(), source)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		set := func(p *tailnet.PreparedPolicy, ifMatch string) error {
			return w.update(func(tx *tailnet.Tx) error { return tx.SetPolicy(p, ifMatch) })
		}
		stale := prepare()
		w.userOf("carol@example.com", policy.Admin)
		if err := set(stale, ""); !errors.Is(err, tailnet.ErrStale) {
			t.Errorf("tested with other users: %v, want ErrStale", err)
		}
		_, _, err := w.state.PutPolicy(t.Context(), tailnet.SystemActor("test"), source, "")
		wantCode(t, err, tailnet.Invalid) // the tests fail now

		// The same, with the change in the same update.
		w.must(func(tx *tailnet.Tx) error { return tailnettest.SetPolicy(tx, "{}") })
		good := `{"acls": [{"action": "accept", "src": ["alice@example.com"], "dst": ["alice@example.com:22"]}]}`
		p, err := tailnet.PreparePolicy(w.snap(), good)
		if err != nil {
			t.Fatal(err)
		}
		first := w.snap().Policy().ETag
		n := w.mustRegister(newDevice("laptop").registration(), w.authKey(tailnet.AuthKeySpec{Owner: alice.ID}))
		wantCode(t, set(p, "abc"), tailnet.Changed)
		if err := set(p, `"`+first+`"`); err != nil {
			t.Fatal(err)
		}
		now := w.snap().Policy()
		if len(now.Compiled.Filter(policy.NodeID(n.ID))) == 0 || now.Revision == 0 {
			t.Errorf("the node that came meanwhile has no filter; revision %d", now.Revision)
		}
		wantCode(t, set(p, first), tailnet.Changed)
		commits := w.store.Commits()
		if err := set(p, ""); err != nil || w.store.Commits() != commits {
			t.Errorf("setting the policy that is in force: %v, %d commits", err, w.store.Commits()-commits)
		}
	})
}

// The snapshot's compiled policy always is what a fresh compilation gives.
func TestPolicyFollowsTheTailnet(t *testing.T) {
	inWorld(t, func(w *world) {
		alice := w.user("alice@example.com")
		w.mustSet(`{"tagOwners": {"tag:a": []}, "acls": [
			{"action": "accept", "src": ["autogroup:member"], "dst": ["tag:a:22", "10.0.0.0/8:80", "bob@example.com:*"]}],
			"autoApprovers": {"routes": {"10.0.0.0/8": ["tag:a"]}}}`)
		check := func(what string) {
			t.Helper()
			p, err := tailnet.PreparePolicy(w.snap(), w.snap().Policy().Source)
			if err != nil {
				t.Fatal(err)
			}
			for n := range w.snap().Nodes() {
				id := policy.NodeID(n.ID)
				if got, want := fmt.Sprint(w.snap().Policy().Compiled.Filter(id)), fmt.Sprint(p.Compiled.Filter(id)); got != want {
					t.Errorf("%s: node %d has the filter\n%s\nwant\n%s", what, id, got, want)
				}
			}
		}
		laptop := w.mustRegister(newDevice("laptop").registration(), w.authKey(tailnet.AuthKeySpec{Owner: alice.ID}))
		check("a node joined")
		w.router("a", w.authKey(tailnet.AuthKeySpec{Tags: []string{"tag:a"}}), "10.1.0.0/16")
		check("a router joined")
		w.must(func(tx *tailnet.Tx) error { return tx.SetTags(laptop.ID, []string{"tag:a"}) })
		check("a node was tagged")
		bob := w.user("bob@example.com")
		w.mustRegister(newDevice("phone").registration(), w.authKey(tailnet.AuthKeySpec{Owner: bob.ID}))
		check("a user came")
		w.must(func(tx *tailnet.Tx) error { return tx.DeleteNode(laptop.ID) })
		check("a node left")
		w.restart()
		check("a restart")
	})
}

func TestStoredPolicyThatIsRefusedNow(t *testing.T) {
	inWorld(t, func(w *world) {
		alice := w.user("alice@example.com")
		n := w.mustRegister(newDevice("laptop").registration(), w.authKey(tailnet.AuthKeySpec{Owner: alice.ID}))
		w.mustSet(`{}`)
		for _, c := range []struct {
			source string
			allows int // entries of the filter that are left
		}{
			{`{"acls": [{"action": "accept", "src": ["alice@example.com"], "dst": ["*:22"]}, {"action": "accept", "src": ["*"], "dst": ["svc:new:80"]}]}`, 1},
			{`{"acls": [`, 0},
			{`{"new-section": {}}`, 0},
		} {
			if err := w.stop(); err != nil {
				t.Fatal(err)
			}
			img, _ := w.store.Load(t.Context(), tailnet.Default)
			img.Policy.Source = c.source
			w.start(options)
			p := w.snap().Policy()
			if p.Err == nil || tailnet.CodeOf(p.Err) != tailnet.Invalid || len(p.Compiled.Filter(policy.NodeID(n.ID))) != c.allows {
				t.Errorf("%s: error %v, filter %v", c.source, p.Err, p.Compiled.Filter(policy.NodeID(n.ID)))
			}
		}
		w.mustSet(`{"acls": []}`)
		if w.snap().Policy().Err != nil {
			t.Error("a good policy did not mend it")
		}
	})
}

func TestTagsNeedTheirOwner(t *testing.T) {
	const owned = `{"groups": {"group:ops": ["carol@example.com"]}, "tagOwners": {
		"tag:web": ["alice@example.com"], "tag:ops": ["group:ops"], "tag:nobody": [], "tag:child": ["tag:web"]}}`
	for _, c := range []struct {
		name, policy, user, tags string
		ok                       bool
	}{
		{"no policy", "", "alice", "tag:web", false},
		{"no policy, an admin's device", "", "admin", "tag:web", false},
		{"another's tag", owned, "bob", "tag:web", false},
		{"nobody's tag", owned, "alice", "tag:nobody", false},
		{"unknown tag", owned, "admin", "tag:unknown", false},
		{"one of two", owned, "alice", "tag:web tag:ops", false},
		{"own tag", owned, "alice", "tag:web", true},
		{"by group", owned, "carol", "tag:ops", true},
		{"admins own all defined tags", owned, "admin", "tag:nobody", true},
		{"a tag that owns a tag is no user", owned, "bob", "tag:child", false},
		{"through a tag that the user owns", owned, "alice", "tag:child", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				ids := map[string]*tailnet.User{}
				for name, role := range map[string]policy.Role{"alice": policy.Member, "bob": policy.Member, "carol": policy.Member, "admin": policy.Admin} {
					ids[name] = w.userOf(name+"@example.com", role)
				}
				if c.policy != "" {
					w.mustSet(c.policy)
				}
				u, tags := ids[c.user], strings.Fields(c.tags)
				secret := w.authKey(tailnet.AuthKeySpec{Owner: u.ID, Reusable: true})

				d := newDevice("fresh")
				d.host.RequestTags = tags
				n, err := w.register(d.registration(), secret)
				if !c.ok {
					wantCode(t, err, tailnet.Denied)
				} else if err != nil || !slices.Equal(n.Tags, slices.Sorted(slices.Values(tags))) {
					t.Errorf("with an auth key: %v, %v", n, err)
				}

				d = newDevice("page")
				d.host.RequestTags = tags
				err = w.update(func(tx *tailnet.Tx) error {
					_, err := tx.RegisterForUser(d.registration(), u.ID, tailnet.ByCLI)
					return err
				})
				if (err == nil) != c.ok {
					t.Errorf("by an admin's approval: %v", err)
				}

				d = newDevice("later")
				n = w.mustRegister(d.registration(), secret)
				host := d.host.Clone()
				host.RequestTags = tags
				w.must(func(tx *tailnet.Tx) error { return tx.Report(n.ID, tailnet.Update{Hostinfo: host, CapVer: 142}) })
				n = w.snap().Node(n.ID)
				if n.Tagged() != c.ok || n.Status.Expired == c.ok {
					t.Errorf("in a map request: tags %v, expired %v", n.Tags, n.Status.Expired)
				}
			})
		})
	}
}

// A tagged node may take the tags that its tags own, and no others.
func TestTaggedNodesAsk(t *testing.T) {
	inWorld(t, func(w *world) {
		w.mustSet(`{"tagOwners": {"tag:ci": [], "tag:web": ["tag:ci"], "tag:db": []}}`)
		secret := w.authKey(tailnet.AuthKeySpec{Tags: []string{"tag:ci"}, Reusable: true})
		for tag, ok := range map[string]bool{"tag:db": false, "tag:web": true, "tag:ci": true} {
			d := newDevice("runner")
			n := w.mustRegister(d.registration(), secret)
			host := d.host.Clone()
			host.RequestTags = []string{tag}
			w.must(func(tx *tailnet.Tx) error { return tx.Report(n.ID, tailnet.Update{Hostinfo: host, CapVer: 142}) })
			n = w.snap().Node(n.ID)
			if slices.Contains(n.Tags, tag) != ok || n.Status.Expired == ok {
				t.Errorf("%s: tags %v, expired %v", tag, n.Tags, n.Status.Expired)
			}
		}
	})
}

func TestTagsByAdmins(t *testing.T) {
	inWorld(t, func(w *world) {
		alice := w.user("alice@example.com")
		n := w.mustRegister(newDevice("laptop").registration(), w.authKey(tailnet.AuthKeySpec{Owner: alice.ID}))
		free := w.authKey(tailnet.AuthKeySpec{Tags: []string{"tag:old"}, Reusable: true}) // no tagOwners at all: admins may
		tagKey := func(a tailnet.Actor, tag string) error {
			_, err := w.state.Update(context.Background(), a, func(tx *tailnet.Tx) error {
				_, _, err := tx.CreateAuthKey(tailnet.AuthKeySpec{Owner: alice.ID, Tags: []string{tag}, Expires: tx.Now().Add(1e12)})
				return err
			})
			return err
		}
		w.mustSet(`{"tagOwners": {"tag:web": ["bob@example.com"]}}`)

		wantCode(t, w.update(func(tx *tailnet.Tx) error { return tx.SetTags(n.ID, []string{"tag:db"}) }), tailnet.Invalid)
		wantCode(t, w.update(func(tx *tailnet.Tx) error { return tx.SetTags(n.ID, []string{"web"}) }), tailnet.Invalid)
		wantCode(t, tagKey(cli, "tag:db"), tailnet.Invalid)
		for _, role := range []policy.Role{policy.Member, policy.Auditor, policy.BillingAdmin} {
			wantCode(t, tagKey(tailnet.Actor{Kind: tailnet.ByUser, Name: "alice", Role: role}, "tag:web"), tailnet.Denied)
		}
		_, err := w.register(newDevice("late").registration(), free)
		wantCode(t, err, tailnet.Denied) // the key's tag is not defined any more

		if err := tagKey(cli, "tag:web"); err != nil { // although alice does not own it
			t.Error(err)
		}
		w.must(func(tx *tailnet.Tx) error { return tx.SetTags(n.ID, []string{"tag:web"}) })
	})
}

func TestAutoApproval(t *testing.T) {
	const approve = `{"tagOwners": {"tag:router": [], "tag:exit": []}, "autoApprovers": {
		"routes": {"10.0.0.0/8": ["tag:router", "alice@example.com"]}, "exitNode": ["tag:exit"]}}`
	inWorld(t, func(w *world) {
		alice, bob := w.user("alice@example.com"), w.user("bob@example.com")
		w.mustSet(approve)
		key := func(u tailnet.UserID, tags ...string) string {
			return w.authKey(tailnet.AuthKeySpec{Owner: u, Tags: tags, Reusable: true})
		}
		approved := func(id tailnet.NodeID, want ...string) {
			t.Helper()
			if got := w.snap().Node(id).Approved; !slices.Equal(got, prefixes(want...)) {
				t.Errorf("approved %v, want %v", got, want)
			}
		}
		approved(w.router("b", key(bob.ID), "10.1.0.0/16").ID)
		approved(w.router("wide", key(alice.ID), "0.0.0.0/0", "10.0.0.0/7", "10.2.0.0/16", "192.168.0.0/16", "::/0").ID, "10.2.0.0/16")
		approved(w.router("exit", key(0, "tag:exit"), "0.0.0.0/0", "10.3.0.0/16", "::/0").ID, "0.0.0.0/0", "::/0")

		// On advertisement, and what an admin withdraws stays so until there is news.
		d := newDevice("router")
		n := w.mustRegister(d.registration(), key(0, "tag:router"))
		advertise := func(routes ...string) {
			t.Helper()
			host := d.host.Clone()
			host.RoutableIPs = prefixes(routes...)
			w.must(func(tx *tailnet.Tx) error { return tx.Report(n.ID, tailnet.Update{Hostinfo: host, CapVer: 142}) })
		}
		advertise("10.4.0.0/16")
		approved(n.ID, "10.4.0.0/16")
		w.connect(n.ID)
		if w.snap().Primaries().Of(netip.MustParsePrefix("10.4.0.0/16")) != n.ID {
			t.Error("an approved route is not carried")
		}
		w.approve(n.ID)
		approved(n.ID)
		w.must(func(tx *tailnet.Tx) error { return tx.RenameNode(n.ID, "core") })
		approved(n.ID)
		advertise("10.4.0.0/16", "10.5.0.0/16")
		approved(n.ID, "10.4.0.0/16", "10.5.0.0/16")

		// On policy change. What is approved stays approved.
		w.mustSet(strings.Replace(approve, `["tag:exit"]`, `["tag:exit", "alice@example.com"]`, 1))
		wide := w.snap().NodeByName("wide")
		approved(wide.ID, "0.0.0.0/0", "10.2.0.0/16", "::/0")
		if !wide.ExitNode() {
			t.Error("no exit node")
		}
		w.mustSet(`{"autoApprovers": {"routes": {"10.0.0.0/8": ["bob@example.com"]}}}`)
		approved(wide.ID, "0.0.0.0/0", "10.2.0.0/16", "::/0")
		approved(w.snap().NodeByName("b").ID, "10.1.0.0/16")
		if got := w.snap().Policy().Compiled; len(got.Filter(policy.NodeID(wide.ID))) == 0 {
			t.Error("the filter does not know what was approved")
		}
	})
}

func TestPolicyDERPMap(t *testing.T) {
	region := func(id int, name string) *tailcfg.DERPRegion {
		return &tailcfg.DERPRegion{RegionID: id, RegionCode: name, Nodes: []*tailcfg.DERPNode{{Name: name, RegionID: id, HostName: name + ".test"}}}
	}
	const own = `"900": {"RegionID": 900, "RegionCode": "own", "Nodes": [{"Name": "%s", "RegionID": 900, "HostName": "own.test"}]}`
	inWorld(t, func(w *world) {
		source := &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{1: region(1, "a"), 2: region(2, "b")}}
		w.must(func(tx *tailnet.Tx) error { return tx.SetDERPMap(source) })
		for _, c := range []struct{ policy, want string }{
			{`{}`, "a b"},
			{`{"derpMap": {"Regions": {` + fmt.Sprintf(own, "x") + `}}}`, "a b own"},
			{`{"derpMap": {"Regions": {"1": null, ` + fmt.Sprintf(own, "x") + `}}}`, "b own"},
			{`{"derpMap": {"Regions": {` + fmt.Sprintf(own, "a") + `}}}`, "b own"},
			{`{"derpMap": {"OmitDefaultRegions": true, "Regions": {` + fmt.Sprintf(own, "x") + `}}}`, "own"},
			{`{"acls": []}`, "a b"},
		} {
			w.mustSet(c.policy)
			check := func() {
				t.Helper()
				var got []string
				for _, r := range w.snap().DERPMap().Regions {
					got = append(got, r.RegionCode)
				}
				slices.Sort(got)
				if strings.Join(got, " ") != c.want {
					t.Errorf("%s: regions %v, want %s", c.policy, got, c.want)
				}
			}
			check()
			w.must(func(tx *tailnet.Tx) error { return tx.SetDERPMap(source) })
			check()
		}
	})
}

func TestIPPool(t *testing.T) {
	inWorld(t, func(w *world) {
		alice, bob := w.user("alice@example.com"), w.user("bob@example.com")
		w.mustSet(`{"nodeAttrs": [{"target": ["alice@example.com"], "ipPool": ["100.80.0.8/30"]}, {"target": ["bob@example.com"], "ipPool": ["100.115.92.0/24"]}]}`)
		secret := w.authKey(tailnet.AuthKeySpec{Owner: alice.ID, Reusable: true})
		var got []string
		for range 4 {
			got = append(got, w.mustRegister(newDevice("x").registration(), secret).Addrs.V4.String())
		}
		if want := []string{"100.80.0.8", "100.80.0.9", "100.80.0.10", "100.80.0.11"}; !slices.Equal(got, want) {
			t.Errorf("addresses %v, want %v", got, want)
		}
		_, err := w.register(newDevice("x").registration(), secret)
		wantCode(t, err, tailnet.Exhausted)
		_, err = w.register(newDevice("y").registration(), w.authKey(tailnet.AuthKeySpec{Owner: bob.ID}))
		wantCode(t, err, tailnet.Exhausted) // nothing of the pool may be given out
		n := w.mustRegister(newDevice("z").registration(), w.authKey(tailnet.AuthKeySpec{Owner: w.user("carol").ID}))
		if netip.MustParsePrefix("100.80.0.0/16").Contains(n.Addrs.V4) {
			t.Errorf("a device without pool got %v", n.Addrs.V4)
		}
	})
}
