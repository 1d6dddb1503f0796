package api_test

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"heddle/api/rest"
	"heddle/control/tailnet"
	"heddle/policy"
	v1 "heddle/proto/heddle/v1"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Whatever comes as a request, the answer is JSON, and no fault of the server's.
func FuzzREST(f *testing.F) {
	for _, op := range operations {
		f.Add(op.verb, op.path, op.body)
	}
	f.Add("PUT", "/policy", `{"policy": "{// comment\n\"grants\": [],}"}`)
	f.Add("POST", "/user", `{"name": 12e400}`)
	f.Add("POST", "/user/%00/rename/%ff", `[[[[[[[[[[`)
	f.Add("GET", "/user?id=99999999999999999999&pageToken=%%%", "")
	w := full(f)
	h, key := w.rest(), w.key(tailnet.APIKeySpec{Role: policy.Owner, Expires: w.clock.now().Add(9 * 365 * 24 * time.Hour)})
	f.Fuzz(func(t *testing.T, method, path, body string) {
		w.t = t
		w.clock.pass(10 * time.Millisecond) // or it would be refused for its pace
		r := httptest.NewRequest("GET", "/", strings.NewReader(body))
		r.Method, r.TLS, r.RemoteAddr = method, &tls.ConnectionState{}, elsewhere
		r.Header.Set("Authorization", "Bearer "+key)
		r.URL.Path, r.URL.RawQuery, _ = strings.Cut("/api/v1"+path, "?")
		if strings.HasPrefix(r.URL.Path, "/api/v1/docs") || r.URL.Path == "/api/v1/watch" || r.URL.Path == "/api/v1/audit/tail" {
			t.Skip("pages and streams")
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		if rec.Code == http.StatusInternalServerError || !json.Valid(rec.Body.Bytes()) && method != http.MethodHead {
			t.Errorf("%q %q %q: status %d: %s", method, path, body, rec.Code, rec.Body)
		}
		if ask(h, "GET", "/api/v1/apikey", key, "").Status == http.StatusUnauthorized { // it had itself deleted
			key = w.key(tailnet.APIKeySpec{Role: policy.Owner, Expires: w.clock.now().Add(9 * 365 * 24 * time.Hour)})
		}
	})
}

// A request is read as protojson reads it, or with numbers for names; what comes out can be written.
func FuzzUnmarshal(f *testing.F) {
	f.Add(`{"user": 1, "reusable": true, "aclTags": ["tag:a"], "expiration": "2030-01-01T00:00:00Z"}`)
	f.Add(`{"user": 1e3, "user": "x"}`)
	f.Add(`{"user": -0.0}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, text string) {
		var got, strict v1.CreatePreAuthKeyRequest
		err := rest.Unmarshal([]byte(text), &got)
		strictErr := protojson.Unmarshal([]byte(text), &strict)
		if strictErr == nil && (err != nil || !proto.Equal(&got, &strict)) {
			t.Errorf("%v, %v; protojson has %v", err, &got, &strict)
		}
		if err != nil {
			return
		}
		var object map[string]any
		if json.Unmarshal([]byte(text), &object) != nil && strings.TrimSpace(text) != "" {
			t.Errorf("%q is no JSON object", text)
		}
		if _, err := protojson.Marshal(&got); err != nil {
			t.Error(err)
		}
	})
}

// Whatever policy somebody sends, the answer is that it is good or what is wrong with it;
// and a question about one that is good has an answer.
func FuzzPolicy(f *testing.F) {
	f.Add(`{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]}`)
	f.Add("{// x\n\"acls\": [{\"action\": \"accept\", \"src\": [\"alice@\"], \"dst\": [\"tag:a:22\"]}], \"tagOwners\": {\"tag:a\": []},}")
	f.Add("\x00{")
	w := full(f)
	h, key := w.rest(), w.key(tailnet.APIKeySpec{Role: policy.Auditor, Expires: w.clock.now().Add(9 * 365 * 24 * time.Hour)})
	f.Fuzz(func(t *testing.T, text string) {
		if text == "" {
			t.Skip("that stands for the policy in force")
		}
		w.clock.pass(time.Second)
		body, err := json.Marshal(map[string]string{"policy": text})
		if err != nil {
			t.Fatal(err)
		}
		check := ask(h, "POST", "/api/v1/policy/check", key, string(body))
		if check.Status != http.StatusOK && check.Status != http.StatusBadRequest {
			t.Errorf("%q: status %d: %s", text, check.Status, check.Body)
		}
		body, _ = json.Marshal(map[string]string{"policy": text, "source": "laptop", "destination": "router"})
		if explain := ask(h, "POST", "/api/v1/policy/explain", key, string(body)); explain.Status != check.Status {
			t.Errorf("%q: the check has status %d, the question %d: %s", text, check.Status, explain.Status, explain.Body)
		}
	})
}
