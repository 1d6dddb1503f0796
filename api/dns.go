package api

import (
	"context"
	"maps"
	"slices"
	"strings"

	"heddle/api/wire"
	"heddle/control/tailnet"
	v1 "heddle/proto/heddle/v1"

	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

type dns struct {
	*Server
	v1.UnimplementedDNSServiceServer
}

func (s dns) GetDNS(context.Context, *v1.GetDNSRequest) (*v1.GetDNSResponse, error) {
	snap := s.snapshot()
	pins := snap.DNSPins()
	fixed := &fieldmaskpb.FieldMask{Paths: []string{"base_domain"}}
	for _, f := range []struct {
		path   string
		pinned bool
	}{
		{"magic_dns", pins.MagicDNS != nil},
		{"override_local_dns", pins.OverrideLocal != nil},
		{"nameservers", pins.Nameservers != nil},
		{"split", pins.Split != nil},
		{"search_domains", pins.Search != nil},
	} {
		if f.pinned {
			fixed.Paths = append(fixed.Paths, f.path)
		}
	}
	return &v1.GetDNSResponse{Dns: wire.DNS(snap.DNS()), Settings: wire.DNS(&snap.Settings().DNS), Fixed: fixed, Etag: dnsETag(snap)}, nil
}

// dnsETag names the DNS settings of a snapshot, those in force and the tailnet's own.
func dnsETag(snap *tailnet.Snapshot) string {
	return etagOf(&v1.GetDNSResponse{Dns: wire.DNS(snap.DNS()), Settings: wire.DNS(&snap.Settings().DNS)})
}

// change runs fn on the tailnet's settings, if they are those that ifMatch names, and returns what is in force then.
func (s dns) change(ctx context.Context, ifMatch string, fn func(*tailnet.DNS) error) (d *v1.DNS, etag string, err error) {
	snap, err := s.update(ctx, func(tx *tailnet.Tx) error {
		if err := matchETag(ifMatch, dnsETag(tx.Snapshot()), "the DNS settings"); err != nil {
			return err
		}
		// What the config fixes has to be given back as it is; of the records in
		// force only some are the tailnet's own.
		d := *tx.Snapshot().DNS()
		d.Records = slices.Clone(tx.Snapshot().Settings().DNS.Records)
		if err := fn(&d); err != nil {
			return err
		}
		return tx.SetDNS(d)
	})
	if err != nil {
		return nil, "", err
	}
	return wire.DNS(snap.DNS()), dnsETag(snap), nil
}

func (s dns) UpdateDNS(ctx context.Context, req *v1.UpdateDNSRequest) (*v1.UpdateDNSResponse, error) {
	in := req.GetSettings()
	if len(req.GetUpdateMask().GetPaths()) == 0 {
		return nil, tailnet.Errorf(tailnet.Invalid, "update_mask must say which settings to change")
	}
	out, etag, err := s.change(ctx, req.GetIfMatch(), func(d *tailnet.DNS) error {
		for _, path := range req.GetUpdateMask().GetPaths() {
			switch path {
			case "magic_dns":
				d.MagicDNS = in.GetMagicDns()
			case "override_local_dns":
				d.OverrideLocal = in.GetOverrideLocalDns()
			case "nameservers":
				d.Nameservers = in.GetNameservers()
			case "split":
				d.Split = map[string][]string{}
				for _, one := range in.GetSplit() {
					d.Split[domainName(one.GetDomain())] = one.GetNameservers()
				}
			case "search_domains":
				d.Search = in.GetSearchDomains()
			case "records":
				d.Records = nil
				for _, r := range in.GetRecords() {
					d.Records = append(d.Records, record(r))
				}
			case "base_domain":
				return tailnet.Errorf(tailnet.Conflict, "the base domain comes from the config (dns.base_domain): change it there and restart")
			default:
				return tailnet.Errorf(tailnet.Invalid, "update_mask: there is no setting %q", path)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &v1.UpdateDNSResponse{Dns: out, Etag: etag}, nil
}

func (s dns) SetSplitDNS(ctx context.Context, req *v1.SetSplitDNSRequest) (*v1.SetSplitDNSResponse, error) {
	if req.GetRemove() && len(req.GetNameservers()) > 0 {
		return nil, tailnet.Errorf(tailnet.Invalid, "a domain is either removed or given nameservers")
	}
	domain := domainName(req.GetDomain())
	out, etag, err := s.change(ctx, req.GetIfMatch(), func(d *tailnet.DNS) error {
		split := maps.Clone(d.Split)
		if split == nil {
			split = map[string][]string{}
		}
		if req.GetRemove() {
			if _, ok := split[domain]; !ok {
				return tailnet.Errorf(tailnet.NotFound, "there is no split domain %q; `heddle dns show` shows what there is", domain)
			}
			delete(split, domain)
		} else {
			split[domain] = req.GetNameservers()
		}
		d.Split = split
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &v1.SetSplitDNSResponse{Dns: out, Etag: etag}, nil
}

func (s dns) AddDNSRecord(ctx context.Context, req *v1.AddDNSRecordRequest) (*v1.AddDNSRecordResponse, error) {
	if req.GetRecord() == nil {
		return nil, tailnet.Errorf(tailnet.Invalid, "no record given")
	}
	want := record(req.GetRecord())
	out, etag, err := s.change(ctx, req.GetIfMatch(), func(d *tailnet.DNS) error {
		if !slices.ContainsFunc(d.Records, func(r tailnet.DNSRecord) bool { return matches(r, want) }) {
			d.Records = append(d.Records, want)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &v1.AddDNSRecordResponse{Dns: out, Etag: etag}, nil
}

func (s dns) RemoveDNSRecord(ctx context.Context, req *v1.RemoveDNSRecordRequest) (*v1.RemoveDNSRecordResponse, error) {
	if req.GetRecord().GetName() == "" {
		return nil, tailnet.Errorf(tailnet.Invalid, "the name of the record is missing")
	}
	want := record(req.GetRecord())
	out, etag, err := s.change(ctx, req.GetIfMatch(), func(d *tailnet.DNS) error {
		before := len(d.Records)
		d.Records = slices.DeleteFunc(d.Records, func(r tailnet.DNSRecord) bool { return matches(r, want) })
		if len(d.Records) == before {
			return tailnet.Errorf(tailnet.NotFound,
				"no such record of %q was added here; those from the config or its records file are removed there", want.Name)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &v1.RemoveDNSRecordResponse{Dns: out, Etag: etag}, nil
}

// record returns r as the model writes records; what is wrong with it is for
// the model to say.
func record(r *v1.DNSRecord) tailnet.DNSRecord {
	return tailnet.DNSRecord{Name: domainName(r.GetName()), Type: strings.ToUpper(r.GetType()), Value: r.GetValue()}
}

// matches reports whether r has the name, and the type and value if these are given.
func matches(r, want tailnet.DNSRecord) bool {
	return r.Name == want.Name && (want.Type == "" || r.Type == want.Type) && (want.Value == "" || r.Value == want.Value)
}

func domainName(s string) string {
	return strings.ToLower(strings.Trim(strings.TrimSpace(s), "."))
}
