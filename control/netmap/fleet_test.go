package netmap_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"heddle/control/netmap"
	"heddle/control/tailnet"
	"heddle/control/tailnet/tailnettest"
	"heddle/policy"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/util/zstdframe"
)

// fleet is a tailnet that tests change at will.
type fleet struct {
	t     testing.TB
	s     *tailnet.State
	store tailnettest.Store
	enc   *netmap.Encoder
	rnd   *rand.Rand

	mu  sync.Mutex
	now time.Time

	machines map[tailnet.NodeID]key.MachinePublic
	news     int // how often something changed that sessions are told
}

var admin = tailnet.SystemActor("test")

func newFleet(t testing.TB, seed uint64) *fleet {
	t.Helper()
	f := &fleet{t: t, now: epoch, rnd: rand.New(rand.NewPCG(seed, 1)), machines: map[tailnet.NodeID]key.MachinePublic{}}
	ctx, cancel := context.WithCancel(context.Background())
	s, err := tailnet.Open(ctx, &f.store, tailnet.Options{
		Addresses: tailnet.Ranges{V4: netip.MustParsePrefix("100.64.0.0/10"), V6: netip.MustParsePrefix("fd7a:115c:a1e0::/48")},
		KeyExpiry: 180 * 24 * time.Hour, Now: f.clock, OnlineGrace: 10 * time.Second, EphemeralTimeout: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	f.s = s
	// Some caches are too small for anything, or for all of it.
	f.enc = netmap.NewEncoder(netmap.Options{ServerURL: "https://heddle.test", CacheBytes: []int{0, 1, 20_000}[seed%3]})
	f.update(func(tx *tailnet.Tx) error { return tx.SetDNSPins(tailnet.DNSPins{BaseDomain: "tail.test"}) })
	f.update(func(tx *tailnet.Tx) error { return tx.SetDERPMap(derpMap(1)) })
	return f
}

func derpMap(n int) *tailcfg.DERPMap {
	m := &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{}}
	for i := 1; i <= n; i++ {
		m.Regions[i] = &tailcfg.DERPRegion{RegionID: i, RegionCode: fmt.Sprint("r", i), Nodes: []*tailcfg.DERPNode{{Name: fmt.Sprint(i, "a"), RegionID: i, HostName: fmt.Sprintf("derp%d.test", i)}}}
	}
	return m
}

func (f *fleet) clock() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *fleet) advance(d time.Duration) {
	f.mu.Lock()
	f.now = f.now.Add(d)
	f.mu.Unlock()
	// Deadlines are looked at after each update.
	f.try(func(*tailnet.Tx) error { return nil })
	f.try(func(*tailnet.Tx) error { return nil })
}

func (f *fleet) try(fn func(*tailnet.Tx) error) error {
	_, err := f.s.Update(context.Background(), admin, fn)
	return err
}

func (f *fleet) update(fn func(*tailnet.Tx) error) {
	f.t.Helper()
	if err := f.try(fn); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) snap() *tailnet.Snapshot { return f.s.Snapshot() }

func (f *fleet) user(name string, role policy.Role) tailnet.UserID {
	f.t.Helper()
	var id tailnet.UserID
	f.update(func(tx *tailnet.Tx) error {
		u, err := tx.CreateUser(tailnet.User{Name: name, Email: name + "@x.test", Role: role})
		if err == nil {
			id = u.ID
		}
		return err
	})
	return id
}

func hostinfo(name string, routes ...string) *tailcfg.Hostinfo {
	h := &tailcfg.Hostinfo{
		OS: "linux", Hostname: name, OSVersion: "6.1", IPNVersion: "1.102.5", NetInfo: &tailcfg.NetInfo{PreferredDERP: 1},
		Services: []tailcfg.Service{{Proto: tailcfg.PeerAPI4, Port: 4711}, {Proto: tailcfg.PeerAPI6, Port: 4711}, {Proto: tailcfg.TCP, Port: 22}},
	}
	for _, r := range routes {
		h.RoutableIPs = append(h.RoutableIPs, netip.MustParsePrefix(r))
	}
	return h
}

// join registers a node and lets it report and connect.
func (f *fleet) join(u tailnet.UserID, name string, routes ...string) tailnet.NodeID {
	f.t.Helper()
	machine, node := key.NewMachine().Public(), key.NewNode().Public()
	var id tailnet.NodeID
	f.update(func(tx *tailnet.Tx) error {
		n, err := tx.RegisterForUser(tailnet.Registration{Machine: machine, Key: node, Hostinfo: hostinfo(name), CapVer: 142}, u, tailnet.ByCLI)
		if err != nil {
			return err
		}
		id = n.ID
		if err := tx.Report(id, tailnet.Update{
			Disco: key.NewDisco().Public(), Hostinfo: hostinfo(name, routes...), CapVer: 142,
			Endpoints: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:41641"), netip.MustParseAddrPort("10.0.0.1:41641")},
		}); err != nil {
			return err
		}
		return tx.Connect(id)
	})
	f.machines[id] = machine
	return id
}

// report changes a node's endpoints.
func (f *fleet) report(id tailnet.NodeID, port int) {
	n := f.snap().Node(id)
	f.update(func(tx *tailnet.Tx) error {
		return tx.Report(id, tailnet.Update{Disco: n.Report.Disco, CapVer: n.Report.CapVer, Endpoints: []netip.AddrPort{
			netip.AddrPortFrom(netip.MustParseAddr("192.0.2.77"), uint16(port)),
		}})
	})
}

// crowd joins many nodes at once; each has an owner, and every twentieth is a subnet router.
func (f *fleet) crowd(n int, owners []tailnet.UserID) []tailnet.NodeID {
	f.t.Helper()
	var ids []tailnet.NodeID
	f.update(func(tx *tailnet.Tx) error {
		for i := range n {
			h := hostinfo(fmt.Sprintf("host-%d", i))
			reg := tailnet.Registration{Machine: key.NewMachine().Public(), Key: key.NewNode().Public(), Hostinfo: h, CapVer: 142}
			node, err := tx.RegisterForUser(reg, owners[i%len(owners)], tailnet.ByCLI)
			if err != nil {
				return err
			}
			if i%20 == 0 {
				h.RoutableIPs = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)}
			}
			u := tailnet.Update{Disco: key.NewDisco().Public(), Hostinfo: h, CapVer: 142, Endpoints: []netip.AddrPort{
				netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), uint16(30000+i)),
				netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}), 41641),
			}}
			if err := tx.Report(node.ID, u); err != nil {
				return err
			}
			if err := tx.Connect(node.ID); err != nil {
				return err
			}
			if err := tx.ApproveRoutes(node.ID, tailnet.RouteEdit{Replace: true, Set: h.RoutableIPs}); err != nil {
				return err
			}
			ids = append(ids, node.ID)
		}
		return nil
	})
	return ids
}

// node returns a random node, nil if there is none.
func (f *fleet) node() *tailnet.Node {
	s := f.snap()
	if s.NumNodes() == 0 {
		return nil
	}
	i := f.rnd.IntN(s.NumNodes())
	for n := range s.Nodes() {
		if i--; i < 0 {
			return n
		}
	}
	return nil
}

// payload returns what a client would parse.
func payload(t testing.TB, m netmap.Message, plain bool) []byte {
	t.Helper()
	wire := m.AppendTo(nil)
	if len(wire) != m.Len() || int(binary.LittleEndian.Uint32(wire)) != len(wire)-4 {
		t.Fatalf("header says %d, payload has %d bytes, Len is %d", binary.LittleEndian.Uint32(wire), len(wire)-4, m.Len())
	}
	if plain {
		return wire[4:]
	}
	text, err := zstdframe.AppendDecode(nil, wire[4:])
	if err != nil {
		t.Fatalf("decode: %v", err)
	}
	return text
}

func decode(t testing.TB, m netmap.Message, plain bool) *tailcfg.MapResponse {
	t.Helper()
	text := payload(t, m, plain)
	var r tailcfg.MapResponse
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	if strings.Contains(string(text), "\\u0000") {
		t.Fatalf("zero byte in %s", text)
	}
	return &r
}

func (f *fleet) full(v netmap.Viewer) *tailcfg.MapResponse {
	f.t.Helper()
	m, err := f.enc.Full(f.snap(), v, f.clock())
	if err != nil {
		f.t.Fatal(err)
	}
	return decode(f.t, m, v.Plain)
}

// delta returns the difference since an older snapshot, nil if there is none.
func (f *fleet) delta(from *tailnet.Snapshot, v netmap.Viewer) *tailcfg.MapResponse {
	f.t.Helper()
	m, changed, err := f.enc.Delta(from, f.snap(), v, f.clock())
	if err != nil {
		f.t.Fatal(err)
	}
	if !changed {
		return nil
	}
	return decode(f.t, m, v.Plain)
}
