package people

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"heddle/cmd/heddle/cli/complete"
	"heddle/cmd/heddle/cli/habits"
	"heddle/cmd/heddle/cli/show"
	v1 "heddle/proto/heddle/v1"
)

// Users is the command `users`.
func Users(t Tools) *cobra.Command {
	g := t.Group("users", "The people who own devices and keys",
		userCreate(t), userList(t), userShow(t), userRename(t), userDelete(t),
		userApprove(t), userSuspend(t), userRestore(t), userRole(t), userLink(t), userUnlink(t))
	g.Aliases = []string{"user"}
	g.Long = g.Short + ".\n\nWhere a command wants a USER, give an ID, a name or an e-mail address."
	return g
}

// Roles are all roles, from the most powerful on.
var Roles = []string{"owner", "admin", "it-admin", "network-admin", "billing-admin", "auditor", "member"}

func userCreate(t Tools) *cobra.Command {
	req := &v1.CreateUserRequest{}
	cmd := &cobra.Command{
		Use:     "create NAME",
		Aliases: []string{"add", "new"},
		Short:   "Make a user",
		Example: "  heddle users create alice\n  heddle users create bob@example.com --display-name 'Bob B.'",
		Args:    t.Args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.users()
			if err != nil {
				return err
			}
			req.Name = args[0]
			resp, err := c.CreateUser(cmd.Context(), req)
			if err != nil {
				return err
			}
			return t.Done(resp.GetUser(), "user %s has the ID %d", resp.GetUser().GetName(), resp.GetUser().GetId())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&req.DisplayName, "display-name", "d", "", "`NAME` that other people are shown")
	f.StringVarP(&req.Email, "email", "e", "", "mail `ADDRESS` by which policies know the user")
	f.StringVarP(&req.PictureUrl, "picture-url", "p", "", "`URL` of a picture")
	f.StringVar(&req.Role, "role", "", "`ROLE`: "+strings.Join(Roles[:4], ", ")+",\n"+strings.Join(Roles[4:], ", "))
	complete.Flag(cmd, "role", complete.Choice(Roles...))
	return cmd
}

func userList(t Tools) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List users",
		Example: "  heddle users list\n  heddle users list -o json",
		Args:    t.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := t.users()
			if err != nil {
				return err
			}
			var list []*v1.User
			for req := new(v1.ListUsersRequest); ; {
				resp, err := c.ListUsers(cmd.Context(), req)
				if err != nil {
					return err
				}
				list = append(list, resp.GetUsers()...)
				if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
					break
				}
			}
			return t.List(messages(list), "There are no users yet; `heddle users create NAME` makes one.", func() { printUsers(t, list) })
		},
	}
}

const (
	waits     = "needs-approval" // User.status of one who waits
	suspended = "suspended"
)

func printUsers(t Tools, list []*v1.User) {
	table := show.NewTable("ID", "NAME", "DISPLAY NAME", "EMAIL", "ROLE", "STATUS", "LOGS IN AT", "CREATED")
	table.Cut = []string{"NAME", "DISPLAY NAME", "EMAIL", "LOGS IN AT"}
	table.Drop = []string{"CREATED", "LOGS IN AT", "DISPLAY NAME", "EMAIL"}
	for _, u := range list {
		table.Add(u.GetId(), u.GetName(), or(u.GetDisplayName()), or(u.GetEmail()), u.GetRole(), userStatus(u), lines(issuers(u)), t.Since(u.GetCreatedAt(), "-"))
	}
	t.Table(table)
	if slices.ContainsFunc(list, func(u *v1.User) bool { return u.GetStatus() == waits }) {
		t.Hint("Users wait for approval: `heddle users approve USER`.")
	}
}

func userStatus(u *v1.User) show.Cell {
	switch u.GetStatus() {
	case waits:
		return show.In(show.Yellow, "needs approval")
	case suspended:
		return show.In(show.Red, u.GetStatus())
	}
	return show.In(0, u.GetStatus())
}

// issuers are the providers at which somebody logs in, in short.
func issuers(u *v1.User) []string {
	var out []string
	for _, id := range u.GetIdentities() {
		name := id.GetIssuer()
		if at, err := url.Parse(name); err == nil && at.Host != "" {
			name = at.Host
		}
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

func userShow(t Tools) *cobra.Command {
	return t.takesUser(&cobra.Command{
		Use:     "show USER",
		Aliases: []string{"get"},
		Short:   "Show all that is known of a user",
		Example: "  heddle users show alice\n  heddle users show alice@example.com -o yaml",
		Args:    t.Args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.users()
			if err != nil {
				return err
			}
			resp, err := c.GetUser(cmd.Context(), &v1.GetUserRequest{User: args[0]})
			if err != nil {
				return err
			}
			return t.Show(resp.GetUser(), func() { t.Table(userTable(resp.GetUser())) })
		},
	})
}

func userTable(u *v1.User) *show.Table {
	table := show.NewTable("FIELD", "VALUE")
	table.Whole = true
	table.Add("ID", u.GetId())
	table.Add("name", u.GetName())
	table.Add("display name", or(u.GetDisplayName()))
	table.Add("e-mail", or(u.GetEmail()))
	table.Add("picture", or(u.GetProfilePicUrl()))
	table.Add("role", u.GetRole())
	table.Add("status", userStatus(u))
	table.Add("groups", lines(u.GetGroups()))
	for _, id := range u.GetIdentities() {
		table.Add("identity", id.GetIssuer()+" "+id.GetSubject())
	}
	table.Add("created", clock(u.GetCreatedAt()))
	return table
}

func clock(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return t.AsTime().Local().Format(time.DateTime)
}

func userRename(t Tools) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "rename USER NEW-NAME",
		Short:   "Give a user another name; a policy that names the user must follow",
		Example: "  heddle users rename alice alicia\n  heddle users rename 3 carol@example.com",
		Args:    t.Args(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.users()
			if err != nil {
				return err
			}
			resp, err := c.RenameUser(cmd.Context(), &v1.RenameUserRequest{User: args[0], NewName: args[1]})
			if err != nil {
				return err
			}
			return t.Done(resp.GetUser(), "user %d is now called %s", resp.GetUser().GetId(), resp.GetUser().GetName())
		},
	}
	return t.takesUser(habits.Last(cmd, "new-name", "r"))
}

func userDelete(t Tools) *cobra.Command {
	var possible func() error
	var ask func(string, ...any) error
	cmd := &cobra.Command{
		Use:     "delete USER",
		Aliases: []string{"remove", "rm", "destroy"},
		Short:   "Delete a user who owns no nodes, and their keys",
		Example: "  heddle users delete alice\n  heddle users delete 3 --yes",
		Args:    t.Args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := possible(); err != nil {
				return err
			}
			c, err := t.users()
			if err != nil {
				return err
			}
			if err := ask("Delete user %s and the user's keys?", args[0]); err != nil {
				return err
			}
			resp, err := c.DeleteUser(cmd.Context(), &v1.DeleteUserRequest{User: args[0]})
			if err != nil {
				return err
			}
			return t.Done(resp, "user %s is deleted", args[0])
		},
	}
	possible, ask = t.Confirm(cmd)
	return t.takesUser(cmd)
}

func userApprove(t Tools) *cobra.Command {
	return t.takesUser(&cobra.Command{
		Use:     "approve USER",
		Short:   "Let in a user who waits for approval",
		Example: "  heddle users approve alice@example.com",
		Args:    t.Args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.users()
			if err != nil {
				return err
			}
			resp, err := c.ApproveUser(cmd.Context(), &v1.ApproveUserRequest{User: args[0]})
			if err != nil {
				return err
			}
			return t.Done(resp.GetUser(), "user %s is approved; `heddle nodes list` shows whether devices still wait", resp.GetUser().GetName())
		},
	})
}

func userSuspend(t Tools) *cobra.Command {
	return t.takesUser(&cobra.Command{
		Use:     "suspend USER",
		Aliases: []string{"disable"},
		Short:   "Shut a user out",
		Long: `Shuts a user out: their devices are disconnected within seconds, their pre-auth
keys and API keys are revoked, and nobody can log in as them. Devices with tags
stay. To end what is left, delete the devices and then the user.`,
		Example: "  heddle users suspend alice\n  heddle users disable alice@example.com",
		Args:    t.Args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.users()
			if err != nil {
				return err
			}
			resp, err := c.SuspendUser(cmd.Context(), &v1.SuspendUserRequest{User: args[0]})
			if err != nil {
				return err
			}
			return t.Done(resp.GetUser(), "user %s is suspended: the devices must log in again, which nobody can, and the keys are revoked", resp.GetUser().GetName())
		},
	})
}

func userRestore(t Tools) *cobra.Command {
	return t.takesUser(&cobra.Command{
		Use:     "restore USER",
		Aliases: []string{"enable"},
		Short:   "Let a suspended user log in again; nothing else comes back by itself",
		Example: "  heddle users restore alice\n  heddle users enable alice@example.com",
		Args:    t.Args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.users()
			if err != nil {
				return err
			}
			resp, err := c.RestoreUser(cmd.Context(), &v1.RestoreUserRequest{User: args[0]})
			if err != nil {
				return err
			}
			return t.Done(resp.GetUser(), "user %s may log in again; devices must, and need new keys", resp.GetUser().GetName())
		},
	})
}

func userRole(t Tools) *cobra.Command {
	cmd := t.takesUser(&cobra.Command{
		Use:     "role USER ROLE",
		Aliases: []string{"set-role"},
		Short:   "Change what a user may do",
		Long: `Changes what a user may do here, with API keys and in the console:

  owner          everything
  admin          everything, but to make and unmake owners
  it-admin       devices, routes, users, keys, settings
  network-admin  the policy, DNS, routes, pre-auth keys
  billing-admin  the account only
  auditor        read everything
  member         use the network, administer nothing`,
		Example: "  heddle users role alice admin\n  heddle users role bob@example.com auditor",
		Args:    t.Args(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.users()
			if err != nil {
				return err
			}
			resp, err := c.SetUserRole(cmd.Context(), &v1.SetUserRoleRequest{User: args[0], Role: args[1]})
			if err != nil {
				return err
			}
			return t.Done(resp.GetUser(), "user %s has the role %s", resp.GetUser().GetName(), resp.GetUser().GetRole())
		},
	})
	users := cmd.ValidArgsFunction
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, text string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) == 1 {
			return Roles, cobra.ShellCompDirectiveNoFileComp
		}
		return users(cmd, args, text)
	}
	return cmd
}

func userLink(t Tools) *cobra.Command {
	return t.takesUser(&cobra.Command{
		Use:   "link USER ISSUER SUBJECT",
		Short: "Let one more identity of a provider log in as a user",
		Long: `Lets one more identity of a provider log in as a user. ISSUER is the provider's
URL as in its tokens, SUBJECT the person's ID there; the server's log tells both
when somebody logs in.`,
		Example: "  heddle users link alice https://id.example.com 248289761001",
		Args:    t.Args(3, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.users()
			if err != nil {
				return err
			}
			resp, err := c.LinkIdentity(cmd.Context(), &v1.LinkIdentityRequest{User: args[0], Identity: &v1.Identity{Issuer: args[1], Subject: args[2]}})
			if err != nil {
				return err
			}
			return t.Done(resp.GetUser(), "%s of %s logs in as user %s", args[2], args[1], resp.GetUser().GetName())
		},
	})
}

func userUnlink(t Tools) *cobra.Command {
	return t.takesUser(&cobra.Command{
		Use:     "unlink USER ISSUER SUBJECT",
		Short:   "Take an identity away from a user",
		Example: "  heddle users unlink alice https://id.example.com 248289761001",
		Args:    t.Args(3, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.users()
			if err != nil {
				return err
			}
			resp, err := c.UnlinkIdentity(cmd.Context(), &v1.UnlinkIdentityRequest{User: args[0], Identity: &v1.Identity{Issuer: args[1], Subject: args[2]}})
			if err != nil {
				return err
			}
			left := fmt.Sprintf("identities left: %d", len(resp.GetUser().GetIdentities()))
			if len(resp.GetUser().GetIdentities()) == 0 {
				left = "nobody can log in as the user any more"
			}
			return t.Done(resp.GetUser(), "%s of %s logs in as user %s no more; %s", args[2], args[1], resp.GetUser().GetName(), left)
		},
	})
}
