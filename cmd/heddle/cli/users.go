package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"heddle/cmd/heddle/cli/complete"
	"heddle/cmd/heddle/cli/habits"
	"heddle/cmd/heddle/cli/show"
	v1 "heddle/proto/heddle/v1"
)

func (a *app) usersCommand() *cobra.Command {
	g := group("users", "The people who own devices and keys",
		a.userCreate(), a.userList(), a.userRename(), a.userDelete())
	g.Aliases = []string{"user"}
	return g
}

func (a *app) users() (v1.UserServiceClient, error) {
	conn, err := a.server()
	if err != nil {
		return nil, err
	}
	return v1.NewUserServiceClient(conn), nil
}

var userRoles = []string{"owner", "admin", "it-admin", "network-admin", "billing-admin", "auditor", "member"}

func (a *app) userCreate() *cobra.Command {
	req := &v1.CreateUserRequest{}
	cmd := &cobra.Command{
		Use:     "create NAME",
		Aliases: []string{"add", "new"},
		Short:   "Make a user",
		Example: "  heddle users create alice\n  heddle users create bob@example.com --display-name 'Bob B.'",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.users()
			if err != nil {
				return err
			}
			req.Name = args[0]
			resp, err := c.CreateUser(cmd.Context(), req)
			if err != nil {
				return err
			}
			return a.done(resp.GetUser(), "user %s has the ID %d", resp.GetUser().GetName(), resp.GetUser().GetId())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&req.DisplayName, "display-name", "d", "", "`NAME` that other people are shown")
	f.StringVarP(&req.Email, "email", "e", "", "mail `ADDRESS` by which policies know the user")
	f.StringVarP(&req.PictureUrl, "picture-url", "p", "", "`URL` of a picture")
	f.StringVar(&req.Role, "role", "", "`ROLE`: "+strings.Join(userRoles[:4], ", ")+",\n"+strings.Join(userRoles[4:], ", "))
	complete.Flag(cmd, "role", complete.Choice(userRoles...))
	return cmd
}

func (a *app) userList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List users",
		Example: "  heddle users list\n  heddle users list -o json",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.users()
			if err != nil {
				return err
			}
			list, err := all(func(token string) ([]*v1.User, string, error) {
				resp, err := c.ListUsers(cmd.Context(), &v1.ListUsersRequest{PageToken: token})
				return resp.GetUsers(), resp.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			return showList(a, list, "There are no users yet; `heddle users create NAME` makes one.", func() {
				t := show.NewTable("ID", "NAME", "DISPLAY NAME", "EMAIL", "ROLE", "CREATED")
				for _, u := range list {
					t.Add(u.GetId(), u.GetName(), or(u.GetDisplayName()), or(u.GetEmail()), u.GetRole(), a.since(u.GetCreatedAt(), "-"))
				}
				a.print(t)
			})
		},
	}
}

// all returns the items of all pages that get returns.
func all[T any](get func(token string) ([]T, string, error)) ([]T, error) {
	var out []T
	for token := ""; ; {
		items, next, err := get(token)
		if err != nil {
			return nil, err
		}
		out = append(out, items...)
		if next == "" {
			return out, nil
		}
		token = next
	}
}

// takesUser is for a command whose first argument is a user.
func (a *app) takesUser(cmd *cobra.Command) *cobra.Command {
	cmd.ValidArgsFunction = complete.First(a.names().Users())
	return habits.First(habits.First(cmd, "name", "n"), "identifier", "i")
}

func (a *app) userRename() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "rename USER NEW-NAME",
		Short:   "Give a user another name; a policy that names the user must follow",
		Example: "  heddle users rename alice alicia\n  heddle users rename 3 carol@example.com",
		Args:    args(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.users()
			if err != nil {
				return err
			}
			resp, err := c.RenameUser(cmd.Context(), &v1.RenameUserRequest{User: args[0], NewName: args[1]})
			if err != nil {
				return err
			}
			return a.done(resp.GetUser(), "user %d is now called %s", resp.GetUser().GetId(), resp.GetUser().GetName())
		},
	}
	return a.takesUser(habits.Last(cmd, "new-name", "r"))
}

func (a *app) userDelete() *cobra.Command {
	var confirm *confirmer
	cmd := &cobra.Command{
		Use:     "delete USER",
		Aliases: []string{"remove", "rm", "destroy"},
		Short:   "Delete a user who owns no nodes, and their pre-auth keys",
		Example: "  heddle users delete alice\n  heddle users delete 3 --yes",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := confirm.possible(); err != nil {
				return err
			}
			c, err := a.users()
			if err != nil {
				return err
			}
			if err := confirm.ask("Delete user %s and the user's pre-auth keys?", args[0]); err != nil {
				return err
			}
			resp, err := c.DeleteUser(cmd.Context(), &v1.DeleteUserRequest{User: args[0]})
			if err != nil {
				return err
			}
			return a.done(resp, "user %s is deleted", args[0])
		},
	}
	confirm = a.confirmer(cmd)
	return a.takesUser(cmd)
}
