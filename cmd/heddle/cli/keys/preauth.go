package keys

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"heddle/cmd/heddle/cli/habits"
	"heddle/cmd/heddle/cli/show"
	"heddle/cmd/heddle/cli/span"
	v1 "heddle/proto/heddle/v1"
)

// PreAuthKeys is the command `preauthkeys`.
func PreAuthKeys(t Tools) *cobra.Command {
	g := t.Group("preauthkeys", "Keys with which devices join without a person",
		t.preAuthKeyCreate(), t.preAuthKeyList(), t.preAuthKeyRevoke(), t.preAuthKeyDelete())
	g.Aliases = []string{"preauthkey", "authkeys", "authkey", "pre"}
	return g
}

func (t Tools) preAuthKeys() (v1.PreAuthKeyServiceClient, error) {
	conn, err := t.Server()
	if err != nil {
		return nil, err
	}
	return v1.NewPreAuthKeyServiceClient(conn), nil
}

func (t Tools) preAuthKeyCreate() *cobra.Command {
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
		Args: t.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			req.AclTags = words(tags)
			if req.User == "" && len(req.AclTags) == 0 {
				return t.Usage("whose devices will they be? Give --user, or --tags for devices that belong to nobody")
			}
			c, err := t.preAuthKeys()
			if err != nil {
				return err
			}
			req.Lifetime = durationpb.New(time.Duration(life))
			resp, err := c.CreatePreAuthKey(cmd.Context(), req)
			if err != nil {
				return err
			}
			if err := t.Done(resp.GetPreAuthKey(), "%s", resp.GetPreAuthKey().GetKey()); err != nil {
				return err
			}
			t.explainKey(resp.GetPreAuthKey())
			return nil
		},
	}
	f := cmd.Flags()
	t.userFlag(cmd, &req.User, "`USER` whose devices join: ID, name or e-mail")
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
func (t Tools) explainKey(k *v1.PreAuthKey) {
	if !t.Talks() {
		return
	}
	server := cmp.Or(t.LoginServer(), "URL") // that of server_url
	devices := "one device"
	if k.GetReusable() {
		devices = "any number of devices"
	}
	t.Hint("\nThe key admits %s until %s. On the device:\n    sudo tailscale up --login-server %s --auth-key %s",
		devices, k.GetExpiration().AsTime().Local().Format(time.DateTime), server, k.GetKey())
}

func (t Tools) preAuthKeyList() *cobra.Command {
	var user string
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List keys, without their secrets",
		Example: "  heddle preauthkeys list\n  heddle preauthkeys list --user alice -o json",
		Args:    t.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := t.preAuthKeys()
			if err != nil {
				return err
			}
			list, err := listPreAuthKeys(cmd.Context(), c, user)
			if err != nil {
				return err
			}
			return t.List(messages(list), "There are no keys; `heddle preauthkeys create --user USER` makes one.", func() {
				t.Table(t.preAuthKeyTable(list))
			})
		},
	}
	t.userFlag(cmd, &user, "only keys of that `USER`: ID, name or e-mail")
	return cmd
}

func listPreAuthKeys(ctx context.Context, c v1.PreAuthKeyServiceClient, user string) ([]*v1.PreAuthKey, error) {
	return all(func(token string) ([]*v1.PreAuthKey, string, error) {
		resp, err := c.ListPreAuthKeys(ctx, &v1.ListPreAuthKeysRequest{User: user, PageToken: token})
		return resp.GetPreAuthKeys(), resp.GetNextPageToken(), err
	})
}

func (t Tools) preAuthKeyTable(list []*v1.PreAuthKey) *show.Table {
	table := show.NewTable("ID", "KEY", "OWNER", "KIND", "STATE", "EXPIRES", "LAST USED", "DESCRIPTION")
	table.Cut = []string{"OWNER", "KIND", "DESCRIPTION"}
	for _, k := range list {
		table.Add(k.GetId(), public(k.GetKey()), owner(k.GetUser(), k.GetAclTags()), kindText(k),
			show.In(stateColors[k.GetState()], k.GetState()), t.Since(k.GetExpiration(), "never"), t.Since(k.GetLastUsed(), "never"), or(k.GetDescription()))
	}
	return table
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
	text := kindText(k) + ", of " + owner(k.GetUser(), k.GetAclTags())
	if k.GetDescription() != "" {
		text += ", " + k.GetDescription()
	}
	return text
}

func (t Tools) findPreAuthKey(ctx context.Context, arg string) (namedKey, error) {
	id, key := keyRef(arg)
	c, err := t.preAuthKeys()
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

func (t Tools) preAuthKeyRevoke() *cobra.Command {
	cmd := t.keyRevoke("preauthkeys", "Make a key useless; devices that joined with it stay", t.Names.PreAuthKeys(), func(ctx context.Context, arg string) error {
		k, err := t.findPreAuthKey(ctx, arg)
		if err != nil {
			return err
		}
		c, err := t.preAuthKeys()
		if err != nil {
			return err
		}
		resp, err := c.ExpirePreAuthKey(ctx, &v1.ExpirePreAuthKeyRequest{Id: k.id, Key: k.key})
		if err != nil {
			return err
		}
		return t.Done(resp, "%s is revoked: it admits no more devices", k.text)
	})
	return habits.Ignore(cmd, "user", "u")
}

func (t Tools) preAuthKeyDelete() *cobra.Command {
	cmd := t.keyDelete("preauthkeys", t.Names.PreAuthKeys(), t.findPreAuthKey, func(ctx context.Context, k namedKey) (proto.Message, error) {
		c, err := t.preAuthKeys()
		if err != nil {
			return nil, err
		}
		return c.DeletePreAuthKey(ctx, &v1.DeletePreAuthKeyRequest{Id: k.id, Key: k.key})
	})
	return habits.Ignore(cmd, "user", "u")
}
