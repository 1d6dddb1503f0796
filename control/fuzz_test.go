package control_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"testing"

	"heddle/control/controltest"
	"heddle/control/tailnet"

	"tailscale.com/tailcfg"
)

// fuzzBody sends bodies to a path. Whatever they hold, the answer comes and
// the server goes on: a good request succeeds right after.
func fuzzBody(f *testing.F, path string, seeds ...any) {
	s := controltest.Start(f, controltest.Config{})
	alice := s.User("alice")
	authKey := s.AuthKey(tailnet.AuthKeySpec{Owner: alice, Reusable: true})
	good := s.Client("good").Join(authKey)
	c := s.Client("fuzz")
	for _, seed := range seeds {
		raw, err := json.Marshal(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte(`{"NodeKey":"` + good.Node.Public().String() + `","Version":142}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if low := bytes.ToLower(body); bytes.Contains(low, []byte("stream")) || bytes.Contains(low, []byte("followup")) {
			return // may rightly wait for ever
		}
		res, err := c.Do(t.Context(), "POST", path, body)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode >= http.StatusInternalServerError {
			t.Errorf("status %d", res.StatusCode)
		}
		if err := good.Report(t.Context(), nil); err != nil {
			t.Fatalf("afterwards: %v", err)
		}
	})
}

func FuzzRegister(f *testing.F) {
	fuzzBody(f, "/machine/register", tailcfg.RegisterRequest{
		Version: 142, Hostinfo: &tailcfg.Hostinfo{Hostname: "x", RequestTags: []string{"tag:a"}},
		Auth: &tailcfg.RegisterResponseAuth{AuthKey: "tskey-auth-x-y"},
	})
}

func FuzzMap(f *testing.F) {
	fuzzBody(f, "/machine/map", tailcfg.MapRequest{Version: 142, OmitPeers: true, Hostinfo: &tailcfg.Hostinfo{}})
}

// FuzzSide sends bodies to all the paths that take small ones.
func FuzzSide(f *testing.F) {
	s := controltest.Start(f, controltest.Config{})
	alice := s.User("alice")
	good := s.Client("good").Join(s.AuthKey(tailnet.AuthKeySpec{Owner: alice, Reusable: true}))
	k := good.Node.Public()
	paths := []string{"/verify", "/machine/set-dns", "/machine/feature/query", "/machine/audit-log", "/machine/update-health"}
	seeds := []any{
		tailcfg.DERPAdmitClientRequest{NodePublic: k},
		tailcfg.SetDNSRequest{NodeKey: k, Name: "_acme-challenge.good.tail.test", Type: "TXT", Value: "x"},
		tailcfg.QueryFeatureRequest{NodeKey: k, Feature: "serve"},
		tailcfg.AuditLogRequest{NodeKey: k, Action: "DISCONNECT_NODE", Details: "x"},
		tailcfg.HealthChangeRequest{NodeKey: k, Subsys: "x", Error: "y"},
	}
	for i, seed := range seeds {
		raw, err := json.Marshal(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), raw)
		f.Add(uint8(i), raw[:len(raw)/2])
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		path := paths[int(which)%len(paths)]
		status := 0
		if path == "/verify" {
			status = ask(s, "POST", path, string(body)).Code
		} else {
			res, err := good.Do(t.Context(), "POST", path, body)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			status = res.StatusCode
		}
		if status >= http.StatusInternalServerError && status != http.StatusNotImplemented {
			t.Errorf("%s: status %d", path, status)
		}
		if err := good.Report(t.Context(), nil); err != nil {
			t.Fatalf("afterwards: %v", err)
		}
	})
}
