// Package complete owns what a shell is told when somebody presses Tab: names
// that the server knows, and fixed choices. It refuses to tell of errors, for
// which a shell has no place.
package complete

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	v1 "heddle/proto/heddle/v1"
)

// timeout bounds how long a shell waits for names.
const timeout = 2 * time.Second

// Server returns the connection to the server.
type Server func() (*grpc.ClientConn, error)

// Flag sets what a flag of cmd is completed with.
func Flag(cmd *cobra.Command, flag string, fn cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, fn); err != nil {
		panic(err) // there is no such flag
	}
}

// Choice completes with one of some values.
func Choice(values ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
}

// First completes the first argument only.
func First(fn cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, text string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return fn(cmd, args, text)
	}
}

// ask completes with what the server knows, of which one page is enough.
// Without an answer there are no completions.
func (s Server) ask(list func(context.Context, grpc.ClientConnInterface) []cobra.Completion) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		conn, err := s()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
		defer cancel()
		return list(ctx, conn), cobra.ShellCompDirectiveNoFileComp
	}
}

// Nodes completes with the names of nodes.
func (s Server) Nodes() cobra.CompletionFunc {
	return s.ask(func(ctx context.Context, conn grpc.ClientConnInterface) (out []cobra.Completion) {
		resp, _ := v1.NewNodeServiceClient(conn).ListNodes(ctx, &v1.ListNodesRequest{})
		for _, n := range resp.GetNodes() {
			out = append(out, cobra.CompletionWithDesc(n.GetGivenName(), owner(n.GetUser(), n.GetTags())))
		}
		return out
	})
}

// Users completes with the names of users.
func (s Server) Users() cobra.CompletionFunc {
	return s.ask(func(ctx context.Context, conn grpc.ClientConnInterface) (out []cobra.Completion) {
		resp, _ := v1.NewUserServiceClient(conn).ListUsers(ctx, &v1.ListUsersRequest{})
		for _, u := range resp.GetUsers() {
			out = append(out, cobra.CompletionWithDesc(u.GetName(), u.GetDisplayName()))
		}
		return out
	})
}

// PreAuthKeys completes with the IDs of pre-auth keys.
func (s Server) PreAuthKeys() cobra.CompletionFunc {
	return s.ask(func(ctx context.Context, conn grpc.ClientConnInterface) (out []cobra.Completion) {
		resp, _ := v1.NewPreAuthKeyServiceClient(conn).ListPreAuthKeys(ctx, &v1.ListPreAuthKeysRequest{})
		for _, k := range resp.GetPreAuthKeys() {
			about := strings.TrimSuffix(fmt.Sprintf("%s, of %s, %s", k.GetState(), owner(k.GetUser(), k.GetAclTags()), k.GetDescription()), ", ")
			out = append(out, cobra.CompletionWithDesc(fmt.Sprint(k.GetId()), about))
		}
		return out
	})
}

// APIKeys completes with the IDs of API keys.
func (s Server) APIKeys() cobra.CompletionFunc {
	return s.ask(func(ctx context.Context, conn grpc.ClientConnInterface) (out []cobra.Completion) {
		resp, _ := v1.NewApiKeyServiceClient(conn).ListApiKeys(ctx, &v1.ListApiKeysRequest{})
		for _, k := range resp.GetApiKeys() {
			out = append(out, cobra.CompletionWithDesc(fmt.Sprint(k.GetId()), k.GetPrefix()+", "+cmp.Or(k.GetRole(), strings.Join(k.GetScopes(), " "))+", "+k.GetState()))
		}
		return out
	})
}

// OAuthClients completes with the IDs of OAuth clients.
func (s Server) OAuthClients() cobra.CompletionFunc {
	return s.ask(func(ctx context.Context, conn grpc.ClientConnInterface) (out []cobra.Completion) {
		resp, _ := v1.NewOAuthClientServiceClient(conn).ListOAuthClients(ctx, &v1.ListOAuthClientsRequest{})
		for _, k := range resp.GetClients() {
			out = append(out, cobra.CompletionWithDesc(fmt.Sprint(k.GetId()), cmp.Or(k.GetDescription(), strings.Join(k.GetScopes(), " "))))
		}
		return out
	})
}

// Logins completes with the IDs of logins that wait.
func (s Server) Logins() cobra.CompletionFunc {
	return s.ask(func(ctx context.Context, conn grpc.ClientConnInterface) (out []cobra.Completion) {
		resp, _ := v1.NewAuthServiceClient(conn).ListLogins(ctx, &v1.ListLoginsRequest{})
		for _, l := range resp.GetLogins() {
			out = append(out, cobra.CompletionWithDesc(l.GetAuthId(), l.GetHostname()))
		}
		return out
	})
}

func owner(u *v1.User, tags []string) string {
	return cmp.Or(strings.Join(tags, ","), u.GetName())
}
