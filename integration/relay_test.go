//go:build linux

package integration_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"heddle/integration/lab"
	"heddle/integration/stock"

	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// testRelayCut asserts that the relay drops a deleted node and does not let it in again. A stock
// client leaves the relay by itself as soon as it knows; so gus's is stopped, and a bare relay
// client with its key takes its place, as a thief of that key would.
func (l *logins) testRelayCut(t *testing.T) {
	l.gus.Up(t, l.server.authKey(t, "alice"))
	l.greet(t)
	private := nodeKey(t, l.gus)
	l.gus.Stop(t)

	relay := l.relayClient(t, private)
	defer relay.Close()
	if err := relay.Connect(t.Context()); err != nil {
		t.Fatalf("the relay does not let a known node in: %v", err)
	}
	cut := make(chan error, 1)
	go func() {
		for {
			if _, err := relay.Recv(); err != nil {
				cut <- err
				return
			}
		}
	}()
	l.server.must(t, "nodes", "delete", "gus", "--yes")
	start := time.Now()
	select {
	case <-cut:
		t.Logf("the relay cut the deleted node off after %v", time.Since(start))
	case <-time.After(seconds):
		relay.Close()
		<-cut
		t.Errorf("the relay still serves a node %v after its deletion", seconds)
	}
	again := l.relayClient(t, private)
	defer again.Close()
	lab.Await(t, seconds, "the relay refuses a deleted node", func() error {
		if err := again.Connect(t.Context()); err != nil {
			return nil
		}
		if _, err := again.Recv(); err != nil {
			return nil
		}
		return errors.New("it let it in")
	})
}

// relayClient connects to the embedded relay from anna's host.
func (l *logins) relayClient(t *testing.T, private key.NodePrivate) *derphttp.Client {
	t.Helper()
	pem, err := os.ReadFile(l.lab.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client, err := derphttp.NewClient(private, "https://"+serverAddr.String()+"/derp", logger.Discard, netmon.NewStatic())
	if err != nil {
		t.Fatal(err)
	}
	client.TLSConfig = &tls.Config{RootCAs: roots, ServerName: serverName}
	client.SetURLDialer(l.anna.Dial)
	return client
}

// nodeKey reads a client's private key from its state file.
func nodeKey(t *testing.T, c *stock.Client) key.NodePrivate {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(c.StateDir(), "tailscaled.state"))
	if err != nil {
		t.Fatal(err)
	}
	var entries map[string][]byte
	if err := json.Unmarshal(data, &entries); err != nil {
		t.Fatal(err)
	}
	for name, value := range entries {
		var profile struct {
			Config struct{ PrivateNodeKey key.NodePrivate }
		}
		if !strings.HasPrefix(name, "profile-") {
			continue
		}
		if err := json.Unmarshal(value, &profile); err == nil && !profile.Config.PrivateNodeKey.IsZero() {
			return profile.Config.PrivateNodeKey
		}
	}
	t.Fatalf("no node key in the state of %s", c.Name)
	panic("unreachable")
}
