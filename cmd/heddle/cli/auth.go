package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"heddle/cmd/heddle/cli/complete"
	"heddle/cmd/heddle/cli/show"
	v1 "heddle/proto/heddle/v1"
)

func (a *app) authCommand() *cobra.Command {
	return group("auth", "Logins that wait for a person", a.register(), a.authList())
}

// register makes the command that admits a device which waits; there is one
// under auth and, as an older habit, one under nodes.
func (a *app) register() *cobra.Command {
	var user, id string
	cmd := &cobra.Command{
		Use:   "register --user USER ID",
		Short: "Admit the device whose login page has that ID, or URL",
		Example: `  heddle auth register --user alice 5f3hq2…
  heddle auth register --user alice https://vpn.example.com/register/5f3hq2…`,
		Args:              args(0, 1),
		ValidArgsFunction: complete.First(a.names().Logins()),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 1 && id != "":
				return usagef("give the ID once, as argument or as --auth-id")
			case len(args) == 1:
				id = args[0]
			case id == "":
				return usagef("which device? Give the ID or the URL of its login page; `heddle auth list` shows who waits")
			}
			if user == "" {
				return usagef("whose device will it be? Give --user")
			}
			return a.registerNode(cmd.Context(), user, loginID(id))
		},
	}
	a.userFlag(cmd, &user, "the `USER` whose device it will be: ID, name or e-mail")
	f := cmd.Flags()
	f.StringVar(&id, "auth-id", "", "the same as the argument")
	f.StringVarP(&id, "key", "k", "", "")
	f.MarkHidden("key") // what headscale calls it
	return cmd
}

// loginID returns the ID of a login of what people copy: the ID, the URL of
// its page, or that of the page's status.
func loginID(text string) string {
	text = strings.TrimSpace(text)
	if _, rest, isURL := strings.Cut(text, "/register/"); isURL {
		text = rest
		if i := strings.IndexAny(text, "/?#"); i >= 0 {
			text = text[:i]
		}
	}
	return text
}

func (a *app) registerNode(ctx context.Context, user, id string) error {
	conn, err := a.server()
	if err != nil {
		return err
	}
	resp, err := v1.NewAuthServiceClient(conn).AuthRegister(ctx, &v1.AuthRegisterRequest{User: user, AuthId: id})
	if err != nil {
		return err
	}
	n := resp.GetNode()
	if len(n.GetTags()) > 0 {
		return a.done(n, "node %d (%s) has joined with the tags %s, so it belongs to no user", n.GetId(), n.GetGivenName(), strings.Join(n.GetTags(), ", "))
	}
	return a.done(n, "node %d (%s) of user %s has joined", n.GetId(), n.GetGivenName(), n.GetUser().GetName())
}

func (a *app) authList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls", "pending"},
		Short:   "List the devices that wait to be admitted",
		Example: "  heddle auth list\n  heddle auth list -o json",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn, err := a.server()
			if err != nil {
				return err
			}
			resp, err := v1.NewAuthServiceClient(conn).ListLogins(cmd.Context(), &v1.ListLoginsRequest{})
			if err != nil {
				return err
			}
			list := resp.GetLogins()
			if resp.GetOmitted() > 0 {
				a.hint("There are %d more, which wait for longer.", resp.GetOmitted())
			}
			return showList(a, list, "No device waits; one without a key does after `tailscale up --login-server URL`.", func() {
				t := show.NewTable("NAME", "SYSTEM", "FROM", "MACHINE", "SINCE", "ID")
				t.Cut, t.Drop = []string{"NAME", "SYSTEM"}, []string{"SYSTEM", "FROM", "MACHINE"}
				for _, l := range list {
					t.Add(or(l.GetHostname()), or(l.GetOs()), or(l.GetFrom()), l.GetMachine(), a.since(l.GetStartedAt(), "-"), l.GetAuthId())
				}
				a.print(t)
			})
		},
	}
}
