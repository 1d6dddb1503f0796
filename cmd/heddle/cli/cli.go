// Package cli owns heddle's command line: what people type, what they are
// shown, and exit codes. Its commands are clients of the admin API; they
// refuse to know rules of the tailnet, and open no database.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"heddle/cmd/heddle/cli/complete"
	"heddle/cmd/heddle/cli/dial"
	"heddle/cmd/heddle/cli/habits"
	"heddle/cmd/heddle/cli/keys"
	"heddle/cmd/heddle/cli/people"
	"heddle/cmd/heddle/cli/profile"
	"heddle/cmd/heddle/cli/show"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Env is what a command line has to do with.
type Env struct {
	In       io.Reader
	Out, Err io.Writer
	Now      func() time.Time // nil means time.Now
}

// app is one run of the command line.
type app struct {
	in       io.Reader
	out, err io.Writer
	now      func() time.Time
	flags    struct {
		target  dial.Target
		profile string
		output  string // format
		reason  string
	}
	dial connection
	more []*cobra.Command // those of Run's caller, which work on this machine
}

// connection is the connection to the server; nil until a command needs it.
type connection struct{ conn *dial.Conn }

var errNoServer = dial.ErrNoServer

// explains reports whether err, of a call, came from a failed connection.
func (c connection) explains(err error) bool { return c.conn.Explain(err) != nil }

// last returns why the connection failed; nil if it did not.
func (c connection) last() error { return c.conn.Explain(status.Error(codes.Unavailable, "")) }

// missing returns what is said of err, of a call, if no server has the socket; nil otherwise.
func (c connection) missing(err error) error {
	if c.explains(err) && errors.Is(c.last(), errNoServer) {
		return c.last()
	}
	return nil
}

// Run runs one command line, without the program's name, and returns the exit
// code. More commands (such as serve, which needs what this package must not know)
// are added to the root; they find the flag --config by ConfigPath. They work on this machine, and are
// refused where a server elsewhere is meant.
func Run(ctx context.Context, args []string, env Env, more ...*cobra.Command) int {
	a := &app{in: env.In, out: env.Out, err: env.Err, now: env.Now, more: more}
	if a.now == nil {
		a.now = time.Now
	}
	root := a.root()
	root.AddCommand(more...)
	ownCommands(root)
	strict(root)
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	defer a.close()
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	return a.report(ctx, cmd, err)
}

// ConfigPath returns the configuration file that cmd, a command added by Run's
// caller, was given: by --config, else by HEDDLE_CONFIG. Empty if by neither.
func ConfigPath(cmd *cobra.Command) string {
	path, _ := cmd.Flags().GetString("config")
	if path == "" {
		path = os.Getenv("HEDDLE_CONFIG")
	}
	return path
}

// server returns the connection to the server, which is made when first used.
func (a *app) server() (*grpc.ClientConn, error) {
	if a.dial.conn == nil {
		t, err := a.target()
		if err != nil {
			return nil, err
		}
		conn, err := dial.New(t)
		if err != nil {
			return nil, err
		}
		a.dial.conn = conn
	}
	return a.dial.conn.ClientConn, nil
}

// target is the server that is meant: by the flags, else by variables, else by the current profile.
func (a *app) target() (dial.Target, error) {
	t, named := a.flags.target, a.flags.profile
	if named == "" {
		named = os.Getenv("HEDDLE_PROFILE")
	}
	if t.Config == "" {
		t.Config = os.Getenv("HEDDLE_CONFIG")
	}
	here := t.Config != "" || t.Socket != "" || t.Address != "" || os.Getenv("HEDDLE_SOCKET") != "" || os.Getenv("HEDDLE_ADDRESS") != ""
	if here && a.flags.profile == "" {
		return t, nil
	}
	book, err := profile.Open()
	if err != nil {
		if named == "" {
			return t, nil // nobody's home: there can be no profile
		}
		return t, inputError{err}
	}
	p, key, ok, err := book.Find(named)
	if err != nil {
		return t, inputError{err}
	}
	if ok {
		t.Address, t.KeyFile, t.CAFile = p.Address, key, p.CAFile
	}
	return t, nil
}

// names completes words with what the server knows.
func (a *app) names() complete.Server { return a.server }

func (a *app) close() {
	if a.dial.conn != nil {
		a.dial.conn.Close()
	}
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "heddle",
		Short: "Self-hosted control server for Tailscale clients",
		Long: `heddle is a control server that stock Tailscale clients log in to.

Commands talk to a running server: on this machine through its socket, which
is found from --config or --socket, or elsewhere with --address and an API key,
or a profile that has both. The commands backup, restore, db, import, doctor,
serve and config work on the machine that they run on, and refuse another.

Exit codes: 0 done; 2 the command, or a file or value that it was given, is
wrong; 3 what it names does not exist; 4 it exists already, or a precondition
does not hold; 5 not allowed; 1 anything else.`,
		Example: `  heddle serve
  heddle users create alice
  heddle preauthkeys create --user alice
  heddle nodes list
  HEDDLE_API_KEY=tskey-api-… heddle --address vpn.example.com nodes list`,
		SilenceErrors: true, SilenceUsage: true,
		Args: subcommand, RunE: help,
	}
	root.SuggestionsMinimumDistance = 2
	f := root.PersistentFlags()
	f.StringVar(&a.flags.target.Config, "config", "", "the server's configuration `FILE` (HEDDLE_CONFIG)")
	f.StringVar(&a.flags.target.Socket, "socket", "", "`PATH` of the server's socket (HEDDLE_SOCKET)")
	f.StringVar(&a.flags.target.Address, "address", "", "`HOST:PORT` of a server elsewhere (HEDDLE_ADDRESS)")
	f.StringVar(&a.flags.target.KeyFile, "api-key-file", "", "`FILE` with the key for it (HEDDLE_API_KEY_FILE; the\nkey itself goes into HEDDLE_API_KEY)")
	f.StringVar(&a.flags.target.CAFile, "ca-file", "", "PEM `FILE` with a private CA of --address")
	f.StringVar(&a.flags.profile, "profile", "", "`NAME` of a server that is kept (HEDDLE_PROFILE)")
	root.RegisterFlagCompletionFunc("profile", profile.Names)
	f.StringVarP(&a.flags.output, "output", "o", "", "`FORMAT`: table, json or yaml (HEDDLE_OUTPUT)")
	f.StringVar(&a.flags.reason, "reason", "", "`WHY` something is changed, for the audit log")
	complete.Flag(root, "output", complete.Choice(formatTable, formatJSON, formatYAML))
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return a.checkFlags(cmd) }
	who := a.people()
	secrets := keys.Tools{Tools: who, Talks: a.talks, LoginServer: func() string { return a.dial.conn.LoginServer }}
	root.AddCommand(
		people.Users(who), keys.PreAuthKeys(secrets), a.nodesCommand(who), people.Auth(who), keys.APIKeys(secrets), keys.OAuthClients(secrets), people.Settings(who),
		a.policyCommand(), a.dnsCommand(), a.derpCommand(), a.healthCommand(), a.versionCommand(), a.configCommand(),
		a.debugCommand(), a.reloadCommand(), a.auditCommand(), a.webhooksCommand(), a.profileCommand(),
	)
	habits.Add(root, func(err error) error { return inputError{err} })
	return root
}

// people are the tools for the commands about people.
func (a *app) people() people.Tools {
	return people.Tools{
		Server: a.server, Names: a.names(), Show: a.show, Done: a.done, Table: a.print, Hint: a.hint, Since: a.since,
		List:  func(list []proto.Message, hint string, table func()) error { return showList(a, list, hint, table) },
		Args:  args,
		Usage: usagef,
		Group: group,
		Confirm: func(cmd *cobra.Command) (func() error, func(string, ...any) error) {
			c := a.confirmer(cmd)
			return c.possible, c.ask
		},
	}
}

func (a *app) checkFlags(cmd *cobra.Command) error {
	if err := exclusive(cmd, "socket", "address", "profile"); err != nil {
		return err
	}
	if err := a.checkHere(cmd); err != nil {
		return err
	}
	if a.flags.reason != "" {
		cmd.SetContext(metadata.AppendToOutgoingContext(cmd.Context(), "heddle-reason-bin", a.flags.reason))
	}
	if a.flags.output == "" {
		a.flags.output = os.Getenv("HEDDLE_OUTPUT")
	}
	switch a.flags.output {
	case "":
		a.flags.output = formatTable
	case formatTable, formatJSON, formatYAML:
	default:
		return usagef("unknown output format %q: there are table, json and yaml", a.flags.output)
	}
	return nil
}

// group makes a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short, Args: subcommand, RunE: help}
	g.SuggestionsMinimumDistance = 2
	g.AddCommand(commands...)
	return g
}

func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// subcommand refuses arguments of a command that only holds others: they are
// mistyped commands.
func subcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	msg := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		msg += fmt.Sprintf(": did you mean %s?", strings.Join(like, " or "))
	}
	return usageError{errors.New(msg)}
}

// args wants from min to max arguments; max < 0 means any number.
func args(min, max int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < min:
			return usagef("an argument is missing: %s", cmd.UseLine())
		case max >= 0 && len(args) > max:
			return usagef("unexpected argument %q: %s", args[max], cmd.UseLine())
		}
		return nil
	}
}

// exclusive refuses more than one of the flags.
func exclusive(cmd *cobra.Command, flags ...string) error {
	var given []string
	for _, f := range flags {
		if cmd.Flags().Changed(f) {
			given = append(given, "--"+f)
		}
	}
	if len(given) > 1 {
		return usagef("%s exclude each other: give one of them", strings.Join(given, " and "))
	}
	return nil
}

// talks reports whether a person reads what is printed, and not a program.
func (a *app) talks() bool {
	return a.flags.output == formatTable && show.IsTerminal(a.out) && show.IsTerminal(a.err)
}

// hint prints a line that is not part of the output.
func (a *app) hint(format string, args ...any) {
	fmt.Fprintln(a.err, show.Clean(fmt.Sprintf(format, args...)))
}
