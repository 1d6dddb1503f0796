package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"heddle/cmd/heddle/cli/show"
	"heddle/cmd/heddle/config"

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

// getDNS returns what is in force, and where it comes from.
func (a *app) getDNS(ctx context.Context) (*v1.DNS, settings, error) {
	c, err := a.dns()
	if err != nil {
		return nil, nil, err
	}
	resp, err := c.GetDNS(ctx, &v1.GetDNSRequest{})
	if err != nil {
		return nil, nil, err
	}
	return resp.GetDns(), origins(resp), nil
}

// settings tells where settings come from: "config", "command" or "default",
// by the setting's name in JSON, and for single domains and names by
// "split.DOMAIN" and "records.NAME".
type settings map[string]string

func origins(resp *v1.GetDNSResponse) settings {
	own, fixed := resp.GetSettings(), resp.GetFixed().GetPaths()
	by := func(path string, set bool) string {
		switch {
		case slices.Contains(fixed, path):
			return "config"
		case set:
			return "command"
		}
		return "default"
	}
	s := settings{
		"baseDomain":       by("base_domain", false),
		"magicDns":         by("magic_dns", !own.GetMagicDns()), // it is on unless somebody turns it off
		"overrideLocalDns": by("override_local_dns", own.GetOverrideLocalDns()),
		"nameservers":      by("nameservers", len(own.GetNameservers()) > 0),
		"searchDomains":    by("search_domains", len(own.GetSearchDomains()) > 0),
	}
	if resp.GetDns().GetBaseDomain() == config.DefaultBaseDomain {
		s["baseDomain"] = "default" // also if the config says the same
	}
	for _, d := range resp.GetDns().GetSplit() {
		s["split."+d.GetDomain()] = by("split", true)
	}
	for _, r := range resp.GetDns().GetRecords() {
		s["records."+r.GetName()] = "config"
	}
	for _, r := range own.GetRecords() {
		s["records."+r.GetName()] = "command"
	}
	return s
}

// showSettings prints what is in force. JSON and YAML have the origins too.
func (a *app) showSettings(d *v1.DNS, by settings) error {
	if a.flags.output == formatTable {
		a.print(dnsTable(d, by))
		return nil
	}
	text, err := marshal(d)
	if err != nil {
		return err
	}
	origin, err := json.Marshal(by)
	if err != nil {
		return err
	}
	return a.encode(fmt.Appendf(nil, `%s,"setBy":%s}`, bytes.TrimSuffix(text, []byte("}")), origin))
}

func (a *app) dnsShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show",
		Aliases: []string{"get"},
		Short:   "Show the settings in force",
		Example: "  heddle dns show\n  heddle dns show -o yaml",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, by, err := a.getDNS(cmd.Context())
			if err != nil {
				return err
			}
			return a.showSettings(d, by)
		},
	}
}

func dnsTable(d *v1.DNS, by settings) *show.Table {
	t := show.NewTable("SETTING", "VALUE", "SET BY")
	t.Whole = true
	t.Add("base domain", or(d.GetBaseDomain()), by["baseDomain"])
	t.Add("MagicDNS", yesNo(d.GetMagicDns()), by["magicDns"])
	t.Add("override local DNS", yesNo(d.GetOverrideLocalDns()), by["overrideLocalDns"])
	t.Add("nameservers", or(strings.Join(d.GetNameservers(), " ")), by["nameservers"])
	t.Add("search domains", or(strings.Join(d.GetSearchDomains(), " ")), by["searchDomains"])
	for _, s := range d.GetSplit() {
		servers := strings.Join(s.GetNameservers(), " ")
		if servers == "" {
			servers = "only the tailnet's own records"
		}
		t.Add("split "+s.GetDomain(), servers, by["split."+s.GetDomain()])
	}
	for _, r := range d.GetRecords() {
		t.Add("record "+r.GetName(), r.GetType()+" "+r.GetValue(), by["records."+r.GetName()])
	}
	return t
}

// showDNS shows what is in force after a change.
func (a *app) showDNS(ctx context.Context) error {
	d, by, err := a.getDNS(ctx)
	if err != nil {
		return err
	}
	return a.showSettings(d, by)
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
			if cmd.Flags().Changed("base-domain") {
				return usagef("the base domain is set in the configuration (dns.base_domain), and takes a restart: devices get other names by it")
			}
			if len(mask.Paths) == 0 {
				return usagef("nothing to set: give a flag")
			}
			c, err := a.dns()
			if err != nil {
				return err
			}
			if _, err := c.UpdateDNS(cmd.Context(), &v1.UpdateDNSRequest{Settings: d, UpdateMask: mask}); err != nil {
				return err
			}
			return a.showDNS(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.String("base-domain", "", "")
	f.MarkHidden("base-domain")
	f.BoolVar(&d.MagicDns, "magic-dns", false, "devices resolve each other's names")
	f.BoolVar(&d.OverrideLocalDns, "override-local-dns", false, "the nameservers replace those of a device's\nown network")
	f.StringSliceVar(&servers, "nameservers", nil, "`ADDRESSES` or https:// URLs of resolvers;\n\"\" for none")
	f.StringSliceVar(&search, "search", nil, "`DOMAINS` that devices append to short names;\n\"\" for none")
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
	if _, err := c.SetSplitDNS(ctx, req); err != nil {
		return err
	}
	return a.showDNS(ctx)
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

func recordTable(list []*v1.DNSRecord) *show.Table {
	t := show.NewTable("NAME", "TYPE", "VALUE")
	for _, r := range list {
		t.Add(r.GetName(), r.GetType(), r.GetValue())
	}
	return t
}

func (a *app) dnsRecordAdd() *cobra.Command {
	return &cobra.Command{
		Use:   "add NAME ADDRESS",
		Short: "Add a name (A or AAAA, as the address is)",
		Example: `  heddle dns records add grafana 100.64.0.3                   # in the base domain
  heddle dns records add www.corp.example.com 192.168.1.10`,
		Args: args(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dns()
			if err != nil {
				return err
			}
			if _, err := netip.ParseAddr(args[1]); err != nil {
				return usagef("%q is not an IP address: clients know only A and AAAA records", args[1])
			}
			name, err := a.fullName(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			rec := &v1.DNSRecord{Name: name, Value: args[1]}
			resp, err := c.AddDNSRecord(cmd.Context(), &v1.AddDNSRecordRequest{Record: rec})
			if err != nil {
				return err
			}
			return showList(a, resp.GetDns().GetRecords(), "", func() { a.print(recordTable(resp.GetDns().GetRecords())) })
		},
	}
}

// fullName puts a name without a dot into the base domain.
func (a *app) fullName(ctx context.Context, name string) (string, error) {
	if strings.Contains(name, ".") {
		return name, nil
	}
	d, _, err := a.getDNS(ctx)
	if err != nil || d.GetBaseDomain() == "" {
		return name, err
	}
	return name + "." + d.GetBaseDomain(), nil
}

func (a *app) dnsRecordRemove() *cobra.Command {
	return &cobra.Command{
		Use:     "remove NAME [ADDRESS]",
		Aliases: []string{"rm", "delete"},
		Short:   "Remove the records of a name, or one of them",
		Example: "  heddle dns records remove grafana\n  heddle dns records remove www.corp.example.com 192.168.1.10",
		Args:    args(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dns()
			if err != nil {
				return err
			}
			name, err := a.fullName(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			rec := &v1.DNSRecord{Name: name}
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
