package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "heddle/proto/heddle/v1"
)

var stateColors = map[string]color{"valid": green, "used": dim, "expired": yellow, "revoked": red}

func (a *app) preAuthKeysCommand() *cobra.Command {
	g := group("preauthkeys", "Keys with which devices join without a person",
		a.preAuthKeyCreate(), a.preAuthKeyList(), a.preAuthKeyExpire(), a.preAuthKeyDelete())
	g.Aliases = []string{"preauthkey", "authkeys", "authkey", "pre"}
	return g
}

func (a *app) preAuthKeys() (v1.PreAuthKeyServiceClient, error) {
	conn, err := a.server()
	if err != nil {
		return nil, err
	}
	return v1.NewPreAuthKeyServiceClient(conn), nil
}

func (a *app) preAuthKeyCreate() *cobra.Command {
	req := &v1.CreatePreAuthKeyRequest{}
	var tags []string
	life := durationValue(time.Hour)
	cmd := &cobra.Command{
		Use:     "create --user USER | --tags TAG[,TAG…]",
		Aliases: []string{"new", "add"},
		Short:   "Make a key and print it; it cannot be shown again",
		Example: `  heddle preauthkeys create --user alice
  heddle preauthkeys create --user alice --reusable --expiration 24h
  heddle preauthkeys create --tags tag:server --ephemeral
  tailscale up --login-server https://vpn.example.com --auth-key "$(heddle preauthkeys create --user alice)"`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			req.AclTags = splitList(tags)
			if req.User == "" && len(req.AclTags) == 0 {
				return usagef("whose devices will they be? Give --user, or --tags for devices that belong to nobody")
			}
			c, err := a.preAuthKeys()
			if err != nil {
				return err
			}
			req.Lifetime = durationpb.New(time.Duration(life))
			resp, err := c.CreatePreAuthKey(cmd.Context(), req)
			if err != nil {
				return err
			}
			return a.done(resp.GetPreAuthKey(), "%s", resp.GetPreAuthKey().GetKey())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&req.User, "user", "u", "", "whose devices join with it: `ID`, name or e-mail address")
	f.BoolVar(&req.Reusable, "reusable", false, "it admits any number of devices")
	f.BoolVar(&req.Ephemeral, "ephemeral", false, "its devices are removed soon after they leave")
	f.StringSliceVarP(&tags, "tags", "t", nil, "`tags` of its devices, which then belong to no user")
	f.VarP(&life, "expiration", "e", "how long it is good: 90m, 24h, 7d")
	f.StringVarP(&req.Description, "description", "d", "", "what it is for")
	return cmd
}

func (a *app) preAuthKeyList() *cobra.Command {
	var user string
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List keys, without their secrets",
		Example: "  heddle preauthkeys list\n  heddle preauthkeys list --user alice -o json",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.preAuthKeys()
			if err != nil {
				return err
			}
			list, err := all(func(token string) ([]*v1.PreAuthKey, string, error) {
				resp, err := c.ListPreAuthKeys(cmd.Context(), &v1.ListPreAuthKeysRequest{User: user, PageToken: token})
				return resp.GetPreAuthKeys(), resp.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			return showList(a, list, "There are no keys; `heddle preauthkeys create --user USER` makes one.", func() {
				a.print(preAuthKeyTable(list))
			})
		},
	}
	cmd.Flags().StringVarP(&user, "user", "u", "", "only keys of that user: `ID`, name or e-mail address")
	return cmd
}

func preAuthKeyTable(list []*v1.PreAuthKey) *table {
	t := newTable("ID", "KEY", "OWNER", "KIND", "STATE", "EXPIRES", "DESCRIPTION")
	for _, k := range list {
		kind := "one-time"
		if k.GetReusable() {
			kind = "reusable"
		}
		if k.GetEphemeral() {
			kind += ", ephemeral"
		}
		t.add(k.GetId(), k.GetKey(), ownerText(k.GetUser(), k.GetAclTags()), kind,
			cell{k.GetState(), stateColors[k.GetState()]}, when(k.GetExpiration(), "never"), or(k.GetDescription()))
	}
	return t
}

// ownerText tells whom a node or key belongs to.
func ownerText(u *v1.User, tags []string) string {
	if len(tags) > 0 {
		return strings.Join(tags, ",")
	}
	return or(u.GetName())
}

// keyRef tells an ID from a key.
func keyRef(arg string) (id uint64, key string) {
	if id, err := strconv.ParseUint(arg, 10, 64); err == nil && id > 0 {
		return id, ""
	}
	return 0, arg
}

func (a *app) preAuthKeyExpire() *cobra.Command {
	return &cobra.Command{
		Use:     "expire KEY",
		Aliases: []string{"revoke"},
		Short:   "Make a key useless; devices that joined with it stay",
		Example: "  heddle preauthkeys expire 4\n  heddle preauthkeys expire tskey-auth-…",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.preAuthKeys()
			if err != nil {
				return err
			}
			req := &v1.ExpirePreAuthKeyRequest{}
			req.Id, req.Key = keyRef(args[0])
			resp, err := c.ExpirePreAuthKey(cmd.Context(), req)
			if err != nil {
				return err
			}
			return a.done(resp, "the key admits no more devices")
		},
	}
}

func (a *app) preAuthKeyDelete() *cobra.Command {
	return a.keyDelete("pre-auth key", "heddle preauthkeys delete 4", func(ctx context.Context, id uint64, key string) error {
		c, err := a.preAuthKeys()
		if err != nil {
			return err
		}
		resp, err := c.DeletePreAuthKey(ctx, &v1.DeletePreAuthKeyRequest{Id: id, Key: key})
		if err != nil {
			return err
		}
		return a.done(resp, "the key is deleted")
	})
}

// keyDelete makes the command that deletes a key of a kind.
func (a *app) keyDelete(kind, example string, del func(ctx context.Context, id uint64, key string) error) *cobra.Command {
	var confirm *confirmer
	cmd := &cobra.Command{
		Use:     "delete KEY",
		Aliases: []string{"remove", "rm"},
		Short:   "Delete a key",
		Example: fmt.Sprintf("  %s\n  %s --yes", example, example),
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := confirm.possible(); err != nil {
				return err
			}
			id, key := keyRef(args[0])
			what := fmt.Sprint(id)
			if key != "" {
				what = "it" // it may be the secret
			}
			if err := confirm.ask("Delete %s %s?", kind, what); err != nil {
				return err
			}
			return del(cmd.Context(), id, key)
		},
	}
	confirm = a.confirmer(cmd)
	return cmd
}

func (a *app) apiKeysCommand() *cobra.Command {
	g := group("apikeys", "Keys for programs and remote command lines",
		a.apiKeyCreate(), a.apiKeyList(), a.apiKeyExpire(), a.apiKeyDelete())
	g.Aliases = []string{"apikey", "api"}
	return g
}

func (a *app) apiKeys() (v1.ApiKeyServiceClient, error) {
	conn, err := a.server()
	if err != nil {
		return nil, err
	}
	return v1.NewApiKeyServiceClient(conn), nil
}

func (a *app) apiKeyCreate() *cobra.Command {
	var role string
	life := durationValue(90 * day)
	cmd := &cobra.Command{
		Use:     "create",
		Aliases: []string{"new", "add"},
		Short:   "Make a key and print it; it cannot be shown again",
		Example: "  heddle apikeys create\n  heddle apikeys create --expiration 1y --role auditor",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.apiKeys()
			if err != nil {
				return err
			}
			resp, err := c.CreateApiKey(cmd.Context(), &v1.CreateApiKeyRequest{
				Lifetime: durationpb.New(time.Duration(life)), Role: role,
			})
			if err != nil {
				return err
			}
			return a.done(resp, "%s", resp.GetApiKey())
		},
	}
	cmd.Flags().VarP(&life, "expiration", "e", "how long it is good: 24h, 90d, 1y")
	cmd.Flags().StringVar(&role, "role", "", "what it may do: admin (everything) or auditor (read)")
	return cmd
}

func (a *app) apiKeyList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List keys, without their secrets",
		Example: "  heddle apikeys list\n  heddle apikeys list -o yaml",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.apiKeys()
			if err != nil {
				return err
			}
			list, err := all(func(token string) ([]*v1.ApiKey, string, error) {
				resp, err := c.ListApiKeys(cmd.Context(), &v1.ListApiKeysRequest{PageToken: token})
				return resp.GetApiKeys(), resp.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			return showList(a, list, "There are no API keys; `heddle apikeys create` makes one.", func() {
				t := newTable("ID", "PREFIX", "ROLE", "STATE", "EXPIRES", "CREATED", "LAST USED")
				for _, k := range list {
					t.add(k.GetId(), k.GetPrefix(), k.GetRole(), cell{k.GetState(), stateColors[k.GetState()]},
						when(k.GetExpiration(), "never"), when(k.GetCreatedAt(), "-"), when(k.GetLastSeen(), "never"))
				}
				a.print(t)
			})
		},
	}
}

func (a *app) apiKeyExpire() *cobra.Command {
	return &cobra.Command{
		Use:     "expire KEY",
		Aliases: []string{"revoke"},
		Short:   "Make a key useless",
		Example: "  heddle apikeys expire 2",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.apiKeys()
			if err != nil {
				return err
			}
			req := &v1.ExpireApiKeyRequest{}
			req.Id, req.Prefix = keyRef(args[0])
			resp, err := c.ExpireApiKey(cmd.Context(), req)
			if err != nil {
				return err
			}
			return a.done(resp, "the key works no more")
		},
	}
}

func (a *app) apiKeyDelete() *cobra.Command {
	return a.keyDelete("API key", "heddle apikeys delete 2", func(ctx context.Context, id uint64, key string) error {
		c, err := a.apiKeys()
		if err != nil {
			return err
		}
		resp, err := c.DeleteApiKey(ctx, &v1.DeleteApiKeyRequest{Id: id, Prefix: key})
		if err != nil {
			return err
		}
		return a.done(resp, "the key is deleted")
	})
}
