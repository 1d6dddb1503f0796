package login_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"heddle/control/check"
	"heddle/control/controltest"
	"heddle/control/tailnet"

	"tailscale.com/tailcfg"
)

// shell is a tailnet in which Anna has to confirm SSH connections from her laptop to her server.
type shell struct {
	*world
	server *controltest.Client
	anna   *browser
}

func inShell(t *testing.T, test func(*testing.T, *shell)) {
	t.Helper()
	inWorld(t, nil, func(t *testing.T, w *world) {
		s := &shell{world: w, anna: w.browser()}
		w.add(s.anna, must2(w.device("laptop")), "anna")
		server, path := w.device("server")
		s.server = server
		w.add(s.anna, path, "anna")
		p := must(tailnet.PreparePolicy(w.State.Snapshot(), `{
			"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}],
			"ssh": [{"action": "check", "checkPeriod": "always", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["root"]}]}`))
		w.Update(func(tx *tailnet.Tx) error { return tx.SetPolicy(p, "") })
		test(t, s)
	})
}

// action asks what the server is to do, as it does itself.
func (s *shell) action(path string) tailcfg.SSHAction {
	s.t.Helper()
	resp, err := s.server.Do(s.t.Context(), "GET", path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var a tailcfg.SSHAction
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		s.t.Fatal(resp.Status, err)
	}
	return a
}

// connect begins a connection, and returns the path of its page and what the server is told in the end.
func (s *shell) connect() (string, <-chan tailcfg.SSHAction) {
	s.t.Helper()
	to := s.Node("server").ID.String()
	a := s.action("/machine/ssh/action?src=" + s.Node("laptop").ID.String() + "&dst=" + to + "&login=root")
	waiting := s.Control.SSHChecks()
	if a.HoldAndDelegate == "" || len(waiting) == 0 {
		s.t.Fatalf("nobody is asked: %+v", a)
	}
	path := "/ssh/" + waiting[len(waiting)-1].ID
	if !strings.Contains(a.Message, server+path) {
		s.t.Fatalf("the person is told %q", a.Message)
	}
	end := make(chan tailcfg.SSHAction, 1)
	wait := must(url.Parse(a.HoldAndDelegate)).RequestURI()
	go func() { end <- s.action(wait) }()
	synctest.Wait()
	return path, end
}

func TestConnection(t *testing.T) {
	inShell(t, func(t *testing.T, s *shell) {
		for _, tt := range []struct {
			decision, title string
			accept          bool
		}{
			{"approve", "Connection confirmed", true},
			{"reject", "Connection refused", false},
			{"", "Connection refused", false},
		} {
			path, end := s.connect()
			s.anna.get(path).says(t, 200, "Confirm an SSH connection", "laptop", "server", "root", "Log in with Example", "heddle auth approve "+path[len("/ssh/"):])
			v := s.anna.get(path + "/with/example")
			v.says(t, 200, "You are logged in as <strong>Anna", "Open the connection", "Refuse it")
			asked := s.idp.requests()
			if last := asked[len(asked)-1]; last.Get("prompt") != "login" || last.Get("max_age") != "0" {
				t.Errorf("the provider was asked %v", last)
			}
			form := v.consent()
			form.Set("decision", tt.decision)
			s.anna.post(path, form).says(t, 200, tt.title)
			if a := <-end; a.Accept != tt.accept {
				t.Errorf("%q: %+v", tt.decision, a)
			}
			s.anna.get(path).says(t, 200, tt.title)
			form.Set("decision", "approve")
			s.anna.post(path, form).says(t, 200, tt.title) // too late to think better of it
			s.anna.get(path+"/with/example").says(t, 404, "This link is not valid")
		}
	})
}

// TestForgedConfirmation: a connection opens only for the owner of its source, who has authenticated for it.
func TestForgedConfirmation(t *testing.T) {
	inShell(t, func(t *testing.T, s *shell) {
		path, end := s.connect()
		stale := s.anna.get(must2(s.device("third"))).consent()
		other, otherEnd := s.connect()
		s.idp.is("anna")
		otherForm := s.anna.get(other + "/with/example").consent()
		s.anna.get(path).says(t, 200, "Log in with Example") // authenticated for another connection
		ben := s.browser()
		s.idp.is("ben")
		ben.get(path+"/with/example").says(t, 403, "Only the owner of the device that connects can confirm", `href="`+path+`?anew"`)
		s.idp.is("anna")
		twin := s.browser()
		form := twin.get(path + "/with/example").consent()
		for name, try := range map[string]func(url.Values) view{
			"no session":             func(f url.Values) view { return s.browser().post(path, f) },
			"another site":           func(f url.Values) view { return twin.post(path, f, "Origin", "https://evil.test") },
			"no consent":             func(url.Values) view { return twin.post(path, url.Values{"decision": {"approve"}}) },
			"of another browser":     func(f url.Values) view { return s.anna.post(path, f) },
			"of another connection":  func(url.Values) view { otherForm.Set("decision", "approve"); return s.anna.post(path, otherForm) },
			"of a device":            func(url.Values) view { stale.Set("decision", "approve"); return s.anna.post(path, stale) },
			"somebody else":          func(f url.Values) view { return ben.post(path, f) },
			"somebody else, no form": func(url.Values) view { return ben.post(path, url.Values{"decision": {"approve"}}) },
		} {
			f := url.Values{"consent": form["consent"], "decision": {"approve"}}
			if v := try(f); v.Status != http.StatusForbidden {
				t.Errorf("%s: %d", name, v.Status)
			}
			if c, _ := s.Control.SSHCheck(path[len("/ssh/"):]); c.State != check.Waiting {
				t.Fatalf("%s: the connection is %s", name, c.State)
			}
		}
		form.Set("decision", "approve")
		twin.post(path, form).says(t, 200, "Connection confirmed")
		if a := <-end; !a.Accept {
			t.Errorf("%+v", a)
		}
		otherForm.Set("decision", "reject")
		s.anna.post(other, otherForm).says(t, 200, "Connection refused")
		<-otherEnd
	})
}

func TestConnectionGivenUp(t *testing.T) {
	inShell(t, func(t *testing.T, s *shell) {
		path, end := s.connect()
		form := s.anna.get(path + "/with/example").consent()
		form.Set("decision", "approve")
		time.Sleep(check.Life)
		if a := <-end; a.Accept {
			t.Errorf("%+v", a)
		}
		s.anna.get(path).says(t, 404, "tailscale ssh")
		s.anna.post(path, form).says(t, 404, "tailscale ssh")
	})
}
