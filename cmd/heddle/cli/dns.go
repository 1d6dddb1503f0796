package cli

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	v1 "heddle/proto/heddle/v1"
)

func (a *app) dnsCommand() *cobra.Command {
	return group("dns", "What devices are told about names",
		a.dnsShow(), a.dnsSet(),
		group("split", "Who answers for single domains", a.dnsSplitSet(), a.dnsSplitRemove()),
		group("records", "Additional names", a.dnsRecordList(), a.dnsRecordAdd(), a.dnsRecordRemove()))
}

func (a *app) dns() (v1.DNSServiceClient, error) {
	conn, err := a.server()
	if err != nil {
		return nil, err
	}
	return v1.NewDNSServiceClient(conn), nil
}

// getDNS returns what is in force, and which of its fields the configuration
// fixes.
func (a *app) getDNS(ctx context.Context) (*v1.DNS, []string, error) {
	c, err := a.dns()
	if err != nil {
		return nil, nil, err
	}
	resp, err := c.GetDNS(ctx, &v1.GetDNSRequest{})
	return resp.GetDns(), resp.GetFixed().GetPaths(), err
}

func (a *app) dnsShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show",
		Aliases: []string{"get"},
		Short:   "Show the settings in force",
		Example: "  heddle dns show\n  heddle dns show -o yaml",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, fixed, err := a.getDNS(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(d, func() { a.print(dnsTable(d, fixed)) })
		},
	}
}

func dnsTable(d *v1.DNS, fixed []string) *table {
	t := newTable("SETTING", "VALUE", "SET BY")
	t.whole = true
	setBy := func(path string) string {
		if slices.Contains(fixed, path) {
			return "config"
		}
		return "-"
	}
	t.add("base domain", or(d.GetBaseDomain()), setBy("base_domain"))
	t.add("MagicDNS", yesNo(d.GetMagicDns()), setBy("magic_dns"))
	t.add("override local DNS", yesNo(d.GetOverrideLocalDns()), setBy("override_local_dns"))
	t.add("nameservers", or(strings.Join(d.GetNameservers(), " ")), setBy("nameservers"))
	t.add("search domains", or(strings.Join(d.GetSearchDomains(), " ")), setBy("search_domains"))
	for _, s := range d.GetSplit() {
		servers := strings.Join(s.GetNameservers(), " ")
		if servers == "" {
			servers = "only the tailnet's own records"
		}
		t.add("split "+s.GetDomain(), servers, setBy("split"))
	}
	for _, r := range d.GetRecords() {
		t.add("record "+r.GetName(), r.GetType()+" "+r.GetValue(), "-")
	}
	return t
}

// showDNS shows what is in force after a change.
func (a *app) showDNS(ctx context.Context, d *v1.DNS) error {
	if a.flags.output != formatTable {
		return a.show(d, nil)
	}
	d, fixed, err := a.getDNS(ctx)
	if err != nil {
		return err
	}
	a.print(dnsTable(d, fixed))
	return nil
}

func (a *app) dnsSet() *cobra.Command {
	d := &v1.DNS{}
	var servers, search []string
	cmd := &cobra.Command{
		Use:   "set",
		Short: "Change settings; what is not named stays",
		Example: `  heddle dns set --nameservers 9.9.9.9,149.112.112.112 --override-local-dns
  heddle dns set --nameservers https://dns.quad9.net/dns-query
  heddle dns set --search corp.example.com
  heddle dns set --nameservers "" --magic-dns=false`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d.Nameservers, d.SearchDomains = splitList(servers), splitList(search)
			mask := &fieldmaskpb.FieldMask{}
			for _, f := range []struct{ flag, path string }{
				{"magic-dns", "magic_dns"}, {"override-local-dns", "override_local_dns"},
				{"nameservers", "nameservers"}, {"search", "search_domains"},
			} {
				if cmd.Flags().Changed(f.flag) {
					mask.Paths = append(mask.Paths, f.path)
				}
			}
			if len(mask.Paths) == 0 {
				return usagef("nothing to set: give a flag")
			}
			c, err := a.dns()
			if err != nil {
				return err
			}
			resp, err := c.UpdateDNS(cmd.Context(), &v1.UpdateDNSRequest{Settings: d, UpdateMask: mask})
			if err != nil {
				return err
			}
			return a.showDNS(cmd.Context(), resp.GetDns())
		},
	}
	f := cmd.Flags()
	f.BoolVar(&d.MagicDns, "magic-dns", false, "devices resolve each other's names")
	f.BoolVar(&d.OverrideLocalDns, "override-local-dns", false, "the nameservers replace those of the device's own network")
	f.StringSliceVar(&servers, "nameservers", nil, "resolvers for everything: IP `addresses` or https:// URLs; \"\" for none")
	f.StringSliceVar(&search, "search", nil, "`domains` that devices append to short names; \"\" for none")
	return cmd
}

func (a *app) dnsSplitSet() *cobra.Command {
	return &cobra.Command{
		Use:   "set DOMAIN NAMESERVER[,NAMESERVER…]",
		Short: "Say who answers for a domain and what lies below it",
		Example: `  heddle dns split set corp.example.com 10.0.0.53,10.0.1.53
  heddle dns split set corp.example.com ""     # only the tailnet's own records answer`,
		Args: args(2, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.splitDNS(cmd.Context(), &v1.SetSplitDNSRequest{Domain: args[0], Nameservers: splitList(args[1:])})
		},
	}
}

func (a *app) dnsSplitRemove() *cobra.Command {
	return &cobra.Command{
		Use:     "remove DOMAIN",
		Aliases: []string{"rm", "delete"},
		Short:   "Treat a domain like any other again",
		Example: "  heddle dns split remove corp.example.com",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.splitDNS(cmd.Context(), &v1.SetSplitDNSRequest{Domain: args[0], Remove: true})
		},
	}
}

func (a *app) splitDNS(ctx context.Context, req *v1.SetSplitDNSRequest) error {
	c, err := a.dns()
	if err != nil {
		return err
	}
	resp, err := c.SetSplitDNS(ctx, req)
	if err != nil {
		return err
	}
	return a.showDNS(ctx, resp.GetDns())
}

func (a *app) dnsRecordList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the additional names in force",
		Example: "  heddle dns records list\n  heddle dns records list -o json",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, _, err := a.getDNS(cmd.Context())
			if err != nil {
				return err
			}
			return showList(a, d.GetRecords(), "There are no additional names; `heddle dns records add NAME ADDRESS` adds one.", func() {
				a.print(recordTable(d.GetRecords()))
			})
		},
	}
}

func recordTable(list []*v1.DNSRecord) *table {
	t := newTable("NAME", "TYPE", "VALUE")
	for _, r := range list {
		t.add(r.GetName(), r.GetType(), r.GetValue())
	}
	return t
}

func (a *app) dnsRecordAdd() *cobra.Command {
	return &cobra.Command{
		Use:     "add NAME ADDRESS",
		Short:   "Add a name (A or AAAA, as the address is)",
		Example: "  heddle dns records add grafana.tailnet.internal 100.64.0.3",
		Args:    args(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dns()
			if err != nil {
				return err
			}
			rec := &v1.DNSRecord{Name: args[0], Value: args[1]}
			resp, err := c.AddDNSRecord(cmd.Context(), &v1.AddDNSRecordRequest{Record: rec})
			if err != nil {
				return err
			}
			return showList(a, resp.GetDns().GetRecords(), "", func() { a.print(recordTable(resp.GetDns().GetRecords())) })
		},
	}
}

func (a *app) dnsRecordRemove() *cobra.Command {
	return &cobra.Command{
		Use:     "remove NAME [ADDRESS]",
		Aliases: []string{"rm", "delete"},
		Short:   "Remove the records of a name, or one of them",
		Example: "  heddle dns records remove grafana.tailnet.internal",
		Args:    args(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dns()
			if err != nil {
				return err
			}
			rec := &v1.DNSRecord{Name: args[0]}
			if len(args) == 2 {
				rec.Value = args[1]
			}
			resp, err := c.RemoveDNSRecord(cmd.Context(), &v1.RemoveDNSRecordRequest{Record: rec})
			if err != nil {
				return err
			}
			return showList(a, resp.GetDns().GetRecords(), "No additional names are left.", func() {
				a.print(recordTable(resp.GetDns().GetRecords()))
			})
		},
	}
}
