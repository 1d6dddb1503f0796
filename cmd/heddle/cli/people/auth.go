package people

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/skip2/go-qrcode"
	"github.com/spf13/cobra"

	"heddle/cmd/heddle/cli/complete"
	"heddle/cmd/heddle/cli/show"
	v1 "heddle/proto/heddle/v1"
)

// Auth is the command `auth`.
func Auth(t Tools) *cobra.Command {
	return t.Group("auth", "Logins and SSH connections that wait for a person", authRegister(t), authList(t), authApprove(t), authReject(t), authQR(t))
}

// authQR shows the page of a device without a browser to a phone.
func authQR(t Tools) *cobra.Command {
	return &cobra.Command{
		Use:     "qr URL",
		Short:   "Show the URL of a login page as a QR code, for a phone to open",
		Example: "  heddle auth qr https://vpn.example.com/register/5f3hq2…",
		Args:    t.Args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			u, err := url.Parse(args[0])
			if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
				return t.Usage("%q is no URL of a login page: it is what `tailscale up` prints", args[0])
			}
			code, err := qrcode.New(args[0], qrcode.Medium)
			if err != nil {
				return t.Usage("this URL is too long for a QR code")
			}
			_, err = io.WriteString(cmd.OutOrStdout(), code.ToSmallString(false))
			return err
		},
	}
}

// NodeRegister is the command `nodes register`, which is what `auth register` was called once.
func NodeRegister(t Tools) *cobra.Command {
	return register(t, "nodes", func(ctx context.Context, user, id string) (*v1.Node, error) {
		c, err := t.nodes()
		if err != nil {
			return nil, err
		}
		resp, err := c.RegisterNode(ctx, &v1.RegisterNodeRequest{User: user, Key: id})
		return resp.GetNode(), err
	})
}

func authRegister(t Tools) *cobra.Command {
	return register(t, "auth", func(ctx context.Context, user, id string) (*v1.Node, error) {
		c, err := t.auth()
		if err != nil {
			return nil, err
		}
		resp, err := c.AuthRegister(ctx, &v1.AuthRegisterRequest{User: user, AuthId: id})
		return resp.GetNode(), err
	})
}

// register makes the command of a group that admits a device which waits.
func register(t Tools, group string, admit func(ctx context.Context, user, id string) (*v1.Node, error)) *cobra.Command {
	var user, id string
	cmd := &cobra.Command{
		Use:   "register --user USER ID",
		Short: "Admit the device whose login page has that ID, or URL",
		Example: fmt.Sprintf("  heddle %[1]s register --user alice 5f3hq2…\n"+
			"  heddle %[1]s register --user alice https://vpn.example.com/register/5f3hq2…", group),
		Args:              t.Args(0, 1),
		ValidArgsFunction: complete.First(t.Names.Logins()),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 1 && id != "":
				return t.Usage("give the ID once, as argument or as --auth-id")
			case len(args) == 1:
				id = args[0]
			case id == "":
				return t.Usage("which device? Give the ID or the URL of its login page; `heddle auth list` shows who waits")
			}
			if user == "" {
				return t.Usage("whose device will it be? Give --user")
			}
			n, err := admit(cmd.Context(), user, loginID(id))
			if err != nil {
				return err
			}
			return t.joined(n)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&user, "user", "u", "", "the `USER` whose device it will be: ID, name or e-mail")
	complete.Flag(cmd, "user", t.Names.Users())
	f.StringVar(&id, "auth-id", "", "the same as the argument")
	f.StringVarP(&id, "key", "k", "", "")
	f.MarkHidden("key") // what headscale calls it
	return cmd
}

// loginID returns the ID of what people copy: the ID, the URL of
// its page, or that of the page's status.
func loginID(text string) string {
	text = strings.TrimSpace(text)
	for _, page := range []string{"/register/", "/ssh/"} {
		if _, rest, isURL := strings.Cut(text, page); isURL {
			text = rest
			if i := strings.IndexAny(text, "/?#"); i >= 0 {
				text = text[:i]
			}
		}
	}
	return text
}

// joined tells of a device that was admitted.
func (t Tools) joined(n *v1.Node) error {
	if len(n.GetTags()) > 0 {
		return t.Done(n, "node %d (%s) has joined with the tags %s, so it belongs to no user", n.GetId(), n.GetGivenName(), strings.Join(n.GetTags(), ", "))
	}
	also := ""
	if n.GetPendingApproval() {
		also = fmt.Sprintf("; it waits for approval: `heddle nodes approve %d`", n.GetId())
	}
	return t.Done(n, "node %d (%s) of user %s has joined%s", n.GetId(), n.GetGivenName(), n.GetUser().GetName(), also)
}

func authList(t Tools) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls", "pending"},
		Short:   "List the devices that wait to be admitted, and SSH connections to be confirmed",
		Example: "  heddle auth list\n  heddle auth list -o json",
		Args:    t.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := t.auth()
			if err != nil {
				return err
			}
			resp, err := c.ListLogins(cmd.Context(), &v1.ListLoginsRequest{})
			if err != nil {
				return err
			}
			list := resp.GetLogins()
			if resp.GetOmitted() > 0 {
				t.Hint("There are %d more, which wait for longer.", resp.GetOmitted())
			}
			return t.List(messages(list), "No device waits; one without a key does after `tailscale up --login-server URL`.", func() {
				printLogins(cmd.Context(), t, list)
			})
		},
	}
}

func printLogins(ctx context.Context, t Tools, list []*v1.Login) {
	table := show.NewTable("NAME", "WANTS", "SYSTEM", "FROM", "MACHINE", "SINCE", "ID")
	table.Cut, table.Drop = []string{"NAME", "SYSTEM"}, []string{"SYSTEM", "FROM", "MACHINE"}
	for _, l := range list {
		table.Add(or(l.GetHostname()), wish(ctx, t, l), or(l.GetOs()), or(l.GetFrom()), or(l.GetMachine()), t.Since(l.GetStartedAt(), "-"), or(l.GetAuthId()))
	}
	t.Table(table)
	if slices.ContainsFunc(list, isSSH) {
		t.Hint("SSH connections wait: `heddle auth approve ID` or `heddle auth reject ID`, if you know who connects.")
	}
}

func isSSH(l *v1.Login) bool { return l.GetKind() == "ssh" }

// wish is what waits, in words.
func wish(ctx context.Context, t Tools, l *v1.Login) string {
	if !isSSH(l) {
		return "to join"
	}
	to := fmt.Sprintf("node %d", l.GetDestinationNodeId())
	if c, err := t.nodes(); err == nil {
		if resp, err := c.GetNode(ctx, &v1.GetNodeRequest{Node: fmt.Sprint(l.GetDestinationNodeId())}); err == nil {
			to = resp.GetNode().GetGivenName()
		}
	}
	return fmt.Sprintf("SSH as %s to %s", or(l.GetSshUser()), to)
}

func authApprove(t Tools) *cobra.Command {
	return &cobra.Command{
		Use:               "approve ID",
		Short:             "Let an SSH connection go on that waits for a person",
		Example:           "  heddle auth approve 5f3hq2…\n  heddle auth approve https://vpn.example.com/ssh/5f3hq2…",
		Args:              t.Args(1, 1),
		ValidArgsFunction: complete.First(t.Names.Logins()),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.auth()
			if err != nil {
				return err
			}
			resp, err := c.AuthApprove(cmd.Context(), &v1.AuthApproveRequest{AuthId: loginID(args[0])})
			if err != nil {
				return err
			}
			return t.Done(resp, "the connection goes on")
		},
	}
}

func authReject(t Tools) *cobra.Command {
	return &cobra.Command{
		Use:               "reject ID",
		Aliases:           []string{"deny"},
		Short:             "Turn away a device, or refuse an SSH connection, that waits",
		Example:           "  heddle auth reject 5f3hq2…",
		Args:              t.Args(1, 1),
		ValidArgsFunction: complete.First(t.Names.Logins()),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.auth()
			if err != nil {
				return err
			}
			resp, err := c.AuthReject(cmd.Context(), &v1.AuthRejectRequest{AuthId: loginID(args[0])})
			if err != nil {
				return err
			}
			return t.Done(resp, "rejected")
		},
	}
}
