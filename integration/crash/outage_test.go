package crash_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"heddle/db/pgserver"
	v1 "heddle/proto/heddle/v1"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"tailscale.com/tailcfg"
)

var outage = flag.Duration("outage", 3*time.Second, "how long the database is away")

// newPostgres starts a database server and makes a database.
func newPostgres(t *testing.T) (*pgserver.Server, string) {
	t.Helper()
	server := pgserver.Of(t)
	url, err := server.Database(t.Context(), "heddle")
	if err != nil {
		t.Fatal(err)
	}
	return server, url
}

// TestKillWithPostgres is TestKill with another database.
func TestKillWithPostgres(t *testing.T) {
	_, url := newPostgres(t)
	killStorm(t, newServer(t, tempDir(t), url), max(3, *kills/4))
}

// A listener is a device with an open map stream.
type listener struct {
	*device
	mu    sync.Mutex
	names map[tailcfg.NodeID]string // of its peers, as it was told
	err   error                     // why the stream ended
}

// listen logs a device in and keeps its stream open to the end of the test.
func (s *server) listen(name string) (*listener, int64) {
	s.t.Helper()
	l := &listener{device: s.device(name), names: map[tailcfg.NodeID]string{}}
	if err := l.login(s.t.Context(), s.secret); err != nil {
		s.t.Fatal(err)
	}
	st, err := l.stream(context.Background())
	if err != nil {
		s.t.Fatal(err)
	}
	first, err := st.next()
	if err != nil {
		s.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			m, err := st.next()
			l.mu.Lock()
			if err != nil {
				l.err = err
				l.mu.Unlock()
				return
			}
			for _, p := range append(m.Peers, m.PeersChanged...) {
				l.names[p.ID] = p.Name
			}
			l.mu.Unlock()
		}
	}()
	s.t.Cleanup(func() { st.close(); <-done; l.close() })
	return l, int64(first.Node.ID)
}

// told is nil once the device was told that a node has this name.
func (l *listener) told(id int64, name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !strings.HasPrefix(l.names[tailcfg.NodeID(id)], name+".") {
		return fmt.Errorf("node %d is %q (stream: %v)", id, l.names[tailcfg.NodeID(id)], l.err)
	}
	return nil
}

func (l *listener) broken() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func (s *server) rename(id int64, name string) error {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute) // much longer than an answer takes
	defer cancel()
	_, err := s.nodes().RenameNode(ctx, &v1.RenameNodeRequest{Node: fmt.Sprint(id), NewName: name})
	return err
}

// databaseHealth is what the server says of its database.
func (s *server) databaseHealth() error {
	health, err := v1.NewHealthServiceClient(s.conn).Health(s.t.Context(), &v1.HealthRequest{})
	for _, p := range health.GetParts() {
		if p.GetName() == "database" && !p.GetOk() {
			return errors.New(p.GetMessage())
		}
	}
	return err
}

// wantClear checks that an error says in words that the storage is at fault.
func wantClear(t *testing.T, what string, err error, words string) {
	t.Helper()
	if status.Code(err) != codes.Unavailable || !strings.Contains(status.Convert(err).Message(), words) {
		t.Errorf("%s: %v", what, err)
	}
}

// TestDatabaseOutage takes the database away under load. Map streams stay, reads go on, changes
// fail with a clear error, and afterwards everything works again by itself; nothing is lost or doubled.
func TestDatabaseOutage(t *testing.T) {
	postgres, url := newPostgres(t)
	s := newServer(t, tempDir(t), url)
	anna, _ := s.listen("anna")
	other, ben := s.listen("ben")
	cleo := s.device("cleo")
	defer cleo.close()
	if err := cleo.login(t.Context(), s.secret); err != nil {
		t.Fatal(err)
	}
	l := newLedger()
	l.strangers = map[string]bool{}
	for _, d := range []*device{anna.device, other.device, cleo} {
		l.strangers[d.node.Public().String()] = true
	}
	l.acked["node.create"], l.asked["node.create"] = 3, 3
	rename := func(name string) error { // which the ledger counts
		r := &record{unsure: map[string]bool{}}
		return l.do(r, "node.rename", func() error { return s.rename(ben, name) }, func() {})
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				pause := time.NewTicker(50 * time.Millisecond)
				defer pause.Stop()
				for ctx.Err() == nil {
					if l.one(ctx, s) != nil {
						<-pause.C
					}
				}
			})
		}
		wg.Wait()
	}()
	if err := rename("before"); err != nil {
		t.Fatal(err)
	}
	await(t, time.Minute, "the change arrives", func() error { return anna.told(ben, "before") })

	if err := postgres.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := cleo.self(t.Context()); err != nil {
		t.Errorf("a device that comes back without the database: %v", err)
	}
	for end := time.Now().Add(*outage); time.Now().Before(end); {
		wantClear(t, "a change without the database", rename("during"), "database")
		if _, err := s.nodes().ListNodes(t.Context(), &v1.ListNodesRequest{}); err != nil {
			t.Errorf("a read without the database: %v", err)
		}
		if err := anna.broken(); err != nil {
			t.Fatalf("a map stream broke: %v", err)
		}
		<-time.After(100 * time.Millisecond)
	}
	if err := postgres.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, time.Minute, "changes work again", func() error { return rename("after") })
	await(t, time.Minute, "the change arrives", func() error { return anna.told(ben, "after") })
	before := l.acknowledged("node.create")
	await(t, time.Minute, "devices log in again", func() error {
		if l.acknowledged("node.create") < before+10 {
			return errors.New("too few")
		}
		return nil
	})
	if err := anna.broken(); err != nil {
		t.Errorf("a map stream broke: %v", err)
	}
	cancel()
	<-done
	s.kill()
	l.verify(t, s.store)
	t.Logf("acknowledged: %v; asked for: %v", l.acked, l.asked)
	s.logHolds("panic:", "fatal error:")
}

// TestFullDisk fills the disk under a running server: it goes on to serve what it knows, says what is
// wrong, and works again when there is space.
func TestFullDisk(t *testing.T) {
	dir := tempDir(t)
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", data, "tmpfs", 0, "size=8m"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("a small file system cannot be mounted: run this as root: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(data, syscall.MNT_DETACH) })
	s := newServer(t, dir, "")
	anna, _ := s.listen("anna")
	_, ben := s.listen("ben")
	cleo := s.device("cleo")
	defer cleo.close()
	if err := cleo.login(t.Context(), s.secret); err != nil {
		t.Fatal(err)
	}
	name := ""
	for round := range 3 {
		hog, err := os.Create(filepath.Join(data, "hog"))
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = hog.Write(make([]byte, 4096))
		}
		if err := hog.Close(); err != nil {
			t.Fatal(err)
		}
		// What room the log of the database has left is used up first.
		full := false
		for i := 0; i < 10_000 && !full; i++ {
			next := fmt.Sprintf("name-%d-%d", round, i)
			if err := s.rename(ben, next); err == nil {
				name = next
			} else {
				wantClear(t, "a change on a full disk", err, "full")
				full = true
			}
		}
		if !full {
			t.Fatal("the disk does not fill up")
		}
		if _, err := s.nodes().ListNodes(t.Context(), &v1.ListNodesRequest{}); err != nil {
			t.Errorf("a read on a full disk: %v", err)
		}
		if _, err := cleo.self(t.Context()); err != nil {
			t.Errorf("a device that comes back while the disk is full: %v", err)
		}
		if err := s.databaseHealth(); err == nil || !strings.Contains(err.Error(), "full") {
			t.Errorf("health on a full disk: %v", err)
		}
		if err := os.Remove(hog.Name()); err != nil {
			t.Fatal(err)
		}
		name = fmt.Sprint("space-", round)
		await(t, time.Minute, "changes work again", func() error { return s.rename(ben, name) })
		await(t, time.Minute, "the change arrives", func() error { return anna.told(ben, name) })
		await(t, time.Minute, "health is well", s.databaseHealth)
		if err := anna.broken(); err != nil {
			t.Fatalf("a map stream broke: %v", err)
		}
	}
	s.kill()
	s.start()
	resp, err := s.nodes().GetNode(t.Context(), &v1.GetNodeRequest{Node: fmt.Sprint(ben)})
	if err != nil || resp.GetNode().GetGivenName() != name {
		t.Errorf("after a restart: %v, %v", resp, err)
	}
}
