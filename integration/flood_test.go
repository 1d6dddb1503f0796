//go:build linux

package integration_test

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"heddle/integration/lab"
	"heddle/integration/stock"

	"tailscale.com/ipn/ipnstate"
	"tailscale.com/types/key"
)

const (
	// strangers is how many hold connections to the public listeners at a time: they and the server
	// each need an open file for a connection.
	strangers = 20_000
	// floodMemory bounds what the server holds meanwhile, in bytes. By its bounds it is at most 4096 connections
	// of strangers with 50 KB (control/noise), 8192 of each of its two public listeners with some 15 KB,
	// 1024 handshakes with the relay, and what is garbage before it is collected.
	floodMemory = 600 << 20
	// listenersMemory is the same for the test of the other listeners: up to 2000 connections of strangers to the public
	// ones with up to 40 KB (TLS, HTTP/2), 1024 handshakes with the relay, 512 connections to the private one with an answer
	// of 100 KB, two profiles of up to 64 MB, 512 calls by the unix socket, and as much garbage.
	listenersMemory = 400 << 20
)

// patience is how long the server may let somebody wait who should finish within ten seconds,
// while the machine has much to do.
const patience = 20 * time.Second

// TestStrangers has strangers hold connections of all kinds, slow, half-open and malformed, with machine
// keys that nobody knows and auth keys that nobody made, from many addresses, while devices go on, and new
// ones join.
func TestStrangers(t *testing.T) {
	if testing.Short() {
		t.Skip("it floods a server for half a minute")
	}
	m := newMesh(t, `http_listen_addr: ":80"`)
	anna, ben := m.client(t, m.inet.Host("anna", 21)), m.client(t, m.inet.Host("ben", 22))
	m.join(t, anna, ben)
	newcomer := m.client(t, m.inet.Host("cleo", 23))
	key := m.server.authKey(t, "alice")
	idle := m.memory(t)

	crowd := m.inet.Host("flood", 40)
	f := m.newFlood(t, crowd, strangers, m.crowded(crowd),
		&kind{name: "silence", many: 6, to: on(443), play: (*flood).silent, limit: patience},
		&kind{name: "silence", many: 3, to: on(80), play: (*flood).silent, limit: patience},
		&kind{name: "half a handshake", many: 3, to: on(443), play: (*flood).halfHandshake, limit: patience},
		&kind{name: "headers byte by byte", many: 4, to: on(80), play: (*flood).loris, limit: patience},
		&kind{name: "headers byte by byte in TLS", many: 1, to: on(443), play: inTLS((*flood).loris), limit: patience},
		&kind{name: "garbage", many: 1, to: on(80), play: (*flood).garbage, limit: patience},
		&kind{name: "a control connection", many: 1, to: on(80), play: (*flood).hold},
		&kind{name: "registrations", many: 1, to: on(80), play: (*flood).register},
		&kind{name: "a relay's silent client", many: 1, to: on(443), play: inTLS(says(relay)), limit: patience},
	)
	stop := f.start(t)
	defer stop()
	f.await(t)
	w := watch{mesh: m, floods: []*flood{f}}
	w.over(t, "a new device", func() { newcomer.Up(t, key) })
	w.over(t, "to see it", func() { anna.AwaitOnline(t, 10*time.Second, ben, newcomer) })
	for i, name := range []string{"benny", "benjamin", "ben"} {
		w.over(t, "a rename", func() {
			m.server.must(t, "nodes", "rename", []string{"ben", "benny", "benjamin"}[i], name)
			anna.Await(t, seconds, "sees "+name, peerNamed(name))
		})
	}
	w.over(t, "a device that comes back", func() {
		ben.Kill()
		ben.Start(t)
		ben.AwaitState(t, 15*time.Second, "Running")
		m.reach(t, anna, ben)
	})
	w.over(t, "a page", func() { m.page(t, anna.Host) })
	w.goOn(t, 15*time.Second)
	t.Logf("%d strangers came, %d connections were made; the server held %d MB before and %d MB at most", len(f.slots), f.dialed.Load(), idle>>20, w.most>>20)
	if w.most > floodMemory {
		t.Errorf("the server held %d MB, the bound is %d", w.most>>20, floodMemory>>20)
	}
	f.check(t)
	stop()
	if out := m.server.must(t, "health"); strings.Contains(out, "fails") {
		t.Errorf("after the flood: %s", out)
	}
}

// TestEveryListener floods what TestStrangers does not, all at a time: the listener for the remote command
// line, that for operators, the unix socket, the relay and STUN; besides, the relay has clients that may be there and do
// not behave. Everybody else is served meanwhile, at each of them.
func TestEveryListener(t *testing.T) {
	if testing.Short() {
		t.Skip("it floods a server for half a minute")
	}
	m := newMesh(t, `http_listen_addr: ":80"`, `grpc_listen_addr: ":50443"`)
	anna, ben := m.client(t, m.inet.Host("anna", 21)), m.client(t, m.inet.Host("ben", 22))
	cage := m.inet.Site("cage", 30)
	cage.Router.BlockUDP()
	caged := m.client(t, cage.Host("caged", 2))
	m.join(t, anna, ben, caged)
	newcomer := m.client(t, m.inet.Host("cleo", 23))
	key := m.server.authKey(t, "alice")
	remote := m.remoteCLI(t, m.inet.Host("admin", 24))
	gus, hal := m.client(t, m.inet.Host("gus", 25)), m.client(t, m.inet.Host("hal", 26))
	m.join(t, gus, hal)
	slow, loud := nodeKey(t, gus), nodeKey(t, hal)
	gus.Stop(t)
	hal.Stop(t)
	idle := m.memory(t)

	crowd := m.inet.Host("flood", 40)
	outside := m.newFlood(t, crowd, 2000, m.crowded(crowd), strangersOutside(anna.Status(t).Self.PublicKey)...)
	inside := m.newFlood(t, m.server.host, 1400, nil, strangersInside(filepath.Join(m.server.host.Dir(), "data", "heddle.sock"))...)
	var met joined
	clients := m.newFlood(t, crowd, 3, nil,
		&kind{name: "a relay's client that does not read", many: 1, to: on(443), play: inTLS(met.deaf(slow)), limit: patience},
		&kind{name: "a relay's client with oversized frames", many: 1, to: on(443), play: inTLS(met.liar(loud)), limit: patience},
		&kind{name: "a relay's loud client", many: 1, to: on(443), play: inTLS(met.loud(loud, slow.Public()))},
	)
	packets := newPackets(crowd)
	for _, stop := range []func(){outside.start(t), inside.start(t), packets.start(t), clients.start(t)} {
		defer stop()
	}
	outside.await(t)
	inside.await(t)
	w := watch{mesh: m, floods: []*flood{outside, inside}}
	w.over(t, "a new device", func() { newcomer.Up(t, key) })
	w.over(t, "to see it", func() { anna.AwaitOnline(t, 10*time.Second, ben, caged, newcomer) })
	w.over(t, "a path by the relay", func() { anna.AwaitRelayed(t, 15*time.Second, caged.IPv4(t)) })
	w.over(t, "a device that asks STUN for its address", func() { asksSTUN(t, newcomer) })
	w.over(t, "the remote command line", func() { remote(t, "users", "list") })
	w.over(t, "the command line", func() { m.server.must(t, "users", "list") })
	w.over(t, "a page", func() { m.page(t, anna.Host) })
	w.goOn(t, 20*time.Second)
	for range 2 {
		w.over(t, "each listener once more", func() {
			m.server.must(t, "users", "list")
			remote(t, "users", "list")
			asksSTUN(t, newcomer)
			m.reach(t, anna, caged)
		})
	}
	t.Logf("%d and %d connections were made; the server held %d MB before and %d MB at most", outside.dialed.Load(), inside.dialed.Load(), idle>>20, w.most>>20)
	if w.most > listenersMemory {
		t.Errorf("the server held %d MB, the bound is %d", w.most>>20, listenersMemory>>20)
	}
	outside.check(t)
	inside.check(t)
	clients.check(t)
	met.check(t)
	packets.check(t)
}

// strangersOutside come from elsewhere; one of them pretends to have a device's key.
func strangersOutside(device key.NodePublic) []*kind {
	const grpc = 50443
	return []*kind{
		{name: "silence", many: 2, to: on(grpc), play: (*flood).silent, limit: patience},
		{name: "half a handshake", many: 1, to: on(grpc), play: (*flood).halfHandshake, limit: patience},
		{name: "headers byte by byte", many: 2, to: on(grpc), play: inTLS((*flood).loris), limit: patience},
		{name: "HTTP/2 that does not begin", many: 1, to: on(grpc), play: inTLS((*flood).silent, "h2"), limit: patience},
		{name: "HTTP/2 without a request", many: 2, to: on(grpc), play: inTLS((*flood).h2, "h2")},
		{name: "half a call", many: 2, to: on(grpc), play: inTLS((*flood).halfCall, "h2")},
		{name: "calls without a key", many: 1, to: on(grpc), play: (*flood).calls},

		{name: "silence", many: 2, to: on(80), play: (*flood).silent, limit: patience},
		{name: "a body byte by byte", many: 2, to: on(80), play: drips(endlessBody), limit: 2 * patience},
		{name: "answers that nobody reads", many: 1, to: on(80), play: leaves("/")},

		{name: "a relay's silent client", many: 1, to: on(443), play: inTLS(says(relay)), limit: patience},
		{name: "a relay's silent client in a browser", many: 1, to: on(443), play: inTLS(says(relayByWeb)), limit: patience},
		{name: "half a greeting", many: 1, to: on(443), play: inTLS(says(relay + hello(200, device)[:20])), limit: patience},
		{name: "a greeting with another's key, byte by byte", many: 1, to: on(443), play: inTLS(drips(relay + hello(4000, device))), limit: patience},
		{name: "an oversized greeting", many: 1, to: on(443), play: inTLS(says(relay + hello(1<<32-1, device) + strings.Repeat("x", 64<<10))), limit: patience},
		{name: "a stranger's greeting", many: 1, to: on(443), play: inTLS((*flood).relayStranger), limit: patience},
	}
}

// strangersInside are on the server's own machine.
func strangersInside(socket string) []*kind {
	const operators = "127.0.0.1:9090"
	return []*kind{
		{name: "silence", many: 3, to: operators, play: (*flood).silent, limit: patience},
		{name: "headers byte by byte", many: 3, to: operators, play: (*flood).loris, limit: patience},
		{name: "numbers that nobody reads", many: 2, to: operators, play: leaves("/metrics")},
		{name: "profiles that nobody reads", many: 1, to: operators, play: leaves("/debug/pprof/goroutine?debug=2")},
		{name: "numbers", many: 1, to: operators, play: asks("/metrics")},

		{name: "silence", many: 4, to: socket, play: (*flood).silent, limit: patience},
		{name: "garbage", many: 1, to: socket, play: (*flood).garbage, limit: patience},
		{name: "HTTP/2 without a request", many: 3, to: socket, play: (*flood).h2},
		{name: "half a call", many: 2, to: socket, play: (*flood).halfCall},
	}
}

// watch is what the server holds during floods.
type watch struct {
	mesh   *mesh
	floods []*flood
	most   int64
}

// over does something that must work.
func (w *watch) over(t *testing.T, what string, fn func()) {
	t.Helper()
	start := time.Now()
	fn()
	took, open := time.Since(start), int64(0)
	for _, f := range w.floods {
		open += f.open.Load()
	}
	now := w.mesh.memory(t)
	w.most = max(w.most, now)
	t.Logf("%s took %v; strangers hold %d connections; the server holds %d MB", what, took.Round(time.Millisecond), open, now>>20)
}

// goOn lets the floods be for a while.
func (w *watch) goOn(t *testing.T, during time.Duration) {
	t.Helper()
	lab.Hold(t, during, "the server tells its numbers", func() error {
		w.most = max(w.most, w.mesh.memory(t))
		return nil
	})
}

var resident = regexp.MustCompile(`(?m)^process_resident_memory_bytes ([0-9.e+]+)`)

// memory is what the server holds of the machine's memory, in bytes.
func (m *mesh) memory(t *testing.T) (bytes int64) {
	t.Helper()
	operator := m.server.host.HTTP()
	lab.Await(t, 15*time.Second, "the server tells its numbers", func() error {
		resp, err := operator.Get("http://127.0.0.1:9090/metrics")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		found := resident.FindSubmatch(text)
		if found == nil {
			return fmt.Errorf("no memory in %s", text)
		}
		n, err := strconv.ParseFloat(string(found[1]), 64)
		bytes = int64(n)
		return err
	})
	return bytes
}

// page has a person get a page.
func (m *mesh) page(t *testing.T, from *lab.Host) {
	t.Helper()
	web := trustingClient(t, m.lab, from)
	lab.Await(t, seconds, "a person gets a page", func() error {
		resp, err := web.Get("https://" + serverAddr.String() + "/")
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
}

// remoteCLI returns what runs heddle's command line on another machine.
func (m *mesh) remoteCLI(t *testing.T, h *lab.Host) func(t *testing.T, args ...string) {
	t.Helper()
	key := m.server.must(t, "apikeys", "create")
	m.server.secrets = append(m.server.secrets, key)
	h.SetName(serverName, serverAddr)
	file := filepath.Join(h.Dir(), "key")
	if err := os.WriteFile(file, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(t *testing.T, args ...string) {
		t.Helper()
		h.MustRun(t, append([]string{programs.heddle, "--address", serverName + ":50443", "--api-key-file", file, "--ca-file", m.lab.CAFile()}, args...)...)
	}
}

// asksSTUN has a stock client learn its public address.
func asksSTUN(t *testing.T, c *stock.Client) {
	t.Helper()
	lab.Await(t, 30*time.Second, c.Name+" learns its address", func() error {
		out, err := c.CLI(t.Context(), "netcheck", "--format=json")
		if err != nil {
			return err
		}
		var report struct {
			UDP      bool
			GlobalV4 string
		}
		if err := json.Unmarshal([]byte(out), &report); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		if !report.UDP || !strings.HasPrefix(report.GlobalV4, "198.51.100.") {
			return fmt.Errorf("it says %+v", report)
		}
		return nil
	})
}

// peerNamed passes when there is a peer of that name.
func peerNamed(name string) func(*ipnstate.Status) error {
	return func(st *ipnstate.Status) error {
		if stock.Peer(st, name) == nil {
			return fmt.Errorf("there are %v", stock.PeerNames(st))
		}
		return nil
	}
}
