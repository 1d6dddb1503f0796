package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"heddle/cmd/heddle/cli/complete"
	"heddle/cmd/heddle/cli/habits"
	"heddle/cmd/heddle/cli/people"
	"heddle/cmd/heddle/cli/show"
	"heddle/cmd/heddle/cli/span"
	v1 "heddle/proto/heddle/v1"
)

func (a *app) nodesCommand(who people.Tools) *cobra.Command {
	g := group("nodes", "The devices of the tailnet",
		a.nodeList(), a.nodeShow(), a.nodeRename(), a.nodeDelete(), a.nodeExpire(), a.nodeTag(),
		a.nodeApproveRoutes(), a.nodeListRoutes(), people.NodeRegister(who), a.nodeBackfill(),
		people.NodeApprove(who), people.NodeReject(who), people.NodeExpiry(who),
		people.NodeHold(who), people.NodeAddress(who), people.NodeAttributes(who))
	g.Aliases = []string{"node", "machines", "machine"}
	g.Long = g.Short + ".\n\nWhere a command wants a NODE, give its ID, its name or one of its addresses."
	return g
}

// ownerText tells whom a node belongs to.
func ownerText(u *v1.User, tags []string) string {
	if len(tags) > 0 {
		return strings.Join(tags, ",")
	}
	return or(u.GetName())
}

// userFlag adds the flag --user.
func (a *app) userFlag(cmd *cobra.Command, to *string, usage string) {
	cmd.Flags().StringVarP(to, "user", "u", "", usage)
	complete.Flag(cmd, "user", a.names().Users())
}

func (a *app) nodes() (v1.NodeServiceClient, error) {
	conn, err := a.server()
	if err != nil {
		return nil, err
	}
	return v1.NewNodeServiceClient(conn), nil
}

func (a *app) nodeList() *cobra.Command {
	req := &v1.ListNodesRequest{}
	var watch bool
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List nodes",
		Example: "  heddle nodes list\n  heddle nodes list --user alice\n  heddle nodes list --tag tag:server -o json\n  heddle nodes list --watch",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch {
				return a.watch(cmd.Context(), v1.WatchKind_WATCH_KIND_NODE, func() error { return a.listNodes(cmd.Context(), req) })
			}
			return a.listNodes(cmd.Context(), req)
		},
	}
	a.userFlag(cmd, &req.User, "only nodes of that `USER`: ID, name or e-mail")
	cmd.Flags().StringVarP(&req.Tag, "tag", "t", "", "only nodes with that `TAG`")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "list them again with each change, until you stop it")
	return cmd
}

func (a *app) listNodes(ctx context.Context, req *v1.ListNodesRequest) error {
	c, err := a.nodes()
	if err != nil {
		return err
	}
	list, err := all(func(token string) ([]*v1.Node, string, error) {
		req.PageToken = token
		resp, err := c.ListNodes(ctx, req)
		return resp.GetNodes(), resp.GetNextPageToken(), err
	})
	if err != nil {
		return err
	}
	hint := "There are no nodes yet; `heddle preauthkeys create --user USER` makes a key that one can join with."
	if req.GetUser()+req.GetTag() != "" {
		hint = "There are no such nodes."
	}
	return showList(a, list, hint, func() { a.printNodes(list) })
}

func (a *app) printNodes(list []*v1.Node) {
	t := show.NewTable("ID", "NAME", "OWNER", "ADDRESS", "STATUS", "LAST SEEN", "EXPIRES", "ROUTES")
	t.Cut, t.Drop = []string{"OWNER"}, []string{"EXPIRES", "OWNER", "ROUTES", "LAST SEEN"}
	waiting := false
	for _, n := range list {
		routes := "-"
		if len(n.GetAvailableRoutes()) > 0 {
			routes = fmt.Sprint(len(n.GetAvailableRoutes()))
		}
		shown := show.In(0, routes)
		if count := waitingRoutes(n); count > 0 {
			shown, waiting = show.In(show.Yellow, fmt.Sprintf("%d wait", count)), true
		}
		ips := n.GetIpAddresses() // the first is the shorter
		t.Add(n.GetId(), n.GetGivenName(), ownerText(n.GetUser(), n.GetTags()), or(strings.Join(ips[:min(1, len(ips))], "")),
			nodeStatus(n), a.lastSeen(n), a.since(n.GetExpiry(), "never"), shown)
	}
	a.print(t)
	if waiting {
		a.hint("Routes wait for approval: see `heddle nodes list-routes`.")
	}
	if slices.ContainsFunc(list, (*v1.Node).GetPendingApproval) {
		a.hint("Nodes wait for approval: `heddle nodes approve NODE`, or reject.")
	}
}

// waitingRoutes returns how many routes a node offers that nobody has approved.
func waitingRoutes(n *v1.Node) (count int) {
	for _, r := range n.GetAvailableRoutes() {
		if !slices.Contains(n.GetApprovedRoutes(), r) {
			count++
		}
	}
	return count
}

func (a *app) lastSeen(n *v1.Node) string {
	if n.GetOnline() && !n.GetExpired() {
		return "now"
	}
	return a.since(n.GetLastSeen(), "never")
}

func nodeStatus(n *v1.Node) show.Cell {
	switch {
	case n.GetExpired():
		return show.In(show.Red, "expired")
	case n.GetPendingApproval():
		return show.In(show.Yellow, "needs approval")
	case n.GetOnline():
		return show.In(show.Green, "online")
	}
	return show.In(show.Dim, "offline")
}

func (a *app) nodeShow() *cobra.Command {
	return a.takesNode(&cobra.Command{
		Use:     "show NODE",
		Aliases: []string{"get"},
		Short:   "Show all that is known of a node",
		Example: "  heddle nodes show laptop\n  heddle nodes show 100.64.0.7 -o yaml",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.nodes()
			if err != nil {
				return err
			}
			resp, err := c.GetNode(cmd.Context(), &v1.GetNodeRequest{Node: args[0]})
			if err != nil {
				return err
			}
			return a.show(resp.GetNode(), func() { a.print(nodeTable(resp.GetNode())) })
		},
	})
}

// takesNode is for a command whose first argument is a node.
func (a *app) takesNode(cmd *cobra.Command) *cobra.Command {
	cmd.ValidArgsFunction = complete.First(a.names().Nodes())
	return habits.First(cmd, "identifier", "i")
}

var methodTexts = map[v1.RegisterMethod]string{
	v1.RegisterMethod_REGISTER_METHOD_AUTH_KEY: "pre-auth key",
	v1.RegisterMethod_REGISTER_METHOD_CLI:      "an administrator",
	v1.RegisterMethod_REGISTER_METHOD_OIDC:     "login at the identity provider",
}

func nodeTable(n *v1.Node) *show.Table {
	t := show.NewTable("FIELD", "VALUE")
	t.Whole = true
	list := func(items []string) string { return or(strings.Join(items, " ")) }
	t.Add("ID", n.GetId())
	t.Add("name", n.GetGivenName())
	t.Add("MagicDNS name", n.GetDnsName())
	t.Add("host name", or(n.GetName()))
	t.Add("owner", ownerText(n.GetUser(), n.GetTags()))
	t.Add("addresses", list(n.GetIpAddresses()))
	t.Add("status", nodeStatus(n))
	t.Add("last seen", when(n.GetLastSeen(), "never"))
	t.Add("created", when(n.GetCreatedAt(), "-"))
	t.Add("admitted by", or(methodTexts[n.GetRegisterMethod()]))
	never := "never"
	if n.GetKeyExpiryDisabled() && len(n.GetTags()) == 0 {
		never = "never, also after a login"
	}
	t.Add("key expires", when(n.GetExpiry(), never))
	t.Add("ephemeral", yesNo(n.GetEphemeral()))
	t.Add("advertised routes", list(n.GetAvailableRoutes()))
	t.Add("approved routes", list(n.GetApprovedRoutes()))
	t.Add("carried routes", list(n.GetSubnetRoutes()))
	t.Add("system", or(n.GetOs()))
	t.Add("client", or(n.GetClientVersion()))
	t.Add("endpoints", list(n.GetEndpoints()))
	t.Add("home relay", or(strings.TrimPrefix(fmt.Sprint(n.GetHomeDerp()), "0")))
	t.Add("stable ID", n.GetStableId())
	t.Add("node key", n.GetNodeKey())
	t.Add("machine key", n.GetMachineKey())
	return t
}

func (a *app) nodeRename() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:     "rename NODE NEW-NAME",
		Short:   "Give a node a name that its host name no longer changes",
		Example: "  heddle nodes rename 7 build-server\n  heddle nodes rename build-server --follow-hostname",
		Args:    args(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &v1.RenameNodeRequest{Node: args[0]}
			switch {
			case follow && len(args) == 2:
				return usagef("give either a new name or --follow-hostname")
			case !follow && (len(args) < 2 || args[1] == ""):
				return usagef("the new name is missing: %s", cmd.UseLine())
			case !follow:
				req.NewName = args[1]
			}
			c, err := a.nodes()
			if err != nil {
				return err
			}
			resp, err := c.RenameNode(cmd.Context(), req)
			if err != nil {
				return err
			}
			return a.done(resp.GetNode(), "node %d is now called %s", resp.GetNode().GetId(), resp.GetNode().GetGivenName())
		},
	}
	cmd.Flags().BoolVar(&follow, "follow-hostname", false, "name it after its host name again")
	return a.takesNode(cmd)
}

func (a *app) nodeDelete() *cobra.Command {
	var confirm *confirmer
	cmd := &cobra.Command{
		Use:     "delete NODE",
		Aliases: []string{"remove", "rm"},
		Short:   "Delete a node; its device must log in again",
		Example: "  heddle nodes delete laptop\n  heddle nodes delete 7 --yes",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := confirm.possible(); err != nil {
				return err
			}
			c, err := a.nodes()
			if err != nil {
				return err
			}
			// The node that is asked about is the one that is deleted, whatever
			// its name or address means by then.
			found, err := c.GetNode(cmd.Context(), &v1.GetNodeRequest{Node: args[0]})
			if err != nil {
				return err
			}
			n := found.GetNode()
			err = confirm.ask("Delete node %d (%s of %s)?", n.GetId(), n.GetGivenName(), ownerText(n.GetUser(), n.GetTags()))
			if err != nil {
				return err
			}
			resp, err := c.DeleteNode(cmd.Context(), &v1.DeleteNodeRequest{Node: fmt.Sprint(n.GetId())})
			if err != nil {
				return err
			}
			return a.done(resp, "node %d (%s) is deleted", n.GetId(), n.GetGivenName())
		},
	}
	confirm = a.confirmer(cmd)
	return a.takesNode(cmd)
}

func (a *app) nodeExpire() *cobra.Command {
	var extend span.Value
	var at string
	var never bool
	cmd := &cobra.Command{
		Use:   "expire NODE",
		Short: "Make a node log in again, or say when it has to",
		Example: `  heddle nodes expire laptop                 # now
  heddle nodes expire laptop --extend 90d    # in 90 days; revives it, too
  heddle nodes expire laptop --at 2030-01-31T00:00:00Z
  heddle nodes expire laptop --never`,
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := exclusive(cmd, "extend", "at", "never"); err != nil {
				return err
			}
			req := &v1.ExpireNodeRequest{Node: args[0], DisableExpiry: never}
			if extend > 0 {
				req.Extend = durationpb.New(time.Duration(extend))
			}
			if at != "" {
				t, err := time.Parse(time.RFC3339, at)
				if err != nil {
					return usagef("--at %q: write a time like 2030-01-31T00:00:00Z", at)
				}
				req.Expiry = timestamppb.New(t)
			}
			c, err := a.nodes()
			if err != nil {
				return err
			}
			resp, err := c.ExpireNode(cmd.Context(), req)
			if err != nil {
				return err
			}
			n := resp.GetNode()
			switch {
			case n.GetExpired():
				return a.done(n, "node %d (%s) has expired: its device must log in again", n.GetId(), n.GetGivenName())
			case n.GetExpiry() == nil:
				return a.done(n, "node %d (%s) never expires", n.GetId(), n.GetGivenName())
			}
			return a.done(n, "node %d (%s) expires %s", n.GetId(), n.GetGivenName(), when(n.GetExpiry(), ""))
		},
	}
	cmd.Flags().Var(&extend, "extend", "after that time from now: 24h, 90d, 1y")
	cmd.Flags().StringVar(&at, "at", "", "at that `TIME`")
	cmd.Flags().BoolVar(&never, "never", false, "not at all")
	return a.takesNode(cmd)
}

func (a *app) nodeTag() *cobra.Command {
	var tags []string
	cmd := &cobra.Command{
		Use:   "tag NODE TAG[,TAG…]",
		Short: "Replace the tags of a node, which then belongs to no user",
		Example: `  heddle nodes tag web-1 tag:web
  heddle nodes tag 7 tag:web,tag:prod`,
		Args: args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			list := splitList(append(args[1:], tags...))
			if len(list) == 0 {
				return usagef("a tag is missing: %s", cmd.UseLine())
			}
			c, err := a.nodes()
			if err != nil {
				return err
			}
			found, err := c.GetNode(cmd.Context(), &v1.GetNodeRequest{Node: args[0]})
			if err != nil {
				return err
			}
			old := found.GetNode()
			resp, err := c.SetTags(cmd.Context(), &v1.SetTagsRequest{Node: fmt.Sprint(old.GetId()), Tags: list})
			if err != nil {
				return err
			}
			n, also := resp.GetNode(), ""
			if len(old.GetTags()) == 0 {
				also += "; it no longer belongs to " + old.GetUser().GetName()
			}
			if old.GetExpiry() != nil && n.GetExpiry() == nil {
				also += "; its key no longer expires"
			}
			return a.done(n, "node %d (%s) has the tags %s%s", n.GetId(), n.GetGivenName(), strings.Join(n.GetTags(), ", "), also)
		},
	}
	cmd.Flags().StringSliceVarP(&tags, "tags", "t", nil, "the same as the argument")
	return a.takesNode(cmd)
}

func (a *app) nodeApproveRoutes() *cobra.Command {
	var set, add, remove []string
	var force bool
	cmd := &cobra.Command{
		Use:   "approve-routes NODE [PREFIX[,PREFIX…]]",
		Short: "Say which routes of a node are used",
		Long: `Says which routes of a node are used. The prefixes replace what was approved;
an empty argument ("") approves nothing. --add and --remove change it instead.
Either exit route (0.0.0.0/0, ::/0) stands for both.`,
		Example: `  heddle nodes approve-routes gateway 192.168.1.0/24,10.0.0.0/8
  heddle nodes approve-routes gateway --add 0.0.0.0/0     # make it an exit node
  heddle nodes approve-routes gateway --remove 10.0.0.0/8
  heddle nodes approve-routes gateway ""                  # none`,
		Args: args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &v1.SetApprovedRoutesRequest{
				Node: args[0], Routes: splitList(append(args[1:], set...)), Add: splitList(add), Remove: splitList(remove), Force: force,
			}
			edits := cmd.Flags().Changed("add") || cmd.Flags().Changed("remove")
			given := len(args) > 1 || cmd.Flags().Changed("routes")
			switch {
			case edits && given:
				return usagef("prefixes replace what is approved, --add and --remove change it: give either")
			case !edits && !given:
				return usagef("the prefixes are missing: %s", cmd.UseLine())
			case edits && len(req.Add)+len(req.Remove) == 0:
				return usagef("--add and --remove want a prefix")
			}
			return a.approveRoutes(cmd.Context(), req)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&add, "add", nil, "approve these `PREFIXES` too")
	f.StringSliceVar(&remove, "remove", nil, "approve these `PREFIXES` no longer")
	f.StringSliceVarP(&set, "routes", "r", nil, "the same as the argument")
	f.BoolVar(&force, "force", false, "approve also what the node does not advertise (yet)")
	return a.takesNode(cmd)
}

func (a *app) approveRoutes(ctx context.Context, req *v1.SetApprovedRoutesRequest) error {
	c, err := a.nodes()
	if err != nil {
		return err
	}
	found, err := c.GetNode(ctx, &v1.GetNodeRequest{Node: req.GetNode()})
	if err != nil {
		return err
	}
	req.Node = fmt.Sprint(found.GetNode().GetId())
	resp, err := c.SetApprovedRoutes(ctx, req)
	if err != nil {
		return err
	}
	n := resp.GetNode()
	text := "no approved routes"
	if len(n.GetApprovedRoutes()) > 0 {
		text = "the approved routes " + strings.Join(n.GetApprovedRoutes(), ", ")
	}
	gone := slices.DeleteFunc(found.GetNode().GetApprovedRoutes(), func(r string) bool { return slices.Contains(n.GetApprovedRoutes(), r) })
	if len(gone) > 0 {
		text += " (no longer: " + strings.Join(gone, ", ") + ")"
	}
	return a.done(n, "node %d (%s) has %s", n.GetId(), n.GetGivenName(), text)
}

func (a *app) nodeBackfill() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "backfill-ips",
		Aliases: []string{"backfillips"},
		Short:   "Give devices an address of each family that they lack",
		Long: `Gives each device that lacks an IPv4 or an IPv6 address one. Devices that joined
here have both; those that were taken over from another server may not.`,
		Example: "  heddle nodes backfill-ips\n  heddle nodes backfill-ips -o json",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.nodes()
			if err != nil {
				return err
			}
			resp, err := c.BackfillNodeIPs(cmd.Context(), &v1.BackfillNodeIPsRequest{Confirmed: true})
			if err != nil {
				return err
			}
			return a.show(resp, func() {
				for _, line := range resp.GetChanges() {
					fmt.Fprintln(a.out, show.Clean(line))
				}
				if len(resp.GetChanges()) == 0 {
					a.hint("All devices have addresses of both families.")
				}
			})
		},
	}
	cmd.Flags().Bool("force", false, "")
	cmd.Flags().MarkHidden("force") // headscale asks first
	return cmd
}

func (a *app) nodeListRoutes() *cobra.Command {
	return a.takesNode(&cobra.Command{
		Use:     "list-routes [NODE]",
		Aliases: []string{"routes"},
		Short:   "List the routes of one node or of all",
		Example: "  heddle nodes list-routes\n  heddle nodes list-routes gateway -o json",
		Args:    args(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.nodes()
			if err != nil {
				return err
			}
			req := &v1.ListRoutesRequest{}
			if len(args) == 1 {
				req.Node = args[0]
			}
			list, err := all(func(token string) ([]*v1.Route, string, error) {
				req.PageToken = token
				resp, err := c.ListRoutes(cmd.Context(), req)
				return resp.GetRoutes(), resp.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			hint := "There are no routes; `tailscale set --advertise-routes=PREFIX` on a device offers one."
			return showList(a, list, hint, func() {
				t := show.NewTable("NODE ID", "NODE", "ROUTE", "ADVERTISED", "APPROVED", "CARRIES IT")
				t.Cut = []string{"NODE"}
				for _, r := range list {
					t.Add(r.GetNodeId(), r.GetNode(), r.GetPrefix(), yesNo(r.GetAdvertised()), approval(r), carrying(r))
				}
				a.print(t)
			})
		},
	})
}

func approval(r *v1.Route) show.Cell {
	if r.GetApproved() {
		return show.In(show.Green, "yes")
	}
	return show.In(show.Yellow, "no")
}

// carrying tells whether clients send traffic that way.
func carrying(r *v1.Route) show.Cell {
	switch {
	case r.GetPrimary() && r.GetExit():
		return show.In(show.Green, "exit node")
	case r.GetPrimary():
		return show.In(show.Green, "yes")
	case r.GetApproved() && r.GetAdvertised():
		return show.In(show.Dim, "standby")
	}
	return show.In(show.Dim, "no")
}
