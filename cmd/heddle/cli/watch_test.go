package cli_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"heddle/api"
	"heddle/cmd/heddle/cli"
	"heddle/control/tailnet"
	"heddle/db"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// shown is what a command has printed by now.
type shown struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func (s *shown) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(p)
	select {
	case s.more <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (s *shown) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// await waits until want was printed.
func (s *shown) await(t *testing.T, want string) {
	t.Helper()
	const enough = 30 * time.Second
	for late := time.After(enough); !strings.Contains(s.String(), want); {
		select {
		case <-s.more:
		case <-late:
			t.Fatalf("%q is not shown: %s", want, s)
		}
	}
}

// Who watches goes on when a server that was stopped is back, and misses nothing.
func TestWatchOverARestart(t *testing.T) {
	for _, c := range []struct{ args, before, during, after string }{
		{"nodes list --watch -o json", `"givenName": "laptop"`, `"givenName": "desk"`, `"givenName": "table"`},
		{"audit tail", "lamp → laptop", "laptop → desk", "desk → table"},
	} {
		t.Run(c.args, func(t *testing.T) {
			log, err := db.Open(t.Context(), db.Options{Path: filepath.Join(t.TempDir(), "heddle.db")})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { log.Close() })
			state, err := tailnet.Open(t.Context(), log, tailnet.Options{OnlineGrace: time.Minute, EphemeralTimeout: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			run(t, state.Run)
			rename := func(name string) {
				t.Helper()
				if _, err := state.Update(t.Context(), admin, func(tx *tailnet.Tx) error { return tx.RenameNode(1, name) }); err != nil {
					t.Fatal(err)
				}
			}
			socket := filepath.Join(socketDir(t), "s")
			start := func() (stop func()) {
				l, err := net.Listen("unix", socket)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(context.Background())
				done := make(chan error, 1)
				go func() { done <- api.New(api.Options{State: state, Audit: log}).ServeSocket(ctx, l) }()
				return func() {
					cancel()
					if err := <-done; err != nil {
						t.Error(err)
					}
				}
			}
			if _, err := state.Update(t.Context(), admin, func(tx *tailnet.Tx) error {
				u, err := tx.CreateUser(tailnet.User{Name: "alice"})
				if err == nil {
					_, err = tx.RegisterForUser(registration("lamp"), u.ID, tailnet.ByCLI)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}

			stopServer := start()
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			out, errs := &shown{more: make(chan struct{}, 1)}, &shown{more: make(chan struct{}, 1)}
			over := make(chan struct{})
			go func() {
				defer close(over)
				args := append([]string{"--socket", socket}, strings.Fields(c.args)...)
				if strings.HasPrefix(c.args, "audit") {
					args = append(args, "--after", "1")
				}
				cli.Run(ctx, args, cli.Env{In: strings.NewReader(""), Out: out, Err: errs})
			}()
			rename("laptop")
			out.await(t, c.before)
			stopServer()
			errs.await(t, "trying again")
			rename("desk")
			stopServer = start()
			errs.await(t, "the server is back")
			out.await(t, c.during)
			rename("table")
			out.await(t, c.after)
			stop()
			<-over
			stopServer()
			if strings.Count(errs.String(), "trying again") != 1 || strings.Count(out.String(), c.during) != 1 {
				t.Errorf("%s\n%s", out, errs)
			}
		})
	}
}

// Nobody is told of an interruption that was none, nor in the words of a library.
func TestServerGoesAway(t *testing.T) {
	for name, serve := range map[string]func(net.Listener){
		"it stops": func(l net.Listener) {
			s := grpc.NewServer(grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error {
				return status.Error(codes.Canceled, "context canceled")
			}))
			t.Cleanup(s.Stop)
			s.Serve(l)
		},
		"it was killed": func(l net.Listener) {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(socketDir(t), "s")
			l, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go serve(l)
			r := heddle(t, "", "--socket", socket, "users", "list")
			if r.code != 1 || r.err != "heddle: the server stopped or the connection broke; see that it runs (`heddle health`)\n" {
				t.Errorf("exit code %d: %s", r.code, r.err)
			}
		})
	}
}

// socketDir is a directory for a socket: t.TempDir can be too long for one.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cli")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
