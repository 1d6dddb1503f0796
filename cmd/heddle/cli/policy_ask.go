package cli

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"heddle/cmd/heddle/cli/show"
	v1 "heddle/proto/heddle/v1"

	"github.com/spf13/cobra"
)

func (a *app) policyExplain() *cobra.Command {
	req := &v1.ExplainPolicyRequest{}
	var file string
	cmd := &cobra.Command{
		Use:   "explain SOURCE DESTINATION[:PORT]",
		Short: "Tell whether somebody can reach something, and by which rules",
		Long: `Tells whether SOURCE can reach DESTINATION, by which rules of the policy, and
through which entries of packet filters. Either is a node (ID, name or address), a user, a
tag, or any IP address: also of a machine behind a subnet router, or on the Internet
behind an exit node. Without a port it tells what is allowed at all.`,
		Example: "  heddle policy explain alice tag:web:443\n  heddle policy explain laptop 192.168.1.10:22\n" +
			"  heddle policy explain laptop nas:53 --proto udp --policy new.hujson",
		Args: args(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.policies()
			if err != nil {
				return err
			}
			req.Source = args[0]
			if req.Destination, req.Port, err = splitPort(args[1]); err != nil {
				return err
			}
			src, err := a.draft(file)
			if err != nil {
				return err
			}
			req.Policy = string(src)
			resp, err := c.ExplainPolicy(cmd.Context(), req)
			if problems := problemsOf(err); problems != nil {
				return a.showProblems(file, src, problems)
			}
			if err != nil {
				return err
			}
			return a.show(resp, func() { a.printFlows(resp, file) })
		},
	}
	cmd.Flags().StringVar(&req.Protocol, "proto", "", "`protocol`: tcp (if there is a port), udp, icmp, …, or a number")
	draftFlag(cmd, &file)
	return cmd
}

func draftFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "policy", "", "ask about the policy in that `file` instead of the one in force (- is the standard input)")
}

// draft reads the policy that a question is about; nil if it is about the one in force.
func (a *app) draft(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	return a.readPolicy(file)
}

// splitPort splits HOST[:PORT]. Hosts have colons too: tags and IPv6 addresses.
func splitPort(s string) (host string, port uint32, err error) {
	if _, err := netip.ParseAddr(s); err == nil {
		return s, 0, nil
	}
	i := strings.LastIndexByte(s, ':')
	if i < 0 || s[:i] == "tag" {
		return s, 0, nil
	}
	host = strings.TrimSuffix(strings.TrimPrefix(s[:i], "["), "]")
	n, err := strconv.ParseUint(s[i+1:], 10, 16)
	if err != nil || n == 0 {
		return "", 0, usagef("%q: what follows the last colon is not a port from 1 to 65535", s)
	}
	return host, uint32(n), nil
}

func (a *app) printFlows(resp *v1.ExplainPolicyResponse, file string) {
	if file == "" {
		file = "policy"
	}
	for i, f := range resp.GetFlows() {
		if i > 0 {
			fmt.Fprintln(a.out)
		}
		verdict := "is not allowed"
		switch {
		case f.GetAllowed():
			verdict = "is allowed"
		case len(f.GetVia()) == 0:
			verdict = "leads nowhere: it is no node, and none routes there"
		}
		a.say("%s to %s %s", endText(f.GetSource(), f.GetSourceIp()), endText(f.GetDestination(), f.GetDestinationIp()), verdict)
		if via := strings.Join(f.GetVia(), ", "); via != "" && via != f.GetDestination() {
			a.say("  through %s", via)
		}
		for _, r := range f.GetRules() {
			if r.GetLine() == 0 {
				a.say("  by no rule: without acls and grants everything is allowed")
				continue
			}
			a.say("  by %s:%d: %s", file, r.GetLine(), r.GetText())
		}
		for _, e := range f.GetEntries() {
			a.say("  filter: %s", filterText(e))
		}
	}
	if n := resp.GetOmitted(); n > 0 {
		fmt.Fprintln(a.out)
		all := "they are all allowed too"
		if !resp.GetAllowed() {
			all = "not all pairs are allowed"
		}
		a.say("… and %d more pairs of nodes; %s", n, all)
	}
}

// say prints a line of output that holds what devices or people wrote.
func (a *app) say(format string, args ...any) {
	fmt.Fprintln(a.out, strings.Map(show.OneLine, show.Clean(fmt.Sprintf(format, args...))))
}

func endText(name, ip string) string {
	if name == ip {
		return name
	}
	return name + " (" + ip + ")"
}

// filterText shows one rule of a packet filter.
func filterText(r *v1.PolicyFilterRule) string {
	s := listText(r.GetSources(), r.GetSourceCount()) + " → " + or(listText(r.GetDestinations(), r.GetDestinationCount()))
	if len(r.GetProtocols()) > 0 {
		s += " protocol"
		for i, p := range r.GetProtocols() {
			s += strings.Repeat(",", min(i, 1)) + " " + fmt.Sprint(p)
		}
	}
	if len(r.GetCapabilities()) > 0 {
		s += " capabilities " + strings.Join(r.GetCapabilities(), ", ")
	}
	return s
}

// shownItems is how many items of a list a line of output has.
const shownItems = 8

func listText(items []string, count uint32) string {
	s := strings.Join(items[:min(len(items), shownItems)], ", ")
	if more := int(count) - min(len(items), shownItems); more > 0 {
		s += fmt.Sprintf(" and %d more", more)
	}
	return s
}

func (a *app) policyPreview() *cobra.Command {
	req := &v1.PreviewPolicyRequest{}
	var file string
	cmd := &cobra.Command{
		Use:   "preview NODE",
		Short: "Show what a node is sent because of the policy",
		Long: `Shows what a node (ID, name or address) is sent because of the policy: its packet
filter, the peers that it knows, who may log in by SSH, and its capabilities.`,
		Example: "  heddle policy preview laptop\n  heddle policy preview 7 --policy new.hujson -o json",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.policies()
			if err != nil {
				return err
			}
			req.Node = args[0]
			src, err := a.draft(file)
			if err != nil {
				return err
			}
			req.Policy = string(src)
			resp, err := c.PreviewPolicy(cmd.Context(), req)
			if problems := problemsOf(err); problems != nil {
				return a.showProblems(file, src, problems)
			}
			if err != nil {
				return err
			}
			return a.show(resp, func() { a.printPreview(resp) })
		},
	}
	draftFlag(cmd, &file)
	return cmd
}

func (a *app) printPreview(p *v1.PreviewPolicyResponse) {
	a.say("%s (node %d)", p.GetNode(), p.GetNodeId())
	section := func(title string, shown int, count uint32, none string) {
		fmt.Fprintln(a.out)
		switch {
		case count == 0:
			a.say("%s: %s", title, none)
		case int(count) > shown:
			a.say("%s (the first %d of %d):", title, shown, count)
		default:
			a.say("%s:", title)
		}
	}
	section("packet filter", len(p.GetFilter()), p.GetFilterCount(), "nothing may come in")
	for _, r := range p.GetFilter() {
		a.say("  %s", filterText(r))
	}
	section("peers", len(p.GetPeers()), p.GetPeerCount(), "none")
	for _, peer := range p.GetPeers() {
		routes := ""
		if len(peer.GetRoutes()) > 0 {
			routes = ", routes " + strings.Join(peer.GetRoutes(), ", ")
		}
		a.say("  %s (node %d)%s", peer.GetNode(), peer.GetNodeId(), routes)
	}
	section("ssh", len(p.GetSsh()), p.GetSshCount(), "nobody may log in")
	for _, r := range p.GetSsh() {
		a.say("  %s %s as %s", r.GetAction(), listText(r.GetSources(), r.GetSourceCount()), usersText(r.GetUsers()))
	}
	section("capabilities", len(p.GetCapabilities()), uint32(len(p.GetCapabilities())), "none")
	for _, c := range p.GetCapabilities() {
		a.say("  %s %s", c.GetName(), strings.Join(c.GetValues(), ", "))
	}
}

// usersText shows which logins an SSH rule allows.
func usersText(users map[string]string) string {
	var out []string
	for _, login := range slices.Sorted(maps.Keys(users)) {
		switch to := users[login]; {
		case to == "", login == "root" && users["*"] == "=" && to == "root":
		case login == "*" && users["root"] != "":
			out = append(out, "any user")
		case login == "*":
			out = append(out, "any user but root")
		case to == "=" || to == login:
			out = append(out, login)
		default:
			out = append(out, login+" (becomes "+to+")")
		}
	}
	return or(strings.Join(out, ", "))
}
