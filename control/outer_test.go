package control_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"heddle/control"
	"heddle/control/controltest"
	"heddle/control/noise"
	"heddle/control/pending"
	"heddle/control/tailnet"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// ask sends a request to the outer handler, as from 203.0.113.5.
func ask(s *controltest.Server, method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://heddle.test"+path, strings.NewReader(body))
	r.RemoteAddr = "203.0.113.5:1234"
	w := httptest.NewRecorder()
	s.Handler.ServeHTTP(w, r)
	return w
}

func TestKey(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, _ string) {
		var got tailcfg.OverTLSPublicKeyResponse
		w := ask(s, "GET", "/key?v=142", "")
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if got.PublicKey != s.Key || got.LegacyPublicKey.IsZero() {
			t.Errorf("%+v; a zero legacy key makes clients ask again at each login", got)
		}
	})
}

func TestVerify(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, authKey string) {
		known, expired := s.Client("known").Join(authKey), s.Client("expired").Join(authKey)
		id := s.Node("expired").ID
		s.Update(func(tx *tailnet.Tx) error { return tx.ExpireNode(id) })
		tests := []struct {
			name string
			key  key.NodePublic
			want bool
		}{
			{"known", known.Node.Public(), true},
			{"expired", expired.Node.Public(), false},
			{"unknown", key.NewNode().Public(), false},
			{"zero", key.NodePublic{}, false},
		}
		for _, tt := range tests {
			body, _ := json.Marshal(tailcfg.DERPAdmitClientRequest{NodePublic: tt.key})
			var got tailcfg.DERPAdmitClientResponse
			w := ask(s, "POST", "/verify", string(body))
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 || got.Allow != tt.want {
				t.Errorf("%s: %d %s, want %v", tt.name, w.Code, w.Body, tt.want)
			}
		}
		for _, bad := range []string{"", "hello", `{"NodePublic":7}`, `{"x":"` + strings.Repeat("x", 5000) + `"}`} {
			if w := ask(s, "POST", "/verify", bad); w.Code != http.StatusBadRequest {
				t.Errorf("%.20q: %d", bad, w.Code)
			}
		}
	})
}

func TestHealth(t *testing.T) {
	st := &stuckStore{}
	scenario(t, controltest.Config{Store: st}, func(t *testing.T, s *controltest.Server, _ string) {
		health := func(when string, want int) {
			t.Helper()
			began := time.Now()
			w := ask(s, "GET", "/health", "")
			word := map[int]string{200: `"pass"`, 503: `"fail"`}[want]
			if w.Code != want || !strings.Contains(w.Body.String(), word) || time.Since(began) > 0 {
				t.Errorf("%s: %d %s after %v, want %d at once", when, w.Code, w.Body, time.Since(began), want)
			}
		}
		change := func() error {
			_, err := s.State.Update(t.Context(), tailnet.Actor{Kind: tailnet.LocalCLI}, func(tx *tailnet.Tx) error {
				_, err := tx.CreateUser(tailnet.User{Name: "bob"})
				return err
			})
			return err
		}
		health("all is well", 200)
		st.FailWith(errors.New("disk full"))
		if change() == nil {
			t.Error("the store did not fail")
		}
		health("commits fail", 503)
		st.FailWith(nil)
		time.Sleep(time.Minute)
		health("the disk has room again", 200)

		release := st.hang()
		done := make(chan error)
		go func() { done <- change() }()
		synctest.Wait()
		health("a commit is under way", 200)
		time.Sleep(20 * time.Second)
		health("a commit hangs", 503)
		release()
		if err := <-done; err != nil {
			t.Error(err)
		}
		health("it hangs no more", 200)
		s.Stop()
		health("stopped", 503)
	})
}

func TestHomePage(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, _ string) {
		w := ask(s, "GET", "/", "")
		page := w.Body.String()
		if w.Code != 200 || !strings.Contains(page, "heddle runs here") || strings.Contains(page, "http") || strings.Contains(page, "<script") {
			t.Errorf("status %d:\n%s", w.Code, page)
		}
		if csp := w.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") {
			t.Errorf("Content-Security-Policy: %q", csp)
		}
		if w := ask(s, "GET", "/nothing", ""); w.Code != 404 {
			t.Errorf("another path: status %d", w.Code)
		}
	})
}

func TestPage(t *testing.T) {
	scenario(t, controltest.Config{}, func(t *testing.T, s *controltest.Server, _ string) {
		alice, _ := s.State.Snapshot().ParseUserRef("alice")
		c := s.Client("<script>alert(1)</script>").From("198.51.100.77")
		resp, err := c.Register(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		path := strings.TrimPrefix(resp.AuthURL, "http://heddle.test")
		id := path[strings.LastIndex(path, "/")+1:]
		w := ask(s, "GET", path, "")
		page := w.Body.String()
		for _, want := range []string{
			"heddle auth register --user USER " + id, "Linux", "198.51.100.77",
			c.Machine.Public().ShortString(), "prefers-color-scheme: dark", `lang="en"`, `role="status"`,
		} {
			if !strings.Contains(html.UnescapeString(page), want) {
				t.Errorf("page lacks %q", want)
			}
		}
		for _, leak := range []string{"<script>alert", "alice", c.Node.Public().String(), c.Machine.Public().String(), "http://", "https://"} {
			if strings.Contains(page, leak) {
				t.Errorf("page holds %q", leak)
			}
		}
		csp := w.Header().Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "form-action 'none'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("policy %q lacks %q", csp, want)
			}
		}
		if strings.Contains(csp, "unsafe") || w.Header().Get("Referrer-Policy") != "same-origin" || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("headers %v", w.Header())
		}
		state := func(want string) {
			t.Helper()
			if w := ask(s, "GET", path+"/status", ""); !strings.Contains(w.Body.String(), `"`+want+`"`) {
				t.Errorf("status %s, want %s", w.Body, want)
			}
		}
		state("waiting")
		if _, err := s.Control.CompleteLogin(t.Context(), tailnet.Actor{Kind: tailnet.LocalCLI}, id, alice.ID, tailnet.ByCLI); err != nil {
			t.Fatal(err)
		}
		state("done")
		if w := ask(s, "GET", path, ""); w.Code != 200 || !strings.Contains(w.Body.String(), "has joined") {
			t.Errorf("done: %d", w.Code)
		}
		if w := ask(s, "GET", "/register/nonsense", ""); w.Code != 404 || !strings.Contains(w.Body.String(), "tailscale up") {
			t.Errorf("unknown: %d", w.Code)
		}
	})
}

func TestPageIsRateLimited(t *testing.T) {
	scenario(t, controltest.Config{Limits: control.Limits{PageRate: 20}}, func(t *testing.T, s *controltest.Server, _ string) {
		codes := map[int]int{}
		for i := range 50 {
			codes[ask(s, "GET", fmt.Sprintf("/register/guess%d", i), "").Code]++
		}
		if codes[404] != 20 || codes[429] != 30 {
			t.Errorf("%v", codes)
		}
		time.Sleep(time.Minute)
		if got := ask(s, "GET", "/register/x", "").Code; got != 404 {
			t.Errorf("a minute later: %d", got)
		}
	})
}

// TestPageLimitGroupsAddresses: one site has as many IPv6 addresses as it likes.
func TestPageLimitGroupsAddresses(t *testing.T) {
	scenario(t, controltest.Config{Limits: control.Limits{PageRate: 20}}, func(t *testing.T, s *controltest.Server, _ string) {
		get := func(from string) int {
			r := httptest.NewRequest("GET", "http://heddle.test/register/x", nil)
			r.RemoteAddr = from
			w := httptest.NewRecorder()
			s.Handler.ServeHTTP(w, r)
			return w.Code
		}
		codes := map[int]int{}
		for i := range 50 {
			codes[get(fmt.Sprintf("[2001:db8::%x]:1", i))]++
		}
		if codes[404] != 20 || codes[429] != 30 {
			t.Errorf("%v", codes)
		}
		for i := range 20000 { // more than are remembered
			get(fmt.Sprintf("[2001:db8:%x::1]:1", i+1))
		}
		if got := get("198.51.100.77:5"); got != 404 {
			t.Errorf("a person elsewhere: %d", got)
		}
	})
}

// TestFloodOfLogins: strangers who never finish shut nobody out.
func TestFloodOfLogins(t *testing.T) {
	limits := control.Limits{Pending: pending.Limits{Total: 50}, Noise: noise.Limits{Strangers: 60, StrangersPerAddr: 30}}
	scenario(t, controltest.Config{Limits: limits}, func(t *testing.T, s *controltest.Server, authKey string) {
		alice, _ := s.State.Snapshot().ParseUserRef("alice")
		honest := s.Client("honest").From("198.51.100.1")
		resp, err := honest.Register(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan *tailcfg.RegisterResponse, 1)
		go func() {
			r, err := honest.Register(t.Context(), func(r *tailcfg.RegisterRequest) { r.Followup = resp.AuthURL })
			if err != nil {
				t.Error(err)
			}
			done <- r
		}()
		time.Sleep(time.Second)
		for i := range 200 {
			c := s.Client(fmt.Sprintf("flood%d", i)).From("203.0.113.66")
			if _, err := c.Register(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		}
		if got := s.Control.Stats().Pending; got != 50 {
			t.Errorf("%d pending", got)
		}
		id := resp.AuthURL[strings.LastIndex(resp.AuthURL, "/")+1:]
		if _, err := s.Control.CompleteLogin(t.Context(), tailnet.Actor{Kind: tailnet.LocalCLI}, id, alice.ID, tailnet.ByCLI); err != nil {
			t.Fatal(err)
		}
		if r := <-done; r == nil || !r.MachineAuthorized {
			t.Errorf("%+v", r)
		}
	})
}
