package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	v1 "heddle/proto/heddle/v1"
)

// completeTimeout bounds what a shell waits for names.
const completeTimeout = 2 * time.Second

type completer = cobra.CompletionFunc

// complete sets what a flag is completed with.
func complete(cmd *cobra.Command, flag string, fn completer) {
	if err := cmd.RegisterFlagCompletionFunc(flag, fn); err != nil {
		panic(err) // there is no such flag
	}
}

func choice(values ...string) completer {
	return cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
}

// first completes the first argument only.
func first(fn completer) completer {
	return func(cmd *cobra.Command, args []string, text string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return fn(cmd, args, text)
	}
}

// asked completes with what the server knows, of which one page is enough. A
// shell is no place for errors: without an answer there are no completions.
func (a *app) asked(list func(context.Context, grpc.ClientConnInterface) []cobra.Completion) completer {
	return func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		conn, err := a.server()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
		defer cancel()
		return list(ctx, conn), cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *app) nodeNames() completer {
	return a.asked(func(ctx context.Context, conn grpc.ClientConnInterface) (out []cobra.Completion) {
		resp, _ := v1.NewNodeServiceClient(conn).ListNodes(ctx, &v1.ListNodesRequest{})
		for _, n := range resp.GetNodes() {
			out = append(out, cobra.CompletionWithDesc(n.GetGivenName(), ownerText(n.GetUser(), n.GetTags())))
		}
		return out
	})
}

func (a *app) userNames() completer {
	return a.asked(func(ctx context.Context, conn grpc.ClientConnInterface) (out []cobra.Completion) {
		resp, _ := v1.NewUserServiceClient(conn).ListUsers(ctx, &v1.ListUsersRequest{})
		for _, u := range resp.GetUsers() {
			out = append(out, cobra.CompletionWithDesc(u.GetName(), u.GetDisplayName()))
		}
		return out
	})
}

func (a *app) preAuthKeyIDs() completer {
	return a.asked(func(ctx context.Context, conn grpc.ClientConnInterface) (out []cobra.Completion) {
		resp, _ := v1.NewPreAuthKeyServiceClient(conn).ListPreAuthKeys(ctx, &v1.ListPreAuthKeysRequest{})
		for _, k := range resp.GetPreAuthKeys() {
			out = append(out, cobra.CompletionWithDesc(fmt.Sprint(k.GetId()), preAuthKeyText(k)))
		}
		return out
	})
}

func (a *app) apiKeyIDs() completer {
	return a.asked(func(ctx context.Context, conn grpc.ClientConnInterface) (out []cobra.Completion) {
		resp, _ := v1.NewApiKeyServiceClient(conn).ListApiKeys(ctx, &v1.ListApiKeysRequest{})
		for _, k := range resp.GetApiKeys() {
			out = append(out, cobra.CompletionWithDesc(fmt.Sprint(k.GetId()), k.GetPrefix()+", "+k.GetRole()+", "+k.GetState()))
		}
		return out
	})
}
