package keys

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"heddle/cmd/heddle/cli/complete"
	"heddle/cmd/heddle/cli/show"
	v1 "heddle/proto/heddle/v1"
)

// OAuthClients is the command `oauth-clients`.
func OAuthClients(t Tools) *cobra.Command {
	g := t.Group("oauth-clients", "Programs that get access tokens, by a secret or an ID token",
		t.clientCreate(), t.clientList(), t.clientSet(), t.clientDelete())
	g.Aliases = []string{"oauth-client", "oauthclients", "oauthclient"}
	return g
}

func (t Tools) oauthClients() (v1.OAuthClientServiceClient, error) {
	conn, err := t.Server()
	if err != nil {
		return nil, err
	}
	return v1.NewOAuthClientServiceClient(conn), nil
}

// clientFlags are what a client consists of.
type clientFlags struct {
	scopes, tags []string
	description  string
	trust        v1.OAuthTrust
	claims       map[string]string
}

func (f *clientFlags) add(cmd *cobra.Command) {
	to := cmd.Flags()
	to.StringSliceVar(&f.scopes, "scope", nil, "`SCOPES` of its tokens: auth_keys, dns:read, …")
	to.StringSliceVarP(&f.tags, "tags", "t", nil, "`TAGS` of its devices: these, or what these own")
	to.StringVarP(&f.description, "description", "d", "", "`TEXT`: what it is for")
	to.StringVar(&f.trust.Issuer, "issuer", "", "`URL` of whose ID tokens it takes")
	to.StringVar(&f.trust.Subject, "subject", "", "`PATTERN` of theirs; * stands for all but /")
	to.StringVar(&f.trust.Audience, "audience", "", "`NAME` for whom they must be")
	to.StringToStringVar(&f.claims, "claim", nil, "`CLAIM=PATTERN` that they must have")
}

// federated reports whether a flag is about ID tokens.
func (f *clientFlags) federated(cmd *cobra.Command) bool {
	for _, name := range []string{"issuer", "subject", "audience", "claim"} {
		if cmd.Flags().Changed(name) {
			return true
		}
	}
	return false
}

func (f *clientFlags) trusted() *v1.OAuthTrust {
	f.trust.Claims = f.claims
	return &f.trust
}

func (t Tools) clientCreate() *cobra.Command {
	var flags clientFlags
	cmd := &cobra.Command{
		Use:     "create --scope SCOPE[,SCOPE…]",
		Aliases: []string{"new", "add"},
		Short:   "Make a client and print its secret, which cannot be shown again",
		Long: `Makes an OAuth client and prints its secret, which cannot be shown again. With
--issuer, --subject and --audience it makes a federated identity, which has no
secret, and prints its ID: it takes ID tokens of that issuer, such as a CI.`,
		Example: `  heddle oauth-clients create --scope auth_keys --tags tag:ci
  heddle oauth-clients create --scope devices:core:read,dns -d Terraform -o json
  heddle oauth-clients create --scope auth_keys --tags tag:ci --audience vpn \
    --issuer https://token.actions.githubusercontent.com \
    --subject 'repo:acme/*:ref:refs/heads/main'`,
		Args: t.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			req := &v1.CreateOAuthClientRequest{Scopes: words(flags.scopes), Tags: words(flags.tags), Description: flags.description}
			if len(req.Scopes) == 0 {
				return t.Usage("what may its tokens do? Give --scope, such as auth_keys or devices:core:read")
			}
			if flags.federated(cmd) {
				req.Trust = flags.trusted()
			}
			c, err := t.oauthClients()
			if err != nil {
				return err
			}
			resp, err := c.CreateOAuthClient(cmd.Context(), req)
			if err != nil {
				return err
			}
			if resp.GetSecret() == "" {
				return t.Done(resp, "%s", resp.GetClient().GetClientId())
			}
			return t.Done(resp, "%s", resp.GetSecret())
		},
	}
	flags.add(cmd)
	return cmd
}

func listClients(ctx context.Context, c v1.OAuthClientServiceClient) ([]*v1.OAuthClient, error) {
	return all(func(token string) ([]*v1.OAuthClient, string, error) {
		resp, err := c.ListOAuthClients(ctx, &v1.ListOAuthClientsRequest{PageToken: token})
		return resp.GetClients(), resp.GetNextPageToken(), err
	})
}

func (t Tools) clientList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List clients, without their secrets",
		Example: "  heddle oauth-clients list\n  heddle oauth-clients list -o json",
		Args:    t.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := t.oauthClients()
			if err != nil {
				return err
			}
			list, err := listClients(cmd.Context(), c)
			if err != nil {
				return err
			}
			return t.List(messages(list), "There are no OAuth clients; `heddle oauth-clients create` makes one.", func() {
				table := show.NewTable("ID", "CLIENT", "SCOPES", "TAGS", "STATE", "LAST USED", "CREATED", "TRUSTS", "DESCRIPTION")
				table.Cut, table.Drop = []string{"SCOPES", "TAGS", "TRUSTS", "DESCRIPTION"}, []string{"CREATED", "DESCRIPTION"}
				for _, k := range list {
					table.Add(k.GetId(), k.GetClientId(), strings.Join(k.GetScopes(), ","), or(strings.Join(k.GetTags(), ",")), clientState(k),
						t.Since(k.GetLastUsed(), "never"), t.Since(k.GetCreatedAt(), "-"), trusts(k.GetTrust()), or(k.GetDescription()))
				}
				t.Table(table)
			})
		},
	}
}

func clientState(k *v1.OAuthClient) show.Cell {
	state := "valid"
	if k.GetRevokedAt() != nil {
		state = "revoked"
	}
	return show.In(stateColors[state], state)
}

func trusts(trust *v1.OAuthTrust) string {
	if trust == nil {
		return "its secret"
	}
	return trust.GetIssuer() + " " + trust.GetSubject()
}

func (t Tools) clientSet() *cobra.Command {
	var flags clientFlags
	cmd := &cobra.Command{
		Use:   "set CLIENT",
		Short: "Change what a client may do; its tokens end",
		Example: `  heddle oauth-clients set 4 --scope dns:read
  heddle oauth-clients set 4 --tags tag:ci,tag:build --description 'build farm'
  heddle oauth-clients set 5 --issuer https://ci.example.com \
    --subject 'repo:acme/*' --audience vpn`,
		Args:              t.Args(1, 1),
		ValidArgsFunction: complete.First(t.Names.OAuthClients()),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &v1.UpdateOAuthClientRequest{
				Client: args[0], Scopes: words(flags.scopes), Tags: words(flags.tags), Description: flags.description, UpdateMask: new(fieldmaskpb.FieldMask),
			}
			for flag, field := range map[string]string{"scope": "scopes", "tags": "tags", "description": "description"} {
				if cmd.Flags().Changed(flag) {
					req.UpdateMask.Paths = append(req.UpdateMask.Paths, field)
				}
			}
			if flags.federated(cmd) {
				req.Trust = flags.trusted()
				req.UpdateMask.Paths = append(req.UpdateMask.Paths, "trust")
			}
			if len(req.UpdateMask.Paths) == 0 {
				return t.Usage("what is to change? Give --scope, --tags, --description, or --issuer, --subject, --audience and --claim together")
			}
			c, err := t.oauthClients()
			if err != nil {
				return err
			}
			resp, err := c.UpdateOAuthClient(cmd.Context(), req)
			if err != nil {
				return err
			}
			return t.Done(resp.GetClient(), "%s is changed; it needs new tokens", clientText(resp.GetClient()))
		},
	}
	flags.add(cmd)
	return cmd
}

func clientText(k *v1.OAuthClient) string {
	return fmt.Sprintf("OAuth client %d (%s, %s)", k.GetId(), k.GetClientId(), strings.Join(k.GetScopes(), ","))
}

func (t Tools) findClient(ctx context.Context, arg string) (namedKey, error) {
	id, key := keyRef(arg)
	c, err := t.oauthClients()
	if err != nil {
		return namedKey{}, err
	}
	list, err := listClients(ctx, c)
	if err != nil {
		return namedKey{}, err
	}
	for _, k := range list {
		if k.GetId() == id || k.GetClientId() == public(key) {
			return namedKey{k.GetId(), "", clientText(k), true}, nil
		}
	}
	return namedKey{id, key, "the client", false}, nil
}

func (t Tools) clientDelete() *cobra.Command {
	cmd := t.keyDelete("oauth-clients", t.Names.OAuthClients(), t.findClient, func(ctx context.Context, k namedKey) (proto.Message, error) {
		c, err := t.oauthClients()
		if err != nil {
			return nil, err
		}
		ref := k.key
		if k.id != 0 {
			ref = fmt.Sprint(k.id)
		}
		return c.DeleteOAuthClient(ctx, &v1.DeleteOAuthClientRequest{Client: ref})
	})
	cmd.Use, cmd.Short = "delete CLIENT", "Delete a client; its tokens end"
	return cmd
}
