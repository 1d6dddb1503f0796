package cli_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"heddle/cmd/heddle/cli"
)

func TestProfiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"XDG_CONFIG_HOME", "HOME"} {
		t.Setenv(name, dir)
	}
	for _, name := range []string{"HEDDLE_CONFIG", "HEDDLE_SOCKET", "HEDDLE_ADDRESS", "HEDDLE_PROFILE"} {
		t.Setenv(name, "")
	}
	for _, c := range []struct {
		name, stdin, args string
		code              int
		out, err          string
	}{
		{"none", "", "profile list", 0, "", "There are no profiles"},
		{"no key", "", "profile add lab 127.0.0.1:1", 2, "", "no API key"},
		{"not a key", "password", "profile add lab 127.0.0.1:1", 2, "", "no API key"},
		{"bad name", "tskey-api-a-b", "profile add ../x 127.0.0.1:1", 2, "", "cannot be the name"},
		{"first", "tskey-api-a-b\n", "profile add lab 127.0.0.1:1", 0, "Profile lab kept", ""},
		{"second", "tskey-api-c-d", "profile add work 127.0.0.1:2", 0, "Profile work kept", ""},
		{"the first is meant", "", "users list", 1, "", "cannot reach 127.0.0.1:1"},
		{"another", "", "--profile work users list", 1, "", "cannot reach 127.0.0.1:2"},
		{"an address wins", "", "--address 127.0.0.1:3 users list", 2, "", "API key"},
		{"two servers", "", "--profile work --address 127.0.0.1:3 users list", 2, "", "profile"},
		{"unknown", "", "--profile play users list", 3, "", "there are: lab, work, local"},
		{"use unknown", "", "profile use play", 3, "", "heddle profile list"},
		{"remove unknown", "", "profile remove play", 3, "", "heddle profile list"},
		{"a socket wins", "", "--socket /nowhere/s users list", 1, "", "/nowhere/s"},
		{"CA", "tskey-api-a-b", "profile add lab 127.0.0.1:1 --ca-file /x/lab.pem", 0, "kept", ""},
		{"CA is kept", "", "profile list -o json", 0, `"caFile": "/x/lab.pem"`, ""},
		{"no such key file", "tskey-api-a-b", "profile add lab 127.0.0.1:1 --api-key-file /x/none", 2, "", "/x/none"},
		{"use", "", "profile use work", 0, "for work now", ""},
		{"list", "", "profile list -o json", 0, `"name": "work"`, ""},
		{"used", "", "nodes list", 1, "", "cannot reach 127.0.0.1:2"},
		{"remove", "", "profile remove work", 0, "removed", ""},
		{"back here", "", "profile use local", 0, "for local now", ""},
		{"the key is nowhere", "", "profile list", 0, "lab", ""},
		{"too much", "", "profile use a b", 2, "", ""},
	} {
		r := heddle(t, c.stdin, strings.Fields(c.args)...)
		if r.code != c.code || !strings.Contains(r.out, c.out) || !strings.Contains(r.err, c.err) {
			t.Errorf("%s: exit code %d, out %q, err %q", c.name, r.code, r.out, r.err)
		}
		if strings.Contains(r.out+r.err, "tskey-api-a-b") {
			t.Errorf("%s: shows a key", c.name)
		}
	}
}

func TestQRCode(t *testing.T) {
	if r := heddle(t, "", "auth", "qr", "https://vpn.example.com/register/abc"); r.code != 0 || strings.Count(r.out, "\n") < 10 {
		t.Errorf("exit code %d: %s%s", r.code, r.out, r.err)
	}
	for _, bad := range []string{"abc", "javascript:alert(1)", "https://", "https://vpn.example.com/" + strings.Repeat("x", 5000)} {
		if r := heddle(t, "", "auth", "qr", bad); r.code != 2 || r.out != "" {
			t.Errorf("%.30s: exit code %d: %s", bad, r.code, r.out)
		}
	}
}

// Whoever watches sees each change, until they stop.
func TestWatch(t *testing.T) {
	w := newWorld(t)
	w.populate()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out, in := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- cli.Run(ctx, []string{"--socket", w.socket, "nodes", "list", "--watch", "-o", "json"}, cli.Env{In: strings.NewReader(""), Out: in, Err: io.Discard})
		in.Close()
	}()
	seen := make(chan string)
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := out.Read(buf)
			if err != nil {
				close(seen)
				return
			}
			seen <- string(buf[:n])
		}
	}()
	await := func(want string) {
		t.Helper()
		for {
			select {
			case text := <-seen:
				if strings.Contains(text, want) {
					return
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%q is not shown", want)
			}
		}
	}
	await("laptop")
	if r := heddle(t, "", "--socket", w.socket, "nodes", "rename", "laptop", "desk"); r.code != 0 {
		t.Fatal(fmt.Sprint(r))
	}
	await(`"givenName": "desk"`)
	stop()
	for range seen {
	}
	if c := <-code; c != 1 {
		t.Errorf("exit code %d", c)
	}
}
