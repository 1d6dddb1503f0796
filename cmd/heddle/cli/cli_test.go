package cli_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"heddle/api"
	"heddle/cmd/heddle/cli"
	"heddle/control/tailnet"

	"github.com/creack/pty"
	"github.com/spf13/cobra"
)

func TestNoServer(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale.sock")
	l, err := net.Listen("unix", stale)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	conf := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(conf, []byte("data_dir: "+dir+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(dir, "broken.yaml")
	if err := os.WriteFile(broken, []byte("data_dri: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		code int
		want []string
	}{
		{"no socket", []string{"--socket", "/nowhere/s"}, 1, []string{"no server answers on /nowhere/s", "heddle serve"}},
		{"dead socket", []string{"--socket", stale}, 1, []string{"no server answers on " + stale}},
		{"socket of the configuration", []string{"--config", conf}, 1, []string{filepath.Join(dir, "heddle.sock"), "heddle serve"}},
		{"broken configuration", []string{"--config", broken}, 2, []string{"data_dri", "data_dir", "--socket"}},
		{"no configuration", []string{"--config", "/nowhere/c"}, 2, []string{"/nowhere/c", "--socket"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := heddle(t, "", append(c.args, "users", "list")...)
			if r.code != c.code {
				t.Errorf("exit code %d, want %d", r.code, c.code)
			}
			for _, want := range c.want {
				if !strings.Contains(r.err, want) {
					t.Errorf("no %q in %q", want, r.err)
				}
			}
		})
	}
	t.Run("HEDDLE_CONFIG", func(t *testing.T) {
		t.Setenv("HEDDLE_CONFIG", conf)
		if r := heddle(t, "", "users", "list"); !strings.Contains(r.err, filepath.Join(dir, "heddle.sock")) {
			t.Errorf("%s", r.err)
		}
	})
	t.Run("reload", func(t *testing.T) {
		want := filepath.Join(dir, "heddle.sock") + ": start it with `heddle serve`"
		if r := heddle(t, "", "--config", conf, "reload"); r.code != 1 || !strings.Contains(r.err, want) || !strings.Contains(r.err, "data_dir or unix_socket was just changed") {
			t.Errorf("exit code %d: %s", r.code, r.err)
		}
	})
	t.Run("policy check needs none", func(t *testing.T) {
		r := heddle(t, "", "--socket", stale, "policy", "check", "testdata/good.hujson")
		if r.code != 0 || !strings.Contains(r.err, "No server answers") {
			t.Errorf("exit code %d: %s", r.code, r.err)
		}
		r = heddle(t, "{,}", "--socket", stale, "policy", "check", "-")
		if r.code != 2 || !strings.Contains(r.err, "1:2") {
			t.Errorf("exit code %d: %s", r.code, r.err)
		}
	})
}

func TestUnhealthy(t *testing.T) {
	w := newWorld(t)
	w.parts = []api.Part{{Name: "database", Message: "disk full"}, {Name: "policy", Message: "line 3: x\nline 5: y"}}
	r := w.heddle("health")
	if !strings.Contains(r.out, "policy    fails  line 3: x\n                 line 5: y\n") {
		t.Errorf("not a line for each problem:\n%s", r.out)
	}
	if r.code != 1 || !strings.Contains(r.out, "disk full") || !strings.Contains(r.err, "not all parts") {
		t.Errorf("exit code %d: %s%s", r.code, r.out, r.err)
	}
	if r = w.heddle("health", "-o", "json"); !strings.Contains(r.out, `"databaseConnectivity": false`) {
		t.Error(r.out)
	}
}

func TestOutputFromTheEnvironment(t *testing.T) {
	w := newWorld(t)
	t.Setenv("HEDDLE_OUTPUT", "json")
	if r := w.heddle("users", "list"); r.out != "[]\n" {
		t.Errorf("%q", r.out)
	}
	if r := w.heddle("users", "list", "-o", "table"); r.out != "" {
		t.Errorf("%q", r.out)
	}
}

func TestPolicyFromStandardInput(t *testing.T) {
	w := newWorld(t)
	r := heddle(t, "{}", "--socket", w.socket, "policy", "set", "-")
	if r.code != 0 || w.state.Snapshot().Policy().Source != "{}" {
		t.Errorf("exit code %d: %s", r.code, r.err)
	}
	if r = heddle(t, strings.Repeat(" ", 4<<20+1), "--socket", w.socket, "policy", "set", "-"); r.code != 1 || !strings.Contains(r.err, "larger than") {
		t.Errorf("exit code %d: %s", r.code, r.err)
	}
}

func TestPolicyCompile(t *testing.T) {
	r := heddle(t, `{"id": "x", "policy": "{}", "tailnet": {}}`+"\n", "policy", "compile")
	if r.code != 0 || !strings.Contains(r.out, `"id":"x"`) {
		t.Errorf("exit code %d: %s%s", r.code, r.out, r.err)
	}
	if r = heddle(t, "no json\n", "policy", "compile"); r.code == 0 {
		t.Error("exit code 0 for what is no document")
	}
}

// Lists go on over pages.
func TestManyUsers(t *testing.T) {
	w := newWorld(t)
	w.must(func(tx *tailnet.Tx) error {
		for i := range 2500 {
			if _, err := tx.CreateUser(tailnet.User{Name: fmt.Sprintf("user-%d", i)}); err != nil {
				return err
			}
		}
		return nil
	})
	if n := strings.Count(w.heddle("users", "list").out, "\n"); n != 2501 {
		t.Errorf("%d lines, want 2501", n)
	}
}

func TestInterrupted(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	code := cli.Run(ctx, []string{"--socket", w.socket, "users", "list"}, cli.Env{In: strings.NewReader(""), Out: io.Discard, Err: &out})
	if code != 1 || out.String() != "heddle: interrupted\n" {
		t.Errorf("exit code %d: %s", code, out.String())
	}
}

// onTerminal runs a command line on a terminal of 60 columns, types what is
// asked for, and returns what the terminal showed.
func (w *world) onTerminal(typed string, args ...string) (string, int) {
	w.t.Helper()
	control, tty, err := pty.Open()
	if err != nil {
		w.t.Skipf("no terminal here: %v", err)
	}
	defer control.Close()
	if err := pty.Setsize(control, &pty.Winsize{Rows: 24, Cols: 60}); err != nil {
		w.t.Fatal(err)
	}
	shown := make(chan string, 1)
	go func() {
		var b strings.Builder
		for r := bufio.NewReader(control); ; {
			c, _, err := r.ReadRune()
			if err != nil {
				shown <- strings.ReplaceAll(b.String(), "\r\n", "\n")
				return
			}
			b.WriteRune(c)
		}
	}()
	if _, err := control.WriteString(typed); err != nil {
		w.t.Fatal(err)
	}
	code := cli.Run(w.t.Context(), append([]string{"--socket", w.socket}, args...), cli.Env{In: tty, Out: tty, Err: tty, Now: w.clock.now})
	tty.Close()
	return <-shown, code
}

func TestTerminal(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	w := newWorld(t)
	w.populate()
	text, code := w.onTerminal("", "nodes", "list")
	if code != 0 || !strings.Contains(text, "\x1b[32monline\x1b[0m") {
		t.Errorf("exit code %d, no colours:\n%q", code, text)
	}
	t.Setenv("NO_COLOR", "1")
	text, _ = w.onTerminal("", "nodes", "list")
	if strings.Contains(text, "\x1b") {
		t.Errorf("colours despite NO_COLOR: %q", text)
	}
	for line := range strings.Lines(text) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 60 {
			t.Errorf("a line of %d columns on a terminal of 60: %s", n, line)
		}
	}
	text, code = w.onTerminal("n\n", "nodes", "delete", "laptop")
	if code != 1 || !strings.Contains(text, "Delete node 1 (laptop of alice)? [y/N]") || !strings.Contains(text, "nothing was deleted") {
		t.Errorf("exit code %d: %s", code, text)
	}
	if text, code = w.onTerminal("y\n", "nodes", "delete", "laptop"); code != 0 || w.state.Snapshot().NodeByName("laptop") != nil {
		t.Errorf("exit code %d: %s", code, text)
	}
	if text, code = w.onTerminal("\n", "preauthkeys", "delete", "1"); code != 1 || !strings.Contains(text, "Delete pre-auth key 1 (one-time, of tag:web)?") {
		t.Errorf("exit code %d: %s", code, text)
	}
}

// A person is told what to do with a new key; a program gets the key alone.
func TestNewKey(t *testing.T) {
	w := newWorld(t)
	w.populate()
	text, code := w.onTerminal("", "preauthkeys", "create", "--user", "alice", "--reusable")
	key, rest, _ := strings.Cut(text, "\n")
	if code != 0 || !strings.HasPrefix(key, "tskey-auth-") || !strings.Contains(rest, "any number of devices until 2030-01-01 13:00:00") ||
		!strings.Contains(rest, "sudo tailscale up --login-server URL --auth-key "+key+"\n") {
		t.Errorf("exit code %d:\n%s", code, text)
	}
	if r := w.heddle("preauthkeys", "create", "--user", "alice"); r.err != "" || strings.Count(r.out, "\n") != 1 {
		t.Errorf("%s%s", r.out, r.err)
	}
}

// However long names are, they are whole, and lines fit a terminal as far as possible.
func TestLongNames(t *testing.T) {
	t.Setenv("NO_COLOR", "1")
	w := newWorld(t)
	w.populate()
	const name = "build-server-of-the-eastern-office"
	if r := w.heddle("nodes", "rename", "gateway", name); r.code != 0 {
		t.Fatal(r.err)
	}
	text, _ := w.onTerminal("", "nodes", "list")
	if !strings.Contains(text, name) || !strings.Contains(text, "100.64.0.2") || !strings.Contains(text, "offline") {
		t.Errorf("cut:\n%s", text)
	}
	if strings.Contains(text, "EXPIRES") {
		t.Errorf("what matters least is not left out:\n%s", text)
	}
}

func TestCompletion(t *testing.T) {
	w := newWorld(t)
	w.populate()
	for _, c := range []struct {
		args string
		want string
	}{
		{"nodes show ", "gateway\talice\nlaptop\talice\nweb31m\ttag:web\n:4\n"},
		{"nodes show laptop ", ":4\n"},
		{"nodes list --user ", "alice\tAlice\nbob@example.com\n:4\n"},
		{"users delete ", "alice\tAlice\nbob@example.com\n:4\n"},
		{"preauthkeys revoke ", "1\tused, of tag:web\n:4\n"},
		{"apikeys delete ", ":4\n"},
		{"oauth-clients delete ", ":4\n"},
		{"nodes attributes set ", "gateway\talice\nlaptop\talice\nweb31m\ttag:web\n:4\n"},
		{"auth register ", "c0ffee\ttablet\n:4\n"},
		{"users list -o ", "table\njson\nyaml\n:4\n"},
		{"apikeys create --role ", "owner\nadmin\nit-admin\nnetwork-admin\nbilling-admin\nauditor\nmember\n:4\n"},
		{"users role alice ", "owner\nadmin\nit-admin\nnetwork-admin\nbilling-admin\nauditor\nmember\n:4\n"},
		{"users suspend ", "alice\tAlice\nbob@example.com\n:4\n"},
		{"settings set ", "device-approval\nuser-approval\nkey-expiry\n:4\n"},
		{"settings set key-expiry ", "never\ndefault\n180d\n:4\n"},
	} {
		args := append([]string{"__complete", "--socket", w.socket}, strings.Split(c.args, " ")...)
		got := heddle(t, "", args...).out
		lines := strings.SplitAfter(got, "\n")
		if strings.HasPrefix(c.args, "nodes") { // in no order
			slices.Sort(lines[:len(lines)-2])
			got = strings.Join(lines, "")
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.args, got, c.want)
		}
	}
	if r := heddle(t, "", "__complete", "--socket", "/nowhere", "nodes", "show", ""); r.out != ":4\n" {
		t.Errorf("without a server: %q %q", r.out, r.err)
	}
}

// Help fits 80 columns.
func TestHelpIsNarrow(t *testing.T) {
	for _, args := range [][]string{
		{}, {"nodes", "list"}, {"nodes", "expire"}, {"nodes", "approve-routes"}, {"preauthkeys", "create"},
		{"users", "create"}, {"dns", "set"}, {"auth", "register"}, {"config", "check"}, {"apikeys", "create"},
		{"users", "role"}, {"users", "suspend"}, {"users", "link"}, {"nodes", "expiry"}, {"settings", "set"}, {"auth", "list"},
		{"oauth-clients", "create"}, {"oauth-clients", "set"}, {"nodes", "attributes", "set"}, {"nodes", "backfill-ips"},
	} {
		for line := range strings.Lines(heddle(t, "", append(args, "--help")...).out) {
			if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 {
				t.Errorf("%v: %d columns: %s", args, n, line)
			}
		}
	}
}

// Whoever asks for help gets examples, and one for each command.
func TestHelp(t *testing.T) {
	var walk func(path []string)
	seen := 0
	walk = func(path []string) {
		r := heddle(t, "", append(path, "--help")...)
		if r.code != 0 || r.err != "" {
			t.Fatalf("%v: exit code %d: %s", path, r.code, r.err)
		}
		_, list, isGroup := strings.Cut(r.out, "Available Commands:\n")
		if !isGroup && !strings.Contains(r.out, "Examples:\n  ") && path[0] != "help" {
			t.Errorf("heddle %s --help has no example", strings.Join(path, " "))
		}
		seen++
		list, _, _ = strings.Cut(list, "\n\n")
		for line := range strings.Lines(list) {
			walk(append(slices.Clip(path), strings.Fields(line)[0]))
		}
	}
	walk(nil)
	if seen < 40 {
		t.Errorf("only %d commands", seen)
	}
}

// serve is what main adds.
func TestAddedCommand(t *testing.T) {
	var got string
	more := func() *cobra.Command {
		return &cobra.Command{Use: "serve", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			got = cli.ConfigPath(cmd)
			return nil
		}}
	}
	for _, c := range []struct {
		args []string
		env  string
		want string
	}{
		{[]string{"serve", "--config", "a"}, "b", "a"},
		{[]string{"--config", "a", "serve"}, "", "a"},
		{[]string{"serve"}, "b", "b"},
		{[]string{"serve"}, "", ""},
	} {
		t.Setenv("HEDDLE_CONFIG", c.env)
		if code := cli.Run(t.Context(), c.args, cli.Env{Out: io.Discard, Err: io.Discard}, more()); code != 0 || got != c.want {
			t.Errorf("%v with HEDDLE_CONFIG=%s: exit code %d, %q; want %q", c.args, c.env, code, got, c.want)
		}
	}
	if code := cli.Run(t.Context(), []string{"serve", "x"}, cli.Env{Out: io.Discard, Err: io.Discard}, more()); code != 2 {
		t.Errorf("exit code %d for an argument too many", code)
	}
}
