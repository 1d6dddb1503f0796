package control_test

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"heddle/control/controltest"
	"heddle/control/tailnet"
	"heddle/control/tailnet/tailnettest"

	"tailscale.com/tailcfg"
)

// What is shown of a node's map is what the node is sent, to the byte.
func TestNetmap(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		s.Client("nas").Join(authKey)
		c := s.Client("laptop").Join(authKey)
		id := s.Node("laptop").ID
		before, err := s.Control.Netmap(t.Context(), id)
		if err != nil || before.Connected || before.Delta.Len() != 0 || before.Sent != 0 {
			t.Fatalf("%+v, %v", before, err)
		}
		stream := c.MustStream()
		stream.Await(func(n *controltest.Netmap) bool { return n.Self != nil })
		synctest.Wait()
		got, err := s.Control.Netmap(t.Context(), id)
		if err != nil || !got.Connected || got.Delta.Len() != 0 || got.Sent != got.Snapshot || got.CapVer != int(c.MapRequest().Version) {
			t.Fatalf("%+v, %v", got, err)
		}
		text, err := got.Full.Text(got.Plain)
		if err != nil {
			t.Fatal(err)
		}
		var m tailcfg.MapResponse
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if m.Node == nil || m.Node.StableID != s.Node("laptop").StableID || len(m.Peers) != 1 || m.Peers[0].StableID != s.Node("nas").StableID {
			t.Errorf("%s", text)
		}

		// A client that does not read is behind.
		c.Freeze()
		s.Update(func(tx *tailnet.Tx) error { return tx.RenameNode(s.Node("nas").ID, "attic") })
		behind, err := s.Control.Netmap(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if behind.Sent < behind.Snapshot {
			text, err := behind.Delta.Text(behind.Plain)
			if err != nil || len(text) == 0 || !json.Valid(text) {
				t.Errorf("behind: %s, %v", text, err)
			}
		}
		_, err = s.Control.Netmap(t.Context(), 99)
		if tailnet.CodeOf(err) != tailnet.NotFound {
			t.Errorf("no such node: %v", err)
		}
	})
}

// What concerns no map leaves no stream behind, and is not sent.
func TestSilentChanges(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		other := s.Client("nas").Join(authKey).MustStream()
		st := s.Client("laptop").Join(authKey).MustStream()
		must(t, "it knows the other", st.Await(func(n *controltest.Netmap) bool { return n.Peer("nas") != nil }))
		synctest.Wait()
		told, from := len(st.Log()), s.State.Snapshot().Version()
		other.Close()
		s.AuthKey(tailnet.AuthKeySpec{Owner: s.Node("laptop").Owner})
		time.Sleep(2 * time.Second) // the routes' grace is over, that of its presence is not
		synctest.Wait()
		snap := s.State.Snapshot()
		if snap.Version() == from || len(st.Log()) != told {
			t.Errorf("versions %d to %d, and it was sent %d messages", from, snap.Version(), len(st.Log())-told)
		}
		for one := range s.Control.Streams() {
			if one.Version != snap.Version() {
				t.Errorf("stream of node %d is at %d of %d", one.Node, one.Version, snap.Version())
			}
		}
		must(t, "it learns that the other is gone", st.Await(func(n *controltest.Netmap) bool { return !*n.Peer("nas").Online }))
	})
}

// What clients put on record is kept, and who does not forward packets is noted once.
func TestClientsAreOnRecord(t *testing.T) {
	store := new(tailnettest.Store)
	scenario(t, controltest.Config{Store: store}, func(t *testing.T, s *controltest.Server, authKey string) {
		c := s.Client("laptop").Join(authKey)
		res, err := c.Do(t.Context(), "POST", "/machine/audit-log", tailcfg.AuditLogRequest{
			NodeKey: c.Node.Public(), Action: "DISCONNECT_NODE", Details: "going home\x1b[2J",
		})
		if err != nil || res.StatusCode != 200 {
			t.Fatal(res, err)
		}
		if e := lastOf(store, "node.audit"); e == nil || e.Target != "node 1 (laptop)" || e.Actor.Kind != tailnet.ByNode ||
			e.Changes[0].To != "DISCONNECT_NODE" || e.Changes[1].To != "going home [2J" {
			t.Errorf("%+v", e)
		}

		c.Advertise("10.0.0.0/8")
		report := func(flags ...string) {
			t.Helper()
			if err := c.Report(t.Context(), func(r *tailcfg.MapRequest) { r.DebugFlags = flags }); err != nil {
				t.Fatal(err)
			}
		}
		report("warn-router-unhealthy")
		if e := lastOf(store, "node.forwarding-off"); e != nil {
			t.Errorf("%+v", e)
		}
		for range 3 {
			report("warn-ip-forwarding-off")
		}
		if e := lastOf(store, "node.forwarding-off"); e == nil || e.Changes[0] != (tailnet.Change{Field: "subnet", To: "10.0.0.0/8"}) || countOf(store, "node.forwarding-off") != 1 {
			t.Errorf("%+v, %d times", e, countOf(store, "node.forwarding-off"))
		}
	})
}

// lastOf returns the latest audit entry of an action, or nil.
func lastOf(s *tailnettest.Store, action string) (last *tailnet.AuditEntry) {
	for _, e := range s.Audit() {
		if e.Action == action {
			last = &e
		}
	}
	return last
}

func countOf(s *tailnettest.Store, action string) (n int) {
	for _, e := range s.Audit() {
		if e.Action == action {
			n++
		}
	}
	return n
}
