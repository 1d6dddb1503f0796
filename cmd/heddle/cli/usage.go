package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// strict lets cmd, and all commands below it, refuse wrong arguments, and flags that are missing or
// exclude each other, as mistakes of usage and in the same words, whoever made the command.
func strict(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		strict(sub)
	}
	if cmd.DisableFlagParsing { // it takes anything, to say what to write
		return
	}
	if !cmd.Runnable() {
		cmd.RunE = help
	}
	check := cmd.Args
	if check == nil {
		check = cobra.ArbitraryArgs
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return reword(cmd, args, check, err)
		}
		return checkFlagSets(cmd)
	}
}

// reword says by check, which refused args with err, what is wrong with them.
func reword(cmd *cobra.Command, args []string, check cobra.PositionalArgs, err error) error {
	if misused(err) || errors.As(err, &inputError{}) {
		return err
	}
	if cmd.HasSubCommands() {
		return subcommand(cmd, args)
	}
	for n := len(args) - 1; n >= 0; n-- {
		if check(cmd, args[:n]) == nil {
			return usagef("unexpected argument %q: %s", args[n], cmd.UseLine())
		}
	}
	return usagef("an argument is missing: %s", cmd.UseLine())
}

// checkFlagSets refuses what cobra would refuse too, but later and in words of its own.
func checkFlagSets(cmd *cobra.Command) error {
	var missing []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if want := f.Annotations[cobra.BashCompOneRequiredFlag]; len(want) > 0 && want[0] == "true" && !f.Changed {
			missing = append(missing, "--"+f.Name)
		}
	})
	if len(missing) > 0 {
		return usagef("%s is missing: %s", strings.Join(missing, " and "), cmd.UseLine())
	}
	if err := cmd.ValidateFlagGroups(); err != nil {
		return usageError{err}
	}
	return nil
}

// completionExamples are how the script for a shell is put where the shell finds it.
var completionExamples = map[string]string{
	"bash":       "  heddle completion bash > /etc/bash_completion.d/heddle\n  source <(heddle completion bash)",
	"zsh":        "  heddle completion zsh > \"${fpath[1]}/_heddle\"",
	"fish":       "  heddle completion fish > ~/.config/fish/completions/heddle.fish",
	"powershell": "  heddle completion powershell | Out-String | Invoke-Expression",
}

// ownCommands adds the commands that cobra makes, and lets them refuse what they do not know.
func ownCommands(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Args = func(_ *cobra.Command, args []string) error {
				found, rest, err := root.Find(args)
				if err != nil {
					return usageError{err}
				}
				return subcommand(found, rest)
			}
		case "completion":
			cmd.Example = "  heddle completion bash --help\n" + completionExamples["bash"]
			cmd.Args = func(_ *cobra.Command, args []string) error {
				if len(args) == 0 {
					return nil
				}
				return usageError{fmt.Errorf("there is no completion for %q: the shells are bash, fish, powershell and zsh", args[0])}
			}
			for _, shell := range cmd.Commands() {
				shell.Example = completionExamples[shell.Name()]
			}
		}
	}
}
