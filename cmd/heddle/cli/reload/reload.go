// Package reload owns `heddle reload`: it has the server on this machine load its configuration
// anew. It refuses to know what the server makes of that.
package reload

import (
	"cmp"
	"fmt"
	"os"
	"syscall"
	"time"

	"heddle/cmd/heddle/cli/dial"
	"heddle/cmd/heddle/config"

	"github.com/spf13/cobra"
)

// Command is `reload`, for the root of the command line: it finds the flags there.
func Command() *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Have the server on this machine load its configuration anew",
		Long: `Have the server on this machine load its configuration anew, as SIGHUP does.

At once change log.level, tls.cert_file and tls.key_file (and what stands in these
files). The server's log names the changes that need a restart. What policy.path, derp.files and
dns.extra_records_path name is followed all the time and needs no reload. A configuration with mistakes is not
sent to the server.`,
		Example: "  heddle reload --config /etc/heddle/config.yaml\n  systemctl reload heddle",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			flag := func(name string) string { text, _ := cmd.Flags().GetString(name); return text }
			cfg, err := config.Load(cmp.Or(flag("config"), os.Getenv("HEDDLE_CONFIG")), os.Environ())
			if err == nil {
				err = cfg.Check(time.Now())
			}
			if err != nil {
				return fmt.Errorf("the server is left as it is: %w", err)
			}
			pid, err := dial.Process(cmp.Or(flag("socket"), cfg.Listen.Socket))
			if err != nil {
				return err
			}
			if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
				return fmt.Errorf("the server (process %d) cannot be told: %w; run this as its user or as root", pid, err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "The server loads its configuration anew; its log tells what has changed and what needs a restart.")
			return nil
		},
	}
}
