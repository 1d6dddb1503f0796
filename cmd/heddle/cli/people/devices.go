package people

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"heddle/cmd/heddle/cli/show"
	"heddle/cmd/heddle/cli/span"
	v1 "heddle/proto/heddle/v1"
)

// NodeHold is the command `nodes hold`.
func NodeHold(t Tools) *cobra.Command {
	return t.takesNode(&cobra.Command{
		Use:     "hold NODE",
		Short:   "Let a node wait for approval again; it leaves the tailnet until then",
		Example: "  heddle nodes hold laptop\n  heddle nodes approve laptop",
		Args:    t.Args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.nodes()
			if err != nil {
				return err
			}
			resp, err := c.HoldNode(cmd.Context(), &v1.HoldNodeRequest{Node: args[0]})
			if err != nil {
				return err
			}
			n := resp.GetNode()
			return t.Done(n, "node %d (%s) waits for approval: `heddle nodes approve %d`", n.GetId(), n.GetGivenName(), n.GetId())
		},
	})
}

// NodeAddress is the command `nodes address`.
func NodeAddress(t Tools) *cobra.Command {
	return t.takesNode(&cobra.Command{
		Use:     "address NODE IPV4",
		Short:   "Give a node another IPv4 address",
		Example: "  heddle nodes address laptop 100.64.7.7",
		Args:    t.Args(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.nodes()
			if err != nil {
				return err
			}
			resp, err := c.SetAddress(cmd.Context(), &v1.SetAddressRequest{Node: args[0], Address: args[1]})
			if err != nil {
				return err
			}
			n := resp.GetNode()
			return t.Done(n, "node %d (%s) has the addresses %s", n.GetId(), n.GetGivenName(), lines(n.GetIpAddresses()))
		},
	})
}

// NodeAttributes is the command `nodes attributes`.
func NodeAttributes(t Tools) *cobra.Command {
	g := t.Group("attributes", "What the policy's postures may ask of a node", attributeList(t), attributeSet(t), attributeDelete(t))
	g.Aliases = []string{"attribute", "attrs"}
	return g
}

func attributeList(t Tools) *cobra.Command {
	return t.takesNode(&cobra.Command{
		Use:     "list NODE",
		Aliases: []string{"ls"},
		Short:   "List the attributes of a node",
		Example: "  heddle nodes attributes list laptop\n  heddle nodes attributes list laptop -o json",
		Args:    t.Args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.nodes()
			if err != nil {
				return err
			}
			resp, err := c.ListAttributes(cmd.Context(), &v1.ListAttributesRequest{Node: args[0]})
			if err != nil {
				return err
			}
			return t.List(messages(resp.GetAttributes()), "The node has no attributes; `heddle nodes attributes set NODE custom:NAME VALUE` gives it one.", func() {
				table := show.NewTable("ATTRIBUTE", "VALUE", "EXPIRES")
				for _, a := range resp.GetAttributes() {
					table.Add(a.GetName(), fmt.Sprint(a.GetValue().AsInterface()), t.Since(a.GetExpiration(), "never"))
				}
				t.Table(table)
			})
		},
	})
}

func attributeSet(t Tools) *cobra.Command {
	var life span.Value
	var text bool
	cmd := t.takesNode(&cobra.Command{
		Use:   "set NODE custom:NAME VALUE",
		Short: "Give a node an attribute, or another value of it",
		Long: `Gives a node an attribute. A value that looks like a number, or like true or
false, is one, unless --text is there.`,
		Example: `  heddle nodes attributes set laptop custom:tier gold
  heddle nodes attributes set laptop custom:patched true --expiration 7d
  heddle nodes attributes set laptop custom:room 101 --text`,
		Args: t.Args(3, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.nodes()
			if err != nil {
				return err
			}
			req := &v1.SetAttributeRequest{Node: args[0], Name: args[1], Value: valueOf(args[2], text)}
			if life > 0 {
				req.Lifetime = durationpb.New(time.Duration(life))
			}
			resp, err := c.SetAttribute(cmd.Context(), req)
			if err != nil {
				return err
			}
			return t.Done(resp.GetAttribute(), "%s has %s = %v", args[0], args[1], resp.GetAttribute().GetValue().AsInterface())
		},
	})
	cmd.Flags().VarP(&life, "expiration", "e", "how long it is true: 90m, 24h, 7d")
	cmd.Flags().BoolVar(&text, "text", false, "the value is a text, whatever it looks like")
	return cmd
}

// valueOf understands what people write for a value.
func valueOf(s string, text bool) *structpb.Value {
	if f, err := strconv.ParseFloat(s, 64); err == nil && !text && strings.Trim(s, "+-.0123456789eE") == "" {
		return structpb.NewNumberValue(f)
	}
	if (s == "true" || s == "false") && !text {
		return structpb.NewBoolValue(s == "true")
	}
	return structpb.NewStringValue(s)
}

func attributeDelete(t Tools) *cobra.Command {
	return t.takesNode(&cobra.Command{
		Use:     "delete NODE custom:NAME",
		Aliases: []string{"remove", "rm", "unset"},
		Short:   "Take an attribute from a node",
		Example: "  heddle nodes attributes delete laptop custom:tier",
		Args:    t.Args(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.nodes()
			if err != nil {
				return err
			}
			resp, err := c.DeleteAttribute(cmd.Context(), &v1.DeleteAttributeRequest{Node: args[0], Name: args[1]})
			if err != nil {
				return err
			}
			return t.Done(resp, "%s has no %s any more", args[0], args[1])
		},
	})
}

func settingsContacts(t Tools) *cobra.Command {
	return &cobra.Command{
		Use:   "contacts [KIND EMAIL]",
		Short: "Show whom to turn to, or say so",
		Long: `Shows whom to turn to, about the tailnet (account), for help (support) and about
security (security), or says so. heddle writes to none of them.`,
		Example: "  heddle settings contacts\n  heddle settings contacts security security@example.com",
		Args:    t.Args(0, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.settings()
			if err != nil {
				return err
			}
			var all *v1.Contacts
			switch len(args) {
			case 0:
				resp, failed := c.GetContacts(cmd.Context(), &v1.GetContactsRequest{})
				all, err = resp.GetContacts(), failed
			case 2:
				resp, failed := c.SetContact(cmd.Context(), &v1.SetContactRequest{Kind: args[0], Email: args[1]})
				all, err = resp.GetContacts(), failed
			default:
				return t.Usage("write KIND EMAIL, such as security security@example.com")
			}
			if err != nil {
				return err
			}
			return t.Show(all, func() {
				table := show.NewTable("CONTACT", "E-MAIL")
				table.Add("account", or(all.GetAccount()))
				table.Add("support", or(all.GetSupport()))
				table.Add("security", or(all.GetSecurity()))
				t.Table(table)
			})
		},
	}
}
