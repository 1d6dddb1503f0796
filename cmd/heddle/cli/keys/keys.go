// Package keys owns the commands about what opens the tailnet: pre-auth keys, API keys and
// OAuth clients. It refuses to know how the server is reached and how output is chosen.
package keys

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"heddle/cmd/heddle/cli/complete"
	"heddle/cmd/heddle/cli/habits"
	"heddle/cmd/heddle/cli/people"
	"heddle/cmd/heddle/cli/show"
	v1 "heddle/proto/heddle/v1"
)

// Tools are what the commands need of the command line around them.
type Tools struct {
	people.Tools
	// Talks reports whether a person reads what is printed, and not a program.
	Talks func() bool
	// LoginServer is what devices are to be given as such; "" if that is not known.
	LoginServer func() string
}

var stateColors = map[string]show.Color{"valid": show.Green, "used": show.Dim, "expired": show.Yellow, "revoked": show.Red}

// public returns the part that names a key of its text, which may be the secret.
func public(key string) string {
	for _, prefix := range []string{"tskey-auth-", "tskey-api-", "tskey-client-"} {
		if rest, ok := strings.CutPrefix(key, prefix); ok {
			key, _, _ = strings.Cut(rest, "-")
		}
	}
	return key
}

// keyRef tells an ID from a key.
func keyRef(arg string) (id uint64, key string) {
	if id, err := strconv.ParseUint(arg, 10, 64); err == nil && id > 0 {
		return id, ""
	}
	return 0, arg
}

// namedKey is what a command says of the key that it was given, which must
// not be the secret.
type namedKey struct {
	id    uint64
	key   string // if there is no ID
	text  string // for people
	known bool   // if it is not, the server will say so
}

// keyRevoke makes the command that makes a key of a kind useless.
func (t Tools) keyRevoke(group, short string, ids cobra.CompletionFunc, revoke func(ctx context.Context, arg string) error) *cobra.Command {
	return habits.First(&cobra.Command{
		Use:               "revoke KEY",
		Aliases:           []string{"expire"},
		Short:             short,
		Example:           fmt.Sprintf("  heddle %s revoke 4", group),
		Args:              t.Args(1, 1),
		ValidArgsFunction: complete.First(ids),
		RunE:              func(cmd *cobra.Command, args []string) error { return revoke(cmd.Context(), args[0]) },
	}, "id", "i")
}

// keyDelete makes the command that deletes a key of a kind.
func (t Tools) keyDelete(group string, ids cobra.CompletionFunc, find func(context.Context, string) (namedKey, error),
	del func(context.Context, namedKey) (proto.Message, error)) *cobra.Command {
	var possible func() error
	var ask func(string, ...any) error
	cmd := &cobra.Command{
		Use:               "delete KEY",
		Aliases:           []string{"remove", "rm"},
		Short:             "Delete a key",
		Example:           fmt.Sprintf("  heddle %[1]s delete 4\n  heddle %[1]s delete 4 --yes", group),
		Args:              t.Args(1, 1),
		ValidArgsFunction: complete.First(ids),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := possible(); err != nil {
				return err
			}
			k, err := find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if k.known {
				if err := ask("Delete %s?", k.text); err != nil {
					return err
				}
			}
			resp, err := del(cmd.Context(), k)
			if err != nil {
				return err
			}
			return t.Done(resp, "%s is deleted", k.text)
		},
	}
	possible, ask = t.Confirm(cmd)
	return habits.First(cmd, "id", "i")
}

// userFlag adds the flag --user.
func (t Tools) userFlag(cmd *cobra.Command, to *string, usage string) {
	cmd.Flags().StringVarP(to, "user", "u", "", usage)
	complete.Flag(cmd, "user", t.Names.Users())
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

// messages is a list as List wants it.
func messages[M proto.Message](list []M) []proto.Message {
	out := make([]proto.Message, len(list))
	for i, m := range list {
		out[i] = m
	}
	return out
}

// owner tells whom a key belongs to.
func owner(u *v1.User, tags []string) string {
	return cmp.Or(strings.Join(tags, ","), u.GetName(), "-")
}

// words are the values of a flag, also of those who put spaces behind commas.
func words(values []string) []string { return strings.Fields(strings.Join(values, " ")) }

// or returns s, or - if it is empty.
func or(s string) string { return cmp.Or(s, "-") }
