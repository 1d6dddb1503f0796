// Package headscale owns `heddle import headscale`: what it is told, and what it tells in words. It
// refuses to know what becomes of what.
package headscale

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"heddle/cmd/heddle/config"
	"heddle/cmd/heddle/headscale"

	"github.com/spf13/cobra"
)

// Tools are what the command needs of the command line around it.
type Tools struct {
	Config  func(*cobra.Command) string // path of the configuration file; "" if there is none
	Version string
	Coded   func(error) error // gives an error the exit code that it stands for
}

// Command is `import`, for the root of the command line.
func Command(t Tools) *cobra.Command {
	g := &cobra.Command{Use: "import", Short: "Take over another control server", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	g.AddCommand(t.headscale())
	return g
}

func (t Tools) headscale() *cobra.Command {
	var o headscale.Options
	cmd := &cobra.Command{
		Use:   "headscale SOURCE",
		Short: "Take over a headscale: users, devices, keys, policy, configuration",
		Long: `Take over a headscale of release 0.23 to 0.30: users, devices, keys, policy, configuration.

SOURCE is headscale's configuration file, its data directory, its SQLite file, or the
postgres:// URL of its database. Stop headscale first, and do not start this server before.
Devices then reconnect without logging in again, if the server has the same server_url and
listens where headscale did. Nothing of headscale's is changed.

Try it with --dry-run, which changes nothing and tells what will not be as it was. The
configuration is translated and written to heddle.yaml in data_dir, or printed by --dry-run.`,
		Example: `  heddle import headscale --dry-run /etc/headscale/config.yaml
  heddle import headscale --save-config /etc/heddle/config.yaml /etc/headscale/config.yaml
  heddle import headscale --headscale-config old/config.yaml --policy old/acl.hujson old/`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := config.Load(t.Config(cmd), os.Environ())
			if err != nil {
				return err
			}
			o.Source, o.Target, o.Version, o.Now = args[0], cfg, t.Version, time.Now()
			r, err := headscale.Import(cmd.Context(), o)
			if err != nil {
				return t.Coded(err)
			}
			if format, _ := cmd.Flags().GetString("output"); format != "" && format != "table" {
				text, err := json.MarshalIndent(r, "", "  ") // which is YAML, too
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", text)
				return err
			}
			tell(cmd.OutOrStdout(), cmd.ErrOrStderr(), r)
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.DryRun, "dry-run", false, "change nothing; tell what would be, and print the configuration")
	f.StringVar(&o.Settings, "headscale-config", "", "headscale's configuration `FILE`, if SOURCE is its data")
	f.StringVar(&o.Policy, "policy", "", "use the policy in `FILE` instead of headscale's")
	f.StringVar(&o.NoiseKey, "noise-key", "", "headscale's noise private key, if it is not where the configuration says: `FILE`")
	f.StringVar(&o.DERPKey, "derp-key", "", "the key of headscale's embedded relay, likewise: `FILE`")
	f.StringVar(&o.Save, "save-config", "", "write the translated configuration to `FILE`, which must not exist")
	return cmd
}

// tell puts the report into words: what there is to do later goes to log.
func tell(out, log io.Writer, r *headscale.Report) {
	if r.Already {
		fmt.Fprintln(out, "this headscale was imported before; nothing was changed")
		return
	}
	verb := "imported"
	if r.DryRun {
		verb = "would import"
	}
	what := fmt.Sprintf("%d devices, %d users and %d auth keys", r.Nodes, r.Users, r.AuthKeys)
	if r.Policy {
		what += ", and the policy,"
	}
	fmt.Fprintf(out, "%s %s of headscale %s\n", verb, what, r.Release)
	if len(r.Notes) > 0 {
		fmt.Fprintf(out, "\nNot as it was:\n")
	}
	for _, n := range r.Notes {
		fmt.Fprintf(out, "  * %s\n", strings.ReplaceAll(n, "\n", "\n    "))
	}
	switch {
	case r.DryRun && r.Config != "":
		fmt.Fprintf(out, "\nThe configuration:\n\n%s", r.Config)
	case r.Saved != "":
		fmt.Fprintf(log, "\nThe configuration is in %s. Look through it, and start the server with it: heddle serve --config %[1]s\n", r.Saved)
	}
}
