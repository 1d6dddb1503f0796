package netmap_test

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"heddle/control/netmap"
	"heddle/control/tailnet"
	"heddle/control/tailnet/tailnettest"
	"heddle/policy"

	"tailscale.com/util/zstdframe"
)

// Clients decode all frames of a message into one buffer and copy it for each
// frame that says how much it holds.
func TestFramesHideTheirSize(t *testing.T) {
	f := newFleet(t, 0)
	u := f.user("u", policy.Owner)
	ids := f.crowd(300, []tailnet.UserID{u})
	m, err := f.enc.Full(f.snap(), viewer(ids[0]), f.clock())
	if err != nil {
		t.Fatal(err)
	}
	parts := m.Parts()[1:]
	if len(parts) < 9 {
		t.Errorf("only %d frames for 300 peers", len(parts))
	}
	var text []byte
	for i, p := range parts {
		// RFC 8878, section 3.1.1.1.1: content size flag, single segment, checksum.
		if d := p[4]; d&0b1110_0100 != 0 {
			t.Errorf("frame %d has the descriptor %08b", i, d)
		}
		plain, err := zstdframe.AppendDecode(nil, p)
		if err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		text = append(text, plain...)
	}
	if !bytes.Equal(text, payload(t, m, false)) {
		t.Error("frames differ alone and together")
	}
}

func TestSharing(t *testing.T) {
	f := newFleet(t, 0)
	ids := f.crowd(200, []tailnet.UserID{f.user("u", policy.Member), f.user("v", policy.Member)})
	backing := func(m netmap.Message) map[*byte]bool {
		out := map[*byte]bool{}
		for _, p := range m.Parts()[1:] {
			if len(p) > 100 {
				out[&p[0]] = true
			}
		}
		return out
	}
	common := func(a, b map[*byte]bool) (n int) {
		for p := range a {
			if b[p] {
				n++
			}
		}
		return n
	}
	full := func(id tailnet.NodeID) map[*byte]bool {
		t.Helper()
		m, err := f.enc.Full(f.snap(), viewer(id), f.clock())
		if err != nil {
			t.Fatal(err)
		}
		return backing(m)
	}
	// 200 peers lie in four blocks; two viewers cut theirs.
	if n := common(full(ids[1]), full(ids[150])); n < 2 {
		t.Errorf("full maps share %d frames", n)
	}
	before := full(ids[1])
	f.join(f.snap().Node(ids[0]).Owner, "new")
	if n := common(before, full(ids[1])); n < 2 {
		t.Errorf("full maps before and after a join share %d frames", n)
	}
	from := f.snap()
	f.report(ids[100], 5)
	delta := func(id tailnet.NodeID) *byte {
		t.Helper()
		m, changed, err := f.enc.Delta(from, f.snap(), viewer(id), f.clock())
		if err != nil || !changed {
			t.Fatal(changed, err)
		}
		return &m.Parts()[1][0]
	}
	if delta(ids[1]) != delta(ids[2]) {
		t.Error("a delta was encoded twice")
	}
	if s := f.enc.Stats(); s.Hits == 0 || s.Bytes == 0 || s.Bytes > netmap.DefaultCacheBytes || s.Items == 0 {
		t.Errorf("stats %+v", s)
	}
}

// An unchanged node is the same bytes in every map, whoever encodes it.
func TestCanonical(t *testing.T) {
	f := newFleet(t, 0)
	ids := f.crowd(40, []tailnet.UserID{f.user("u", policy.Member)})
	text := func() []byte {
		m, err := netmap.NewEncoder(netmap.Options{}).Full(f.snap(), netmap.Viewer{ID: ids[0], Plain: true}, epoch)
		if err != nil {
			t.Fatal(err)
		}
		return payload(t, m, true)
	}
	if a, b := text(), text(); !bytes.Equal(a, b) {
		t.Errorf("%s\n%s", a, b)
	}
}

// Sessions use the encoder while the tailnet changes under them.
func TestConcurrentSessions(t *testing.T) {
	f := newFleet(t, 2)
	u := f.user("u", policy.Member)
	ids := f.crowd(100, []tailnet.UserID{u, f.user("v", policy.Admin)})
	stop := make(chan struct{})
	var sessions sync.WaitGroup
	for _, id := range ids[:16] {
		sessions.Go(func() {
			sent := f.snap()
			if _, err := f.enc.Full(sent, viewer(id), epoch); err != nil {
				t.Error(err)
				return
			}
			for {
				next := f.snap()
				m, changed, err := f.enc.Delta(sent, next, viewer(id), epoch)
				if err != nil {
					t.Error(err)
					return
				}
				if changed {
					decode(t, m, false)
				}
				sent = next
				select {
				case <-sent.Superseded():
				case <-stop:
					return
				}
			}
		})
	}
	for i := range 60 {
		switch i % 4 {
		case 0:
			f.join(u, fmt.Sprint("new", i))
		case 1:
			f.update(func(tx *tailnet.Tx) error { return tailnettest.SetPolicy(tx, policies[i%2]) })
		case 2:
			f.update(func(tx *tailnet.Tx) error { return tx.DeleteNode(ids[50+i/4]) })
		default:
			f.report(ids[i%40], 1000+i)
		}
	}
	close(stop)
	sessions.Wait()
}
