package profile

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"heddle/cmd/heddle/cli/show"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Tools are what the commands need of the command line around them.
type Tools struct {
	Table  func(*show.Table)
	Encode func(jsonText []byte) error // as JSON or YAML
	Plain  func() bool                 // whether a table is wanted
	Hint   func(format string, args ...any)
	Input  func(error) error // marks an error of what the command was given
	In     io.Reader
	Out    io.Writer
}

// Command is `profile`.
func Command(t Tools) *cobra.Command {
	group := &cobra.Command{
		Use: "profile", Aliases: []string{"profiles"}, Short: "Servers elsewhere that you administer, by name",
		Long: `A profile is a server elsewhere, with its address and your API key. The current one is
meant by every command that does not say another with --profile, --address,
--socket or --config; ` + "`heddle profile use local`" + ` goes back to the server on this
machine. The keys are kept in files that only you can read.

Commands that work on the server's own machine (backup, restore, db, import, doctor)
refuse to run while a profile is meant: run them there, or say --profile local.`,
		Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	group.AddCommand(t.add(), t.list(), t.use(), t.remove())
	return group
}

func (t Tools) add() *cobra.Command {
	var p Profile
	var keyFile string
	cmd := &cobra.Command{
		Use:   "add NAME ADDRESS",
		Short: "Keep a server and the API key for it, which is read from standard input",
		Example: `  heddle profile add work vpn.example.com                # asks for the key
  heddle profile add lab 10.0.0.5:8443 --ca-file lab.pem --api-key-file lab.key
  ssh root@vpn.example.com heddle apikeys create | heddle profile add home vpn.example.com`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := t.key(keyFile)
			if err != nil {
				return err
			}
			p.Address = args[1]
			b, err := Open()
			if err != nil {
				return err
			}
			if err := b.Add(args[0], p, key); err != nil {
				return t.Input(err)
			}
			fmt.Fprintf(t.Out, "Profile %s kept.\n", args[0])
			if _, _, current, _ := b.Find(""); !current {
				t.Hint("`heddle profile use %s` makes it the one that is meant.", args[0])
			}
			return nil
		},
	}
	// These stand in the place of the flags of all commands, which are for this call alone.
	cmd.Flags().StringVar(&p.CAFile, "ca-file", "", "PEM `FILE` with the server's private CA")
	cmd.Flags().StringVar(&keyFile, "api-key-file", "", "`FILE` with the API key; - is standard input")
	return cmd
}

// key reads the API key.
func (t Tools) key(file string) (string, error) {
	in := t.In
	if file != "" && file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", t.Input(fmt.Errorf("cannot read the API key: %w", err))
		}
		defer f.Close()
		in = f
	} else if f, ok := t.In.(*os.File); ok && show.IsTerminal(f) {
		t.Hint("API key (tskey-api-…, not shown), then Enter:")
		typed, err := term.ReadPassword(int(f.Fd()))
		if err != nil {
			return "", t.Input(fmt.Errorf("cannot read the API key: %w", err))
		}
		in = strings.NewReader(string(typed))
	}
	const most = 1 << 10
	line, err := bufio.NewReader(io.LimitReader(in, most)).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", t.Input(fmt.Errorf("cannot read the API key: %w", err))
	}
	key := strings.TrimSpace(line)
	if !strings.HasPrefix(key, "tskey-api-") {
		return "", t.Input(fmt.Errorf("that is no API key of heddle's (tskey-api-…); `heddle apikeys create` on the server makes one"))
	}
	return key, nil
}

func (t Tools) list() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the profiles", Example: "  heddle profile list", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b, err := Open()
			if err != nil {
				return err
			}
			list, err := b.List()
			if err != nil {
				return t.Input(err)
			}
			if !t.Plain() {
				type entry struct {
					Name    string `json:"name"`
					Address string `json:"address"`
					CAFile  string `json:"caFile"`
					Current bool   `json:"current"`
				}
				out := []entry{}
				for _, e := range list {
					out = append(out, entry{e.Name, e.Address, e.CAFile, e.Current})
				}
				text, err := json.Marshal(out)
				if err != nil {
					return err
				}
				return t.Encode(text)
			}
			if len(list) == 0 {
				t.Hint("There are no profiles; `heddle profile add NAME ADDRESS` keeps one.")
				return nil
			}
			table := show.NewTable("NAME", "ADDRESS", "CURRENT")
			for _, e := range list {
				current := ""
				if e.Current {
					current = "yes"
				}
				table.Add(e.Name, e.Address, current)
			}
			t.Table(table)
			return nil
		},
	}
}

func (t Tools) use() *cobra.Command {
	return &cobra.Command{
		Use: "use NAME", Short: "Make a profile the one that is meant; local is the server on this machine",
		Example: "  heddle profile use work\n  heddle profile use local", Args: cobra.ExactArgs(1), ValidArgsFunction: Names,
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := Open()
			if err != nil {
				return err
			}
			if err := b.Use(args[0]); err != nil {
				return t.Input(err)
			}
			fmt.Fprintf(t.Out, "Commands are for %s now.\n", args[0])
			return nil
		},
	}
}

func (t Tools) remove() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Aliases: []string{"rm", "delete"}, Short: "Forget a profile and its key",
		Example: "  heddle profile remove work", Args: cobra.ExactArgs(1), ValidArgsFunction: Names,
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := Open()
			if err != nil {
				return err
			}
			if err := b.Remove(args[0]); err != nil {
				return t.Input(err)
			}
			fmt.Fprintf(t.Out, "Profile %s removed; the key still works until it is revoked on the server.\n", args[0])
			return nil
		},
	}
}

// Names completes the names of profiles.
func Names(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	names := []string{Local}
	if b, err := Open(); err == nil {
		list, _ := b.List() // without one there is nothing to complete
		for _, e := range list {
			names = append(names, e.Name+"\t"+e.Address)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
