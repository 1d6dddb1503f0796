package derp_test

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"tailscale.com/net/netcheck"
	"tailscale.com/net/netmon"
	"tailscale.com/net/stun"
	"tailscale.com/tailcfg"

	"heddle/derp"
)

func startSTUN(t *testing.T, addr string) *derp.STUN {
	t.Helper()
	s, err := derp.ListenSTUN(addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	run(t, "stun", s.Run)
	return s
}

// A stock client's own network check finds its address.
func TestSTUNServesNetcheck(t *testing.T) {
	s := startSTUN(t, "127.0.0.1:0")
	region, err := derp.Region{
		HostName: "127.0.0.1",
		IPv4:     netip.MustParseAddr("127.0.0.1"),
		NoIPv6:   true,
		STUNPort: int(s.Addr().Port()),
	}.DERPRegion()
	if err != nil {
		t.Fatal(err)
	}
	client := &netcheck.Client{NetMon: netmon.NewStatic(), Logf: t.Logf}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := client.Standalone(ctx, "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	report, err := client.GetReport(ctx, &tailcfg.DERPMap{
		Regions: map[int]*tailcfg.DERPRegion{region.RegionID: region},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !report.UDP || report.PreferredDERP != derp.DefaultRegionID || report.GlobalV4.Addr() != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("report %+v", report)
	}
}

func TestSTUNAnswersBothFamilies(t *testing.T) {
	s := startSTUN(t, ":0")
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			pc, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(host), s.Addr().Port())))
			if err != nil {
				t.Skip("this machine lacks the address family: ", err)
			}
			defer pc.Close()
			pc.SetDeadline(time.Now().Add(time.Minute))
			id := stun.NewTxID()
			// Rubbish in front gets no answer and does no harm.
			for _, packet := range [][]byte{{}, []byte("hello"), make([]byte, 60_000), stun.Response(id, netip.MustParseAddrPort("1.2.3.4:5")), stun.Request(id)} {
				if _, err := pc.Write(packet); err != nil {
					t.Fatal(err)
				}
			}
			buf := make([]byte, 1500)
			n, err := pc.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			gotID, got, err := stun.ParseResponse(buf[:n])
			if want := pc.LocalAddr().(*net.UDPAddr).AddrPort(); err != nil || gotID != id || got != want {
				t.Errorf("got %v %v, want %v", got, err, want)
			}
		})
	}
	if s := s.Stats(); s.Answered < 1 || s.Ignored < 4*s.Answered || s.Failed != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestSTUNListenErrors(t *testing.T) {
	s := startSTUN(t, "127.0.0.1:0")
	for _, addr := range []string{"nonsense", "127.0.0.1:99999", s.Addr().String()} {
		if other, err := derp.ListenSTUN(addr, nil); err == nil {
			other.Close()
			t.Errorf("%s: no error", addr)
		}
	}
}
