package serve

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"heddle/cmd/heddle/config"
	"heddle/control/tailnet"
	"heddle/control/tailnet/tailnettest"
)

const (
	goodPolicy = `{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:22"]}]}`
	badPolicy  = "{\n\"acls\": [{\"action\": \"deny\"}],\n\"x\": 1}"
)

// withPolicyFile runs a test on a server that does nothing but watch a file,
// whose first content is given, or which is not there if that is empty.
func withPolicyFile(t *testing.T, content string, fn func(s *server, write func(string), log *bytes.Buffer)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.hujson")
	synctest.Test(t, func(t *testing.T) {
		write := func(content string) {
			// As editors do: another file takes the place of the old one.
			if err := os.WriteFile(path+"~", []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path+"~", path); err != nil {
				t.Fatal(err)
			}
			time.Sleep(watchEvery)
			synctest.Wait()
		}
		if content != "" {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		state, err := tailnet.Open(t.Context(), new(tailnettest.Store), tailnet.Options{})
		if err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		s := &server{
			Options: Options{Log: slog.New(slog.NewTextHandler(&log, nil))},
			inForce: newInForce(&config.Config{Policy: config.Policy{Path: path}}), state: state,
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 2)
		go func() { done <- state.Run(ctx) }()
		go func() {
			done <- s.watch(ctx, policyPath, s.setPolicy)
		}()
		synctest.Wait()
		fn(s, write, &log)
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

// refused checks what is told of the file; "" means that all is well.
func refused(t *testing.T, s *server, want string) {
	t.Helper()
	health := s.policyHealth(s.state.Snapshot().Policy())
	_, api := s.policyFile().Refused()
	if want == "" {
		if health != nil || api != nil {
			t.Errorf("health says %v, the API %v", health, api)
		}
		return
	}
	if health == nil || api == nil || !strings.Contains(health.Error(), want) || !strings.Contains(api.Error(), want) || !strings.Contains(health.Error(), policyPath(s.config())) {
		t.Errorf("health says %v, the API %v; want %q", health, api, want)
	}
}

func TestPolicyFile(t *testing.T) {
	withPolicyFile(t, badPolicy, func(s *server, write func(string), log *bytes.Buffer) {
		inForce := func(want string) {
			t.Helper()
			if got := s.state.Snapshot().Policy().Source; got != want {
				t.Errorf("in force is %q, want %q", got, want)
			}
		}
		inForce("")
		refused(t, s, "line 2")
		if text := s.policyHealth(s.state.Snapshot().Policy()).Error(); !strings.Contains(text, "1 more") || strings.Contains(text, "\n") {
			t.Errorf("health says %q", text)
		}

		write(goodPolicy)
		inForce(goodPolicy)
		refused(t, s, "")
		if p := s.state.Snapshot().Policy(); p.By != "system policy.path" {
			t.Errorf("set by %q", p.By)
		}

		write(badPolicy)
		inForce(goodPolicy)
		refused(t, s, "line 2")
		if data, _ := s.policyFile().Refused(); string(data) != badPolicy {
			t.Errorf("the refused text is %q", data)
		}
		if n := strings.Count(log.String(), "level=ERROR"); n != 2 || !strings.Contains(log.String(), "line 2") {
			t.Errorf("%d errors in the log:\n%s", n, log)
		}

		write(goodPolicy) // taken back
		refused(t, s, "")
		revision := s.state.Snapshot().Policy().Revision
		write(goodPolicy)
		if got := s.state.Snapshot().Policy().Revision; got != revision {
			t.Error("writing the same again made a new entry of the history")
		}

		if err := os.Remove(policyPath(s.config())); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * watchEvery)
		synctest.Wait()
		inForce(goodPolicy)
		refused(t, s, "cannot be read")
		if n := strings.Count(log.String(), "cannot be read"); n != 1 {
			t.Errorf("%d lines of the log tell of it:\n%s", n, log)
		}
		write(goodPolicy)
		refused(t, s, "")
	})
}

func TestPolicyFileThatIsNotThere(t *testing.T) {
	withPolicyFile(t, "", func(s *server, write func(string), log *bytes.Buffer) {
		refused(t, s, "cannot be read")
		write(strings.Repeat(" ", maxFile+1))
		refused(t, s, "the most is")
		write(goodPolicy)
		refused(t, s, "")
		if s.state.Snapshot().Policy().Source != goodPolicy {
			t.Error("the file is not in force")
		}
	})
}
