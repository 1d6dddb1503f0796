package netmap_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"heddle/control/netmap"
	"heddle/control/tailnet"
	"heddle/policy"

	"tailscale.com/types/key"
)

func benchFleet(b *testing.B, n int) (*fleet, []tailnet.NodeID) {
	f := newFleet(b, 3)
	return f, f.crowd(n, []tailnet.UserID{f.user("u0", policy.Owner), f.user("u1", policy.Member)})
}

// BenchmarkFull is a full map while nothing changes: shared frames are copied.
func BenchmarkFull(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			f, ids := benchFleet(b, n)
			var buf []byte
			size := 0
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				m, err := f.enc.Full(f.snap(), viewer(ids[i%n]), epoch)
				if err != nil {
					b.Fatal(err)
				}
				buf = m.AppendTo(buf[:0])
				size = len(buf)
			}
			b.ReportMetric(float64(size)/float64(n), "wire-B/peer")
		})
	}
}

// BenchmarkFullCold is the first map after the server started.
func BenchmarkFullCold(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			f, ids := benchFleet(b, n)
			for b.Loop() {
				enc := netmap.NewEncoder(netmap.Options{})
				if _, err := enc.Full(f.snap(), viewer(ids[0]), epoch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkFullAfterChange is a full map for each of a row of nodes that come
// back: each changes one node.
func BenchmarkFullAfterChange(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			f, ids := benchFleet(b, n)
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				f.report(ids[i%n], 1000+i)
				b.StartTimer()
				if _, err := f.enc.Full(f.snap(), viewer(ids[i%n]), epoch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkFullAfterJoin is the map of each new node while a fleet enrols:
// the policy is compiled anew each time.
func BenchmarkFullAfterJoin(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			f, ids := benchFleet(b, n)
			u := f.snap().Node(ids[0]).Owner
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				id := f.join(u, "new")
				b.StartTimer()
				if _, err := f.enc.Full(f.snap(), viewer(id), epoch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkDelta is one change for all sessions of a fleet; an op is the
// whole fleet.
func BenchmarkDelta(b *testing.B) {
	changes := []struct {
		name string
		do   func(*fleet, []tailnet.NodeID, int)
	}{
		{"endpoint", func(f *fleet, ids []tailnet.NodeID, i int) { f.report(ids[i%len(ids)], 1000+i) }},
		{"presence", func(f *fleet, ids []tailnet.NodeID, i int) {
			f.update(func(tx *tailnet.Tx) error { return tx.RenameNode(ids[0], fmt.Sprint("n", i)) })
		}},
		{"join", func(f *fleet, ids []tailnet.NodeID, i int) {
			f.join(f.snap().Node(ids[0]).Owner, "new")
		}},
		{"route", func(f *fleet, ids []tailnet.NodeID, i int) {
			lan := netip.MustParsePrefix("10.9.0.0/16")
			f.update(func(tx *tailnet.Tx) error {
				edit := tailnet.RouteEdit{Replace: true, Force: true}
				if i%2 == 0 {
					edit.Set = []netip.Prefix{lan}
				}
				return tx.ApproveRoutes(ids[0], edit)
			})
		}},
	}
	for _, c := range changes {
		for _, n := range []int{1000, 10000} {
			b.Run(fmt.Sprint(c.name, n), func(b *testing.B) {
				f, ids := benchFleet(b, n)
				f.update(func(tx *tailnet.Tx) error {
					return tx.Report(ids[0], tailnet.Update{Disco: key.NewDisco().Public(), Hostinfo: hostinfo("router", "10.9.0.0/16"), CapVer: 142})
				})
				var buf []byte
				for i := 0; b.Loop(); i++ {
					b.StopTimer()
					from := f.snap()
					c.do(f, ids, i)
					to := f.snap()
					b.StartTimer()
					for _, id := range ids {
						m, _, err := f.enc.Delta(from, to, viewer(id), epoch)
						if err != nil {
							b.Fatal(err)
						}
						buf = m.AppendTo(buf[:0])
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/session")
				b.ReportMetric(float64(len(buf)), "wire-B")
			})
		}
	}
}

// BenchmarkDeltaAll is a delta in which every node changed, for some of the sessions.
func BenchmarkDeltaAll(b *testing.B) {
	f, ids := benchFleet(b, 10000)
	from := f.snap()
	f.update(func(tx *tailnet.Tx) error {
		for _, id := range ids {
			tx.Disconnect(id)
		}
		return nil
	})
	f.advance(1e12)
	to := f.snap()
	for i := 0; b.Loop(); i++ {
		if _, _, err := f.enc.Delta(from, to, viewer(ids[i%len(ids)]), epoch); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBucket encodes and compresses one block of 64 peers.
func BenchmarkBucket(b *testing.B) {
	f, ids := benchFleet(b, 64)
	size := 0
	for b.Loop() {
		enc := netmap.NewEncoder(netmap.Options{})
		m, err := enc.Full(f.snap(), viewer(ids[0]), epoch)
		if err != nil {
			b.Fatal(err)
		}
		size = m.Len()
	}
	b.ReportMetric(float64(size)/64, "wire-B/peer")
}

// BenchmarkDiff is the difference of two snapshots alone: what the first of the
// sessions that take up a change does for all.
func BenchmarkDiff(b *testing.B) {
	const n = 10000
	f, ids := benchFleet(b, n)
	report := func(nodes int) {
		f.update(func(tx *tailnet.Tx) error {
			for i := range nodes {
				r := f.snap().Node(ids[i*(n/nodes)]).Report
				u := tailnet.Update{Disco: r.Disco, CapVer: r.CapVer, Endpoints: slices.Clone(r.Endpoints[:1])}
				if len(r.Endpoints) == 1 {
					u.Endpoints = append(u.Endpoints, netip.MustParseAddrPort("192.0.2.9:9"))
				}
				if err := tx.Report(ids[i*(n/nodes)], u); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for _, c := range []struct {
		name  string
		do    func()
		nodes int
	}{
		{"none", func() { f.update(func(*tailnet.Tx) error { return nil }) }, 0},
		{"one", func() { report(1) }, 1},
		{"hundred", func() { report(100) }, 100},
		{"all", func() { report(n) }, n},
		{"join", func() { f.join(f.snap().Node(ids[0]).Owner, "new") }, 1},
	} {
		b.Run(c.name, func(b *testing.B) {
			from := f.snap()
			c.do()
			to := f.snap()
			for b.Loop() {
				if got := netmap.Diff(from, to); got != c.nodes {
					b.Fatalf("%d nodes differ, want %d", got, c.nodes)
				}
			}
		})
	}
}
