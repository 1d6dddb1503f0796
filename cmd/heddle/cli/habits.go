package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// habits are commands of headscale, and how things are here.
var habits = map[string]string{
	"routes":              "routes belong to nodes; write `heddle nodes list-routes` or `heddle nodes approve-routes NODE PREFIX`",
	"configtest":          "write `heddle config check`",
	"generate":            "keys are made at the first start",
	"namespaces":          "write `heddle users`",
	"debug":               "write `heddle health`, `heddle nodes show NODE` or `heddle policy explain`",
	"nodes move":          "a device changes hands when somebody else logs in on it",
	"nodes backfillips":   "all nodes have addresses of both families",
	"nodes logout":        "write `heddle nodes expire NODE`",
	"nodes enable-routes": "write `heddle nodes approve-routes NODE PREFIX`",
}

// addHabits lets root say so.
func addHabits(root *cobra.Command) {
	for path, hint := range habits {
		parent, name := root, path
		if group, rest, ok := strings.Cut(path, " "); ok {
			parent, _, _ = root.Find([]string{group})
			name = rest
		}
		parent.AddCommand(&cobra.Command{
			Use: name, Hidden: true, DisableFlagParsing: true,
			RunE: func(*cobra.Command, []string) error {
				return inputError{fmt.Errorf("there is no `heddle %s`: %s", path, hint)}
			},
		})
	}
}

// alsoFlag lets a command take its first argument as a flag too, as headscale
// does; the flag is not shown.
func alsoFlag(cmd *cobra.Command, name, short string) *cobra.Command {
	value := cmd.Flags().StringP(name, short, "", "")
	cmd.Flags().MarkHidden(name)
	all := func(args []string) []string {
		if cmd.Flags().Changed(name) {
			return append([]string{*value}, args...)
		}
		return args
	}
	return rewritten(cmd, all)
}

// rewritten lets a command see other arguments than those given.
func rewritten(cmd *cobra.Command, all func(args []string) []string) *cobra.Command {
	check, run := cmd.Args, cmd.RunE
	cmd.Args = func(cmd *cobra.Command, args []string) error { return check(cmd, all(args)) }
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return run(cmd, all(args)) }
	return cmd
}

// lastFlag is alsoFlag for the last argument.
func lastFlag(cmd *cobra.Command, name, short string) *cobra.Command {
	value := cmd.Flags().StringP(name, short, "", "")
	cmd.Flags().MarkHidden(name)
	all := func(args []string) []string {
		if cmd.Flags().Changed(name) {
			return append(slices.Clip(args), *value)
		}
		return args
	}
	return rewritten(cmd, all)
}

// ignored lets a command take a flag that says what the rest of the command
// line says already.
func ignored(cmd *cobra.Command, name, short string) *cobra.Command {
	cmd.Flags().StringP(name, short, "", "")
	cmd.Flags().MarkHidden(name)
	return cmd
}
