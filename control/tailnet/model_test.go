package tailnet_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"heddle/control/tailnet"
	"heddle/control/tailnet/tailnettest"

	"github.com/google/go-cmp/cmp"
	"tailscale.com/net/tsaddr"
	"tailscale.com/tailcfg"
)

func TestPrimaryRoutes(t *testing.T) {
	inWorld(t, func(w *world) {
		const lan = "192.168.7.0/24"
		prefix := prefixes(lan)[0]
		secret := w.authKey(tailnet.AuthKeySpec{Owner: w.user("alice").ID, Reusable: true})
		a, b := w.router("a", secret, lan), w.router("b", secret, lan)
		primary := func(want tailnet.NodeID, when string) {
			t.Helper()
			if got := w.snap().Primaries().Of(prefix); got != want {
				t.Errorf("%s: the primary is %d, want %d", when, got, want)
			}
		}
		primary(0, "before approval")
		w.approve(a.ID, lan)
		primary(a.ID, "one approved")
		if w.snap().Primaries().Contested(w.snap().Node(a.ID)) {
			t.Error("a lone router is contested")
		}
		w.approve(b.ID, lan)
		primary(a.ID, "both approved")
		if !w.snap().Primaries().Contested(w.snap().Node(a.ID)) {
			t.Error("two routers are not contested")
		}

		w.disconnect(a.ID) // redials at once
		time.Sleep(500 * time.Millisecond)
		w.connect(a.ID)
		time.Sleep(5 * time.Second)
		primary(a.ID, "after a redial")

		w.disconnect(a.ID)
		time.Sleep(1100 * time.Millisecond)
		primary(b.ID, "a second after the primary was killed")
		if !w.snap().Node(a.ID).Status.Online {
			t.Error("the online flag did not wait for its grace")
		}
		w.connect(a.ID)
		time.Sleep(time.Minute)
		primary(b.ID, "after the old primary came back")

		w.must(func(tx *tailnet.Tx) error { tx.SetAnswering(b.ID, false); return nil })
		primary(a.ID, "after the primary froze")
		w.must(func(tx *tailnet.Tx) error { tx.SetAnswering(b.ID, true); return nil })
		primary(a.ID, "after it thawed")

		w.disconnect(a.ID)
		w.disconnect(b.ID)
		time.Sleep(time.Minute)
		before := w.snap().Primaries().Of(prefix)
		if before != a.ID && before != b.ID {
			t.Error("with all routers away the prefix went nowhere")
		}
		w.connect(a.ID)
		primary(a.ID, "the first to come back")
		w.must(func(tx *tailnet.Tx) error { return tx.ExpireNode(a.ID) })
		primary(b.ID, "after the primary expired")
		w.must(func(tx *tailnet.Tx) error { return tx.DeleteNode(b.ID) })
		primary(0, "with no router left")
	})
}

func TestApproveRoutes(t *testing.T) {
	inWorld(t, func(w *world) {
		secret := w.authKey(tailnet.AuthKeySpec{Owner: w.user("alice").ID, Reusable: true})
		n := w.router("r", secret, "10.0.0.0/8", "192.168.1.0/24", "0.0.0.0/0", "::/0")
		steps := []struct {
			edit tailnet.RouteEdit
			want string
			code tailnet.Code // of the error; Internal: none
		}{
			{edit: tailnet.RouteEdit{Add: prefixes("10.0.0.0/8")}, want: "10.0.0.0/8"},
			{edit: tailnet.RouteEdit{Add: prefixes("172.16.0.0/12")}, want: "10.0.0.0/8", code: tailnet.Conflict},
			{edit: tailnet.RouteEdit{Add: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}}, want: "10.0.0.0/8", code: tailnet.Invalid},
			{edit: tailnet.RouteEdit{Add: []netip.Prefix{{}}}, want: "10.0.0.0/8", code: tailnet.Invalid},
			{edit: tailnet.RouteEdit{Add: prefixes("172.16.0.0/12"), Force: true}, want: "10.0.0.0/8 172.16.0.0/12"},
			{edit: tailnet.RouteEdit{Add: prefixes("192.168.1.0/24")}, want: "10.0.0.0/8 172.16.0.0/12 192.168.1.0/24"},
			{edit: tailnet.RouteEdit{Remove: prefixes("172.16.0.0/12", "10.0.0.0/8")}, want: "192.168.1.0/24"},
			{edit: tailnet.RouteEdit{Replace: true, Set: prefixes("0.0.0.0/0")}, want: "0.0.0.0/0 ::/0"},
			{edit: tailnet.RouteEdit{Remove: prefixes("::/0")}, want: ""},
			{edit: tailnet.RouteEdit{Replace: true, Set: prefixes("10.0.0.0/8", "10.0.0.0/8")}, want: "10.0.0.0/8"},
			{edit: tailnet.RouteEdit{Replace: true}, want: ""},
		}
		for i, s := range steps {
			err := w.update(func(tx *tailnet.Tx) error { return tx.ApproveRoutes(n.ID, s.edit) })
			if s.code == tailnet.Internal && err != nil || s.code != tailnet.Internal && tailnet.CodeOf(err) != s.code {
				t.Errorf("step %d: error %v, want %v", i, err, s.code)
			}
			var got []string
			for _, p := range w.snap().Node(n.ID).Approved {
				got = append(got, p.String())
			}
			if strings.Join(got, " ") != s.want {
				t.Errorf("step %d: approved %q, want %q", i, got, s.want)
			}
		}
	})
}

func TestNames(t *testing.T) {
	inWorld(t, func(w *world) {
		secret := w.authKey(tailnet.AuthKeySpec{Owner: w.user("alice").ID, Reusable: true})
		for _, c := range []struct{ hostname, want string }{
			{"Laptop", "laptop"},
			{"laptop", "laptop-1"},
			{"laptop.local", "laptop-2"},
			{"Bob's MacBook Pro", "bobs-macbook-pro"},
			{"under_score", "under-score"},
			{"", "linux-device"},
			{"localhost", "linux-device-1"},
			{"🦊🦊", "linux-device-2"},
			{"-x-", "x"},
			{strings.Repeat("a", 5000), strings.Repeat("a", 63)},
			{strings.Repeat("a", 5000), strings.Repeat("a", 61) + "-1"},
		} {
			if n := w.mustRegister(newDevice(c.hostname).registration(), secret); n.Name != c.want {
				t.Errorf("hostname %.20q gives %q, want %q", c.hostname, n.Name, c.want)
			}
		}
		d := newDevice("desk")
		n := w.mustRegister(d.registration(), secret)
		report := func(hostname string) string {
			h := d.host.Clone()
			h.Hostname = hostname
			w.must(func(tx *tailnet.Tx) error { return tx.Report(n.ID, tailnet.Update{Hostinfo: h}) })
			return w.snap().Node(n.ID).Name
		}
		rename := func(to string) error {
			return w.update(func(tx *tailnet.Tx) error { return tx.RenameNode(n.ID, to) })
		}
		if got := report("chair"); got != "chair" {
			t.Errorf("a new hostname gives %q", got)
		}
		for _, bad := range []string{"a b", "ü", "-a", strings.Repeat("a", 64), "a.b"} {
			wantCode(t, rename(bad), tailnet.Invalid)
		}
		wantCode(t, rename("laptop"), tailnet.Conflict)
		if err := rename("Throne"); err != nil {
			t.Error(err)
		}
		if got := report("stool"); got != "throne" {
			t.Errorf("a new hostname undid the admin's name: %q", got)
		}
		if err := rename(""); err != nil || w.snap().Node(n.ID).Name != "stool" {
			t.Errorf("following the hostname again: %v, %q", err, w.snap().Node(n.ID).Name)
		}
	})
}

func TestAddresses(t *testing.T) {
	for _, bad := range []tailnet.Ranges{
		{V4: netip.MustParsePrefix("10.0.0.0/8")},
		{V4: netip.MustParsePrefix("100.0.0.0/8")},
		{V6: netip.MustParsePrefix("fd00::/64")},
		{V4: netip.MustParsePrefix("100.115.92.0/24")}, // nothing is left of it
	} {
		if _, err := tailnet.Open(t.Context(), new(tailnettest.Store), tailnet.Options{Addresses: bad}); err == nil {
			t.Errorf("ranges %+v are accepted", bad)
		}
	}
	small := netip.MustParsePrefix("100.100.100.96/29") // 97…103 without 100.100.100.100
	for _, random := range []bool{false, true} {
		inWorld(t, func(w *world) {
			if err := w.stop(); err != nil {
				t.Fatal(err)
			}
			o := options
			o.Addresses = tailnet.Ranges{V4: small, Random: random}
			w.start(o)
			secret := w.authKey(tailnet.AuthKeySpec{Owner: w.user("alice").ID, Reusable: true, Expires: time.Now().Add(365 * 24 * time.Hour)})
			var nodes []*tailnet.Node
			seen := map[netip.Addr]bool{}
			for i := range 6 {
				n := w.mustRegister(newDevice(fmt.Sprint("n", i)).registration(), secret)
				if !small.Contains(n.Addrs.V4) || n.Addrs.V4 == tsaddr.TailscaleServiceIP() || seen[n.Addrs.V4] {
					t.Errorf("random %v: address %v", random, n.Addrs.V4)
				}
				if !tsaddr.TailscaleULARange().Contains(n.Addrs.V6) {
					t.Errorf("address %v", n.Addrs.V6)
				}
				seen[n.Addrs.V4] = true
				nodes = append(nodes, n)
			}
			_, err := w.register(newDevice("late").registration(), secret)
			wantCode(t, err, tailnet.Exhausted)
			w.must(func(tx *tailnet.Tx) error { return tx.DeleteNode(nodes[2].ID) })
			_, err = w.register(newDevice("late").registration(), secret)
			wantCode(t, err, tailnet.Exhausted) // the tombstone still has it
			time.Sleep(tailnet.TombstoneLife + time.Hour)
			if n := w.mustRegister(newDevice("late").registration(), secret); n.Addrs.V4 != nodes[2].Addrs.V4 {
				t.Errorf("got %v, want the freed %v", n.Addrs.V4, nodes[2].Addrs.V4)
			}
		})
	}
}

func TestDNSSettings(t *testing.T) {
	inWorld(t, func(w *world) {
		set := func(d tailnet.DNS) error { return w.update(func(tx *tailnet.Tx) error { return tx.SetDNS(d) }) }
		for name, d := range map[string]tailnet.DNS{
			"nameserver":   {Nameservers: []string{"dns.google"}},
			"plain http":   {Nameservers: []string{"http://dns.google/dns-query"}},
			"split domain": {Split: map[string][]string{"a b": nil}},
			"split server": {Split: map[string][]string{"corp.example": {"x"}}},
			"search":       {Search: []string{"..."}},
			"CNAME":        {Records: []tailnet.DNSRecord{{Name: "a.example", Type: "CNAME", Value: "b.example"}}},
			"family":       {Records: []tailnet.DNSRecord{{Name: "a.example", Type: "AAAA", Value: "1.2.3.4"}}},
			"many":         {Nameservers: strings.Split(strings.Repeat("1.1.1.1,", 17), ",")},
		} {
			if err := set(d); tailnet.CodeOf(err) != tailnet.Invalid {
				t.Errorf("%s: %v", name, err)
			}
		}
		yes := true
		w.must(func(tx *tailnet.Tx) error {
			return tx.SetDNSPins(tailnet.DNSPins{BaseDomain: "example.net", OverrideLocal: &yes, Nameservers: []string{"9.9.9.9"},
				Records: []tailnet.DNSRecord{{Name: "pin.example.net", Type: "A", Value: "10.0.0.1"}}})
		})
		wantCode(t, set(tailnet.DNS{OverrideLocal: true, Nameservers: []string{"1.1.1.1"}}), tailnet.Conflict)
		if err := set(tailnet.DNS{MagicDNS: true, OverrideLocal: true, Nameservers: []string{"9.9.9.9"},
			Split:   map[string][]string{"Corp.Example.": {"10.0.0.53", "https://dns.example/dns-query"}},
			Records: []tailnet.DNSRecord{{Name: "Own.example.net.", Value: "fd00::1"}}}); err != nil {
			t.Fatal(err)
		}
		w.must(func(tx *tailnet.Tx) error {
			return tx.SetDNSFileRecords([]tailnet.DNSRecord{{Name: "file.example.net", Type: "A", Value: "10.0.0.2"}})
		})
		want := &tailnet.DNS{
			BaseDomain: "example.net", MagicDNS: true, OverrideLocal: true, Nameservers: []string{"9.9.9.9"},
			Split:  map[string][]string{"corp.example": {"10.0.0.53", "https://dns.example/dns-query"}},
			Search: []string{},
			Records: []tailnet.DNSRecord{
				{Name: "pin.example.net", Type: "A", Value: "10.0.0.1"},
				{Name: "file.example.net", Type: "A", Value: "10.0.0.2"},
				{Name: "own.example.net", Type: "AAAA", Value: "fd00::1"},
			},
		}
		if diff := cmp.Diff(want, w.snap().DNS()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestUsers(t *testing.T) {
	inWorld(t, func(w *world) {
		alice := w.user("alice@example.com")
		create := func(name string) error {
			return w.update(func(tx *tailnet.Tx) error { _, err := tx.CreateUser(tailnet.User{Name: name}); return err })
		}
		for _, bad := range []string{"", "  ", "a b", "12", "a,b", "tagged-devices", "a\x00", strings.Repeat("a", 300)} {
			wantCode(t, create(bad), tailnet.Invalid)
		}
		wantCode(t, create("Alice@example.com"), tailnet.Conflict)
		secret := w.authKey(tailnet.AuthKeySpec{Owner: alice.ID, Reusable: true})
		n := w.mustRegister(newDevice("laptop").registration(), secret)
		remove := func() error {
			return w.update(func(tx *tailnet.Tx) error { return tx.DeleteUser(alice.ID) })
		}
		wantCode(t, remove(), tailnet.Conflict)
		w.must(func(tx *tailnet.Tx) error { return tx.DeleteNode(n.ID) })
		if err := remove(); err != nil {
			t.Fatal(err)
		}
		_, err := w.register(newDevice("x").registration(), secret)
		wantCode(t, err, tailnet.Denied)
		if again := w.user("alice@example.com"); again.ID == alice.ID {
			t.Error("a user ID was used twice")
		}
	})
}

func TestReferences(t *testing.T) {
	inWorld(t, func(w *world) {
		u := w.user("alice")
		n := w.mustRegister(newDevice("laptop").registration(), w.authKey(tailnet.AuthKeySpec{Owner: u.ID}))
		for _, ref := range []string{n.ID.String(), "laptop", "LAPTOP", "laptop.example.net", "laptop.example.net.", n.Addrs.V4.String(), n.Addrs.V6.String()} {
			if got, err := w.snap().ParseNodeRef(ref); err != nil || got.ID != n.ID {
				t.Errorf("%q: %v, %v", ref, got, err)
			}
		}
		for _, ref := range []string{"", "0", "-1", "99", "nobody", "100.64.0.99"} {
			_, err := w.snap().ParseNodeRef(ref)
			wantCode(t, err, tailnet.NotFound)
			_, err = w.snap().ParseUserRef(ref)
			wantCode(t, err, tailnet.NotFound)
		}
		for _, ref := range []string{u.ID.String(), "alice", "alice@"} {
			if got, err := w.snap().ParseUserRef(ref); err != nil || got.ID != u.ID {
				t.Errorf("%q: %v, %v", ref, got, err)
			}
		}
	})
}

func TestAPIKeys(t *testing.T) {
	inWorld(t, func(w *world) {
		var secret string
		var k *tailnet.APIKey
		w.must(func(tx *tailnet.Tx) (err error) {
			secret, k, err = tx.CreateAPIKey(tailnet.APIKeySpec{Expires: tx.Now().Add(time.Hour)})
			return err
		})
		if got, err := w.snap().FindAPIKey(secret, time.Now()); err != nil || got.ID != k.ID || !strings.HasPrefix(secret, "tskey-api-") {
			t.Errorf("%v, %v", got, err)
		}
		for _, bad := range []string{"", "tskey-api-", "tskey-api-" + k.Public + "-", secret + "a", strings.ToUpper(secret), strings.Repeat("x", 1<<20)} {
			_, err := w.snap().FindAPIKey(bad, time.Now())
			wantCode(t, err, tailnet.Denied)
		}
		_, err := w.snap().FindAPIKey(secret, time.Now().Add(time.Hour))
		wantCode(t, err, tailnet.Denied)
		w.must(func(tx *tailnet.Tx) error { return tx.RevokeAPIKey(k.ID) })
		_, err = w.snap().FindAPIKey(secret, time.Now())
		wantCode(t, err, tailnet.Denied)
		if strings.Contains(fmt.Sprint(w.store.Audit()), secret) {
			t.Error("the audit log has the secret")
		}
	})
}

func TestCleanHostinfo(t *testing.T) {
	got := tailnet.CleanHostinfo(&tailcfg.Hostinfo{
		Hostname: strings.Repeat("é", 5000),
		OS:       "li\xffnux",
		RoutableIPs: []netip.Prefix{
			netip.MustParsePrefix("192.168.1.7/24"), netip.MustParsePrefix("192.168.1.0/24"), {}, netip.MustParsePrefix("0.0.0.0/0"),
			netip.MustParsePrefix("100.64.0.9/32"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("224.0.0.0/4"),
			netip.MustParsePrefix("fd7a:115c:a1e0:b1a:0:7:c0a8:0/112"), netip.MustParsePrefix("fd7a:115c:a1e0::1/128"),
		},
		RequestTags: []string{"tag:b", "b", "tag:a", "tag:b", "tag:"},
		Services:    []tailcfg.Service{{Proto: tailcfg.PeerAPI4, Port: 1}, {Proto: tailcfg.TCP, Port: 22}},
		NetInfo:     &tailcfg.NetInfo{PreferredDERP: 3, DERPLatency: map[string]float64{"3-v4": 0.1}},
	})
	if len(got.Hostname) > 256 || got.OS != "linux" {
		t.Errorf("hostname of %d bytes, OS %q", len(got.Hostname), got.OS)
	}
	got.Hostname, got.OS = "", ""
	want := &tailcfg.Hostinfo{
		RoutableIPs: prefixes("0.0.0.0/0", "192.168.1.0/24", "fd7a:115c:a1e0:b1a:0:7:c0a8:0/112"),
		RequestTags: []string{"tag:a", "tag:b"},
		Services:    []tailcfg.Service{{Proto: tailcfg.PeerAPI4, Port: 1}},
		NetInfo:     &tailcfg.NetInfo{PreferredDERP: 3},
	}
	if !got.Equal(want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if h := tailnet.CleanHostinfo(nil); h == nil {
		t.Error("nil for nil")
	}
}
