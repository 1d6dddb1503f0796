package cli_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"heddle/cmd/heddle/cli"

	"github.com/spf13/cobra"
)

// What works on its own machine is not done here in the place of a server elsewhere.
func TestOwnMachine(t *testing.T) {
	ran := false
	work := func(name string, below ...*cobra.Command) *cobra.Command {
		c := &cobra.Command{Use: name, Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { ran = true; return nil }}
		c.AddCommand(below...)
		return c
	}
	empty, used := t.TempDir(), t.TempDir()
	t.Setenv("HOME", used)
	t.Setenv("XDG_CONFIG_HOME", used)
	if r := heddle(t, "tskey-api-a-b", "profile", "add", "work", "vpn.example.com:8443"); r.code != 0 {
		t.Fatal(r)
	}
	damaged := t.TempDir()
	if err := os.MkdirAll(filepath.Join(damaged, "heddle", "profiles.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		home, env, args string
		want            string // of the refusal; "" if there is none
	}{
		{empty, "", "backup", ""},
		{empty, "", "--address vpn.example.com backup", "heddle backup works on the server's own machine, and --address means another one, vpn.example.com: run it there (ssh vpn.example.com)"},
		{empty, "", "db migrate --address https://vpn.example.com:8443", "heddle db migrate works on the server's own machine, and --address means another one, https://vpn.example.com:8443: run it there (ssh vpn.example.com)"},
		{empty, "", "--address [2001:db8::1]:8443 serve", "ssh 2001:db8::1"},
		{empty, "", "--address vpn.example.com config example", "heddle config example works"},
		{empty, "", "--address vpn.example.com:8443 doctor", "--url https://vpn.example.com "},
		{empty, "", "--address vpn.example.com doctor --url https://vpn.example.com", "--address"},
		{empty, "", "--profile none backup", `no such profile: "none"`},
		{empty, "HEDDLE_ADDRESS=vpn.example.com", "backup", "HEDDLE_ADDRESS means"},
		{empty, "HEDDLE_ADDRESS=vpn.example.com", "backup --config x", "HEDDLE_ADDRESS means"}, // as elsewhere: it wins over --config
		{empty, "HEDDLE_ADDRESS=vpn.example.com", "backup --socket x", ""},
		{empty, "HEDDLE_ADDRESS=vpn.example.com", "backup --profile local", ""},
		{empty, "HEDDLE_ADDRESS=vpn.example.com", "doctor --url https://vpn.example.com", ""},
		{empty, "HEDDLE_ADDRESS=vpn.example.com", "serve", ""},
		{empty, "HEDDLE_PROFILE=none", "doctor", `no such profile: "none"`},
		{used, "HEDDLE_PROFILE=work", "doctor", "HEDDLE_PROFILE means another one, vpn.example.com:8443"},
		{used, "", "backup", "heddle profile use local"},
		{used, "", "--profile work backup", "--profile work means"},
		{used, "", "--profile local backup", ""},
		{used, "", "backup --config x", ""},
		{used, "HEDDLE_CONFIG=x", "backup", ""},
		{used, "HEDDLE_PROFILE=local", "backup", ""},
		{used, "", "serve", ""},
		{used, "", "doctor --url https://vpn.example.com", ""},
		{damaged, "", "backup", ""},
		{damaged, "", "--profile work backup", "profiles.yaml"},
	} {
		t.Run(c.env+" "+c.args, func(t *testing.T) {
			t.Setenv("HOME", c.home)
			t.Setenv("XDG_CONFIG_HOME", c.home)
			if name, value, ok := strings.Cut(c.env, "="); ok {
				t.Setenv(name, value)
			}
			ran = false
			refused := 2
			if strings.HasPrefix(c.want, "no such profile") {
				refused = 3
			}
			doctor := work("doctor")
			doctor.Flags().String("url", "", "")
			var out, errs bytes.Buffer
			code := cli.Run(t.Context(), strings.Fields(c.args), cli.Env{Out: &out, Err: &errs}, work("backup"), work("db", work("migrate")), work("serve"), doctor)
			switch {
			case c.want == "" && (code != 0 || !ran):
				t.Errorf("exit code %d: %s", code, &errs)
			case c.want != "" && (code != refused || ran || !strings.Contains(errs.String(), c.want)):
				t.Errorf("exit code %d, ran %v, %q", code, ran, &errs)
			}
		})
	}
}
