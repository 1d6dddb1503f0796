package cli_test

import (
	"strings"
	"testing"
)

// Mistakes about webhooks and OAuth clients are told with what to write instead.
func TestWebhookMistakes(t *testing.T) {
	const warning = "webhooks.allowed_networks"
	w := newWorld(t)
	for _, c := range []struct {
		args string
		code int
		want string // in what is said beside the output
	}{
		{"webhooks delete nope --yes", 3, "`heddle webhooks list` shows them"},
		{"webhooks rotate nope", 3, "`heddle webhooks list` shows them"},
		{"webhooks create https://example.com/hook --events nope", 2, `no event "nope": there are categoryDeviceMisconfigurations, subnetIPForwardingNotEnabled, `},
		{"webhooks create https://example.com/hook", 0, ""},
		{"webhooks create https://192.0.2.1/hook", 0, ""},
		{"webhooks create http://127.0.0.1:9999/hook", 0, "127.0.0.1 is not a public address"},
		{"webhooks create http://[::1]/hook -o json", 0, "::1 is not a public address"},
		{"webhooks create http://10.1.2.3/hook", 0, warning},
		{"webhooks create http://[::ffff:192.168.1.1]/hook", 0, warning},
		{"webhooks create http://100.64.0.1/hook", 0, warning},
		{"webhooks create http://localhost:9999/hook", 0, warning},
		{"oauth-clients create --scope auth_keys", 2, "--tags tag:ci"},
	} {
		r := heddle(t, "", append([]string{"--socket", w.socket}, strings.Fields(c.args)...)...)
		if r.code != c.code || !strings.Contains(r.err, c.want) || strings.Contains(r.err, warning) != strings.HasPrefix(c.args, "webhooks create http:") {
			t.Errorf("%s: exit code %d, %s", c.args, r.code, r.err)
		}
	}
}
