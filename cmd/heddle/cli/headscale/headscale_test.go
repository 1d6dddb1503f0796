package headscale_test

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"heddle/cmd/heddle/cli"
	"heddle/cmd/heddle/cli/headscale"

	_ "github.com/glebarez/go-sqlite"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// run runs the command as the root of the command line does, with a data directory of its own.
func run(t *testing.T, args ...string) (out, log string, err error) {
	t.Helper()
	root := &cobra.Command{Use: "heddle", SilenceErrors: true, SilenceUsage: true}
	root.PersistentFlags().StringP("output", "o", "table", "")
	root.AddCommand(headscale.Command(headscale.Tools{Config: func(*cobra.Command) string { return "" }, Version: "test", Coded: cli.Coded}))
	var stdout, stderr bytes.Buffer
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	root.SetArgs(append([]string{"import", "headscale"}, args...))
	err = root.ExecuteContext(t.Context())
	return stdout.String(), stderr.String(), err
}

func TestCommand(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	t.Setenv("HEDDLE_DATA_DIR", data)
	dir := t.TempDir()
	text, err := os.ReadFile("../../../../db/headscale/testdata/0.26.sql")
	if err != nil {
		t.Fatal(err)
	}
	pool, err := sql.Open("sqlite", filepath.Join(dir, "db.sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(string(text)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"noise_private.key": "privkey:" + strings.Repeat("11", 32),
		"config.yaml":       "server_url: https://vpn.example.com\nlisten_addr: 127.0.0.1:8080\nnoise: {private_key_path: noise_private.key}\npolicy: {mode: database}\ndns: {base_domain: tail.example.net}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, _, err := run(t, "--dry-run", dir)
	if err != nil || !strings.HasPrefix(out, "would import 5 devices, 2 users and 3 auth keys, and the policy, of headscale 0.26–0.27\n\nNot as it was:\n  * ") ||
		!strings.Contains(out, "base_domain: tail.example.net") || strings.Contains(out, "privkey:") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, _, err = run(t, "-o", "json", "--dry-run", dir); err != nil || !json.Valid([]byte(out)) {
		t.Errorf("%v\n%s", err, out)
	}
	out, log, err := run(t, dir)
	if err != nil || !strings.HasPrefix(out, "imported 5 devices") || !strings.Contains(log, filepath.Join(data, "heddle.yaml")) {
		t.Errorf("%v\n%s%s", err, out, log)
	}
	if out, _, err = run(t, dir); err != nil || out != "this headscale was imported before; nothing was changed\n" {
		t.Errorf("%v\n%s", err, out)
	}
	if _, _, err = run(t, filepath.Join(dir, "none")); status.Code(err) != codes.NotFound {
		t.Errorf("%v", err)
	}
}
