package cli

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"heddle/cmd/heddle/cli/show"
	v1 "heddle/proto/heddle/v1"

	"github.com/spf13/cobra"
)

// version can be set by the linker (-X heddle/cmd/heddle/cli.version=v1.2.3).
var version = ""

// Version returns the program's version and the commit that it was built
// from, empty if unknown.
func Version() (v, commit string) {
	v = version
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return or(v), ""
	}
	if v == "" {
		v = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			commit = s.Value
		}
	}
	return or(v), commit
}

func (a *app) versionCommand() *cobra.Command {
	var server bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version of this program, or of the server",
		Example: "  heddle version\n  heddle version --server -o json",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			resp := &v1.GetVersionResponse{GoVersion: runtime.Version()}
			resp.Version, resp.Commit = Version()
			if server {
				conn, err := a.server()
				if err != nil {
					return err
				}
				resp, err = v1.NewHealthServiceClient(conn).GetVersion(cmd.Context(), &v1.GetVersionRequest{})
				if err != nil {
					return err
				}
			}
			text := fmt.Sprintf("heddle %s (%s)", resp.GetVersion(), resp.GetGoVersion())
			if c := resp.GetCommit(); c != "" {
				text = fmt.Sprintf("heddle %s (commit %.12s, %s)", resp.GetVersion(), c, resp.GetGoVersion())
			}
			return a.done(resp, "%s", text)
		},
	}
	cmd.Flags().BoolVar(&server, "server", false, "ask the server for its version")
	return cmd
}

var errUnhealthy = errors.New("not all parts of the server work")

func (a *app) healthCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "health",
		Short:   "Say which parts of the server work; exit code 1 if one does not",
		Example: "  heddle health\n  heddle health -o json",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn, err := a.server()
			if err != nil {
				return err
			}
			resp, err := v1.NewHealthServiceClient(conn).Health(cmd.Context(), &v1.HealthRequest{})
			if err != nil {
				return err
			}
			err = a.show(resp, func() {
				t := show.NewTable("PART", "STATE", "MESSAGE")
				t.Whole = true
				t.Add("server", show.In(show.Green, "works"), "-")
				for _, p := range resp.GetParts() {
					name, state := p.GetName(), show.In(show.Red, "fails")
					if p.GetOk() {
						state = show.In(show.Green, "works")
					}
					for line := range strings.Lines(or(p.GetMessage())) { // each problem has its own
						t.Add(name, state, strings.TrimSpace(line))
						name, state = "", show.Cell{}
					}
				}
				a.print(t)
			})
			if err == nil && !resp.GetOk() {
				return errUnhealthy
			}
			return err
		},
	}
}

func (a *app) derpCommand() *cobra.Command {
	return group("derp", "The relays that devices know", &cobra.Command{
		Use:     "map",
		Short:   "List the regions and their relays",
		Example: "  heddle derp map\n  heddle derp map -o yaml",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn, err := a.server()
			if err != nil {
				return err
			}
			resp, err := v1.NewDERPServiceClient(conn).GetDERPMap(cmd.Context(), &v1.GetDERPMapRequest{})
			if err != nil {
				return err
			}
			hint := "There are no relays: devices that cannot reach each other directly do not reach each other at all. See derp in the configuration."
			return showList(a, resp.GetRegions(), hint, func() { a.print(derpTable(resp.GetRegions())) })
		},
	})
}

func derpTable(regions []*v1.DERPRegion) *show.Table {
	t := show.NewTable("REGION", "CODE", "NAME", "RELAY", "HOST", "ADDRESSES", "PORT", "STUN")
	for _, r := range regions {
		for _, n := range r.GetNodes() {
			port, stun := fmt.Sprint(n.GetDerpPort()), "-"
			if n.GetStunOnly() {
				port = "-"
			}
			if n.GetStunPort() > 0 {
				stun = fmt.Sprint(n.GetStunPort())
			}
			addrs := strings.TrimSpace(n.GetIpv4() + " " + n.GetIpv6())
			t.Add(r.GetId(), or(r.GetCode()), or(r.GetName()), n.GetName(), n.GetHostName(), or(addrs), port, stun)
		}
	}
	return t
}
