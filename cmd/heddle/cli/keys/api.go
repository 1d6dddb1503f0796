package keys

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"heddle/cmd/heddle/cli/complete"
	"heddle/cmd/heddle/cli/habits"
	"heddle/cmd/heddle/cli/people"
	"heddle/cmd/heddle/cli/show"
	"heddle/cmd/heddle/cli/span"
	v1 "heddle/proto/heddle/v1"
)

// APIKeys is the command `apikeys`.
func APIKeys(t Tools) *cobra.Command {
	g := t.Group("apikeys", "Keys for programs and remote command lines",
		t.apiKeyCreate(), t.apiKeyList(), t.apiKeyRevoke(), t.apiKeyDelete())
	g.Aliases = []string{"apikey", "api"}
	return g
}

func (t Tools) apiKeys() (v1.ApiKeyServiceClient, error) {
	conn, err := t.Server()
	if err != nil {
		return nil, err
	}
	return v1.NewApiKeyServiceClient(conn), nil
}

func (t Tools) apiKeyCreate() *cobra.Command {
	req := &v1.CreateApiKeyRequest{}
	life := span.Value(90 * span.Day)
	cmd := &cobra.Command{
		Use:     "create",
		Aliases: []string{"new", "add"},
		Short:   "Make a key and print it; it cannot be shown again",
		Example: `  heddle apikeys create
  heddle apikeys create --expiration 1y --role auditor --description monitoring
  heddle apikeys create --scope devices:core:read,dns     # these alone
  heddle apikeys create --user alice                      # ends with alice`,
		Args: t.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := t.apiKeys()
			if err != nil {
				return err
			}
			if req.Role != "" && len(req.Scopes) > 0 {
				return t.Usage("a key has a role or scopes: give --role or --scope")
			}
			req.Lifetime = durationpb.New(time.Duration(life))
			resp, err := c.CreateApiKey(cmd.Context(), req)
			if err != nil {
				return err
			}
			return t.Done(resp, "%s", resp.GetApiKey())
		},
	}
	cmd.Flags().VarP(&life, "expiration", "e", "how long it is good: 24h, 90d, 1y")
	cmd.Flags().StringVar(&req.Role, "role", "", "`ROLE` of a user who could do the same (admin)")
	complete.Flag(cmd, "role", complete.Choice(people.Roles...))
	cmd.Flags().StringSliceVar(&req.Scopes, "scope", nil, "`SCOPES` instead of a role: dns, devices:core:read,\n…")
	t.userFlag(cmd, &req.User, "`USER` whose key it is: it can do no more than they")
	cmd.Flags().StringVarP(&req.Description, "description", "d", "", "`TEXT`: what it is for")
	return cmd
}

func (t Tools) apiKeyList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List keys, without their secrets",
		Example: "  heddle apikeys list\n  heddle apikeys list -o yaml",
		Args:    t.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := t.apiKeys()
			if err != nil {
				return err
			}
			list, err := listAPIKeys(cmd.Context(), c)
			if err != nil {
				return err
			}
			return t.List(messages(list), "There are no API keys; `heddle apikeys create` makes one.", func() {
				table := show.NewTable("ID", "KEY", "OWNER", "MAY", "STATE", "EXPIRES", "LAST USED", "CREATED", "DESCRIPTION")
				table.Cut, table.Drop = []string{"OWNER", "MAY", "DESCRIPTION"}, []string{"CREATED", "DESCRIPTION"}
				for _, k := range list {
					table.Add(k.GetId(), k.GetPrefix(), or(k.GetUser().GetName()), apiKeyMay(k), show.In(stateColors[k.GetState()], k.GetState()),
						t.Since(k.GetExpiration(), "never"), t.Since(k.GetLastSeen(), "never"), t.Since(k.GetCreatedAt(), "-"), or(k.GetDescription()))
				}
				t.Table(table)
			})
		},
	}
}

// apiKeyMay is what a key may do: a role or scopes.
func apiKeyMay(k *v1.ApiKey) string {
	if len(k.GetScopes()) > 0 {
		return strings.Join(k.GetScopes(), ",")
	}
	return k.GetRole()
}

func listAPIKeys(ctx context.Context, c v1.ApiKeyServiceClient) ([]*v1.ApiKey, error) {
	return all(func(token string) ([]*v1.ApiKey, string, error) {
		resp, err := c.ListApiKeys(ctx, &v1.ListApiKeysRequest{PageToken: token})
		return resp.GetApiKeys(), resp.GetNextPageToken(), err
	})
}

func (t Tools) findAPIKey(ctx context.Context, arg string) (namedKey, error) {
	id, key := keyRef(arg)
	c, err := t.apiKeys()
	if err != nil {
		return namedKey{}, err
	}
	list, err := listAPIKeys(ctx, c)
	if err != nil {
		return namedKey{}, err
	}
	for _, k := range list {
		if k.GetId() == id || key != "" && k.GetPrefix() == public(key) {
			return namedKey{k.GetId(), "", fmt.Sprintf("API key %d (%s, %s)", k.GetId(), k.GetPrefix(), apiKeyMay(k)), true}, nil
		}
	}
	return namedKey{id, key, "the key", false}, nil
}

func (t Tools) apiKeyRevoke() *cobra.Command {
	cmd := t.keyRevoke("apikeys", "Make a key useless", t.Names.APIKeys(), func(ctx context.Context, arg string) error {
		k, err := t.findAPIKey(ctx, arg)
		if err != nil {
			return err
		}
		c, err := t.apiKeys()
		if err != nil {
			return err
		}
		resp, err := c.ExpireApiKey(ctx, &v1.ExpireApiKeyRequest{Id: k.id, Prefix: k.key})
		if err != nil {
			return err
		}
		return t.Done(resp, "%s is revoked: it works no more", k.text)
	})
	return habits.First(cmd, "prefix", "p")
}

func (t Tools) apiKeyDelete() *cobra.Command {
	cmd := t.keyDelete("apikeys", t.Names.APIKeys(), t.findAPIKey, func(ctx context.Context, k namedKey) (proto.Message, error) {
		c, err := t.apiKeys()
		if err != nil {
			return nil, err
		}
		return c.DeleteApiKey(ctx, &v1.DeleteApiKeyRequest{Id: k.id, Prefix: k.key})
	})
	return habits.First(cmd, "prefix", "p")
}
