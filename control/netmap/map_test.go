package netmap_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"heddle/control/netmap"
	"heddle/control/tailnet"
	"heddle/control/tailnet/tailnettest"
	"heddle/policy"

	"github.com/google/go-cmp/cmp"
	"tailscale.com/tailcfg"
	"tailscale.com/types/dnstype"
	"tailscale.com/types/key"
)

func viewer(id tailnet.NodeID) netmap.Viewer { return netmap.Viewer{ID: id, CapVer: 142} }

func TestFirstMap(t *testing.T) {
	f := newFleet(t, 1)
	boss, member := f.user("boss", policy.Owner), f.user("member", policy.Member)
	a, b := f.join(boss, "alpha", "10.1.0.0/24"), f.join(member, "beta")
	f.update(func(tx *tailnet.Tx) error {
		return tx.ApproveRoutes(a, tailnet.RouteEdit{Replace: true, Set: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}})
	})
	m, err := f.enc.Full(f.snap(), viewer(a), f.clock())
	if err != nil {
		t.Fatal(err)
	}
	text := string(payload(t, m, false))
	for _, part := range []string{
		`"CollectServices":false`, `"Debug":{"DisableLogTail":true}`, `"ClientVersion":{"RunningLatest":true}`,
		`"Domain":"tail.test"`, `"DERPMap":{"HomeParams"`, `"DNSConfig":{`, `"PacketFilters":{"*":null,`, `"ControlTime":"2026-03-01T12:00:00Z"`,
	} {
		if !strings.Contains(text, part) {
			t.Errorf("no %s in %s", part, text)
		}
	}
	r := f.full(viewer(a))
	n := r.Node
	self := f.snap().Node(a)
	if n.ID != tailcfg.NodeID(a) || n.Name != "alpha.tail.test." || !n.MachineAuthorized || n.Key != self.Key || !n.KeyExpiry.Equal(self.Expiry) || n.User != tailcfg.UserID(boss) {
		t.Errorf("self is %+v", n)
	}
	want := append(self.Addrs.Prefixes(), netip.MustParsePrefix("10.1.0.0/24"))
	if !slices.Equal(n.AllowedIPs, want) || !slices.Equal(n.PrimaryRoutes, want[2:]) || !slices.Equal(n.Addresses, want[:2]) {
		t.Errorf("self has %v, allowed %v, primary %v", n.Addresses, n.AllowedIPs, n.PrimaryRoutes)
	}
	caps := tailcfg.NodeCapMap{
		tailcfg.CapabilityFileSharing: nil, tailcfg.CapabilitySSH: nil, tailcfg.CapabilityAdmin: nil,
		tailcfg.NodeAttrSuggestExitNodeUI: nil, tailcfg.NodeAttrTailnetDisplayName: {`"tail.test"`},
	}
	for c, v := range caps {
		if got, ok := n.CapMap[c]; !ok || !slices.Equal(got, v) {
			t.Errorf("capability %s is %v, %v; want %v", c, got, ok, v)
		}
	}
	if _, ok := f.full(viewer(b)).Node.CapMap[tailcfg.CapabilityAdmin]; ok {
		t.Error("a member is an admin")
	}
	var logins []string
	for _, p := range r.UserProfiles {
		logins = append(logins, p.LoginName)
	}
	if slices.Sort(logins); !slices.Equal(logins, []string{"boss@x.test", "member@x.test"}) {
		t.Errorf("profiles of %v", logins)
	}
	if m.Len() != len(slices.Concat(m.Parts()...)) {
		t.Error("parts and length differ")
	}
}

func TestPeerIsMinimal(t *testing.T) {
	f := newFleet(t, 1)
	u := f.user("u", policy.Member)
	a, b := f.join(u, "alpha"), f.join(u, "beta", "10.1.0.0/24", "0.0.0.0/0", "::/0")
	peer := func() map[string]any {
		t.Helper()
		m, err := f.enc.Full(f.snap(), viewer(a), f.clock())
		if err != nil {
			t.Fatal(err)
		}
		var r struct{ Peers []map[string]any }
		if err := json.Unmarshal(payload(t, m, false), &r); err != nil {
			t.Fatal(err)
		}
		return r.Peers[0]
	}
	n := f.snap().Node(b)
	mark := n.Report.Disco.Raw32()
	want := map[string]any{
		"ID": float64(b), "StableID": string(n.StableID), "Name": "beta.tail.test.", "User": float64(u),
		"Key": n.Key.String(), "DiscoKey": n.Report.Disco.String(), "KeyExpiry": "2026-08-28T12:00:00Z",
		"Addresses": []any{n.Addrs.V4.String() + "/32", n.Addrs.V6.String() + "/128"},
		"Endpoints": []any{"192.0.2.1:41641", "10.0.0.1:41641"}, "HomeDERP": 1.0, "Cap": 142.0, "Online": true,
		"Hostinfo": map[string]any{"OS": "linux", "Hostname": "beta", "BackendLogID": fmt.Sprintf("%x", mark[:2]), "Services": []any{
			map[string]any{"Proto": "peerapi4", "Port": 4711.0}, map[string]any{"Proto": "peerapi6", "Port": 4711.0},
		}},
	}
	if diff := cmp.Diff(want, peer()); diff != "" {
		t.Errorf("peer (-want +got):\n%s", diff)
	}
	f.update(func(tx *tailnet.Tx) error {
		return tx.ApproveRoutes(b, tailnet.RouteEdit{Replace: true, Set: f.snap().Node(b).Advertised()})
	})
	f.update(func(tx *tailnet.Tx) error { tx.Disconnect(b); return nil })
	f.advance(time.Minute)
	want["AllowedIPs"] = append(slices.Clone(want["Addresses"].([]any)), "0.0.0.0/0", "10.1.0.0/24", "::/0")
	want["PrimaryRoutes"] = []any{"10.1.0.0/24"}
	want["CapMap"] = map[string]any{"suggest-exit-node": nil}
	want["Online"], want["LastSeen"] = false, "2026-03-01T12:00:01Z" // it moves on even within a second
	if diff := cmp.Diff(want, peer()); diff != "" {
		t.Errorf("router that went offline (-want +got):\n%s", diff)
	}
}

func TestNodeBeforeItsFirstReport(t *testing.T) {
	f := newFleet(t, 1)
	u := f.user("u", policy.Member)
	a := f.join(u, "alpha")
	f.update(func(tx *tailnet.Tx) error {
		_, err := tx.RegisterForUser(tailnet.Registration{Machine: key.NewMachine().Public(), Key: key.NewNode().Public(), Hostinfo: &tailcfg.Hostinfo{}, CapVer: 142}, u, tailnet.ByCLI)
		return err
	})
	p := f.full(viewer(a)).Peers[0]
	if p.Online == nil || *p.Online || !p.DiscoKey.IsZero() || p.HomeDERP != 0 {
		t.Errorf("peer is %+v", p)
	}
}

func TestDeltas(t *testing.T) {
	f := newFleet(t, 1)
	u := f.user("u", policy.Member)
	a, b, c := f.join(u, "alpha"), f.join(u, "beta", "10.1.0.0/24"), f.join(u, "gamma", "10.1.0.0/24")
	report := func(id tailnet.NodeID, change func(*tailnet.Update)) func(*tailnet.Tx) error {
		return func(tx *tailnet.Tx) error {
			n := tx.Snapshot().Node(id)
			up := tailnet.Update{Disco: n.Report.Disco, Endpoints: n.Report.Endpoints, CapVer: n.Report.CapVer}
			change(&up)
			return tx.Report(id, up)
		}
	}
	endpoint := func(up *tailnet.Update) { up.Endpoints = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.4:5")} }
	tests := []struct {
		name string
		do   func(*tailnet.Tx) error
		want string // fields of the delta for alpha
	}{
		{"a peer's endpoints", report(b, endpoint), `{"PeersChangedPatch":[{"NodeID":2,"Endpoints":["192.0.2.4:5"]}]}`},
		{"one's own endpoints", report(a, endpoint), ``},
		{"no endpoints any more", report(b, func(up *tailnet.Update) { up.Endpoints = nil }), `{"PeersChangedPatch":[{"NodeID":2,"Endpoints":[]}]}`},
		{"another DERP home", report(b, func(up *tailnet.Update) {
			up.Hostinfo = hostinfo("beta", "10.1.0.0/24")
			up.Hostinfo.NetInfo.PreferredDERP = 3
		}), `{"PeersChangedPatch":[{"NodeID":2,"DERPRegion":3}]}`},
		{"what nobody reads", report(b, func(up *tailnet.Update) {
			up.Hostinfo = hostinfo("beta", "10.1.0.0/24")
			up.Hostinfo.NetInfo.PreferredDERP = 3
			up.Hostinfo.OSVersion = "7.0"
		}), ``},
		{"offline", func(tx *tailnet.Tx) error { tx.Disconnect(b); return nil }, `{"PeersChangedPatch":[{"NodeID":2,"Online":false,"LastSeen":"2026-03-01T12:00:01Z"}]}`},
		{"online", func(tx *tailnet.Tx) error { return tx.Connect(b) }, `{"PeersChangedPatch":[{"NodeID":2,"Online":true,"LastSeen":"2026-03-01T12:01:00Z"}]}`},
		{"removed", func(tx *tailnet.Tx) error { return tx.DeleteNode(c) }, `PeersRemoved`},
		{"renamed", func(tx *tailnet.Tx) error { return tx.RenameNode(b, "delta") }, `PeersChanged`},
		{"expired", func(tx *tailnet.Tx) error { return tx.ExpireNode(b) }, `PeersChanged PeersChangedPatch`},
		{"DNS", func(tx *tailnet.Tx) error { return tx.SetDNS(tailnet.DNS{MagicDNS: true, Search: []string{"x.test"}}) }, `DNSConfig`},
		{"relays", func(tx *tailnet.Tx) error { return tx.SetDERPMap(derpMap(2)) }, `DERPMap`},
		{"the same relays", func(tx *tailnet.Tx) error { return tx.SetDERPMap(derpMap(2)) }, ``},
		{"nobody may talk", func(tx *tailnet.Tx) error { return tailnettest.SetPolicy(tx, `{"acls": []}`) }, `PacketFilters PeersRemoved`},
		{"everybody may", func(tx *tailnet.Tx) error {
			return tailnettest.SetPolicy(tx, `{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}`)
		}, `PacketFilters UserProfiles PeersChanged`},
		{"one's own expiry", func(tx *tailnet.Tx) error { return tx.ExpireNode(a) }, `Node PeersRemoved`},
		{"one's own extension", func(tx *tailnet.Tx) error { return tx.SetNodeExpiry(a, epoch.Add(30*24*time.Hour)) }, `Node UserProfiles Peers`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f.advance(0)
			from := f.snap()
			f.update(tt.do)
			if tt.name == "offline" {
				f.advance(time.Minute)
			}
			m, changed, err := f.enc.Delta(from, f.snap(), viewer(a), f.clock())
			if err != nil || changed != (tt.want != "") {
				t.Fatalf("changed is %v, error %v", changed, err)
			}
			if !changed {
				return
			}
			text := string(payload(t, m, false))
			if strings.HasPrefix(tt.want, "{") {
				if text != tt.want {
					t.Fatalf("got  %s\nwant %s", text, tt.want)
				}
				return
			}
			if got := fields(t, text); got != tt.want {
				t.Fatalf("fields %s, want %s, in %s", got, tt.want, text)
			}
		})
	}
}

// fields returns the names of an object's fields in their order.
func fields(t *testing.T, text string) string {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	if _, err := d.Token(); err != nil {
		t.Fatal(err)
	}
	var out []string
	for d.More() {
		name, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, name.(string))
		var skip json.RawMessage
		if err := d.Decode(&skip); err != nil {
			t.Fatal(err)
		}
	}
	return strings.Join(out, " ")
}

// Clients must notice each of these although they turn whole nodes into
// patches that cannot say everything.
func TestWhatPatchesLose(t *testing.T) {
	f := newFleet(t, 1)
	u := f.user("u", policy.Member)
	a, b := f.join(u, "alpha"), f.join(u, "beta")
	c := newStockClient(t, true)
	m, err := f.enc.Full(f.snap(), viewer(a), f.clock())
	if err != nil {
		t.Fatal(err)
	}
	c.take(m)
	from := f.snap()
	f.update(func(tx *tailnet.Tx) error {
		h := hostinfo("beta")
		h.NetInfo.PreferredDERP = 0
		h.OS = "windows"
		tx.Disconnect(b)
		return tx.Report(b, tailnet.Update{Disco: key.NewDisco().Public(), Hostinfo: h, CapVer: 142})
	})
	f.advance(time.Minute)
	m, _, err = f.enc.Delta(from, f.snap(), viewer(a), f.clock())
	if err != nil {
		t.Fatal(err)
	}
	c.take(m)
	_, peers := c.state()
	p := peers[tailcfg.NodeID(b)]
	if p.HomeDERP != 0 || len(p.Endpoints) != 0 || *p.Online || p.LastSeen == nil || p.DiscoKey != f.snap().Node(b).Report.Disco {
		t.Errorf("the client has %+v", p)
	}
}

// The messages that come most often must not make clients rebuild their maps.
func TestFrequentDeltasAreIncremental(t *testing.T) {
	f := newFleet(t, 1)
	u := f.user("u", policy.Member)
	a, b := f.join(u, "alpha"), f.join(u, "beta")
	c := newStockClient(t, true)
	m, err := f.enc.Full(f.snap(), viewer(a), f.clock())
	if err != nil {
		t.Fatal(err)
	}
	c.take(m)
	c.mu.Lock()
	rebuilt := c.full
	c.mu.Unlock()
	from := f.snap()
	var newcomer tailnet.NodeID
	// restart reports as a client does that has started: at first it knows no DERP home.
	restart := func(id tailnet.NodeID) {
		h := hostinfo(f.snap().Node(id).Name)
		h.NetInfo = nil
		f.update(func(tx *tailnet.Tx) error {
			return tx.Report(id, tailnet.Update{Disco: key.NewDisco().Public(), CapVer: 142, Hostinfo: h})
		})
	}
	for _, do := range []func(){
		func() { f.join(u, "gamma") },
		func() {
			f.update(func(tx *tailnet.Tx) error {
				n, err := tx.RegisterForUser(tailnet.Registration{Machine: key.NewMachine().Public(), Key: key.NewNode().Public(), Hostinfo: &tailcfg.Hostinfo{Hostname: "epsilon"}, CapVer: 142}, u, tailnet.ByCLI)
				newcomer = n.ID
				return err
			})
		},
		func() { restart(newcomer) },
		func() { restart(b) },
		func() { f.update(func(tx *tailnet.Tx) error { return tx.RenameNode(b, "delta") }) },
		func() {
			n := f.snap().Node(b)
			f.update(func(tx *tailnet.Tx) error {
				return tx.Report(b, tailnet.Update{Disco: n.Report.Disco, CapVer: 142, Endpoints: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.4:5")}})
			})
		},
		func() { f.update(func(tx *tailnet.Tx) error { tx.Disconnect(b); return nil }); f.advance(time.Minute) },
		func() { f.update(func(tx *tailnet.Tx) error { return tx.DeleteNode(b) }) },
	} {
		do()
		m, changed, err := f.enc.Delta(from, f.snap(), viewer(a), f.clock())
		if err != nil || !changed {
			t.Fatal(changed, err)
		}
		from = f.snap()
		c.take(m)
	}
	c.state()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.full != rebuilt {
		t.Errorf("the client rebuilt its map %d times", c.full-rebuilt)
	}
}

func TestExpiredViewerHasNoPeers(t *testing.T) {
	f := newFleet(t, 1)
	u := f.user("u", policy.Member)
	a := f.join(u, "alpha")
	f.join(u, "beta")
	f.update(func(tx *tailnet.Tx) error { return tx.ExpireNode(a) })
	f.advance(time.Second)
	r := f.full(viewer(a))
	if len(r.Peers) != 0 || !r.Node.Expired || !r.Node.KeyExpiry.Before(f.clock()) {
		t.Errorf("expired %v, expiry %v, %d peers", r.Node.Expired, r.Node.KeyExpiry, len(r.Peers))
	}
}

func TestOmitPeers(t *testing.T) {
	f := newFleet(t, 1)
	u := f.user("u", policy.Member)
	a := f.join(u, "alpha")
	f.join(u, "beta")
	v := netmap.Viewer{ID: a, Plain: true, OmitPeers: true}
	if r := f.full(v); len(r.Peers) != 0 || len(r.UserProfiles) != 1 {
		t.Errorf("%d peers, %d profiles", len(r.Peers), len(r.UserProfiles))
	}
	from := f.snap()
	f.join(u, "gamma")
	if r := f.delta(from, v); r != nil {
		t.Errorf("delta %+v", r)
	}
}

func TestGone(t *testing.T) {
	f := newFleet(t, 1)
	u := f.user("u", policy.Member)
	a := f.join(u, "alpha")
	f.join(u, "beta")
	c := newStockClient(t, true)
	m, err := f.enc.Full(f.snap(), viewer(a), f.clock())
	if err != nil {
		t.Fatal(err)
	}
	c.take(m)
	n, from := f.snap().Node(a), f.snap()
	f.update(func(tx *tailnet.Tx) error { return tx.DeleteNode(a) })
	if _, _, err := f.enc.Delta(from, f.snap(), viewer(a), f.clock()); tailnet.CodeOf(err) != tailnet.NotFound {
		t.Errorf("delta of a deleted node: %v", err)
	}
	if _, err := f.enc.Full(f.snap(), viewer(a), f.clock()); tailnet.CodeOf(err) != tailnet.NotFound {
		t.Errorf("map of a deleted node: %v", err)
	}
	c.take(f.enc.Gone(f.snap().Tombstone(n.Key), viewer(a), f.clock()))
	nm, _ := c.state()
	if exp := nm.SelfKeyExpiry(); exp.IsZero() || !exp.Before(f.clock()) {
		t.Errorf("the client's key expires at %v", exp)
	}
}

func TestBadNodeIsLeftOut(t *testing.T) {
	f := newFleet(t, 1)
	var log bytes.Buffer
	f.enc = netmap.NewEncoder(netmap.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	u := f.user("u", policy.Member)
	a, b, c := f.join(u, "alpha"), f.join(u, "beta"), f.join(u, "gamma")
	store := func(expiry time.Time) { // as another program could
		img, err := f.store.Load(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		n := *f.snap().Node(b)
		n.Expiry = expiry
		was, d := f.snap(), &tailnet.Delta{Base: img.Seq, LastID: img.LastID}
		d.Nodes.Put = map[tailnet.NodeID]*tailnet.Node{b: &n}
		if err := f.store.Commit(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		<-was.Superseded()
	}
	store(time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC))
	for range 2 {
		r := f.full(viewer(a))
		if len(r.Peers) != 1 || r.Peers[0].ID != tailcfg.NodeID(c) {
			t.Errorf("peers %v", r.Peers)
		}
	}
	if n := strings.Count(log.String(), "node left out"); n != 1 {
		t.Errorf("logged %d times: %s", n, log.String())
	}
	from := f.snap()
	store(time.Time{})
	if r := f.delta(from, viewer(a)); r == nil || len(r.PeersChanged) != 1 {
		t.Errorf("a node that became good: %+v", r)
	}
	if _, err := f.enc.Full(f.snap(), viewer(b), f.clock()); err != nil {
		t.Error(err)
	}
}

func TestDNS(t *testing.T) {
	records := []tailnet.DNSRecord{{Name: "git.tail.test", Type: "A", Value: "192.0.2.3"}}
	addr := func(s ...string) (out []*dnstype.Resolver) {
		for _, a := range s {
			out = append(out, &dnstype.Resolver{Addr: a})
		}
		return out
	}
	tests := []struct {
		name string
		in   tailnet.DNS
		want tailcfg.DNSConfig
	}{
		{"MagicDNS only", tailnet.DNS{MagicDNS: true}, tailcfg.DNSConfig{Proxied: true, Domains: []string{"tail.test"}}},
		{"off", tailnet.DNS{}, tailcfg.DNSConfig{}},
		{"all", tailnet.DNS{
			MagicDNS: true, OverrideLocal: true, Nameservers: []string{"9.9.9.9", "https://dns.test/q"},
			Split: map[string][]string{"corp.test": {"10.0.0.53"}, "none.test": {}}, Search: []string{"corp.test"}, Records: records,
		}, tailcfg.DNSConfig{
			Proxied: true, Domains: []string{"tail.test", "corp.test"}, Resolvers: addr("9.9.9.9", "https://dns.test/q"),
			Routes:       map[string][]*dnstype.Resolver{"corp.test": addr("10.0.0.53"), "none.test": {}},
			ExtraRecords: []tailcfg.DNSRecord{{Name: "git.tail.test", Type: "A", Value: "192.0.2.3"}},
		}},
		{"no override", tailnet.DNS{Nameservers: []string{"9.9.9.9"}}, tailcfg.DNSConfig{FallbackResolvers: addr("9.9.9.9")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFleet(t, 1)
			a := f.join(f.user("u", policy.Member), "alpha")
			f.update(func(tx *tailnet.Tx) error { return tx.SetDNS(tt.in) })
			if diff := cmp.Diff(&tt.want, f.full(viewer(a)).DNSConfig); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestTaggedNode(t *testing.T) {
	f := newFleet(t, 1)
	u := f.user("u", policy.Admin)
	a, b := f.join(u, "alpha"), f.join(u, "beta")
	f.update(func(tx *tailnet.Tx) error {
		return tailnettest.SetPolicy(tx, `{"tagOwners": {"tag:x": ["u@x.test"]}, "acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}`)
	})
	from := f.snap()
	f.update(func(tx *tailnet.Tx) error { return tx.SetTags(b, []string{"tag:x"}) })
	r := f.delta(from, viewer(a))
	if len(r.PeersChanged) != 1 || r.PeersChanged[0].User != tailcfg.UserID(tailnet.TaggedDevices) || len(r.UserProfiles) != 1 || r.UserProfiles[0].LoginName != "tagged-devices" {
		t.Errorf("delta %+v", r)
	}
	r = f.delta(from, viewer(b))
	if _, ok := r.Node.CapMap[tailcfg.CapabilityAdmin]; ok || len(r.Node.Tags) != 1 || !r.Node.KeyExpiry.IsZero() {
		t.Errorf("self %+v", r.Node)
	}
}

func TestKeepAliveAndExtra(t *testing.T) {
	e := netmap.NewEncoder(netmap.Options{ServerURL: "https://heddle.test"})
	for _, plain := range []bool{false, true} {
		v := netmap.Viewer{Plain: plain}
		m := e.KeepAlive(v)
		text := string(payload(t, m, plain))
		if r := decode(t, m, plain); !r.KeepAlive || text == `{"KeepAlive":true}` {
			t.Errorf("keepalive is %q", text)
		}
		for _, u := range []string{"https://heddle.test/a", "http://heddle.test/b"} {
			r := decode(t, e.Extra(v, netmap.Extra{PingRequest: &tailcfg.PingRequest{URL: "https://x/y", Types: "c2n"}, PopBrowserURL: u}), plain)
			if r.PingRequest == nil || r.PingRequest.URL != "https://x/y" || (r.PopBrowserURL != "") != strings.HasPrefix(u, "https") {
				t.Errorf("extra: %+v", r)
			}
		}
		// No other message may have the length of a keepalive.
		for n := range 200 {
			other := e.Extra(v, netmap.Extra{PopBrowserURL: "https://x/" + strings.Repeat("x", n)})
			if other.Len() == m.Len() {
				t.Errorf("length %d", other.Len())
			}
			payload(t, other, plain)
		}
	}
}

// After the stock client has seen a keepalive it must not take anything else for one.
func TestNothingIsTakenForAKeepAlive(t *testing.T) {
	f := newFleet(t, 1)
	u := f.user("u", policy.Member)
	a := f.join(u, "alpha")
	for i := range 20 {
		f.join(u, fmt.Sprint("n", i))
	}
	c := newStockClient(t, true)
	m, err := f.enc.Full(f.snap(), viewer(a), f.clock())
	if err != nil {
		t.Fatal(err)
	}
	c.take(m)
	for id := tailnet.NodeID(2); id <= 21; id++ {
		from := f.snap()
		f.update(func(tx *tailnet.Tx) error { return tx.DeleteNode(id) })
		m, _, err := f.enc.Delta(from, f.snap(), viewer(a), f.clock())
		if err != nil {
			t.Fatal(err)
		}
		c.take(m)
	}
	if _, peers := c.state(); len(peers) != 0 {
		t.Errorf("%d peers are left", len(peers))
	}
}
