package cli

import (
	"heddle/cmd/heddle/cli/audit"
	"heddle/cmd/heddle/cli/fleet"
	"heddle/cmd/heddle/cli/inspect"
	"heddle/cmd/heddle/cli/webhooks"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
)

func (a *app) debugCommand() *cobra.Command {
	tools := inspect.Tools{Server: a.server, Show: a.show, Hint: a.hint, Out: a.out}
	return group("debug", "What to look at when something is slow",
		fleet.Command(fleet.Tools{Server: a.server, Show: a.show, Table: a.print, Out: a.out}),
		strict(inspect.Netmap(tools)), strict(inspect.LogLevel(tools)))
}

// strict makes mistakes in the arguments of a command, and of those below it, mistakes of usage.
func strict(cmd *cobra.Command) *cobra.Command {
	for _, sub := range cmd.Commands() {
		strict(sub)
	}
	check := cmd.Args
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{err}
		}
		return nil
	}
	return cmd
}

func (a *app) list(list []proto.Message, hint string, table func()) error {
	return showList(a, list, hint, table)
}

func (a *app) auditCommand() *cobra.Command {
	return strict(audit.Command(audit.Tools{
		Server: a.server, List: a.list, Table: a.print, Plain: func() bool { return a.flags.output == formatTable },
		Usage: func(err error) error { return usageError{err} }, Now: a.now, Out: a.out,
	}))
}

func (a *app) webhooksCommand() *cobra.Command {
	return strict(webhooks.Command(webhooks.Tools{
		Server: a.server, Show: a.show, List: a.list, Table: a.print, Hint: a.hint, Out: a.out,
		Confirm: func(cmd *cobra.Command) func(string, ...any) error {
			c := a.confirmer(cmd)
			return func(format string, args ...any) error {
				if err := c.possible(); err != nil {
					return err
				}
				return c.ask(format, args...)
			}
		},
	}))
}
