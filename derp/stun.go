package derp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"tailscale.com/net/stun"
)

const (
	// maxSTUNPacket is the longest request that is read in full; those of
	// clients have 40 bytes. Longer packets are cut short and fail to parse.
	maxSTUNPacket = 1500

	// stunErrorPause keeps a broken socket from burning a CPU.
	stunErrorPause = 100 * time.Millisecond
)

// STUN tells clients the address that their packets come from. It keeps nothing
// about them: each packet costs one parse and at most one answer that is hardly
// longer than the request, so it amplifies nothing.
type STUN struct {
	pc  *net.UDPConn
	log *slog.Logger

	answered, ignored, failed atomic.Int64
}

// ListenSTUN opens the UDP socket. addr is host:port; without a host it is both
// IPv4 and IPv6. A nil log discards.
func ListenSTUN(addr string, log *slog.Logger) (*STUN, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ua, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, fmt.Errorf("derp: STUN address %q: %w", addr, err)
	}
	pc, err := net.ListenUDP("udp", ua)
	if err != nil {
		return nil, fmt.Errorf("derp: STUN: %w", err)
	}
	return &STUN{pc: pc, log: log}, nil
}

// Addr is the address of the socket.
func (s *STUN) Addr() netip.AddrPort {
	return s.pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Close closes the socket, for callers that do not get as far as Run.
func (s *STUN) Close() error { return s.pc.Close() }

// Run answers packets until ctx is done, then closes the socket. It returns an
// error if the socket was closed before.
func (s *STUN) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.pc.Close() })
	defer stop()
	defer s.pc.Close()
	buf := make([]byte, maxSTUNPacket)
	for {
		n, from, err := s.pc.ReadFromUDPAddrPort(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("derp: STUN: %w", err)
		case err != nil:
			s.failed.Add(1)
			s.log.Warn("stun read failed", "err", err)
			pause(ctx, stunErrorPause)
			continue
		}
		answer := stunAnswer(buf[:n], from)
		if answer == nil {
			s.ignored.Add(1)
			continue
		}
		if _, err := s.pc.WriteToUDPAddrPort(answer, from); err != nil {
			s.failed.Add(1)
			continue
		}
		s.answered.Add(1)
	}
}

// stunAnswer returns the answer to a packet, nil if it deserves none.
func stunAnswer(packet []byte, from netip.AddrPort) []byte {
	id, err := stun.ParseBindingRequest(packet)
	if err != nil {
		return nil
	}
	// Without Unmap an IPv4 client of a dual-stack socket would learn an IPv6
	// address.
	return stun.Response(id, netip.AddrPortFrom(from.Addr().Unmap().WithZone(""), from.Port()))
}

// STUNStats are the counters of a STUN responder since it was made.
type STUNStats struct {
	Answered int64
	Ignored  int64 // packets that are no STUN requests of Tailscale clients
	Failed   int64 // packets that could not be read or answered
}

// Stats returns the counters.
func (s *STUN) Stats() STUNStats {
	return STUNStats{s.answered.Load(), s.ignored.Load(), s.failed.Load()}
}

// pause waits for d or for the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
