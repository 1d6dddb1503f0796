package netmap_test

import (
	"maps"
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
)

// A device that waits for approval knows nobody, and nobody knows it, until it is approved.
func TestWaitingDevice(t *testing.T) {
	f := newFleet(t, 1)
	boss := f.user("boss", policy.Owner)
	old := f.join(boss, "old")
	f.update(func(tx *tailnet.Tx) error {
		return tailnettest.SetPolicy(tx, `{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}],
			"ssh": [{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["root"]}],
			"autoApprovers": {"routes": {"10.1.0.0/24": ["autogroup:owner"]}}}`)
	})
	f.update(func(tx *tailnet.Tx) error {
		return tx.SetDNS(tailnet.DNS{MagicDNS: true, Records: []tailnet.DNSRecord{{Name: "secret.tail.test", Type: "A", Value: "10.1.0.1"}}})
	})
	before := f.snap()
	if err := f.joinWaiting(boss); err != nil {
		t.Fatal(err)
	}
	n := f.snap().NodeByName("waits")

	r := f.full(viewer(n.ID))
	if r.Node.MachineAuthorized || len(r.Peers) > 0 || r.SSHPolicy != nil || !cmp.Equal(*r.DNSConfig, tailcfg.DNSConfig{}) {
		t.Errorf("it is told %s", text(t, r))
	}
	for key, rules := range r.PacketFilters {
		if len(rules) > 0 {
			t.Errorf("its filter %s lets somebody in: %v", key, rules)
		}
	}
	if m := r.DisplayMessages["heddle-approval"]; m == nil || !strings.Contains(m.Text, "nodes approve waits") || !m.ImpactsConnectivity {
		t.Errorf("its person is told %+v", m)
	}
	if d := f.delta(before, viewer(old)); d != nil {
		t.Errorf("another is told %s", text(t, d))
	}
	if len(n.Approved) > 0 {
		t.Error("the policy approves routes of a device that waits")
	}

	waiting := f.snap()
	f.update(func(tx *tailnet.Tx) error { return tx.ApproveNode(n.ID) })
	d := f.delta(waiting, viewer(n.ID))
	if !d.Node.MachineAuthorized || len(d.PeersChanged) != 1 || d.SSHPolicy == nil || len(d.DNSConfig.ExtraRecords) != 1 || len(d.PacketFilters) == 0 {
		t.Errorf("once approved it is told %s", text(t, d))
	}
	if m, told := d.DisplayMessages["heddle-approval"]; !told || m != nil {
		t.Errorf("the notice stays: %v", d.DisplayMessages)
	}
	if d := f.delta(waiting, viewer(old)); d == nil || len(d.PeersChanged) != 1 || d.PeersChanged[0].ID != tailcfg.NodeID(n.ID) {
		t.Errorf("the other is told %s", text(t, d))
	}
	if n := f.snap().Node(n.ID); len(n.Serves()) != 1 {
		t.Errorf("its routes %v are not approved as the policy says", n.Advertised())
	}
}

// Whose login expires soon is told so, in time, with the date, by the field that the client knows.
func TestExpiryNotice(t *testing.T) {
	f := newFleet(t, 1)
	a := f.join(f.user("u", policy.Member), "alpha")
	expire := func(d time.Duration) (from *tailnet.Snapshot) {
		from = f.snap()
		f.update(func(tx *tailnet.Tx) error { return tx.SetNodeExpiry(a, epoch.Add(d)) })
		return from
	}
	const day = 24 * time.Hour
	older := netmap.Viewer{ID: a, CapVer: 116}
	if r := f.full(viewer(a)); r.DisplayMessages != nil || r.Health != nil {
		t.Errorf("long before: %v %v", r.DisplayMessages, r.Health)
	}
	for _, c := range []struct {
		name  string
		until time.Duration
		date  string // in the message; "" if there is none
	}{
		{"soon", 2 * day, "3 March 2026 12:00 UTC"},
		{"a day later", 3 * day, "4 March 2026 12:00 UTC"},
		{"not soon any more", 30 * day, ""},
		{"soon again", day, "2 March 2026 12:00 UTC"},
		{"now", 0, ""},
	} {
		from := expire(c.until)
		f.advance(0)
		d, old := f.delta(from, viewer(a)), f.delta(from, older)
		m, told := d.DisplayMessages["heddle-key-expiry"]
		switch {
		case !told || d.Health != nil || old.DisplayMessages != nil || old.Health == nil:
			t.Errorf("%s: %v %v, older: %v %v", c.name, d.DisplayMessages, d.Health, old.DisplayMessages, old.Health)
		case c.date == "" && (m != nil || len(old.Health) > 0):
			t.Errorf("%s: still %v and %v", c.name, m, old.Health)
		case c.date != "" && (!strings.Contains(m.Text, c.date) || !strings.Contains(m.Text, "--force-reauth") || len(old.Health) != 1 || !strings.Contains(old.Health[0], c.date)):
			t.Errorf("%s: %v and %v", c.name, m, old.Health)
		}
		full, all := f.full(viewer(a)), f.full(older)
		if got := slices.Collect(maps.Keys(full.DisplayMessages)); (c.date != "") != (len(got) == 1) || len(all.Health) != len(got) {
			t.Errorf("%s: a new stream is told %v and %v", c.name, full.DisplayMessages, all.Health)
		}
	}
	from := expire(30 * day)
	f.advance(28 * day)
	if d := f.delta(from, viewer(a)); d == nil || d.DisplayMessages["heddle-key-expiry"] == nil {
		t.Error("nothing is said when the time comes")
	}
}
