package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"heddle/cmd/heddle/cli"

	"github.com/spf13/cobra"
)

// Every command refuses what it does not know in the same way: with exit code 2 and the next step.
func TestWrongUsage(t *testing.T) {
	for _, v := range os.Environ() { // nobody's own settings
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "HEDDLE_") {
			t.Setenv(name, "")
		}
	}
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // what is not refused is over at once
	run := func(args []string, more ...*cobra.Command) (int, string) {
		var out, errs bytes.Buffer
		code := cli.Run(ctx, args, cli.Env{In: strings.NewReader(""), Out: &out, Err: &errs}, append(commands(), more...)...)
		return code, errs.String()
	}
	refused := func(path, want string, args ...string) {
		t.Helper()
		code, text := run(append(strings.Fields(path)[1:], args...))
		next := fmt.Sprintf("Run '%s --help' for help.\n", path)
		if code != 2 || !strings.Contains(text, want) || !strings.HasSuffix(text, next) || strings.Contains(text, "arg(s)") {
			t.Errorf("%s %q: exit code %d, %q; want %q and %q", path, args, code, text, want, next)
		}
	}

	var root *cobra.Command
	run([]string{"probe"}, &cobra.Command{Use: "probe", RunE: func(cmd *cobra.Command, _ []string) error {
		root = cmd.Root()
		return nil
	}})
	seen := 0
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			if sub.Name() != "probe" && !strings.HasPrefix(sub.Name(), "__") && !sub.DisableFlagParsing {
				walk(sub)
			}
		}
		seen++
		path := cmd.CommandPath()
		refused(path, "--nonsense", "--nonsense")
		if cmd.HasSubCommands() || cmd.Name() == "help" {
			refused(path, `"nonsense"`, "nonsense")
			return
		}
		least, most := arguments(cmd.Use)
		for n := range least {
			refused(path, "", strings.Fields(strings.Repeat("x ", n))...)
		}
		if most >= 0 {
			refused(path, "", append(strings.Fields(strings.Repeat("x ", most)), "extra")...)
		}
	}
	walk(root)
	if seen < 80 {
		t.Errorf("only %d commands", seen)
	}
	refused("heddle backup", "an argument is missing: heddle backup FILE")
	refused("heddle restore", `unexpected argument "b": heddle restore FILE`, "a", "b")
	refused("heddle doctor", `unexpected argument "x": heddle doctor`, "x")
	refused("heddle doctor", "write the server's URL", "--url", "ftp://x")
	refused("heddle db migrate", "--to is missing")
	refused("heddle completion", "bash, fish, powershell and zsh", "tcsh")
	refused("heddle backup", "passphrase-file", "x", "--passphrase-file", "a", "--recipient", "b")
}

// option is a flag with its value in a line of usage.
var option = regexp.MustCompile(`--\S+ \S+( \|)?`)

// arguments are how many a command takes, as its help says; most < 0 means any number.
func arguments(use string) (least, most int) {
	depth := 0
	for _, word := range strings.Fields(option.ReplaceAllString(use, ""))[1:] {
		depth += strings.Count(word, "[")
		if depth == 0 {
			least++
		}
		depth -= strings.Count(word, "]")
		most++
	}
	if strings.Contains(use, "…") || strings.Contains(use, "...") || strings.Contains(use, "=VALUE") {
		most = -1
	}
	return least, most
}
