//go:build linux

package integration_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"heddle/integration/lab"

	"golang.org/x/sys/unix"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// kind is what some strangers do.
type kind struct {
	name string
	many int    // of them, in proportion to the other kinds
	to   string // the path of a unix socket, or host:port
	play func(*flood, net.Conn)

	limit   time.Duration // after which the server must have ended it; 0: it may stay
	longest atomic.Int64  // that the server held one, as a time.Duration
}

// on is a port of the server.
func on(port uint16) string { return netip.AddrPortFrom(serverAddr, port).String() }

// flood is a crowd of strangers on one host.
type flood struct {
	host   *lab.Host
	server key.MachinePublic
	from   []netip.Addr // their addresses; empty: the host's own
	kinds  []*kind
	slots  []slot

	dialed, open atomic.Int64
}

// slot is one stranger, who comes back when it was thrown out.
type slot struct {
	kind  *kind
	from  netip.Addr
	busy  atomic.Bool
	since atomic.Pointer[time.Time] // when it came last
}

// again is how long a stranger waits before it comes back.
const again = 4 * time.Second

// newFlood prepares n strangers, if this machine can have so many open files.
func (m *mesh) newFlood(t *testing.T, host *lab.Host, n int, from []netip.Addr, kinds ...*kind) *flood {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	f := &flood{host: host, from: from, kinds: kinds, slots: make([]slot, min(n, int(limit.Max)-1000))}
	resp, err := m.server.client.Get("https://" + serverAddr.String() + "/key?v=140")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var keys tailcfg.OverTLSPublicKeyResponse
	if err := json.NewDecoder(resp.Body).Decode(&keys); err != nil {
		t.Fatal(err)
	}
	f.server = keys.PublicKey
	var mix []*kind
	for _, k := range kinds {
		for range k.many {
			mix = append(mix, k)
		}
	}
	for i := range f.slots {
		f.slots[i].kind = mix[i%len(mix)]
		if len(from) > 0 {
			f.slots[i].from = from[(i/len(mix))%len(from)]
		}
	}
	return f
}

// start lets the strangers come until stop is called.
func (f *flood) start(t *testing.T) (stop func()) {
	const workers = 16
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for w := range workers {
		running.Go(func() {
			err := f.host.Enter(func() error {
				for ctx.Err() == nil {
					for i := w; i < len(f.slots) && ctx.Err() == nil; i += workers {
						f.visit(ctx, &running, &f.slots[i])
					}
					select {
					case <-ctx.Done():
					case <-time.After(100 * time.Millisecond):
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	return sync.OnceFunc(func() { cancel(); running.Wait() })
}

// visit lets one stranger come if it is not there. It runs in the host's namespace.
func (f *flood) visit(ctx context.Context, running *sync.WaitGroup, s *slot) {
	if since := s.since.Load(); s.busy.Load() || since != nil && time.Since(*since) < again {
		return
	}
	d, network := net.Dialer{Timeout: time.Second}, "tcp"
	switch {
	case strings.HasPrefix(s.kind.to, "/"):
		network = "unix"
	case s.from.IsValid():
		d.LocalAddr = &net.TCPAddr{IP: s.from.AsSlice()}
	}
	start := time.Now()
	s.since.Store(&start)
	conn, err := d.DialContext(ctx, network, s.kind.to)
	f.dialed.Add(1)
	if err != nil {
		return
	}
	s.busy.Store(true)
	f.open.Add(1)
	end := context.AfterFunc(ctx, func() { conn.Close() })
	running.Go(func() {
		defer f.open.Add(-1)
		defer s.busy.Store(false)
		defer conn.Close()
		defer end()
		s.kind.play(f, conn)
		if ctx.Err() == nil {
			s.kind.held(time.Since(start))
		}
	})
}

// held notes for how long the server let a stranger stay.
func (k *kind) held(took time.Duration) {
	for {
		most := k.longest.Load()
		if int64(took) <= most || k.longest.CompareAndSwap(most, int64(took)) {
			return
		}
	}
}

// await waits until all have come once.
func (f *flood) await(t *testing.T) {
	t.Helper()
	lab.Await(t, time.Minute, "the flood is up", func() error {
		if n := f.dialed.Load(); n < int64(len(f.slots)) {
			return fmt.Errorf("%d of %d strangers have come", n, len(f.slots))
		}
		return nil
	})
}

// check asserts that the server let nobody stay longer than it should.
func (f *flood) check(t *testing.T) {
	t.Helper()
	for i := range f.slots {
		if s := &f.slots[i]; s.busy.Load() {
			s.kind.held(time.Since(*s.since.Load()))
		}
	}
	for _, k := range f.kinds {
		if longest := time.Duration(k.longest.Load()); k.limit > 0 && longest > k.limit {
			t.Errorf("%s at %s was held for %v, the bound is %v", k.name, k.to, longest, k.limit)
		}
	}
}

// crowded gives a host the addresses of a crowd: more than the server's bound for one
// address would let in, less than it takes to go unnoticed.
func (m *mesh) crowded(host *lab.Host) (addrs []netip.Addr) {
	const many = 60
	for i := range many {
		a := netip.AddrFrom4([4]byte{198, 51, 100, byte(100 + i)})
		host.AddAddr(m.inet.Switch, netip.PrefixFrom(a, 24))
		addrs = append(addrs, a)
	}
	return addrs
}
