package serve

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"heddle/cmd/heddle/config"
	"heddle/cmd/heddle/serve/zones"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestKeeperOfTheZone(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("c2VjcmV0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(dir, "none"))
	for _, name := range []string{"AWS_CA_BUNDLE", "AWS_PROFILE"} {
		t.Setenv(name, "")
	}
	for keys, want := range map[string]any{
		"provider: cloudflare, token_file: " + secret: &zones.Cloudflare{},
		"provider: route53":                           &zones.Route53{},
		"provider: route53, access_key_id: AKIA, secret_access_key_file: " + secret: &zones.Route53{},
		"provider: rfc2136, server: 'ns.example.com:53', zone: example.com, tsig_key_name: k, tsig_key_file: " + secret: &zones.Updates{
			Server: "ns.example.com:53", Zone: "example.com", KeyName: "k", Key: "c2VjcmV0", Algorithm: "hmac-sha256",
		},
	} {
		cfg, err := config.Parse("f.yaml", fmt.Appendf(nil, "server_url: https://vpn.example.com\ndata_dir: %s\ntls: {acme: {email: a@b.example, dns: {%s}}}", dir, keys), nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := keeperOf(cfg.TLS.ACME.DNS)
		if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(zones.Cloudflare{}, zones.Route53{})); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", keys, err, diff)
		}
	}
	t.Setenv("AWS_PROFILE", "nobodys")
	if _, err := keeperOf(config.ACMEDNS{Provider: config.Route53}); err == nil || !strings.Contains(err.Error(), "nobodys") {
		t.Errorf("a profile that is not there: %v", err)
	}
}
