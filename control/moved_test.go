package control_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"heddle/control/controltest"
	"heddle/control/tailnet"

	"golang.org/x/crypto/bcrypt"
	"tailscale.com/tailcfg"
)

// TestDevicesOfAnotherServer has devices that logged in to a headscale reconnect here, and one join with
// a key of headscale's.
func TestDevicesOfAnotherServer(t *testing.T) {
	part := strings.Repeat("s3cr-t_X", 8)
	hash, err := bcrypt.GenerateFromPassword([]byte(part), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	controltest.Bubble(t, func(t *testing.T) {
		s := controltest.Start(t, controltest.Config{})
		a, b := s.Client("laptop"), s.Client("desktop")
		in := tailnet.Import{From: "headscale", Users: []*tailnet.User{{ID: 7, Name: "alice"}}, AuthKeys: []*tailnet.AuthKey{
			{ID: 3, Owner: 7, Public: "a-b-c-d-e-f_", Bcrypt: string(hash), Expires: time.Now().Add(time.Hour)},
		}}
		for i, c := range []*controltest.Client{a, b} {
			id := tailnet.NodeID(10 + i)
			in.Nodes = append(in.Nodes, &tailnet.Node{
				ID: id, StableID: tailcfg.StableNodeID(id.String()), Machine: c.Machine.Public(), Key: c.Node.Public(), Owner: 7, Name: c.Hostinfo.Hostname,
				Addrs:  tailnet.Addrs{V4: netip.MustParseAddr("100.64.0." + id.String()), V6: netip.MustParseAddr("fd7a:115c:a1e0::" + id.String())},
				Report: &tailnet.Report{Hostinfo: c.Hostinfo},
			})
		}
		s.Update(func(tx *tailnet.Tx) error { _, err := tx.Import(in); return err })
		sa, sb := a.MustStream(), b.MustStream() // nobody logs in
		must(t, "laptop sees desktop", sa.Await(sees("desktop")))
		must(t, "desktop sees laptop", sb.Await(sees("laptop")))
		if n := sa.Netmap(); n.Self.StableID != "10" || n.Peer("desktop").ID != 11 || n.Self.User != 7 {
			t.Errorf("%+v", n.Self)
		}
		secret := "hskey-auth-a-b-c-d-e-f_-" + part
		if resp, err := s.Client("x").Register(t.Context(), controltest.WithKey(secret[:len(secret)-1]+"Y")); err != nil || resp.MachineAuthorized {
			t.Errorf("%+v, %v", resp, err)
		}
		s.Client("new").Join(secret)
		if n := s.Node("new"); n.Owner != 7 || n.ID != 12 || n.Origin.AuthKey != 3 {
			t.Errorf("%+v", n)
		}
		if resp, err := s.Client("late").Register(t.Context(), controltest.WithKey(secret)); err != nil || !strings.Contains(resp.Error, "already used") {
			t.Errorf("%+v, %v", resp, err)
		}
	})
}
