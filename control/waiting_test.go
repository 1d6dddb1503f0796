package control_test

import (
	"strings"
	"testing"
	"time"

	"heddle/control/controltest"
	"heddle/control/tailnet"

	"tailscale.com/tailcfg"
)

// A device that waits for approval is told so at each step, may use no relay and nothing else, and is
// let in by its open stream as soon as somebody approves it.
func TestDeviceWaitsForApproval(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		old := s.Client("old").Join(authKey).MustStream()
		s.Update(func(tx *tailnet.Tx) error { return tx.SetAdmission(tailnet.Admission{DeviceApproval: true}) })
		c := s.Client("new")
		for range 2 { // the answer may be lost
			resp, err := c.Register(t.Context(), controltest.WithKey(authKey))
			if err != nil || resp.Error != "" || resp.AuthURL != "" || resp.MachineAuthorized {
				t.Fatalf("%+v %v", resp, err)
			}
		}
		st := c.MustStream()
		must(t, "the device knows that it waits", st.Await(func(n *controltest.Netmap) bool {
			return n.Self != nil && !n.Self.MachineAuthorized && len(n.Peers) == 0
		}))
		if s.Control.Admit(c.Node.Public()) {
			t.Error("the relay admits it")
		}
		res, err := c.Do(t.Context(), "POST", "/machine/feature/query", tailcfg.QueryFeatureRequest{NodeKey: c.Node.Public(), Feature: "serve"})
		if err != nil || res.StatusCode != 403 {
			t.Errorf("a side request: %v %v", res, err)
		}
		if old.Netmap().Peer("new") != nil {
			t.Error("others know it")
		}
		s.Update(func(tx *tailnet.Tx) error { return tx.ApproveNode(s.Node("new").ID) })
		began := time.Now()
		must(t, "the device is let in", st.Await(func(n *controltest.Netmap) bool {
			return n.Self.MachineAuthorized && n.Peer("old") != nil
		}))
		must(t, "others learn of it", old.Await(sees("new")))
		if d := time.Since(began); d > time.Second {
			t.Errorf("it took %v", d)
		}
		if !s.Control.Admit(c.Node.Public()) {
			t.Error("the relay does not admit it")
		}
	})
}

// Who is rejected learns it at once, and waits again at the next attempt.
func TestDeviceIsRejected(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		s.Update(func(tx *tailnet.Tx) error { return tx.SetAdmission(tailnet.Admission{DeviceApproval: true}) })
		c := s.Client("new")
		if _, err := c.Register(t.Context(), controltest.WithKey(authKey)); err != nil {
			t.Fatal(err)
		}
		st := c.MustStream()
		s.Update(func(tx *tailnet.Tx) error { return tx.RejectNode(s.Node("new").ID) })
		must(t, "the device must log in again", st.Await(func(n *controltest.Netmap) bool {
			return n.Self != nil && !n.Self.KeyExpiry.IsZero() && n.Self.KeyExpiry.Before(time.Now())
		}))
		c.Renew()
		resp, err := c.Register(t.Context(), controltest.WithKey(authKey))
		if err != nil || resp.MachineAuthorized || resp.Error != "" {
			t.Errorf("%+v %v", resp, err)
		}
	})
}

// A suspended user's devices are out at once, and no auth key lets them back.
func TestSuspendedUser(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		bob := s.User("bob")
		key := s.AuthKey(tailnet.AuthKeySpec{Owner: bob, Reusable: true})
		stays := s.Client("stays").Join(authKey).MustStream()
		c := s.Client("leaves").Join(key)
		st := c.MustStream()
		must(t, "both know each other", stays.Await(sees("leaves")) && st.Await(sees("stays")))
		s.Update(func(tx *tailnet.Tx) error { return tx.SuspendUser(bob) })
		must(t, "the device is out", st.Await(func(n *controltest.Netmap) bool {
			return n.Self.KeyExpiry.Before(time.Now()) && len(n.Peers) == 0
		}))
		must(t, "the other knows", stays.Await(func(n *controltest.Netmap) bool { return n.Peer("leaves").Expired }))
		if s.Control.Admit(c.Node.Public()) {
			t.Error("the relay admits it")
		}
		c.Renew()
		resp, err := c.Register(t.Context(), controltest.WithKey(key))
		if err != nil || !strings.Contains(resp.Error, "revoked") {
			t.Errorf("%+v %v", resp, err)
		}
		s.Update(func(tx *tailnet.Tx) error { return tx.RestoreUser(bob) })
		if resp, err = c.Register(t.Context(), controltest.WithKey(key)); err != nil || resp.Error == "" {
			t.Errorf("once restored: %+v %v", resp, err)
		}
	})
}
