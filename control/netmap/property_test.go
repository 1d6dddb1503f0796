package netmap_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
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
	"tailscale.com/control/controlclient"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/types/persist"
)

// policies are what random tests switch between.
var policies = []string{
	`{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]}`,
	`{"grants": [{"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["*"]}]}`,
	`{"groups": {"group:a": ["u0@x.test", "u1@x.test"]}, "tagOwners": {"tag:x": ["u0@x.test"], "tag:y": ["u1@x.test"]},
	  "acls": [{"action": "accept", "src": ["group:a"], "dst": ["tag:x:22,80", "10.1.0.0/16:*"]},
	           {"action": "accept", "src": ["tag:x"], "dst": ["tag:y:*"]}],
	  "ssh": [{"action": "accept", "src": ["group:a"], "dst": ["tag:x"], "users": ["root"]}]}`,
	`{"tagOwners": {"tag:x": ["u0@x.test"], "tag:y": ["u1@x.test"]},
	  "grants": [{"src": ["u0@x.test"], "dst": ["*"], "ip": ["*"]}, {"src": ["u1@x.test"], "dst": ["tag:y"], "ip": ["tcp:443"]},
	             {"src": ["u2@x.test"], "dst": ["autogroup:internet"], "ip": ["*"]}],
	  "nodeAttrs": [{"target": ["u0@x.test"], "attr": ["drive:share"]}, {"target": ["tag:x"], "attr": ["randomize-client-port"]}]}`,
	`{"tagOwners": {"tag:x": ["u0@x.test"]}, "grants": [{"src": ["*"], "dst": ["10.1.0.0/16"], "via": ["tag:x"], "ip": ["*"]}, {"src": ["u1@x.test"], "dst": ["u1@x.test", "tag:x"], "ip": ["*"]}]}`,
	`{"acls": []}`,
}

// step does something random.
func (f *fleet) step(users []tailnet.UserID) string {
	r, n := f.rnd, f.node()
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	var err error
	what := r.IntN(26)
	if n == nil || f.snap().NumNodes() < 3 {
		what = 0
	}
	switch what {
	case 0, 1:
		u := f.snap().User(users[r.IntN(len(users))])
		if u.Status == tailnet.UserSuspended {
			err = f.try(func(tx *tailnet.Tx) error { return tx.RestoreUser(u.ID) })
			break
		}
		f.join(u.ID, pick("laptop", "phone", "server"), pick("10.1.0.0/24", "10.2.0.0/16", "0.0.0.0/0"), pick("10.1.0.0/24", "fd00:1::/64", "::/0"))
	case 2:
		err = f.try(func(tx *tailnet.Tx) error { return tx.DeleteNode(n.ID) })
	case 3:
		err = f.try(func(tx *tailnet.Tx) error { return tx.RenameNode(n.ID, pick("", "web", "db", "mail")) })
	case 4:
		reg := tailnet.Registration{Machine: n.Machine, Key: key.NewNode().Public(), OldKey: n.Key, Hostinfo: n.Report.Hostinfo, CapVer: 142}
		err = f.try(func(tx *tailnet.Tx) error {
			_, err := tx.RegisterForUser(reg, n.Owner, tailnet.ByCLI)
			return err
		})
	case 5:
		err = f.try(func(tx *tailnet.Tx) error { return tx.ExpireNode(n.ID) })
	case 6:
		err = f.try(func(tx *tailnet.Tx) error { return tx.SetNodeExpiry(n.ID, f.clock().Add(time.Hour)) })
	case 7, 8:
		u := tailnet.Update{Disco: n.Report.Disco, CapVer: tailcfg.CapabilityVersion(113 + r.IntN(30)), Endpoints: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("192.0.2.7"), uint16(r.IntN(65535)))}}
		if r.IntN(3) == 0 {
			u.Endpoints = nil
		}
		err = f.try(func(tx *tailnet.Tx) error { return tx.Report(n.ID, u) })
	case 9:
		h := n.Report.Hostinfo.Clone()
		h.NetInfo = &tailcfg.NetInfo{PreferredDERP: r.IntN(3)}
		u := tailnet.Update{Disco: key.NewDisco().Public(), Hostinfo: h, CapVer: n.Report.CapVer, Endpoints: n.Report.Endpoints}
		err = f.try(func(tx *tailnet.Tx) error { return tx.Report(n.ID, u) })
	case 10:
		h := hostinfo(pick("büro", "laptop", "x\"y<>&"), pick("10.1.0.0/24", "0.0.0.0/0"))
		h.SSH_HostKeys = []string{"ssh-ed25519 " + pick("AAA", "BBB")}
		u := tailnet.Update{Disco: n.Report.Disco, Hostinfo: h, CapVer: 142, Endpoints: n.Report.Endpoints}
		err = f.try(func(tx *tailnet.Tx) error { return tx.Report(n.ID, u) })
	case 11, 12:
		err = f.try(func(tx *tailnet.Tx) error {
			return tx.ApproveRoutes(n.ID, tailnet.RouteEdit{Replace: true, Set: n.Advertised()})
		})
	case 13:
		err = f.try(func(tx *tailnet.Tx) error { tx.Disconnect(n.ID); return nil })
		f.advance(11 * time.Second)
	case 14:
		err = f.try(func(tx *tailnet.Tx) error { return tx.Connect(n.ID) })
	case 15:
		err = f.try(func(tx *tailnet.Tx) error { tx.SetAnswering(n.ID, r.IntN(2) == 0); return nil })
	default:
		err = f.settle(what, n, users)
	}
	return fmt.Sprint(what, " ", err)
}

// settle changes what an admin may.
func (f *fleet) settle(what int, n *tailnet.Node, users []tailnet.UserID) error {
	r := f.rnd
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	switch what {
	case 16:
		return f.try(func(tx *tailnet.Tx) error { return tx.SetTags(n.ID, []string{pick("tag:x", "tag:y")}) })
	case 17:
		return f.try(func(tx *tailnet.Tx) error { return tailnettest.SetPolicy(tx, pick(policies...)) })
	case 18:
		return f.try(func(tx *tailnet.Tx) error {
			switch r.IntN(3) {
			case 0:
				return tx.SetDERPMap(derpMap(1 + r.IntN(3)))
			case 1:
				return tx.SetDNS(tailnet.DNS{MagicDNS: r.IntN(2) == 0, Nameservers: []string{pick("1.1.1.1", "9.9.9.9")}, Search: []string{pick("a.test", "b.test")}})
			}
			return tx.SetDNSPins(tailnet.DNSPins{BaseDomain: pick("tail.test", "other.test")})
		})
	case 19:
		return f.try(func(tx *tailnet.Tx) error {
			return tx.RenameUser(users[r.IntN(len(users))], fmt.Sprint("u", r.IntN(5)))
		})
	case 20:
		return f.joinWaiting(users[r.IntN(len(users))])
	case 21, 22:
		for n := range f.snap().Nodes() {
			if n.Pending && r.IntN(2) == 0 {
				return f.try(func(tx *tailnet.Tx) error { return tx.ApproveNode(n.ID) })
			}
		}
	case 23: // the end of its login comes near, or not so near again
		return f.try(func(tx *tailnet.Tx) error {
			return tx.SetNodeExpiry(n.ID, f.clock().Add(tailnet.ExpiryWarning+time.Duration(r.IntN(5)-3)*24*time.Hour))
		})
	case 24:
		u := f.snap().User(users[r.IntN(len(users))])
		return f.try(func(tx *tailnet.Tx) error {
			if u.Status == tailnet.UserSuspended {
				return tx.RestoreUser(u.ID)
			}
			return tx.SuspendUser(u.ID)
		})
	case 25:
		return f.try(func(tx *tailnet.Tx) error {
			return tx.SetRole(users[r.IntN(len(users))], tailnet.Roles[r.IntN(len(tailnet.Roles))])
		})
	}
	return nil
}

// joinWaiting joins a device that waits for approval.
func (f *fleet) joinWaiting(owner tailnet.UserID) error {
	return f.try(func(tx *tailnet.Tx) error {
		if err := tx.SetAdmission(tailnet.Admission{DeviceApproval: true}); err != nil {
			return err
		}
		secret, _, err := tx.CreateAuthKey(tailnet.AuthKeySpec{Owner: owner, Expires: tx.Now().Add(time.Hour)})
		if err != nil {
			return err
		}
		h := hostinfo("waits", "10.1.0.0/24")
		n, err := tx.RegisterWithAuthKey(tailnet.Registration{Machine: key.NewMachine().Public(), Key: key.NewNode().Public(), Hostinfo: h, CapVer: 142}, secret)
		if err != nil {
			return err
		}
		if err := tx.Report(n.ID, tailnet.Update{Disco: key.NewDisco().Public(), Hostinfo: h, CapVer: 142}); err != nil {
			return err
		}
		return tx.Connect(n.ID)
	})
}

// session is a viewer with what it was sent.
type session struct {
	v      netmap.Viewer
	sent   *tailnet.Snapshot
	news   int // of the fleet, when it was sent
	model  *model
	stocks []*stockClient // maybe none
}

// model applies messages by the rules of the protocol, strictly.
type model struct {
	t     testing.TB
	self  tailcfg.NodeID
	peers map[tailcfg.NodeID]*tailcfg.Node
	users map[tailcfg.UserID]tailcfg.UserProfile
}

func (m *model) apply(r *tailcfg.MapResponse) {
	m.t.Helper()
	for _, n := range slices.Concat(r.Peers, r.PeersChanged) {
		if n.ID == m.self {
			m.t.Fatalf("node %d is sent itself as a peer", m.self)
		}
	}
	for _, up := range r.UserProfiles {
		m.users[up.ID] = up
	}
	if len(r.Peers) > 0 {
		clear(m.peers)
	}
	for _, id := range r.PeersRemoved {
		if m.peers[id] == nil {
			m.t.Fatalf("removes unknown peer %d", id)
		}
		delete(m.peers, id)
	}
	for _, n := range slices.Concat(r.Peers, r.PeersChanged) {
		m.peers[n.ID] = n
		if n.Online == nil {
			m.t.Fatalf("peer %d without Online", n.ID)
		}
	}
	for _, p := range r.PeersChangedPatch {
		n := m.peers[p.NodeID]
		if n == nil {
			m.t.Fatalf("patches unknown peer %d", p.NodeID)
		}
		if p.Online != nil && p.LastSeen == nil {
			m.t.Fatalf("patch of %d has Online without LastSeen", p.NodeID)
		}
		if p.Key != nil {
			n.Key = *p.Key
		}
	}
	keys, addrs := map[key.NodePublic]tailcfg.NodeID{}, map[netip.Prefix]tailcfg.NodeID{}
	for id, n := range m.peers {
		if other, dup := keys[n.Key]; dup {
			m.t.Fatalf("peers %d and %d have one key", id, other)
		}
		keys[n.Key] = id
		for _, a := range n.Addresses {
			if other, dup := addrs[a]; dup {
				m.t.Fatalf("peers %d and %d have one address", id, other)
			}
			addrs[a] = id
		}
		if _, ok := m.users[n.User]; !ok {
			m.t.Fatalf("peer %d of user %d without a profile", id, n.User)
		}
	}
}

// view is a client's state in a form that can be compared.
type view struct {
	Self, DNS, DERP, Rules, SSH, Domain string
	Health                              string
	Peers                               map[tailcfg.NodeID]string
	Users                               map[tailcfg.UserID]string
}

func text(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func peerText(t testing.TB, n *tailcfg.Node) string {
	t.Helper()
	n = n.Clone()
	if n.Online != nil && *n.Online {
		n.LastSeen = nil // left over from the patch; means nothing while online
	}
	if len(n.Endpoints) == 0 {
		n.Endpoints = nil
	}
	if len(n.CapMap) == 0 {
		n.CapMap = nil
	}
	return text(t, n)
}

func (c *stockClient) view() view {
	nm, peers := c.state()
	c.mu.Lock()
	defer c.mu.Unlock()
	ssh := text(c.t, nm.SSHPolicy)
	if ssh == `{"rules":null}` {
		ssh = "null"
	}
	v := view{
		Self: text(c.t, nm.SelfNode), DNS: text(c.t, nm.DNS), DERP: text(c.t, nm.DERPMap), Rules: text(c.t, c.rules),
		SSH: ssh, Domain: nm.Domain, Health: text(c.t, nm.DisplayMessages), Peers: map[tailcfg.NodeID]string{}, Users: map[tailcfg.UserID]string{},
	}
	if v.Rules == "null" {
		v.Rules = "[]"
	}
	need := map[tailcfg.UserID]bool{nm.User(): true}
	for id, p := range peers {
		v.Peers[id] = peerText(c.t, p)
		need[p.User] = true
	}
	for id := range need {
		v.Users[id] = text(c.t, c.users[id])
	}
	return v
}

// freshView is what a client would have that connects now.
func (f *fleet) freshView(t *testing.T, v netmap.Viewer) view {
	t.Helper()
	p := &persist.Persist{PrivateNodeKey: key.NewNode()}
	nm, err := controlclient.NetmapFromMapResponseForDebug(context.Background(), p.View(), f.full(v))
	if err != nil {
		t.Fatal(err)
	}
	c := &stockClient{t: nil}
	rebuilder{c}.UpdateFullNetmap(nm)
	c.t = t
	return c.view()
}

func TestDeltasEqualFullMap(t *testing.T) {
	small, large := uint64(10), uint64(4)
	if testing.Short() {
		small, large = 3, 1
	}
	for seed := range small {
		t.Run(fmt.Sprint("small", seed), func(t *testing.T) { testDeltas(t, seed, 0, 150) })
	}
	for seed := range large {
		t.Run(fmt.Sprint("large", seed), func(t *testing.T) { testDeltas(t, 100+seed, 300, 25) })
	}
}

// testDeltas changes a tailnet at random, and brings random sessions up to date.
func testDeltas(t *testing.T, seed uint64, nodes, steps int) {
	f := newFleet(t, seed)
	var users []tailnet.UserID
	for i := range 3 {
		users = append(users, f.user(fmt.Sprint("u", i), []policy.Role{policy.Owner, policy.Member, policy.Admin}[i]))
	}
	for i := range nodes {
		f.join(users[i%len(users)], "laptop")
	}
	if seed%2 == 0 {
		f.update(func(tx *tailnet.Tx) error { return tailnettest.SetPolicy(tx, policies[f.rnd.IntN(len(policies))]) })
	}
	sessions := map[tailnet.NodeID]*session{}
	var log []string
	known, silent := f.snap(), 0
	for step := range steps {
		if nodes > 0 && f.rnd.IntN(4) == 0 {
			f.stir()
			log = append(log, "stir")
		}
		log = append(log, fmt.Sprint(step, ": ", f.step(users)))
		if f.rnd.IntN(3) == 0 {
			continue // several changes in one delta
		}
		s := f.snap()
		if f.enc.News(known, s) {
			f.news++
		} else {
			silent++
		}
		known = s
		for id := range sessions {
			if s.Node(id) == nil {
				delete(sessions, id)
			}
		}
		order := slices.Collect(s.Nodes())
		f.rnd.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, n := range order {
			// Some sessions are slow; of many only some are followed.
			if old := sessions[n.ID] != nil; old && f.rnd.IntN(4) == 0 || !old && (nodes > 0 && len(sessions) >= 10) {
				continue
			}
			f.send(t, sessions, n, step)
			if t.Failed() {
				t.Fatalf("node %d after\n%s", n.ID, strings.Join(log, "\n"))
			}
		}
	}
	if nodes == 0 && silent == 0 {
		t.Error("every step was news")
	}
}

// stir lets most nodes change at once.
func (f *fleet) stir() {
	f.t.Helper()
	mode := f.rnd.IntN(3)
	f.update(func(tx *tailnet.Tx) error {
		for n := range tx.Snapshot().Nodes() {
			switch u := (tailnet.Update{Disco: n.Report.Disco, CapVer: n.Report.CapVer, Hostinfo: n.Report.Hostinfo}); {
			case mode == 0:
				u.Endpoints = []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("192.0.2.9"), uint16(f.rnd.IntN(65535)))}
				if err := tx.Report(n.ID, u); err != nil {
					return err
				}
			case mode == 1:
				u.Hostinfo = n.Report.Hostinfo.Clone()
				u.Hostinfo.OS = fmt.Sprint("os", f.rnd.IntN(1000))
				if err := tx.Report(n.ID, u); err != nil {
					return err
				}
			default:
				tx.Disconnect(n.ID)
			}
		}
		return nil
	})
	f.advance(11 * time.Second)
}

// send brings one session up to date and compares what it has with a fresh map.
func (f *fleet) send(t *testing.T, sessions map[tailnet.NodeID]*session, n *tailnet.Node, step int) {
	t.Helper()
	o := sessions[n.ID]
	fresh := o == nil
	if fresh {
		o = &session{
			v:     netmap.Viewer{ID: n.ID, CapVer: tailcfg.CapabilityVersion(113 + f.rnd.IntN(30)), Plain: n.ID%5 == 4},
			model: &model{t: t, self: tailcfg.NodeID(n.ID), peers: map[tailcfg.NodeID]*tailcfg.Node{}, users: map[tailcfg.UserID]tailcfg.UserProfile{}},
		}
		if len(sessions) < 3 && !o.v.Plain {
			o.stocks = []*stockClient{newStockClient(t, false), newStockClient(t, true)}
		}
		sessions[n.ID] = o
	}
	var m netmap.Message
	changed, err := true, error(nil)
	if fresh {
		m, err = f.enc.Full(f.snap(), o.v, f.clock())
	} else {
		m, changed, err = f.enc.Delta(o.sent, f.snap(), o.v, f.clock())
	}
	if changed && !fresh && o.news == f.news {
		t.Fatalf("step %d: nothing of it is news, but node %d is sent %s", step, n.ID, payload(t, m, o.v.Plain))
	}
	o.sent, o.news = f.snap(), f.news
	if err != nil {
		t.Fatal(err)
	}
	if changed {
		r := decode(t, m, o.v.Plain)
		if !fresh && string(payload(t, m, o.v.Plain)) == "{}" {
			t.Fatal("empty delta")
		}
		o.model.apply(r)
		for _, c := range o.stocks {
			c.take(m)
		}
	}
	full := f.full(o.v)
	if n := f.snap().Node(n.ID); n.Pending && (len(full.Peers) > 0 || full.SSHPolicy != nil || full.Node.MachineAuthorized) {
		t.Fatalf("node %d waits for approval and is told %s", n.ID, text(t, full))
	}
	for _, p := range full.Peers {
		if f.snap().Node(tailnet.NodeID(p.ID)).Pending {
			t.Fatalf("node %d is told of %d, which waits for approval", n.ID, p.ID)
		}
	}
	ids := func(list []*tailcfg.Node) (out []tailcfg.NodeID) {
		for _, p := range list {
			out = append(out, p.ID)
		}
		slices.Sort(out)
		return out
	}
	if got, want := slices.Sorted(maps.Keys(o.model.peers)), ids(full.Peers); !slices.Equal(got, want) {
		t.Fatalf("step %d: peers %v, a fresh map has %v", step, got, want)
	}
	for i, c := range o.stocks {
		if diff := cmp.Diff(f.freshView(t, o.v), c.view()); diff != "" {
			t.Errorf("step %d, client %d of node %d: fresh map and deltas differ (-fresh +deltas):\n%s", step, i, n.ID, diff)
		}
	}
}
