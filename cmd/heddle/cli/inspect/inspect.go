// Package inspect owns `heddle debug netmap` and `heddle debug log-level`: what a device is
// sent, and how much the server's log has. It refuses to know how the server is reached.
package inspect

import (
	"fmt"
	"io"
	"os"

	"heddle/cmd/heddle/cli/complete"
	"heddle/cmd/heddle/cli/show"
	v1 "heddle/proto/heddle/v1"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Tools are what the commands need of the command line around them.
type Tools struct {
	Server func() (*grpc.ClientConn, error)
	Show   func(m proto.Message, text func()) error // as text, JSON or YAML
	Hint   func(format string, args ...any)         // apart from the output
	Out    io.Writer
}

// Netmap is `netmap`.
func Netmap(t Tools) *cobra.Command {
	var delta bool
	var raw string
	cmd := &cobra.Command{
		Use:   "netmap NODE",
		Short: "Show what a node would be sent: its whole map, or what changed since it was sent something last",
		Long: `Shows what a node would be sent now: its whole map, decoded from the very bytes,
or with --diff what is new since it was sent something last. That is usually
nothing: a node is sent what changes at once. It is a MapResponse of the Tailscale protocol.`,
		Example: `  heddle debug netmap laptop
  heddle debug netmap laptop | jq '.Peers[].Name'
  heddle debug netmap 7 --diff
  heddle debug netmap 7 --raw map.bin     # the bytes themselves`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := t.Server()
			if err != nil {
				return err
			}
			resp, err := v1.NewDebugServiceClient(conn).GetNetmap(cmd.Context(), &v1.GetNetmapRequest{Node: args[0]})
			if err != nil {
				return err
			}
			m := resp.GetFull()
			if delta {
				m = resp.GetDelta()
			}
			if raw != "" {
				if err := os.WriteFile(raw, m.GetWire(), 0o600); err != nil {
					return err
				}
				t.Hint("%d bytes are in %s", len(m.GetWire()), raw)
				return nil
			}
			return t.Show(resp, func() { text(t, resp, m) })
		},
	}
	cmd.Flags().BoolVar(&delta, "diff", false, "what is new since the node was sent something last")
	cmd.Flags().StringVar(&raw, "raw", "", "write the bytes to `FILE`, as they are before encryption")
	cmd.ValidArgsFunction = complete.First(complete.Server(t.Server).Nodes())
	return cmd
}

func text(t Tools, resp *v1.GetNetmapResponse, m *v1.NetmapMessage) {
	state := "not connected: as for its last known client"
	if resp.GetConnected() {
		state = fmt.Sprintf("connected; it was sent state %d last", resp.GetSent())
	}
	t.Hint("node %d at state %d, capability version %d, %s; %d bytes on the wire",
		resp.GetNodeId(), resp.GetSnapshot(), resp.GetCapabilityVersion(), state, len(m.GetWire()))
	if len(m.GetJson()) == 0 {
		t.Hint("There is nothing that it has not been sent.")
		return
	}
	if show.JSON(t.Out, []byte(m.GetJson())) != nil {
		fmt.Fprintln(t.Out, show.Clean(m.GetJson()))
	}
}

// LogLevel is `log-level`.
func LogLevel(t Tools) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "log-level [LEVEL]",
		Short: "Show or change how much the server's log has: debug, info, warn or error",
		Long: `Shows or changes how much the server's log has: debug, info, warn or error. The change
holds until the server starts anew or reads its configuration, whose log.level counts then.`,
		Example: "  heddle debug log-level\n  heddle debug log-level debug --reason \"looking for a slow login\"",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := t.Server()
			if err != nil {
				return err
			}
			c := v1.NewDebugServiceClient(conn)
			if len(args) == 0 {
				resp, err := c.GetLogLevel(cmd.Context(), &v1.GetLogLevelRequest{})
				if err != nil {
					return err
				}
				return t.Show(resp, func() { fmt.Fprintln(t.Out, resp.GetLevel()) })
			}
			resp, err := c.SetLogLevel(cmd.Context(), &v1.SetLogLevelRequest{Level: args[0]})
			if err != nil {
				return err
			}
			return t.Show(resp, func() { fmt.Fprintf(t.Out, "the log has %s now (before: %s)\n", args[0], resp.GetPrevious()) })
		},
	}
	cmd.ValidArgsFunction = complete.First(complete.Choice("debug", "info", "warn", "error"))
	return cmd
}
