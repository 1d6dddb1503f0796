package control_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"heddle/control/check"
	"heddle/control/controltest"
	"heddle/control/tailnet"
	"heddle/control/tailnet/tailnettest"

	"tailscale.com/tailcfg"
)

// sshAsk does what a node does with a HoldAndDelegate URL for a connection from src as login.
func sshAsk(t *testing.T, s *controltest.Server, c *controltest.Client, url, src, login string) tailcfg.SSHAction {
	t.Helper()
	path, ok := strings.CutPrefix(url, "https://heddle.test")
	if !ok {
		t.Fatalf("URL %q is on another host than the client knows", url)
	}
	path = strings.NewReplacer("$SRC_NODE_ID", s.Node(src).ID.String(), "$DST_NODE_ID", s.Node("server").ID.String(), "$SSH_USER", login).Replace(path)
	resp, err := c.Do(t.Context(), "GET", path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var a tailcfg.SSHAction
	if resp.StatusCode != http.StatusOK {
		return tailcfg.SSHAction{Reject: true, Message: resp.Status}
	}
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestSSHCheck(t *testing.T) {
	store := new(tailnettest.Store)
	scenario(t, controltest.Config{Store: store}, func(t *testing.T, s *controltest.Server, authKey string) {
		server, laptop := s.Client("server").Join(authKey), s.Client("laptop").Join(authKey)
		owner := s.Node("laptop").Owner
		setPolicy := func(period string) {
			p, err := tailnet.PreparePolicy(s.State.Snapshot(), fmt.Sprintf(`{
				"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}],
				"ssh": [{"action": "check", "checkPeriod": %q, "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["root"]}]}`, period))
			if err != nil || p.Warnings != nil {
				t.Fatal(err, p)
			}
			s.Update(func(tx *tailnet.Tx) error { return tx.SetPolicy(p, "") })
		}
		setPolicy("1h")
		st := server.MustStream()
		must(t, "an ssh policy", st.Await(func(n *controltest.Netmap) bool { return n.SSH != nil && len(n.SSH.Rules) == 1 }))
		url := st.Netmap().SSH.Rules[0].Action.HoldAndDelegate

		// connect returns the answer, and the question that was asked first, if any.
		connect := func(decide func(c check.Connection)) tailcfg.SSHAction {
			t.Helper()
			a := sshAsk(t, s, server, url, "laptop", "root")
			if a.HoldAndDelegate == "" {
				return a
			}
			waiting := s.Control.SSHChecks()
			if len(waiting) != 1 || !strings.Contains(a.Message, "http://heddle.test/ssh/"+waiting[0].ID) {
				t.Fatalf("waiting: %+v; message %q", waiting, a.Message)
			}
			answer := make(chan tailcfg.SSHAction, 1)
			go func() { answer <- sshAsk(t, s, server, a.HoldAndDelegate, "laptop", "root") }()
			synctest.Wait()
			decide(waiting[0])
			return <-answer
		}
		never := func(c check.Connection) { t.Errorf("somebody is asked: %+v", c) }
		by := func(u tailnet.UserID, approve bool) func(check.Connection) {
			return func(c check.Connection) {
				err := s.Control.DecideSSH(t.Context(), tailnet.Actor{Kind: tailnet.ByUser, Name: "x", User: u}, c.ID, approve)
				if err != nil {
					t.Errorf("decide: %v", err)
				}
			}
		}

		if a := connect(by(owner, false)); !a.Reject {
			t.Errorf("rejected: %+v", a)
		}
		stranger := s.User("mallory")
		a := connect(func(c check.Connection) {
			err := s.Control.DecideSSH(t.Context(), tailnet.Actor{Kind: tailnet.ByUser, Name: "mallory", User: stranger}, c.ID, true)
			if tailnet.CodeOf(err) != tailnet.Denied {
				t.Errorf("somebody else approves: %v", err)
			}
			by(owner, true)(c)
		})
		if !a.Accept || !a.AllowAgentForwarding {
			t.Errorf("approved: %+v", a)
		}
		time.Sleep(59 * time.Minute)
		if a := connect(never); !a.Accept {
			t.Errorf("within the period: %+v", a)
		}
		time.Sleep(2 * time.Minute)
		if a := connect(by(owner, true)); !a.Accept {
			t.Errorf("after the period: %+v", a)
		}

		setPolicy("always")
		if a := connect(by(owner, true)); !a.Accept {
			t.Errorf("always: %+v", a)
		}
		if a := connect(func(check.Connection) { time.Sleep(check.Life + time.Second) }); !a.Reject {
			t.Errorf("nobody answers: %+v", a)
		}
		a = connect(func(c check.Connection) {
			s.Update(func(tx *tailnet.Tx) error { return tx.ExpireNode(s.Node("laptop").ID) })
			by(owner, true)(c)
		})
		if !a.Reject {
			t.Errorf("the source's login ended while it waited: %+v", a)
		}
		s.Update(func(tx *tailnet.Tx) error { return tx.SetNodeExpiry(s.Node("laptop").ID, time.Now().Add(time.Hour)) })

		for name, got := range map[string]tailcfg.SSHAction{
			"another node asks": sshAsk(t, s, laptop, url, "laptop", "root"),
			"another login":     sshAsk(t, s, server, url, "laptop", "bob"),
			"an endless login":  sshAsk(t, s, server, url, "laptop", strings.Repeat("r", 300)),
			"nobody's page":     sshAsk(t, s, server, "https://heddle.test/machine/ssh/action/x?dst=$DST_NODE_ID", "laptop", "root"),
			"not even numbers":  sshAsk(t, s, server, "https://heddle.test/machine/ssh/action?src=a&dst=b", "laptop", "root"),
		} {
			if !got.Reject || got.HoldAndDelegate != "" {
				t.Errorf("%s: %+v", name, got)
			}
		}
		actions := map[string]int{}
		for _, e := range store.Audit() {
			actions[e.Action]++
		}
		if actions["ssh.approve"] != 4 || actions["ssh.reject"] != 1 {
			t.Errorf("the audit log has %v", actions)
		}
	})
}
