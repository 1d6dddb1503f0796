// Package fleet owns `heddle debug fleet`: how the map streams of the connected
// devices are doing, in words. It refuses to know how the server is reached and how output is chosen.
package fleet

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"heddle/cmd/heddle/cli/show"
	v1 "heddle/proto/heddle/v1"
)

// Tools are what the command needs of the command line around it.
type Tools struct {
	Server func() (*grpc.ClientConn, error)
	Show   func(m proto.Message, text func()) error // as text, JSON or YAML
	Table  func(*show.Table)
	Out    io.Writer
}

// Command is `fleet`.
func Command(t Tools) *cobra.Command {
	req := &v1.GetFleetRequest{}
	cmd := &cobra.Command{
		Use:   "fleet",
		Short: "Show the map streams of the connected devices, those furthest behind first",
		Long: `Show the map streams of the connected devices, those furthest behind first.

The lag of a stream is the number of changes that its device has not been sent. It is
above zero for moments while there is news, and for longer where a device is slow to read.`,
		Example: "  heddle debug fleet\n  heddle debug fleet --limit 1000 -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			resp, err := ask(cmd.Context(), t, req)
			if err != nil {
				return err
			}
			return t.Show(resp, func() { text(t, resp) })
		},
	}
	cmd.Flags().Uint32Var(&req.Limit, "limit", 20, "list at most `N` streams, 1000 at most")
	return cmd
}

func ask(ctx context.Context, t Tools, req *v1.GetFleetRequest) (*v1.GetFleetResponse, error) {
	conn, err := t.Server()
	if err != nil {
		return nil, err
	}
	return v1.NewDebugServiceClient(conn).GetFleet(ctx, req)
}

func text(t Tools, resp *v1.GetFleetResponse) {
	fmt.Fprintf(t.Out, "%d streams, %d waiting for their first map, %d behind; %d bytes sent\n",
		resp.GetStreams(), resp.GetWaiting(), resp.GetBehind(), resp.GetBytesSent())
	if resp.GetStreams() == 0 {
		return
	}
	var versions []string
	for _, c := range resp.GetCapabilityVersions() {
		versions = append(versions, fmt.Sprintf("%d: %d", c.GetVersion(), c.GetStreams()))
	}
	fmt.Fprintf(t.Out, "Capability versions: %s\n", strings.Join(versions, ", "))
	table := show.NewTable("ID", "NAME", "CAPABILITY", "LAG", "BYTES")
	for _, s := range resp.GetList() {
		lag, name := strconv.FormatUint(s.GetLag(), 10), s.GetName()
		if s.GetWaiting() {
			lag = "first map"
		}
		if name == "" {
			name = "-"
		}
		table.Add(s.GetNodeId(), name, s.GetCapabilityVersion(), lag, s.GetBytesSent())
	}
	t.Table(table)
}
