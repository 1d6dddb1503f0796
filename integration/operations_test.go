//go:build linux

package integration_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"heddle/integration/lab"
)

// auditEntry is what the tests read of one element of `heddle audit list -o json`.
type auditEntry struct {
	ID      string `json:"id"`
	Action  string `json:"action"`
	Target  string `json:"target"`
	Reason  string `json:"reason"`
	Actor   struct{ Kind, Name, From string }
	Changes []struct{ Field, From, To string }
}

func (s *server) audit(t *testing.T, args ...string) (list []auditEntry) {
	t.Helper()
	out := s.must(t, append([]string{"audit", "list", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("audit list: %v: %s", err, out)
	}
	return list
}

// TestOperations looks at a server with a real client as those do who run it.
func TestOperations(t *testing.T) {
	m := newMesh(t)
	anna := m.client(t, m.inet.Host("anna", 21))
	m.join(t, anna)
	s := m.server
	s.awaitNode(t, 10*time.Second, "anna", "it is online", func(n node) bool { return n.Online })

	t.Run("audit", func(t *testing.T) {
		tail, err := s.host.Start("tail", nil, programs.heddle, "--config", s.config, "audit", "tail", "--action", "user", "-o", "json", "--after", "1")
		if err != nil {
			t.Fatal(err)
		}
		s.must(t, "users", "create", "zoe", "--reason", "Zoë asked for it")
		list := s.audit(t, "--action", "user.create", "--target", "zoe", "--since", "1h")
		if len(list) != 1 || list[0].Reason != "Zoë asked for it" || list[0].Actor.Kind != "local-cli" || list[0].Changes[0].To != "zoe" {
			t.Errorf("%+v", list)
		}
		lab.Await(t, 10*time.Second, "audit tail tells of it", func() error {
			log, err := os.ReadFile(tail.Log)
			if err == nil && !strings.Contains(string(log), "Zoë asked for it") {
				err = errors.New(string(log))
			}
			return err
		})
		if err := tail.Stop(5 * time.Second); err != nil {
			t.Errorf("audit tail: %v", err)
		}
		joined := s.audit(t, "--action", "node.create", "--limit", "0")
		if len(joined) != 1 || joined[0].Actor.Kind != "node" || joined[0].Actor.From == "" || joined[0].Target != "node 1 (anna)" {
			t.Errorf("%+v", joined)
		}
	})

	t.Run("metrics", func(t *testing.T) {
		resp, err := s.host.HTTP().Get("http://127.0.0.1:9090/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		for _, want := range []string{
			"\nheddle_map_sessions 1\n", `heddle_nodes{state="online"} 1`, `heddle_logins_total{result="auth_key"} 1`,
			`heddle_map_responses_total{kind="full"} `, "heddle_derp_connections ", `heddle_api_calls_total{code="OK"}`, "\ngo_goroutines ", "\nprocess_open_fds ",
		} {
			if !strings.Contains(string(text), want) {
				t.Errorf("no %q in\n%s", want, text)
			}
		}
	})

	t.Run("netmap", func(t *testing.T) {
		var got struct {
			Node  struct{ Name string }
			Peers []any
		}
		if out := s.must(t, "debug", "netmap", "anna"); json.Unmarshal([]byte(out), &got) != nil || got.Node.Name != "anna."+baseDomain+"." || len(got.Peers) != 0 {
			t.Errorf("%s", out)
		}
		if out := s.must(t, "debug", "netmap", "anna", "--diff"); out != "" {
			t.Errorf("a client that was sent everything lacks %s", out)
		}
	})

	t.Run("log level", func(t *testing.T) {
		if out := s.must(t, "debug", "log-level"); out != "debug" {
			t.Errorf("%q, configured is debug", out)
		}
		s.must(t, "debug", "log-level", "info", "--reason", "too loud")
		if out := s.must(t, "debug", "log-level"); out != "info" {
			t.Errorf("%q after it was set to info", out)
		}
		if list := s.audit(t, "--action", "log.level"); len(list) != 1 || list[0].Reason != "too loud" {
			t.Errorf("%+v", list)
		}
		s.must(t, "debug", "log-level", "debug")
	})

	t.Run("health", func(t *testing.T) {
		out := s.must(t, "health")
		for _, part := range []string{"database", "policy", "listeners", "certificate", "derp", "clock"} {
			if !strings.Contains(out, part) {
				t.Errorf("no %s in\n%s", part, out)
			}
		}
	})

	t.Run("webhooks", func(t *testing.T) {
		secret := s.must(t, "webhooks", "create", "https://"+serverAddr.String()+"/no-receiver", "--events", "userCreated")
		s.secrets = append(s.secrets, secret)
		var list []struct{ ID string }
		if err := json.Unmarshal([]byte(s.must(t, "webhooks", "list", "-o", "json")), &list); err != nil || len(list) != 1 {
			t.Fatalf("%v, %v", list, err)
		}
		_, exit, err := s.cli(t.Context(), "webhooks", "test", list[0].ID)
		if exit != 1 || err == nil || !strings.Contains(err.Error(), "it answered 404") && !strings.Contains(err.Error(), "it answered 405") {
			t.Errorf("test: exit code %d, %v", exit, err)
		}
		s.must(t, "webhooks", "delete", list[0].ID, "--yes")
	})
}
