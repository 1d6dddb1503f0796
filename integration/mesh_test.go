//go:build linux

package integration_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"heddle/integration/lab"
	"heddle/integration/stock"
)

// mesh is a lab with heddle in it and some stock clients.
type mesh struct {
	lab    *lab.Lab
	inet   *lab.Internet
	server *server
}

// newMesh starts a lab with heddle, configured with more sections if given, and the user alice.
func newMesh(t *testing.T, more ...string) *mesh {
	dependOnSources(t)
	l := lab.New(t)
	m := &mesh{lab: l, inet: l.Internet()}
	m.server = newServer(t, l, m.inet, more...)
	m.server.must(t, "users", "create", "alice")
	return m
}

// dependOnSources lists the module's directories. The go command repeats the result of an earlier
// run if nothing changed that the test imports or looks at; it does not know that the test builds
// heddle, and would call a broken server well.
func dependOnSources(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != ".." && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// client makes a stock client on a host and starts its daemon; it is not logged in.
func (m *mesh) client(t *testing.T, h *lab.Host) *stock.Client {
	t.Helper()
	h.SetName(serverName, serverAddr)
	c := stock.New(h, programs.stock, serverURL, m.lab.CAFile())
	c.Start(t)
	return c
}

// join logs all clients in at once, with one reusable key of alice's, and waits until each sees
// the others.
func (m *mesh) join(t *testing.T, clients ...*stock.Client) {
	t.Helper()
	key := m.server.authKey(t, "alice", "--reusable")
	var wg sync.WaitGroup
	errs := make([]error, len(clients))
	for i, c := range clients {
		wg.Go(func() { _, errs[i] = c.CLI(t.Context(), c.UpArgs(key)...) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for i, c := range clients {
		others := append(append([]*stock.Client(nil), clients[:i]...), clients[i+1:]...)
		c.AwaitOnline(t, 10*time.Second, others...)
	}
}

// serveWeb runs a web server on a host until the test ends. It answers with the address that the
// request came from, which it does not look up.
func serveWeb(t *testing.T, h *lab.Host, port uint16) {
	t.Helper()
	ln, err := h.Listen(fmt.Sprintf("[::]:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		io.WriteString(w, host)
	})}
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(ln) })
	t.Cleanup(func() {
		srv.Close()
		wg.Wait()
	})
}

// fetch asks a web server that serveWeb started which address it sees.
func fetch(from *lab.Host, addr netip.AddrPort, timeout time.Duration) (seen netip.Addr, err error) {
	client := from.HTTP()
	client.Timeout = timeout
	resp, err := client.Get("http://" + addr.String() + "/")
	if err != nil {
		return netip.Addr{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1000))
	if err != nil {
		return netip.Addr{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return netip.Addr{}, fmt.Errorf("%s: %s", resp.Status, body)
	}
	seen, err = netip.ParseAddr(string(body))
	return seen.Unmap(), err
}

// awaitFetch fetches until the web server sees the wanted address and tells how long that took.
func awaitFetch(t *testing.T, within time.Duration, from *lab.Host, addr netip.AddrPort, want ...netip.Addr) time.Duration {
	t.Helper()
	what := fmt.Sprintf("%s fetches http://%s as one of %v", from.Name, addr, want)
	return lab.Await(t, within, what, func() error {
		seen, err := fetch(from, addr, 250*time.Millisecond)
		if err != nil {
			return err
		}
		for _, w := range want {
			if seen == w {
				return nil
			}
		}
		return fmt.Errorf("the web server saw %s", seen)
	})
}

// pingLoss pings through the kernel for the given time, ten times a second, while fn runs, and
// fails the test if an answer is missing.
func pingLoss(t *testing.T, from *lab.Host, to netip.Addr, count int, fn func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		out, err := from.Run(t.Context(), "ping", "-i", "0.1", "-c", fmt.Sprint(count), "-W", "2", to.String())
		if err == nil && !containsLine(out, " 0% packet loss") {
			err = fmt.Errorf("packets were lost: %s", out)
		}
		done <- err
	}()
	fn()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
