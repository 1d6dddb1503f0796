package systemd_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"heddle/cmd/heddle/serve/systemd"
)

// manager is the other end: it hears what a service tells.
func manager(t *testing.T) (path string, next func() string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return path, func() string {
		t.Helper()
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		buf := make([]byte, 1000)
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
}

func environ(pairs map[string]string) func(string) string {
	return func(name string) string { return pairs[name] }
}

func TestStates(t *testing.T) {
	path, next := manager(t)
	n := systemd.New(environ(map[string]string{"NOTIFY_SOCKET": path}))
	for _, tc := range []struct {
		tell func() error
		want string
	}{
		{n.Ready, `^READY=1$`},
		{n.Reloading, `^RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]+$`},
		{n.Stopping, `^STOPPING=1$`},
	} {
		if err := tc.tell(); err != nil {
			t.Fatal(err)
		}
		if got := next(); !regexp.MustCompile(tc.want).MatchString(got) {
			t.Errorf("told %q, want %s", got, tc.want)
		}
	}
}

func TestWatchdog(t *testing.T) {
	path, next := manager(t)
	for _, tc := range []struct {
		pid  string
		want bool
	}{{strconv.Itoa(os.Getpid()), true}, {"", true}, {"1", false}} {
		n := systemd.New(environ(map[string]string{"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "30000", "WATCHDOG_PID": tc.pid}))
		ctx, stop := context.WithCancel(t.Context())
		lives := make(chan struct{}, 1000)
		done := make(chan error, 1)
		go func() { done <- n.Run(ctx, func() { lives <- struct{}{} }) }()
		if tc.want {
			if got := next(); got != "WATCHDOG=1" {
				t.Errorf("told %q", got)
			}
			<-lives
			stop()
		}
		if err := <-done; err != nil { // a watchdog of another process wants nothing of us
			t.Error(err)
		}
		stop()
	}
}

func TestNobodyListens(t *testing.T) {
	n := systemd.New(environ(nil))
	if err := n.Ready(); err != nil {
		t.Error(err)
	}
	if err := n.Run(t.Context(), func() { t.Error("asked whether we live") }); err != nil {
		t.Error(err)
	}
	if err := systemd.New(environ(map[string]string{"NOTIFY_SOCKET": "/nonexistent"})).Ready(); err == nil {
		t.Error("nobody listens, and that is no error")
	}
}
