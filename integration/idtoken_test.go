//go:build linux

package integration_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
)

// byAddress sends requests for the server to its address: the test itself has no DNS.
type byAddress struct{ next http.RoundTripper }

func (b byAddress) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Host, r.Host = serverAddr.String(), serverName
	return b.next.RoundTrip(r)
}

// testIDToken lets a device prove to a third party who it is. The third party knows the server's
// URL alone.
func (l *logins) testIDToken(t *testing.T) {
	l.gus.Up(t, l.server.authKey(t, "alice"))
	token := strings.TrimSpace(l.gus.MustCLI(t, "id-token", "sts.example.com"))
	l.server.secrets = append(l.server.secrets, token)
	ctx := oidc.ClientContext(t.Context(), &http.Client{Transport: byAddress{l.server.client.Transport}})
	provider, err := oidc.NewProvider(ctx, serverURL)
	if err != nil {
		t.Fatal(err)
	}
	got, err := provider.Verifier(&oidc.Config{ClientID: "sts.example.com"}).Verify(ctx, token)
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		User      string   `json:"user"`
		Addresses []string `json:"addresses"`
	}
	if err := got.Claims(&claims); err != nil {
		t.Fatal(err)
	}
	if got.Subject != "gus."+baseDomain || !strings.HasSuffix(claims.User, ":alice@") || claims.Addresses[0] != l.gus.IPv4(t).String()+"/32" {
		t.Errorf("subject %q, claims %+v", got.Subject, claims)
	}
	l.server.kill()
	l.server.start(t)
	if _, err := provider.Verifier(&oidc.Config{ClientID: "sts.example.com"}).Verify(ctx, token); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	if out, err := l.gus.CLI(t.Context(), "id-token", ""); err == nil {
		t.Errorf("a token for nobody: %s", out)
	}
}
