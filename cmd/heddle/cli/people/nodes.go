package people

import (
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"heddle/cmd/heddle/cli/complete"
	"heddle/cmd/heddle/cli/span"
	v1 "heddle/proto/heddle/v1"
)

// NodeApprove is the command `nodes approve`.
func NodeApprove(t Tools) *cobra.Command {
	return t.takesNode(&cobra.Command{
		Use:     "approve NODE",
		Short:   "Let in a node that waits for approval",
		Example: "  heddle nodes approve laptop",
		Args:    t.Args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.nodes()
			if err != nil {
				return err
			}
			resp, err := c.ApproveNode(cmd.Context(), &v1.ApproveNodeRequest{Node: args[0]})
			if err != nil {
				return err
			}
			return t.Done(resp.GetNode(), "node %d (%s) is approved", resp.GetNode().GetId(), resp.GetNode().GetGivenName())
		},
	})
}

// NodeReject is the command `nodes reject`.
func NodeReject(t Tools) *cobra.Command {
	return t.takesNode(&cobra.Command{
		Use:     "reject NODE",
		Short:   "Delete a node that waits for approval",
		Example: "  heddle nodes reject laptop",
		Args:    t.Args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.nodes()
			if err != nil {
				return err
			}
			resp, err := c.RejectNode(cmd.Context(), &v1.RejectNodeRequest{Node: args[0]})
			if err != nil {
				return err
			}
			return t.Done(resp, "node %s is rejected and deleted", args[0])
		},
	})
}

// NodeExpiry is the command `nodes expiry`.
func NodeExpiry(t Tools) *cobra.Command {
	cmd := t.takesNode(&cobra.Command{
		Use:   "expiry NODE off|on|DURATION",
		Short: "Say whether, or when, the key of a node expires",
		Long: `Says whether the key of a node expires: "off" means never, also after it logs in
again; "on" as the settings say, counted from now. A duration puts the end off,
without anybody touching the device, also if its key has expired already.`,
		Example: `  heddle nodes expiry build-server off
  heddle nodes expiry build-server on
  heddle nodes expiry laptop 90d`,
		Args: t.Args(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.nodes()
			if err != nil {
				return err
			}
			var n *v1.Node
			switch args[1] {
			case "off", "disable", "never", "on", "enable":
				resp, failed := c.SetKeyExpiry(cmd.Context(), &v1.SetKeyExpiryRequest{Node: args[0], Disabled: args[1] != "on" && args[1] != "enable"})
				n, err = resp.GetNode(), failed
			default:
				life, wrong := span.Parse(args[1])
				if wrong != nil {
					return t.Usage("%q: write off, on, or a duration like 24h, 90d or 1y", args[1])
				}
				resp, failed := c.ExpireNode(cmd.Context(), &v1.ExpireNodeRequest{Node: args[0], Extend: durationpb.New(life)})
				n, err = resp.GetNode(), failed
			}
			if err != nil {
				return err
			}
			if n.GetExpiry() == nil {
				return t.Done(n, "node %d (%s) never expires", n.GetId(), n.GetGivenName())
			}
			return t.Done(n, "node %d (%s) expires %s", n.GetId(), n.GetGivenName(), n.GetExpiry().AsTime().Local().Format(time.DateTime))
		},
	})
	nodes := cmd.ValidArgsFunction
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, text string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) == 1 {
			return complete.Choice("off", "on", "90d")(cmd, args, text)
		}
		return nodes(cmd, args, text)
	}
	return cmd
}
