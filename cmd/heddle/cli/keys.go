package cli

import (
	"context"
	"fmt"
	"strconv"
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

var stateColors = map[string]show.Color{"valid": show.Green, "used": show.Dim, "expired": show.Yellow, "revoked": show.Red}

func (a *app) preAuthKeysCommand() *cobra.Command {
	g := group("preauthkeys", "Keys with which devices join without a person",
		a.preAuthKeyCreate(), a.preAuthKeyList(), a.preAuthKeyRevoke(), a.preAuthKeyDelete())
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
	life := span.Value(time.Hour)
	cmd := &cobra.Command{
		Use:     "create --user USER | --tags TAG[,TAG…]",
		Aliases: []string{"new", "add"},
		Short:   "Make a key and print it; it cannot be shown again",
		Example: `  heddle preauthkeys create --user alice
  heddle preauthkeys create --user alice --reusable --expiration 24h
  heddle preauthkeys create --tags tag:server --ephemeral
  key="$(heddle preauthkeys create --user alice)"    # the key alone, if piped`,
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
			if err := a.done(resp.GetPreAuthKey(), "%s", resp.GetPreAuthKey().GetKey()); err != nil {
				return err
			}
			a.explainKey(resp.GetPreAuthKey())
			return nil
		},
	}
	f := cmd.Flags()
	a.userFlag(cmd, &req.User, "`USER` whose devices join: ID, name or e-mail")
	f.BoolVar(&req.Reusable, "reusable", false, "it admits any number of devices")
	f.BoolVar(&req.Ephemeral, "ephemeral", false, "its devices are removed soon after they leave")
	f.BoolVar(&req.Preauthorized, "preauthorized", false, "its devices need no approval")
	f.BoolVar(&req.Preauthorized, "preapproved", false, "")
	f.MarkHidden("preapproved") // another name of the same
	f.StringSliceVarP(&tags, "tags", "t", nil, "`TAGS` of its devices, which then belong to no user")
	f.VarP(&life, "expiration", "e", "how long it is good: 90m, 24h, 7d")
	f.StringVarP(&req.Description, "description", "d", "", "`TEXT`: what it is for")
	return cmd
}

// explainKey tells a person what to do with a key. Programs need no words.
func (a *app) explainKey(k *v1.PreAuthKey) {
	if a.flags.output != formatTable || !show.IsTerminal(a.out) || !show.IsTerminal(a.err) {
		return
	}
	server := a.dial.conn.LoginServer
	if server == "" {
		server = "URL" // that of server_url
	}
	devices := "one device"
	if k.GetReusable() {
		devices = "any number of devices"
	}
	a.hint("\nThe key admits %s until %s. On the device:\n    sudo tailscale up --login-server %s --auth-key %s",
		devices, when(k.GetExpiration(), "it is revoked"), server, k.GetKey())
}

// userFlag adds the flag --user.
func (a *app) userFlag(cmd *cobra.Command, to *string, usage string) {
	cmd.Flags().StringVarP(to, "user", "u", "", usage)
	complete.Flag(cmd, "user", a.names().Users())
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
			list, err := listPreAuthKeys(cmd.Context(), c, user)
			if err != nil {
				return err
			}
			return showList(a, list, "There are no keys; `heddle preauthkeys create --user USER` makes one.", func() {
				a.print(a.preAuthKeyTable(list))
			})
		},
	}
	a.userFlag(cmd, &user, "only keys of that `USER`: ID, name or e-mail")
	return cmd
}

func listPreAuthKeys(ctx context.Context, c v1.PreAuthKeyServiceClient, user string) ([]*v1.PreAuthKey, error) {
	return all(func(token string) ([]*v1.PreAuthKey, string, error) {
		resp, err := c.ListPreAuthKeys(ctx, &v1.ListPreAuthKeysRequest{User: user, PageToken: token})
		return resp.GetPreAuthKeys(), resp.GetNextPageToken(), err
	})
}

func (a *app) preAuthKeyTable(list []*v1.PreAuthKey) *show.Table {
	t := show.NewTable("ID", "KEY", "OWNER", "KIND", "STATE", "EXPIRES", "LAST USED", "DESCRIPTION")
	t.Cut = []string{"OWNER", "KIND", "DESCRIPTION"}
	for _, k := range list {
		t.Add(k.GetId(), public(k.GetKey()), ownerText(k.GetUser(), k.GetAclTags()), kindText(k),
			show.In(stateColors[k.GetState()], k.GetState()), a.since(k.GetExpiration(), "never"), a.since(k.GetLastUsed(), "never"), or(k.GetDescription()))
	}
	return t
}

func kindText(k *v1.PreAuthKey) string {
	kind := "one-time"
	if k.GetReusable() {
		kind = "reusable"
	}
	if k.GetEphemeral() {
		kind += ", ephemeral"
	}
	if k.GetPreauthorized() {
		kind += ", preauthorized"
	}
	return kind
}

// preAuthKeyText tells people which key is meant.
func preAuthKeyText(k *v1.PreAuthKey) string {
	text := kindText(k) + ", of " + ownerText(k.GetUser(), k.GetAclTags())
	if k.GetDescription() != "" {
		text += ", " + k.GetDescription()
	}
	return text
}

// public returns the part that names a key of its text, which may be the secret.
func public(key string) string {
	for _, prefix := range []string{"tskey-auth-", "tskey-api-"} {
		if rest, ok := strings.CutPrefix(key, prefix); ok {
			key, _, _ = strings.Cut(rest, "-")
		}
	}
	return key
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

// namedKey is what a command says of the key that it was given, which must
// not be the secret.
type namedKey struct {
	id    uint64
	key   string // if there is no ID
	text  string // for people
	known bool   // if it is not, the server will say so
}

func (a *app) findPreAuthKey(ctx context.Context, arg string) (namedKey, error) {
	id, key := keyRef(arg)
	c, err := a.preAuthKeys()
	if err != nil {
		return namedKey{}, err
	}
	list, err := listPreAuthKeys(ctx, c, "")
	if err != nil {
		return namedKey{}, err
	}
	for _, k := range list {
		if k.GetId() == id || key != "" && public(k.GetKey()) == public(key) {
			return namedKey{k.GetId(), "", fmt.Sprintf("pre-auth key %d (%s)", k.GetId(), preAuthKeyText(k)), true}, nil
		}
	}
	return namedKey{id, key, "the key", false}, nil
}

func (a *app) preAuthKeyRevoke() *cobra.Command {
	cmd := a.keyRevoke("preauthkeys", "Make a key useless; devices that joined with it stay", a.names().PreAuthKeys(), func(ctx context.Context, arg string) error {
		k, err := a.findPreAuthKey(ctx, arg)
		if err != nil {
			return err
		}
		c, err := a.preAuthKeys()
		if err != nil {
			return err
		}
		resp, err := c.ExpirePreAuthKey(ctx, &v1.ExpirePreAuthKeyRequest{Id: k.id, Key: k.key})
		if err != nil {
			return err
		}
		return a.done(resp, "%s is revoked: it admits no more devices", k.text)
	})
	return habits.Ignore(cmd, "user", "u")
}

// keyRevoke makes the command that makes a key of a kind useless.
func (a *app) keyRevoke(group, short string, ids cobra.CompletionFunc, revoke func(ctx context.Context, arg string) error) *cobra.Command {
	return habits.First(&cobra.Command{
		Use:               "revoke KEY",
		Aliases:           []string{"expire"},
		Short:             short,
		Example:           fmt.Sprintf("  heddle %s revoke 4", group),
		Args:              args(1, 1),
		ValidArgsFunction: complete.First(ids),
		RunE:              func(cmd *cobra.Command, args []string) error { return revoke(cmd.Context(), args[0]) },
	}, "id", "i")
}

func (a *app) preAuthKeyDelete() *cobra.Command {
	cmd := a.keyDelete("preauthkeys", a.names().PreAuthKeys(), a.findPreAuthKey, func(ctx context.Context, k namedKey) (proto.Message, error) {
		c, err := a.preAuthKeys()
		if err != nil {
			return nil, err
		}
		return c.DeletePreAuthKey(ctx, &v1.DeletePreAuthKeyRequest{Id: k.id, Key: k.key})
	})
	return habits.Ignore(cmd, "user", "u")
}

// keyDelete makes the command that deletes a key of a kind.
func (a *app) keyDelete(group string, ids cobra.CompletionFunc, find func(context.Context, string) (namedKey, error),
	del func(context.Context, namedKey) (proto.Message, error)) *cobra.Command {
	var confirm *confirmer
	cmd := &cobra.Command{
		Use:               "delete KEY",
		Aliases:           []string{"remove", "rm"},
		Short:             "Delete a key",
		Example:           fmt.Sprintf("  heddle %[1]s delete 4\n  heddle %[1]s delete 4 --yes", group),
		Args:              args(1, 1),
		ValidArgsFunction: complete.First(ids),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := confirm.possible(); err != nil {
				return err
			}
			k, err := find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if k.known {
				if err := confirm.ask("Delete %s?", k.text); err != nil {
					return err
				}
			}
			resp, err := del(cmd.Context(), k)
			if err != nil {
				return err
			}
			return a.done(resp, "%s is deleted", k.text)
		},
	}
	confirm = a.confirmer(cmd)
	return habits.First(cmd, "id", "i")
}

func (a *app) apiKeysCommand() *cobra.Command {
	g := group("apikeys", "Keys for programs and remote command lines",
		a.apiKeyCreate(), a.apiKeyList(), a.apiKeyRevoke(), a.apiKeyDelete())
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
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.apiKeys()
			if err != nil {
				return err
			}
			if req.Role != "" && len(req.Scopes) > 0 {
				return usagef("a key has a role or scopes: give --role or --scope")
			}
			req.Lifetime = durationpb.New(time.Duration(life))
			resp, err := c.CreateApiKey(cmd.Context(), req)
			if err != nil {
				return err
			}
			return a.done(resp, "%s", resp.GetApiKey())
		},
	}
	cmd.Flags().VarP(&life, "expiration", "e", "how long it is good: 24h, 90d, 1y")
	cmd.Flags().StringVar(&req.Role, "role", "", "`ROLE` of a user who could do the same (admin)")
	complete.Flag(cmd, "role", complete.Choice(people.Roles...))
	cmd.Flags().StringSliceVar(&req.Scopes, "scope", nil, "`SCOPES` instead of a role: dns, devices:core:read,\n…")
	a.userFlag(cmd, &req.User, "`USER` whose key it is: it can do no more than they")
	cmd.Flags().StringVarP(&req.Description, "description", "d", "", "`TEXT`: what it is for")
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
			list, err := listAPIKeys(cmd.Context(), c)
			if err != nil {
				return err
			}
			return showList(a, list, "There are no API keys; `heddle apikeys create` makes one.", func() {
				t := show.NewTable("ID", "KEY", "OWNER", "MAY", "STATE", "EXPIRES", "LAST USED", "CREATED", "DESCRIPTION")
				t.Cut, t.Drop = []string{"OWNER", "MAY", "DESCRIPTION"}, []string{"CREATED", "DESCRIPTION"}
				for _, k := range list {
					t.Add(k.GetId(), k.GetPrefix(), or(k.GetUser().GetName()), apiKeyMay(k), show.In(stateColors[k.GetState()], k.GetState()),
						a.since(k.GetExpiration(), "never"), a.since(k.GetLastSeen(), "never"), a.since(k.GetCreatedAt(), "-"), or(k.GetDescription()))
				}
				a.print(t)
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

func (a *app) findAPIKey(ctx context.Context, arg string) (namedKey, error) {
	id, key := keyRef(arg)
	c, err := a.apiKeys()
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

func (a *app) apiKeyRevoke() *cobra.Command {
	cmd := a.keyRevoke("apikeys", "Make a key useless", a.names().APIKeys(), func(ctx context.Context, arg string) error {
		k, err := a.findAPIKey(ctx, arg)
		if err != nil {
			return err
		}
		c, err := a.apiKeys()
		if err != nil {
			return err
		}
		resp, err := c.ExpireApiKey(ctx, &v1.ExpireApiKeyRequest{Id: k.id, Prefix: k.key})
		if err != nil {
			return err
		}
		return a.done(resp, "%s is revoked: it works no more", k.text)
	})
	return habits.First(cmd, "prefix", "p")
}

func (a *app) apiKeyDelete() *cobra.Command {
	cmd := a.keyDelete("apikeys", a.names().APIKeys(), a.findAPIKey, func(ctx context.Context, k namedKey) (proto.Message, error) {
		c, err := a.apiKeys()
		if err != nil {
			return nil, err
		}
		return c.DeleteApiKey(ctx, &v1.DeleteApiKeyRequest{Id: k.id, Prefix: k.key})
	})
	return habits.First(cmd, "prefix", "p")
}
