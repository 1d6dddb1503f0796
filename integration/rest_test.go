//go:build linux

package integration_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// rest is a program that manages heddle as it would manage headscale: by JSON over HTTPS, with
// nothing of heddle's.
type rest struct {
	client *http.Client
	key    string
}

// open makes a request; the caller closes the body of its answer.
func (r rest) open(t *testing.T, method, path, body string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+serverAddr.String()+"/api/v1"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// do makes a request whose answer has a status, and decodes it.
func (r rest) do(t *testing.T, method, path, body string, status int, answer any) {
	t.Helper()
	resp := r.open(t, method, path, body)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != status {
		t.Fatalf("%s %s: %s, want %d, %v: %s", method, path, resp.Status, status, err, text)
	}
	if err := json.Unmarshal(text, answer); err != nil {
		t.Fatalf("%s %s: %v: %s", method, path, err, text)
	}
}

// TestREST manages a network with a real device over the public listener.
func TestREST(t *testing.T) {
	m := newMesh(t)
	var made struct{ APIKey string }
	if err := json.Unmarshal([]byte(m.server.must(t, "apikeys", "create", "-o", "json")), &made); err != nil || made.APIKey == "" {
		t.Fatal(made, err)
	}
	m.server.secrets = append(m.server.secrets, made.APIKey)
	r := rest{m.server.client, made.APIKey}

	var user struct{ User struct{ ID, Name string } }
	r.do(t, "POST", "/user", `{"name": "carol"}`, 200, &user)
	var key struct{ PreAuthKey struct{ ID, Key string } }
	r.do(t, "POST", "/preauthkey", `{"user": "`+user.User.ID+`", "reusable": true, "expiration": "`+time.Now().Add(time.Hour).Format(time.RFC3339)+`"}`, 200, &key)
	m.server.secrets = append(m.server.secrets, key.PreAuthKey.Key)

	// Who watches sees the device come.
	news := r.open(t, "GET", "/watch?kinds=WATCH_KIND_NODE", "")
	defer news.Body.Close()
	lines := bufio.NewScanner(news.Body)
	if !lines.Scan() || !strings.Contains(lines.Text(), `true`) {
		t.Fatalf("%s: %q, %v", news.Status, lines.Text(), lines.Err())
	}
	hanna := m.client(t, m.inet.Host("hanna", 21))
	hanna.Up(t, key.PreAuthKey.Key)
	if !lines.Scan() || !strings.Contains(lines.Text(), `"hanna"`) {
		t.Errorf("no news of hanna: %q, %v", lines.Text(), lines.Err())
	}

	var list struct {
		Nodes []struct {
			ID, GivenName string
			Online        bool
			IPAddresses   []string `json:"ipAddresses"`
			User          struct{ Name string }
		}
	}
	r.do(t, "GET", "/node?user=carol", "", 200, &list)
	if len(list.Nodes) != 1 || !list.Nodes[0].Online || list.Nodes[0].User.Name != "carol" || list.Nodes[0].IPAddresses[0] != hanna.IPv4(t).String() {
		t.Fatalf("%+v", list)
	}
	id := list.Nodes[0].ID
	r.do(t, "POST", "/node/"+id+"/rename/desk", "", 200, &struct{}{})
	var node struct{ Node struct{ GivenName string } }
	if r.do(t, "GET", "/node/"+id, "", 200, &node); node.Node.GivenName != "desk" {
		t.Errorf("%+v", node)
	}
	var policy struct{ Policy, UpdatedAt string }
	if r.do(t, "PUT", "/policy", `{"policy": "{\"grants\": []}"}`, 200, &policy); policy.Policy == "" || policy.UpdatedAt == "" {
		t.Errorf("%+v", policy)
	}
	r.do(t, "POST", "/node/"+id+"/expire", "", 200, &struct{}{})
	hanna.AwaitState(t, 10*time.Second, "NeedsLogin")
	r.do(t, "DELETE", "/node/"+id, "", 200, &struct{}{})
	r.do(t, "DELETE", "/user/"+user.User.ID, "", 200, &struct{}{})

	var problem struct {
		Status int
		Code   string
	}
	if r.do(t, "GET", "/node/"+id, "", 404, &problem); problem.Code != "not_found" || problem.Status != 404 {
		t.Errorf("%+v", problem)
	}
	r.do(t, "GET", "/nothing/here", "", 404, &problem)
	if r.do(t, "PUT", "/policy", `{"policy": "{"}`, 400, &problem); problem.Code != "invalid" {
		t.Errorf("%+v", problem)
	}
	if (rest{client: r.client}).do(t, "GET", "/node", "", 401, &problem); problem.Code != "unauthenticated" {
		t.Errorf("%+v", problem)
	}
	docs := rest{client: r.client}.open(t, "GET", "/docs", "")
	docs.Body.Close()
	if docs.StatusCode != 200 || !strings.HasPrefix(docs.Header.Get("Content-Security-Policy"), "default-src 'none'; style-src 'self'") {
		t.Errorf("%s %v", docs.Status, docs.Header)
	}
}
