//go:build linux

package integration_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// post calls the API in the shape of the hosted service's, over the public listener.
func (s *server) post(t *testing.T, secret, path string, body, into any) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", "https://"+serverAddr.String()+"/api/v2/"+path, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+secret)
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer bytes.Buffer
	answer.ReadFrom(resp.Body)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("POST %s: %s: %s", path, resp.Status, &answer)
	}
	if err := json.Unmarshal(answer.Bytes(), into); err != nil {
		t.Fatal(err)
	}
}

// adminKey makes an API key.
func (s *server) adminKey(t *testing.T) string {
	t.Helper()
	secret := strings.TrimSpace(s.must(t, "apikeys", "create"))
	s.secrets = append(s.secrets, secret)
	return secret
}

// testOAuthClient lets a machine join with the secret of an OAuth client, as containers and CI jobs do.
func (l *logins) testOAuthClient(t *testing.T) {
	var client struct{ Key, ID string }
	l.server.post(t, l.server.adminKey(t), "tailnet/-/keys", map[string]any{
		"keyType": "client", "scopes": []string{"auth_keys"}, "tags": []string{"tag:ci"},
	}, &client)
	l.server.secrets = append(l.server.secrets, client.Key)
	l.gus.Up(t, client.Key+"?ephemeral=false&preauthorized=true&baseURL="+serverURL, "--advertise-tags=tag:ci")
	if n := l.server.nodes(t)["gus"]; len(n.Tags) != 1 || n.Tags[0] != "tag:ci" {
		t.Errorf("gus is %+v", n)
	}
	l.greet(t)
}

// testWorkloadIdentity lets a machine join by an ID token of an issuer that the tailnet trusts. The issuer
// is the server itself, which vouches for anna.
func (l *logins) testWorkloadIdentity(t *testing.T) {
	l.server.host.MustRun(t, "sh", "-c", fmt.Sprintf("echo %s %s >>/etc/hosts", serverAddr, serverName)) // it asks itself for the keys
	var trust struct{ ID string }
	l.server.post(t, l.server.adminKey(t), "tailnet/-/keys", map[string]any{
		"keyType": "federated", "scopes": []string{"auth_keys"}, "tags": []string{"tag:ci"},
		"issuer": serverURL, "subject": "anna.*", "audience": "join",
	}, &trust)
	token := func(audience string) string {
		out := strings.TrimSpace(l.anna.MustCLI(t, "id-token", audience))
		l.server.secrets = append(l.server.secrets, out)
		return out
	}
	up := func(token string) error {
		args := append(l.gus.UpArgs(""), "--client-id="+trust.ID+"?ephemeral=false&preauthorized=true", "--id-token="+token, "--advertise-tags=tag:ci")
		out, err := l.gus.CLI(t.Context(), args...)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := up(token("something else")); err == nil {
		t.Error("a token for somebody else was taken")
	}
	if err := up(token("join")); err != nil {
		t.Fatal(err)
	}
	if n := l.server.nodes(t)["gus"]; len(n.Tags) != 1 || n.Tags[0] != "tag:ci" {
		t.Errorf("gus is %+v", n)
	}
	l.greet(t)
}
