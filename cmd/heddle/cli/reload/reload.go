// Package reload owns `heddle reload`: it has a server load its configuration anew, and tells what came
// of that. It refuses to know how the server is reached, and which keys can change.
package reload

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"heddle/cmd/heddle/config"
	v1 "heddle/proto/heddle/v1"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Tools are what the command needs of the command line around it.
type Tools struct {
	// Server finds the server, perhaps by its configuration.
	Server func() (*grpc.ClientConn, error)
	// Missing returns what is said of a call that failed since no server has the socket; nil for other failures.
	Missing func(error) error
	Show    func(m proto.Message, text func()) error // as text, JSON or YAML
	Hint    func(format string, args ...any)         // apart from the output
	Out     io.Writer
}

// Command is `reload`.
func Command(t Tools) *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Have the server load its configuration anew",
		Long: `Has the server load its configuration anew, as SIGHUP does, and says what was applied
and which changes wait for a restart. docs/config.md tells which keys do. If anything
is wrong with the configuration, or with a file that it names, nothing changes.

The server is found by the configuration: after a change of data_dir or unix_socket
restart it instead, or name its old socket with --socket.

Exit codes: 0 the configuration is in force; 4 some changes wait for a restart, the
others are in force; 2 the configuration is refused.`,
		Example: "  heddle reload --config /etc/heddle/config.yaml\n  heddle reload -o json\n  systemctl reload heddle",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn, err := t.Server()
			resp := &v1.ReloadConfigResponse{}
			var wrong config.Errors // the server need not be asked
			switch {
			case errors.As(err, &wrong):
				for _, p := range wrong {
					resp.Failed = append(resp.Failed, &v1.ConfigFailure{Key: p.Key, Reason: p.Reason()})
				}
			case err != nil:
				return err
			default:
				if resp, err = v1.NewConfigServiceClient(conn).ReloadConfig(cmd.Context(), &v1.ReloadConfigRequest{}); err != nil {
					if missing := t.Missing(err); missing != nil {
						return fmt.Errorf("%w; if data_dir or unix_socket was just changed: restart the server, or give --socket OLD", missing)
					}
					return err
				}
			}
			if err := t.Show(resp, func() { t.tell(resp) }); err != nil {
				return err
			}
			return outcome(resp)
		},
	}
}

// tell says what happened.
func (t Tools) tell(resp *v1.ReloadConfigResponse) {
	for _, f := range resp.GetFailed() {
		key := f.GetKey()
		if key != "" {
			key += ": "
		}
		t.Hint("%s%s", key, f.GetReason())
	}
	switch {
	case len(resp.GetFailed()) > 0:
	case len(resp.GetApplied()) > 0:
		fmt.Fprintf(t.Out, "In force now: %s.\n", strings.Join(resp.GetApplied(), ", "))
	case len(resp.GetNeedsRestart()) == 0:
		fmt.Fprintln(t.Out, "The configuration is as it was; the files that it names were read again.")
	}
}

// outcome is the error by which the exit code is chosen.
func outcome(resp *v1.ReloadConfigResponse) error {
	switch {
	case len(resp.GetFailed()) > 0:
		return status.Error(codes.InvalidArgument, "the configuration is refused; nothing has changed")
	case len(resp.GetNeedsRestart()) > 0:
		return status.Error(codes.FailedPrecondition, "changes of "+strings.Join(resp.GetNeedsRestart(), ", ")+" wait for a restart of the server")
	}
	return nil
}
