package db_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"heddle/control/tailnet"
	"heddle/db"

	"github.com/jackc/pgx/v5"
)

// A wire lies between heddle and PostgreSQL. It can be told to break at the next commit: before
// the server hears of it, after it has answered, or so that the server hears of it late.
type wire struct {
	dir, to string // directories of sockets
	mu      sync.Mutex
	cut     string        // "", "before", "after", "late"
	late    chan struct{} // closed when the server is to hear of what was cut "late"
}

// newWire returns a wire to the server of the tests and the URL that leads through it.
func newWire(t *testing.T, url string) (*wire, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "wire")
	if err != nil {
		t.Fatal(err)
	}
	before, to, _ := strings.Cut(url, "?host=")
	w := &wire{dir: dir, to: to, late: make(chan struct{})}
	l, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var pipes sync.WaitGroup
		for {
			client, err := l.Accept()
			if err != nil {
				break
			}
			pipes.Go(func() { w.pipe(client) })
		}
		pipes.Wait()
	}()
	t.Cleanup(func() { l.Close(); <-done; os.RemoveAll(dir) })
	return w, before + "?host=" + dir
}

// pipe carries one connection.
func (w *wire) pipe(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("unix", filepath.Join(w.to, ".s.PGSQL.5432"))
	if err != nil {
		return
	}
	defer server.Close()
	var mute sync.Mutex // held: no answer passes
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			if err != nil {
				client.Close()
				return
			}
			if !mute.TryLock() {
				return // the answer to the commit is here, and gets lost
			}
			client.Write(buf[:n])
			mute.Unlock()
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			server.Close()
			<-answered
			return
		}
		if bytes.Contains(buf[:n], []byte("commit\x00")) {
			switch w.take() {
			case "before":
				server.Close()
				<-answered
				return
			case "after":
				mute.Lock()
				server.Write(buf[:n])
				<-answered
				return
			case "late":
				mute.Lock()
				client.Close()
				<-w.late
				server.Write(append(buf[:n], 'X', 0, 0, 0, 4)) // and that is all
				<-answered
				return
			}
		}
		if _, err := server.Write(buf[:n]); err != nil && !errors.Is(err, io.EOF) {
			<-answered
			return
		}
	}
}

func (w *wire) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	cut := w.cut
	w.cut = ""
	return cut
}

func (w *wire) breakAt(cut string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
}

// A connection that breaks at the very moment of a commit leaves no doubt about what became of it.
func TestLostAnswer(t *testing.T) {
	place := onPostgres(t)(t)
	w, url := newWire(t, place.URL)
	s := open(t, db.Options{URL: url})
	commit(t, s, nodes(0, testNode(1)))
	for base := tailnet.Seq(1); base < 20; base += 2 {
		w.breakAt("after")
		d := nodes(base, testNode(int(base)+1))
		d.Audit = []tailnet.AuditEntry{testAudit(int(base))}
		if err := s.Commit(t.Context(), d); err != nil {
			t.Fatalf("a commit that happened: %v", err)
		}
		w.breakAt("before")
		d = nodes(base+1, testNode(int(base)+2))
		d.Audit = []tailnet.AuditEntry{testAudit(int(base) + 1)}
		wantError(t, s.Commit(t.Context(), d), tailnet.Unavailable, "connection")
		commit(t, s, d)
	}
	img := load(t, s, tailnet.Default)
	audit, _, err := s.Audit(t.Context(), tailnet.Default, tailnet.AuditQuery{})
	if err != nil || img.Seq != 21 || len(img.Nodes) != 21 || len(audit) != 20 {
		t.Errorf("%d nodes and %d entries at %d, %v", len(img.Nodes), len(audit), img.Seq, err)
	}
}

// A commit that the server has not heard of yet, although its connection is gone, may still happen: who asks
// what became of it waits until that is decided.
func TestLateCommit(t *testing.T) {
	place := onPostgres(t)(t)
	w, url := newWire(t, place.URL)
	s := open(t, db.Options{URL: url})
	commit(t, s, nodes(0, testNode(1)))
	server, err := pgx.Connect(t.Context(), place.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close(context.WithoutCancel(t.Context()))
	hear := sync.OnceFunc(func() { close(w.late) })
	defer hear()
	w.breakAt("late")
	answer := make(chan error, 1)
	go func() { answer <- s.Commit(t.Context(), nodes(1, testNode(2))) }()
	for waits := 0; waits == 0; {
		select {
		case err := <-answer:
			t.Fatalf("it was answered before it was decided: %v", err)
		default:
		}
		if err := server.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks WHERE NOT granted").Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	hear()
	if err := <-answer; err != nil {
		t.Errorf("a commit that happened: %v", err)
	}
	if img := load(t, s, tailnet.Default); img.Seq != 2 || len(img.Nodes) != 2 {
		t.Errorf("%d nodes at %d", len(img.Nodes), img.Seq)
	}
}
