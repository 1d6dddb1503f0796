//go:build linux

package integration_test

import (
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"heddle/integration/lab"
)

// TestReload changes the configuration of a running server, which a service manager watches.
func TestReload(t *testing.T) {
	m := newMesh(t)
	notify := m.manage(t)
	if got := notify(); got != "READY=1" {
		t.Fatalf("the service manager hears %q", got)
	}
	anna := m.client(t, m.inet.Host("anna", 21))
	anna.Up(t, m.server.authKey(t, "alice"))
	conf := m.server.client.Transport.(*http.Transport).TLSClientConfig
	first := m.serial(t, conf)

	text, err := os.ReadFile(m.server.config)
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		if err := os.WriteFile(m.server.config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m.lab.Certificate(serverName, serverAddr) // a new one in the same files
	write(strings.Replace(string(text), "level: debug", "level: info", 1) + "netmap: {cache_mb: 32}\n")
	m.server.must(t, "reload")
	for heard := ""; heard != "READY=1"; heard = notify() {
		if strings.HasPrefix(heard, "STOPPING") {
			t.Fatal("the server stops")
		}
	}
	m.awaitLog(t, `"configuration loaded anew" applied=[log.level]`, `"some changes of the configuration need a restart" keys=[netmap.cache_mb]`)
	if m.serial(t, conf).Cmp(first) == 0 {
		t.Error("the server shows the old certificate")
	}
	anna.AwaitState(t, seconds, "Running")

	// Mistakes reach the server neither by the command nor by the signal.
	write(string(text) + "nonsense: 1\n")
	if _, exit, err := m.server.cli(t.Context(), "reload"); exit == 0 || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("a broken configuration: exit %d, %v", exit, err)
	}
	if err := m.server.process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	m.awaitLog(t, "the configuration is not loaded anew; what was in force stays so")
	if err := m.server.process.Stop(10 * time.Second); err != nil {
		t.Error(err)
	}
	for heard := ""; heard != "STOPPING=1"; heard = notify() {
	}
}

// manage starts the server anew under a service manager and returns what that hears next, signs of
// life left out. There must be some of these.
func (m *mesh) manage(t *testing.T) (next func() string) {
	t.Helper()
	path := filepath.Join(m.server.host.Dir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	m.server.kill()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "300000")
	m.server.start(t)
	os.Unsetenv("NOTIFY_SOCKET")
	os.Unsetenv("WATCHDOG_USEC")
	heard := make(chan string, 1000)
	go func() {
		defer close(heard)
		for buf := make([]byte, 1000); ; {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			if text := string(buf[:n]); text != "WATCHDOG=1" {
				heard <- text
			}
		}
	}()
	return func() string {
		t.Helper()
		select {
		case text, ok := <-heard:
			if ok {
				return text
			}
		case <-time.After(10 * time.Second):
		}
		t.Fatal("the service manager hears nothing")
		panic("unreachable")
	}
}

// awaitLog waits until the server's log holds the texts.
func (m *mesh) awaitLog(t *testing.T, texts ...string) {
	t.Helper()
	lab.Await(t, seconds, "the server's log tells", func() error {
		log, err := os.ReadFile(m.server.process.Log)
		for _, text := range texts {
			if err == nil && !strings.Contains(string(log), text) {
				err = errors.New("it does not hold " + text)
			}
		}
		return err
	})
}
