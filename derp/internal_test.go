package derp

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"testing"
	"testing/iotest"
	"time"

	"tailscale.com/derp"
	"tailscale.com/net/stun"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

func gateRelay(t testing.TB, admit bool) *Relay {
	r, err := NewRelay(RelayConfig{
		Key:   key.NewNode(),
		Admit: func(context.Context, key.NodePublic, netip.Addr) bool { return admit },
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// firstFrame is what a client sends first, with n bytes after its key.
func firstFrame(k key.NodePublic, n int) []byte {
	size := derp.KeyLen + n
	b := []byte{byte(derp.FrameClientInfo), byte(size >> 24), byte(size >> 16), byte(size >> 8), byte(size)}
	return append(k.AppendTo(b), make([]byte, n)...)
}

func TestGate(t *testing.T) {
	k := key.NewNode().Public()
	good := append(firstFrame(k, 100), "the next frame"...)
	tests := []struct {
		name  string
		admit bool
		in    []byte
		want  []byte // what derpserver sees
	}{
		{"admitted", true, good, good},
		{"refused", false, good, nil},
		{"another frame first", true, append([]byte{byte(derp.FrameSendPacket)}, good[1:]...), nil},
		{"short frame", true, firstFrame(k, derp.NonceLen-1), nil},
		{"long frame", true, firstFrame(k, maxClientInfo), nil},
		{"cut in the key", true, good[:20], nil},
		{"cut after the key", true, good[:60], good[:60]},
		{"nothing", true, nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := gateRelay(t, tt.admit)
			c := &conn{ctx: t.Context(), relay: r, r: iotest.OneByteReader(bytes.NewReader(tt.in)), abort: func() {}}
			if _, ok := r.conns.add(c); !ok {
				t.Fatal("not added")
			}
			got, err := io.ReadAll(c)
			if !bytes.Equal(got, tt.want) {
				t.Errorf("got %d bytes and %v, want %d bytes", len(got), err, len(tt.want))
			}
			if proven := r.conns.open[c]; proven != (len(got) >= 137) {
				t.Errorf("proven: %v after %d bytes", proven, len(got))
			}
			r.conns.remove(c)
			if len(r.conns.open) != 0 || len(r.conns.byKey) != 0 || len(r.conns.pending) != 0 || r.conns.waiting != 0 {
				t.Errorf("left behind: %+v", r.conns)
			}
		})
	}
}

// derpserver may clear the deadline that aborts a read; the next one must fail
// all the same.
func TestCutConnectionReadsNothing(t *testing.T) {
	c := &conn{ctx: t.Context(), relay: gateRelay(t, true), r: bytes.NewReader(firstFrame(key.NewNode().Public(), 100)), abort: func() {}}
	if !c.cut() || c.cut() {
		t.Error("a connection is cut once")
	}
	if n, err := c.Read(make([]byte, 100)); n != 0 || err == nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
}

// To a client that came over IPv4 a dual-stack socket answers with an IPv4
// address, which takes 12 bytes after the header of 20.
func TestSTUNAnswersIPv4WithIPv4(t *testing.T) {
	from := netip.MustParseAddrPort("[::ffff:192.0.2.1]:1234")
	if answer := stunAnswer(stun.Request(stun.NewTxID()), from); len(answer) != 32 {
		t.Errorf("answer of %d bytes", len(answer))
	}
}

// TestPendingHandshakesAreBounded fills the table from two addresses and few others: whoever comes
// next is let in, and the address that has most makes room.
func TestPendingHandshakesAreBounded(t *testing.T) {
	r := gateRelay(t, true)
	come := func(from string) *conn {
		c := &conn{ctx: t.Context(), relay: r, src: netip.MustParseAddr(from), r: bytes.NewReader(firstFrame(key.NewNode().Public(), 30)), abort: func() {}}
		if !r.enter(c) {
			t.Fatal("refused")
		}
		return c
	}
	lone := come("198.51.100.1")
	greedy := []*conn{come("2001:db8::1"), come("2001:db8::2")} // one customer
	for len(greedy) < maxPending-1 {
		greedy = append(greedy, come("2001:db8::3"))
	}
	if s := r.Stats(); s.Overloaded != 0 {
		t.Errorf("somebody had to go before the table was full: %+v", s)
	}
	client := come("198.51.100.2")
	if !greedy[0].isCut.Load() || greedy[1].isCut.Load() || lone.isCut.Load() || client.isCut.Load() {
		t.Error("the oldest handshake of the greedy address does not make room")
	}
	io.Copy(io.Discard, greedy[1]) // proves itself
	come("198.51.100.3")
	if s := r.Stats(); s.Overloaded != 1 || r.conns.waiting != maxPending {
		t.Errorf("stats %+v, %d pending", s, r.conns.waiting)
	}
	for c := range r.conns.open {
		r.conns.remove(c)
	}
	if len(r.conns.pending) > 0 || r.conns.waiting != 0 {
		t.Errorf("%d handshakes are left, in %d groups", r.conns.waiting, len(r.conns.pending))
	}
}

func TestPinnedRenewsWhileItRuns(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	relay := gateRelay(t, true)
	p, err := ListenPinned(PinnedConfig{
		Addr:      "127.0.0.1:0",
		Hosts:     []string{"127.0.0.1"},
		File:      filepath.Join(t.TempDir(), "relay.pem"),
		Handler:   relay.Handler(),
		MetaCert:  relay.MetaCert(),
		ConnState: func(net.Conn, http.ConnState) {},
		Now:       func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	first := p.Pin()
	for _, step := range []struct {
		after   time.Duration
		renewed bool
	}{{time.Hour, false}, {certValid - renewAhead, true}, {time.Hour, false}} {
		now = now.Add(step.after)
		changed, err := p.renew()
		if err != nil || changed != step.renewed || (p.Pin() != first) != step.renewed {
			t.Errorf("after %v: changed %v, %v, pin %s", step.after, changed, err, p.Pin())
		}
		first = p.Pin()
	}
	served, err := p.getCertificate(nil)
	if err != nil || len(served.Certificate) != 2 || !bytes.Equal(served.Certificate[1], relay.MetaCert()) {
		t.Errorf("served %d certificates, %v", len(served.Certificate), err)
	}
}

// Whatever a stranger sends, derpserver sees nothing of it unless the key is
// admitted, and then exactly what was sent.
func FuzzGate(f *testing.F) {
	k := key.NewNode().Public()
	f.Add(firstFrame(k, 100), true)
	f.Add(firstFrame(k, 24), false)
	f.Add([]byte{2, 255, 255, 255, 255}, true)
	admitting, refusing := gateRelay(f, true), gateRelay(f, false)
	f.Fuzz(func(t *testing.T, in []byte, admit bool) {
		r := refusing
		if admit {
			r = admitting
		}
		c := &conn{ctx: t.Context(), relay: r, r: bytes.NewReader(in), abort: func() {}}
		if _, ok := r.conns.add(c); !ok {
			t.Fatal("not added")
		}
		defer r.conns.remove(c)
		got, err := io.ReadAll(c)
		if len(got) > 0 && (!admit || err != nil || !bytes.Equal(got, in)) {
			t.Errorf("admit %v: got %x and %v of %x", admit, got, err, in)
		}
	})
}

func FuzzSTUN(f *testing.F) {
	f.Add([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42})
	from := netip.MustParseAddrPort("[::ffff:192.0.2.1]:1234")
	f.Fuzz(func(t *testing.T, packet []byte) {
		if answer := stunAnswer(packet, from); len(answer) > len(packet) {
			t.Errorf("%d bytes answer %d bytes", len(answer), len(packet))
		}
	})
}

func FuzzMapFile(f *testing.F) {
	f.Add([]byte("regions:\n  900:\n    regioncode: x\n    nodes: [{name: a, hostname: h}]\n  901: null\n"))
	f.Add([]byte("{\n\t\"Regions\": {\"900\": {\"RegionID\": 900, \"Latitude\": .nan, \"Nodes\": [{\"Name\": \"a\"}]}}}"))
	f.Add([]byte("a: &a [*a, *a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseMapFile(data)
		checkParsed(t, m, err)
	})
}

func FuzzMapJSON(f *testing.F) {
	f.Add([]byte(`{"Regions": {"900": {"RegionID": 900, "Nodes": [{"Name": "a", "RegionID": 900, "HostName": "h"}]}, "1": null}}`))
	f.Add([]byte(`{"Regions": {"900": {"RegionID": 900, "Nodes": [null]}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseMapJSON(data)
		checkParsed(t, m, err)
	})
}

// checkParsed checks that what a parser accepts is a map that clients can get.
func checkParsed(t *testing.T, m *tailcfg.DERPMap, err error) {
	if err != nil {
		if err.Error() == "" || len(err.Error()) > 1<<20 {
			t.Errorf("error of %d bytes", len(err.Error()))
		}
		return
	}
	merged, _ := mergeLayers([]layer{{"test", m}})
	text, err := json.Marshal(merged)
	if err != nil {
		t.Fatal(err)
	}
	again := &tailcfg.DERPMap{}
	if err := json.Unmarshal(text, again); err != nil {
		t.Fatal(err)
	}
	if err := checkMap(again); err != nil {
		t.Errorf("%s: %v", text, err)
	}
}
