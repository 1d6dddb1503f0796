//go:build linux

package integration_test

import (
	"testing"
	"time"
)

// TestServerRestart kills the server under a running transfer: it is not part of the data plane.
func TestServerRestart(t *testing.T) {
	m := newMesh(t)
	anna := m.client(t, m.inet.Site("anna", 11).Host("anna", 2))
	ben := m.client(t, m.inet.Site("ben", 12).Host("ben", 2))
	closed := m.inet.Site("cleo", 13)
	closed.Router.BlockUDP()
	cleo := m.client(t, closed.Host("cleo", 2))
	m.join(t, anna, ben, cleo)
	anna.AwaitDirect(t, 20*time.Second, ben.IPv4(t))
	key := m.server.authKey(t, "alice", "--reusable")
	before := m.server.nodes(t)

	tr := startTransfer(t, ben, anna)
	tr.awaitMore(t, 10*time.Second, 100)
	pingLoss(t, ben.Host, anna.IPv4(t), 80, func() {
		m.server.kill()
		tr.awaitMore(t, 5*time.Second, 200)
		m.server.start(t)
		for _, name := range []string{"anna", "ben", "cleo"} {
			m.server.awaitNode(t, 10*time.Second, name, "it is online again", func(n node) bool { return n.Online })
		}
		tr.awaitMore(t, 5*time.Second, 100)
	})
	if stall := tr.longestStall(); stall > time.Second {
		t.Errorf("the transfer stood still for %v", stall)
	}
	for name, n := range m.server.nodes(t) {
		if n.ID != before[name].ID {
			t.Errorf("after the restart %s is node %s, before it was %s", name, n.ID, before[name].ID)
		}
	}

	// The key that was made before the crash admits a newcomer after it.
	cora := m.client(t, m.inet.Host("cora", 21))
	cora.Up(t, key)
	anna.AwaitOnline(t, 10*time.Second, ben, cora)
	m.reach(t, anna, cora)
	m.reach(t, ben, cora)

	// Who depends on the relay is back as soon as it is.
	anna.AwaitRelayed(t, 20*time.Second, cleo.IPv4(t))
	m.reach(t, anna, cleo)

	// An orderly stop harms no more, and open sessions do not hold it up.
	if err := m.server.process.Stop(10 * time.Second); err != nil {
		t.Errorf("heddle: %v", err)
	}
	m.reach(t, anna, ben)
	m.server.start(t)
	m.server.awaitNode(t, 10*time.Second, "cora", "it is online again", func(n node) bool { return n.Online })
}
