package config

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestProviders(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "corp.secret")
	if err := os.WriteFile(secret, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := Parse(filepath.Join(dir, "heddle.yaml"), []byte(`
oidc:
  owners: [root@example.com]
  providers:
    - name: corp
      label: Example Corp
      issuer: https://id.example.com/realms/corp/
      client_id: heddle
      client_secret_file: corp.secret
      scopes: [profile, email, groups]
      params: {domain_hint: example.com}
      allowed_domains: [Example.com]
      allowed_groups: [staff, "cn=ops,dc=example"]
      groups_claim: https://example.com/groups
      role_claim: roles
    - {name: test, issuer: "http://127.0.0.1:3000", client_id: x, allow_unverified_email: true}
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := OIDC{
		Owners: []string{"root@example.com"},
		Providers: []Provider{
			{
				Name: "corp", Label: "Example Corp", Issuer: "https://id.example.com/realms/corp/", ClientID: "heddle", ClientSecret: Secret{"s3cret"},
				Scopes: []string{"profile", "email", "groups"}, Params: map[string]string{"domain_hint": "example.com"},
				AllowedDomains: []string{"example.com"}, AllowedGroups: []string{"staff", "cn=ops,dc=example"},
				GroupsClaim: "https://example.com/groups", RoleClaim: "roles",
			},
			{Name: "test", Issuer: "http://127.0.0.1:3000", ClientID: "x", AllowUnverifiedEmail: true},
		},
	}
	if diff := cmp.Diff(want, cfg.OIDC, cmp.AllowUnexported(Secret{}), cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	for _, w := range cfg.Warnings {
		if strings.Contains(w, "oidc") != strings.HasPrefix(w, "oidc.providers[1] (test) takes e-mail addresses that are not verified") {
			t.Errorf("warning %q", w)
		}
	}
}

func TestBadProviders(t *testing.T) {
	for _, tt := range []struct{ name, item, want string }{
		{"not https", "{name: a, issuer: 'http://id.example.com', client_id: x}", `"http://id.example.com" is not https`},
		{"no issuer", "{name: a, client_id: x}", "oidc.providers[0]: issuer is missing"},
		{"no client", "{name: a, issuer: 'https://id.example.com'}", "oidc.providers[0]: client_id is missing"},
		{"bad name", "{name: A/b, issuer: 'https://id.example.com', client_id: x}", `"A/b" must be 1 to 32 small letters`},
		{"secret twice", "{name: a, issuer: 'https://id.example.com', client_id: x, client_secret: y, client_secret_file: f}", "client_secret_file"},
		{"no secret file", "{name: a, issuer: 'https://id.example.com', client_id: x, client_secret_file: /nonexistent}", "cannot read the secret"},
		{"groups without a claim", "{name: a, issuer: 'https://id.example.com', client_id: x, allowed_groups: [g]}", "allowed_groups needs groups_claim"},
		{"same name", "{name: a, issuer: 'https://id.example.com', client_id: x}, {name: a, issuer: 'https://id.example.org', client_id: x}", "the name of number 1 of the list, too"},
		{"unknown key", "{name: a, issuer: 'https://id.example.com', client_id: x, alowed_users: []}", "did you mean allowed_users?"},
		{"bad parameter", "{name: a, issuer: 'https://id.example.com', client_id: x, params: {'a b': c}}", "is not the name of a parameter"},
		{"a parameter of the protocol", "{name: a, issuer: 'https://id.example.com', client_id: x, params: {state: c}}", "oidc.providers[0]: params: state is a parameter that heddle sets itself"},
		{"bad domain", "{name: a, issuer: 'https://id.example.com', client_id: x, allowed_domains: ['@example.com']}", "is not a domain name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("f.yaml", []byte("oidc: {providers: ["+tt.item+"]}"), nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

func TestProvidersOfStrangers(t *testing.T) {
	cfg, err := Parse("f.yaml", []byte("oidc: {providers: [{name: google, issuer: 'https://accounts.google.com', client_id: x}]}"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if all := strings.Join(cfg.Warnings, "\n"); !strings.Contains(all, "lets everybody with an account there in") || !strings.Contains(all, "the first person who logs in becomes owner") {
		t.Errorf("warnings:\n%s", all)
	}
}

func TestProvidersOfOneIssuer(t *testing.T) {
	cfg, err := Parse("f.yaml", []byte(`oidc: {providers: [
		{name: a, issuer: 'https://id.example.com', client_id: x}, {name: b, issuer: 'https://id.example.com', client_id: y}]}`), nil)
	if err != nil {
		t.Fatal(err)
	}
	if all := strings.Join(cfg.Warnings, "\n"); !strings.Contains(all, "oidc.providers[1] (b) has the issuer of number 1 of the list") {
		t.Errorf("warnings:\n%s", all)
	}
}

// TestHeadscaleProvider tells people who bring a configuration along what to write.
func TestHeadscaleProvider(t *testing.T) {
	_, err := Parse("f.yaml", []byte(`
oidc:
  only_start_if_oidc_is_available: true
  issuer: https://id.example.com
  client_id: headscale
  client_secret_path: /etc/headscale/secret
  scope: [openid, profile, email, groups]
  extra_params: {domain_hint: example.com}
  allowed_groups: [staff]
  expiry: 30d
  pkce: {enabled: true, method: S256}
`), nil)
	var errs Errors
	if !errors.As(err, &errs) || len(errs) != 9 {
		t.Fatal(err)
	}
	for _, e := range errs {
		if !strings.HasPrefix(e.Msg, "unknown key: ") || strings.Contains(e.Msg, "did you mean") || e.Line == 0 {
			t.Error(e)
		}
	}
	if msg := errs[1].String(); msg != "f.yaml:4: oidc.issuer: unknown key: write oidc.providers: [{name: corp, issuer: …, client_id: …, client_secret_file: …}]" {
		t.Error(msg)
	}
}

// TestGuide holds that the snippets of the guide are valid.
func TestGuide(t *testing.T) {
	text, err := os.ReadFile("../../../docs/oidc.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	secret := filepath.Join(dir, "x.secret")
	if err := os.WriteFile(secret, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	snippets := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(text, -1)
	files := regexp.MustCompile(`/etc/heddle/[a-z]+\.secret`)
	for _, s := range snippets {
		cfg, err := Parse("config.yaml", files.ReplaceAll(s[1], []byte(secret)), nil)
		if err != nil || len(cfg.OIDC.Providers) == 0 {
			t.Errorf("%s\n%v", s[1], err)
		}
	}
	if len(snippets) < 5 {
		t.Errorf("found only %d snippets", len(snippets))
	}
}
