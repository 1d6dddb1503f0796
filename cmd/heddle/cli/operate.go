package cli

import (
	"heddle/cmd/heddle/cli/audit"
	"heddle/cmd/heddle/cli/fleet"
	"heddle/cmd/heddle/cli/inspect"
	"heddle/cmd/heddle/cli/profile"
	"heddle/cmd/heddle/cli/reload"
	"heddle/cmd/heddle/cli/webhooks"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
)

func (a *app) debugCommand() *cobra.Command {
	tools := inspect.Tools{Server: a.server, Show: a.show, Hint: a.hint, Out: a.out}
	return group("debug", "What to look at when something is slow",
		fleet.Command(fleet.Tools{Server: a.server, Show: a.show, Table: a.print, Out: a.out}),
		inspect.Netmap(tools), inspect.LogLevel(tools))
}

func (a *app) reloadCommand() *cobra.Command {
	return reload.Command(reload.Tools{Server: a.server, Missing: func(err error) error { return a.dial.missing(err) }, Show: a.show, Hint: a.hint, Out: a.out})
}

func (a *app) list(list []proto.Message, hint string, table func()) error {
	return showList(a, list, hint, table)
}

func (a *app) profileCommand() *cobra.Command {
	return profile.Command(profile.Tools{
		Table: a.print, Encode: a.encode, Plain: func() bool { return a.flags.output == formatTable }, Hint: a.hint,
		Input: func(err error) error { return inputError{err} }, In: a.in, Out: a.out,
	})
}

func (a *app) auditCommand() *cobra.Command {
	return audit.Command(audit.Tools{
		Server: a.server, List: a.list, Table: a.print, Plain: func() bool { return a.flags.output == formatTable },
		Usage: func(err error) error { return usageError{err} }, Now: a.now, Out: a.out, Stay: a.stay,
	})
}

func (a *app) webhooksCommand() *cobra.Command {
	return webhooks.Command(webhooks.Tools{
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
	})
}
