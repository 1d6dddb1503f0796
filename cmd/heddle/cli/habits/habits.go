// Package habits owns what users of headscale's command line are used to:
// flags for what are arguments here, and commands that are called otherwise. It
// refuses to know what commands do.
package habits

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// elsewhere are commands of headscale, and how things are here.
var elsewhere = map[string]string{
	"routes":              "routes belong to nodes; write `heddle nodes list-routes` or `heddle nodes approve-routes NODE PREFIX`",
	"configtest":          "write `heddle config check`",
	"generate":            "keys are made at the first start",
	"namespaces":          "write `heddle users`",
	"nodes move":          "a device changes hands when somebody else logs in on it",
	"nodes logout":        "write `heddle nodes expire NODE`",
	"nodes enable-routes": "write `heddle nodes approve-routes NODE PREFIX`",
}

// Add lets root say so, by an error that refuse makes.
func Add(root *cobra.Command, refuse func(error) error) {
	for path, hint := range elsewhere {
		parent, name := root, path
		if group, rest, ok := strings.Cut(path, " "); ok {
			parent, _, _ = root.Find([]string{group})
			name = rest
		}
		parent.AddCommand(&cobra.Command{
			Use: name, Hidden: true, DisableFlagParsing: true,
			RunE: func(*cobra.Command, []string) error {
				return refuse(fmt.Errorf("there is no `heddle %s`: %s", path, hint))
			},
		})
	}
}

// First lets a command take its first argument as a flag too, as headscale
// does; the flag is not shown.
func First(cmd *cobra.Command, name, short string) *cobra.Command {
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

// Last is First for the last argument.
func Last(cmd *cobra.Command, name, short string) *cobra.Command {
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

// Ignore lets a command take a flag that says what the rest of the command
// line says already.
func Ignore(cmd *cobra.Command, name, short string) *cobra.Command {
	cmd.Flags().StringP(name, short, "", "")
	cmd.Flags().MarkHidden(name)
	return cmd
}
