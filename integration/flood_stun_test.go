//go:build linux

package integration_test

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"heddle/integration/lab"

	"tailscale.com/net/stun"
)

// packets are a flood of UDP packets to STUN: requests like those of clients, and what is none.
type packets struct {
	host    *lab.Host
	sources []*source
}

// source is one socket that they come from.
type source struct {
	to      netip.AddrPort
	garbage bool    // nothing else comes from it
	factor  float64 // how many bytes there may be in answers for one byte in requests

	sent, asked, answered     atomic.Int64 // packets
	bytesAsked, bytesAnswered atomic.Int64 // of requests, and of answers
}

func newPackets(host *lab.Host) *packets {
	p := &packets{host: host}
	for _, family := range []struct {
		to     netip.AddrPort
		factor float64
	}{
		{netip.AddrPortFrom(serverAddr, 3478), 1},
		// The shortest request has 40 bytes, an answer with an IPv6 address 44; with the headers of IPv6 and UDP it is 92 for 88.
		{netip.MustParseAddrPort("[2001:db8:1::2]:3478"), 1.1},
	} {
		for i := range 4 {
			p.sources = append(p.sources, &source{to: family.to, factor: family.factor, garbage: i == 0})
		}
	}
	return p
}

// start sends some 4000 packets a second until stop is called.
func (p *packets) start(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, s := range p.sources {
		var conn *net.UDPConn
		err := p.host.Enter(func() (err error) {
			conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(s.to))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			defer conn.Close()
			s.send(ctx, conn)
		})
		running.Go(func() { s.count(ctx, conn) })
	}
	return sync.OnceFunc(func() { cancel(); running.Wait() })
}

func (s *source) send(ctx context.Context, conn *net.UDPConn) {
	tick := time.NewTicker(40 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for i := range 20 {
			packet := stun.Request(stun.NewTxID())
			if s.garbage || i%2 == 0 {
				packet = spoiled(packet)
			} else {
				s.asked.Add(1)
				s.bytesAsked.Add(int64(len(packet)))
			}
			conn.Write(packet) // whether or not it arrives
			s.sent.Add(1)
		}
	}
}

// spoiled makes something of a request that is none.
func spoiled(packet []byte) []byte {
	switch rand.IntN(4) {
	case 0:
		return packet[:rand.IntN(len(packet))]
	case 1:
		packet[rand.IntN(len(packet))] ^= 1 + byte(rand.IntN(255))
		return packet
	case 2:
		return stun.Response(stun.NewTxID(), netip.MustParseAddrPort("192.0.2.1:1"))
	default:
		b := make([]byte, rand.IntN(1400))
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		return b
	}
}

func (s *source) count(ctx context.Context, conn *net.UDPConn) {
	buf := make([]byte, 2000)
	for ctx.Err() == nil {
		n, err := conn.Read(buf)
		if err != nil {
			continue // or closed, when ctx has ended
		}
		s.answered.Add(1)
		s.bytesAnswered.Add(int64(n))
	}
}

// check asserts that STUN answers requests, nothing else, and not with more than they brought.
func (p *packets) check(t *testing.T) {
	t.Helper()
	for _, s := range p.sources {
		asked, answered := s.asked.Load(), s.answered.Load()
		in, out := s.bytesAsked.Load(), s.bytesAnswered.Load()
		t.Logf("STUN at %v had %d packets of one source, %d of them requests with %d bytes, and gave %d answers with %d bytes", s.to, s.sent.Load(), asked, in, answered, out)
		switch {
		case s.garbage && answered > 0:
			t.Errorf("it answered what is no request")
		case !s.garbage && (answered == 0 || answered > asked):
			t.Errorf("it gave %d answers to %d requests", answered, asked)
		case float64(out) > s.factor*float64(in):
			t.Errorf("it sends more than %v times what it gets", s.factor)
		}
	}
}
