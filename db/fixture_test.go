package db_test

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"time"

	"heddle/control/tailnet"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/types/opt"
)

// moment is a time that exercises every digit that is stored.
var moment = time.Date(2026, 2, 3, 4, 5, 6, 700_000_089, time.UTC)

// testNode returns a node with all fields set, different for every id.
func testNode(id int) *tailnet.Node {
	v4 := netip.AddrFrom4([4]byte{100, 64 + byte(id>>16), byte(id >> 8), byte(id)})
	v6 := netip.AddrFrom16([16]byte{0xfd, 0x7a, 0x11, 12: byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)})
	raw := sha256.Sum256([]byte{byte(id), byte(id >> 8), byte(id >> 16)})
	var disco key.DiscoPublic
	if err := disco.UnmarshalText(fmt.Appendf(nil, "discokey:%x", raw)); err != nil {
		panic(err)
	}
	var machine key.MachinePublic
	if err := machine.UnmarshalText(fmt.Appendf(nil, "mkey:%x", raw)); err != nil {
		panic(err)
	}
	var node key.NodePublic
	if err := node.UnmarshalText(fmt.Appendf(nil, "nodekey:%x", raw)); err != nil {
		panic(err)
	}
	return &tailnet.Node{
		ID:       tailnet.NodeID(id),
		StableID: tailcfg.StableNodeID(fmt.Sprintf("n%dCNTRL", id)),
		Machine:  machine,
		Key:      node,
		Owner:    7,
		Tags:     []string{"tag:a", "tag:b"},
		Name:     fmt.Sprintf("node-%d", id),
		Fixed:    true,
		Addrs:    tailnet.Addrs{V4: v4, V6: v6},
		Expiry:   moment.Add(time.Hour),
		Terms:    tailnet.Terms{Ephemeral: true, NoExpiry: true, Pending: true, Held: true, Attrs: &tailnet.Attributes{"custom:tier": {Value: "gold", Expires: moment}, "custom:n": {Value: 1.5}, "custom:b": {Value: true}}},
		Approved: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/8")},
		Origin:   tailnet.Origin{Created: moment, Method: tailnet.ByAuthKey, AuthKey: 9},
		Report: &tailnet.Report{
			Disco:     disco,
			Endpoints: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:41641"), netip.MustParseAddrPort("[2001:db8::1]:41641")},
			HomeDERP:  999,
			CapVer:    131,
			Hostinfo: &tailcfg.Hostinfo{
				IPNVersion:   "1.102.5",
				BackendLogID: fmt.Sprintf("%x", raw),
				OS:           "linux",
				OSVersion:    "6.12",
				Container:    opt.NewBool(true),
				Distro:       "debian",
				Desktop:      opt.NewBool(false),
				Hostname:     "Кафе \"<&>\" \u2028",
				GoArch:       "amd64",
				RoutableIPs:  []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")},
				RequestTags:  []string{"tag:a"},
				Services:     []tailcfg.Service{{Proto: tailcfg.PeerAPI4, Port: 1234}},
				NetInfo:      &tailcfg.NetInfo{PreferredDERP: 999, DERPLatency: map[string]float64{"999-v4": 0.0123}},
				SSH_HostKeys: []string{"ssh-ed25519 AAAA"},
				Userspace:    opt.NewBool(true),
				Location:     &tailcfg.Location{Country: "Österreich", Latitude: 48.2},
			},
		},
		Status: tailnet.Status{Online: true, LastSeen: moment.Add(-time.Minute)},
	}
}

func testUser(id int) *tailnet.User {
	return &tailnet.User{
		ID: tailnet.UserID(id), Name: fmt.Sprintf("user-%d", id), DisplayName: "Zoë", Email: "z@example.com",
		PictureURL: "https://example.com/z.png", Role: "admin", Created: moment,
		Status: tailnet.UserSuspended, Identities: []tailnet.Identity{{Issuer: "https://id.example", Subject: "s|1"}, {Issuer: "https://b.example", Subject: "2"}},
		Groups: []string{"eng", "Ops Team"},
	}
}

func testAuthKey(id int) *tailnet.AuthKey {
	public := fmt.Sprintf("kA%d", id)
	return &tailnet.AuthKey{
		ID: tailnet.AuthKeyID(id), Public: public, Hash: sha256.Sum256([]byte(public)), Bcrypt: "$2a$10$x", Owner: 7, Tags: []string{"tag:a"},
		Reusable: true, Ephemeral: true, Approved: true, Description: "it's a 'key'; --", Created: moment,
		Expires: moment.Add(1), Used: moment.Add(2), Revoked: moment.Add(3),
	}
}

func testAPIKey(id int) *tailnet.APIKey {
	public := fmt.Sprintf("kP%d", id)
	return &tailnet.APIKey{
		ID: tailnet.APIKeyID(id), Public: public, Hash: sha256.Sum256([]byte(public)), Role: "owner",
		Kind: tailnet.KeyFederated, Parent: 2,
		Trust: &tailnet.Trust{Issuer: "https://ci.example", Subject: "repo:a/*", Audience: "aud", Claims: map[string]string{"ref": "main"}},
		Owner: 7, Scopes: []string{"dns:read", "policy_file"}, Tags: []string{"tag:ci"}, Description: "for the CI",
		Created: moment, Expires: moment.Add(1), Revoked: moment.Add(2), LastUsed: moment.Add(3),
	}
}

func testTombstone(id int) *tailnet.Tombstone {
	n := testNode(id)
	return &tailnet.Tombstone{
		Key: n.Key, Machine: n.Machine, Node: n.ID, StableID: n.StableID, Name: n.Name, Addrs: n.Addrs, Owner: 7, Ends: moment,
	}
}

func testAudit(i int) tailnet.AuditEntry {
	return tailnet.AuditEntry{
		At:     moment.Add(time.Duration(i)),
		Actor:  tailnet.Actor{Kind: tailnet.ByAPIKey, Name: "kP1", User: 7, Role: "admin", From: "192.0.2.9:5", Reason: "ticket 7"},
		Action: "node.rename", Target: fmt.Sprintf("node %d", i),
		Changes: []tailnet.Change{{Field: "name", From: "a", To: "b"}},
	}
}

// nodes is a delta that puts nodes.
func nodes(base tailnet.Seq, put ...*tailnet.Node) *tailnet.Delta {
	d := &tailnet.Delta{Tailnet: tailnet.Default, Base: base}
	d.Nodes.Put = map[tailnet.NodeID]*tailnet.Node{}
	for _, n := range put {
		d.Nodes.Put[n.ID] = n
		d.LastID.Node = max(d.LastID.Node, n.ID)
	}
	return d
}

func fullDelta() (*tailnet.Delta, tailnet.Image) {
	n, u, a, p, tomb := testNode(1), testUser(7), testAuthKey(9), testAPIKey(3), testTombstone(2)
	last := tailnet.LastIDs{Node: 2, User: 8, AuthKey: 9, APIKey: 4}
	settings := &tailnet.Settings{DNS: tailnet.DNS{
		MagicDNS: true, OverrideLocal: true, Nameservers: []string{"192.0.2.53", "https://dns.example/q"},
		Split:  map[string][]string{"corp.example": {"10.0.0.53"}, "local.example": {}},
		Search: []string{"corp.example"}, Records: []tailnet.DNSRecord{{Name: "x.example", Type: "A", Value: "10.1.1.1"}},
	}, Admission: tailnet.Admission{DeviceApproval: true, UserApproval: true, KeyExpiry: -1}, Webhooks: []*tailnet.Webhook{{
		ID: "w1", URL: "https://hooks.example/x", Provider: tailnet.Slack, Events: []tailnet.Event{"nodeCreated", "policyUpdate"},
		Secret: "tskey-webhook-x", Creator: "zoë", Created: moment, Changed: moment,
	}}, Contacts: tailnet.Contacts{Account: "a@example.com", Support: "b@example.com", Security: "c@example.com"}}
	pol := &tailnet.Policy{Source: "{\n\t// all\n}", ETag: "e1", Updated: moment, By: "zoë", Revision: 1}
	d := &tailnet.Delta{
		Tailnet: tailnet.Default, LastID: last, Settings: settings, Policy: pol,
		Audit: []tailnet.AuditEntry{testAudit(1), testAudit(2)},
	}
	d.Nodes.Put = map[tailnet.NodeID]*tailnet.Node{n.ID: n}
	d.Users.Put = map[tailnet.UserID]*tailnet.User{u.ID: u}
	d.AuthKeys.Put = map[tailnet.AuthKeyID]*tailnet.AuthKey{a.ID: a}
	d.APIKeys.Put = map[tailnet.APIKeyID]*tailnet.APIKey{p.ID: p}
	d.Tombstones.Put = map[string]*tailnet.Tombstone{tomb.Key.String(): tomb}
	return d, tailnet.Image{
		Seq: 1, LastID: last, Nodes: []*tailnet.Node{n}, Users: []*tailnet.User{u}, AuthKeys: []*tailnet.AuthKey{a},
		APIKeys: []*tailnet.APIKey{p}, Tombstones: []*tailnet.Tombstone{tomb}, Settings: settings, Policy: pol,
	}
}

func manyNodes(count int) *tailnet.Delta {
	d := nodes(0)
	for id := 1; id <= count; id++ {
		d.Nodes.Put[tailnet.NodeID(id)] = testNode(id)
	}
	return d
}

// testRecords are entries as they are stored by the first commit.
func testRecords(ids ...int) []tailnet.AuditRecord {
	var out []tailnet.AuditRecord
	for _, i := range ids {
		out = append(out, tailnet.AuditRecord{ID: int64(i), Seq: 1, AuditEntry: testAudit(i)})
	}
	return out
}
