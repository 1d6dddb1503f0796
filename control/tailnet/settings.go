package tailnet

import (
	"errors"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/util/dnsname"
)

// SetDNS changes the tailnet's own DNS settings. What the config pins cannot
// be changed; d must have it as it is, or unset. BaseDomain is ignored.
func (tx *Tx) SetDNS(d DNS) error {
	if err := tx.may(Write(AreaDNS), "change DNS settings"); err != nil {
		return err
	}
	now, pins, own := tx.snap.DNS(), tx.snap.DNSPins(), tx.snap.settings.DNS
	d.BaseDomain = ""
	for _, p := range []struct {
		key             string
		pinned, changed bool
		keep            func()
	}{
		{"dns.magic_dns", pins.MagicDNS != nil, d.MagicDNS != now.MagicDNS, func() { d.MagicDNS = own.MagicDNS }},
		{"dns.override_local_dns", pins.OverrideLocal != nil, d.OverrideLocal != now.OverrideLocal, func() { d.OverrideLocal = own.OverrideLocal }},
		{"dns.nameservers.global", pins.Nameservers != nil, !slices.Equal(d.Nameservers, now.Nameservers), func() { d.Nameservers = own.Nameservers }},
		{"dns.nameservers.split", pins.Split != nil, !maps.EqualFunc(d.Split, now.Split, slices.Equal[[]string]), func() { d.Split = own.Split }},
		{"dns.search_domains", pins.Search != nil, !slices.Equal(d.Search, now.Search), func() { d.Search = own.Search }},
	} {
		if !p.pinned {
			continue
		}
		if p.changed {
			return Errorf(Conflict, "%s is set in the config file; change it there, or remove it there to manage it here", p.key)
		}
		p.keep()
	}
	if err := checkDNS(&d); err != nil {
		return err
	}
	s := *tx.snap.settings
	s.DNS = d
	tx.putSettings(s)
	tx.audit("dns.set", "dns", dnsChanges(&own, &d)...)
	tx.refreshDNS()
	return nil
}

func (tx *Tx) putSettings(s Settings) {
	tx.snap.settings, tx.delta.Settings = &s, &s
}

// SetAdmission changes who may join and for how long. Devices and users that wait
// go on waiting when the approval is no longer asked for: an admin sees them still.
func (tx *Tx) SetAdmission(a Admission) error {
	if err := tx.may(Write(AreaSettings), "change settings"); err != nil {
		return err
	}
	if a.KeyExpiry < 0 {
		a.KeyExpiry = -1
	}
	if a.KeyExpiry > maxKeyLife || a.KeyExpiry > 0 && a.KeyExpiry < minKeyExpiry {
		return Errorf(Invalid, "key expiry %v: it must be between an hour and ten years; negative means never", a.KeyExpiry)
	}
	old := tx.snap.settings
	if a == old.Admission {
		return nil
	}
	s := *old
	s.Admission = a
	tx.putSettings(s)
	tx.audit("settings.set", "settings", admissionChanges(old.Admission, a)...)
	return nil
}

// minKeyExpiry keeps people from locking everybody out by a unit mistaken.
const minKeyExpiry = time.Hour

// SetDNSPins says what the config fixes of DNS. It is not stored.
func (tx *Tx) SetDNSPins(p DNSPins) error {
	if err := tx.may(Write(AreaDNS), "pin DNS settings"); err != nil {
		return err
	}
	var err error
	if p.BaseDomain, err = checkDomain(p.BaseDomain); err != nil {
		return err
	}
	tx.snap.inputs.pins = &p
	tx.refreshDNS()
	return nil
}

// SetDNSFileRecords takes over the records of the watched file. It is not stored.
func (tx *Tx) SetDNSFileRecords(r []DNSRecord) error {
	if err := tx.may(Write(AreaDNS), "set DNS records"); err != nil {
		return err
	}
	clean := DNS{Records: r}
	if err := checkDNS(&clean); err != nil {
		return err
	}
	tx.snap.inputs.records = clean.Records
	tx.refreshDNS()
	return nil
}

// SetDERPMap takes over a DERP map, which is immutable from now on. It is not stored.
func (tx *Tx) SetDERPMap(m *tailcfg.DERPMap) error {
	if err := tx.may(Write(AreaSettings), "set the DERP map"); err != nil {
		return err
	}
	if m == nil {
		return errors.New("nil DERP map")
	}
	tx.snap.inputs.derpSource, tx.changed = m, true
	tx.refreshDERPMap()
	return nil
}

func (tx *Tx) refreshDNS() {
	tx.snap.inputs.dns, tx.changed = effectiveDNS(&tx.snap), true
}

// effectiveDNS lays the config's pins over the tailnet's own settings.
func effectiveDNS(s *Snapshot) *DNS {
	d, pins := s.settings.DNS, s.inputs.pins
	d.BaseDomain = pins.BaseDomain
	if pins.MagicDNS != nil {
		d.MagicDNS = *pins.MagicDNS
	}
	if pins.OverrideLocal != nil {
		d.OverrideLocal = *pins.OverrideLocal
	}
	if pins.Nameservers != nil {
		d.Nameservers = pins.Nameservers
	}
	if pins.Split != nil {
		d.Split = pins.Split
	}
	if pins.Search != nil {
		d.Search = pins.Search
	}
	d.Records = slices.Concat(pins.Records, s.inputs.records, d.Records)
	return &d
}

// Bounds on DNS settings: every client carries all of them.
const (
	maxNameservers = 16
	maxDomains     = 500
	maxRecords     = 5000
)

// checkDNS brings settings into canonical form or says what is wrong.
func checkDNS(d *DNS) error {
	if len(d.Nameservers) > maxNameservers || len(d.Split) > maxDomains || len(d.Search) > maxDomains || len(d.Records) > maxRecords {
		return Errorf(Invalid, "too many DNS settings: at most %d nameservers, %d split domains, %d search domains and %d records", maxNameservers, maxDomains, maxDomains, maxRecords)
	}
	if err := checkNameservers(d.Nameservers); err != nil {
		return err
	}
	split := make(map[string][]string, len(d.Split))
	for domain, servers := range d.Split {
		clean, err := checkDomain(domain)
		if err != nil {
			return err
		}
		if len(servers) > maxNameservers {
			return Errorf(Invalid, "split domain %s has more than %d nameservers", clean, maxNameservers)
		}
		if err := checkNameservers(servers); err != nil {
			return err
		}
		split[clean] = servers
	}
	d.Split = split
	search := make([]string, len(d.Search))
	for i, domain := range d.Search {
		clean, err := checkDomain(domain)
		if err != nil {
			return err
		}
		search[i] = clean
	}
	d.Search = search
	records := make([]DNSRecord, len(d.Records))
	for i, r := range d.Records {
		clean, err := checkRecord(r)
		if err != nil {
			return err
		}
		records[i] = clean
	}
	d.Records = records
	return nil
}

func checkNameservers(servers []string) error {
	for _, s := range servers {
		if _, err := netip.ParseAddr(s); err == nil {
			continue
		}
		if _, err := netip.ParseAddrPort(s); err == nil {
			continue
		}
		if u, err := url.Parse(s); err == nil && u.Scheme == "https" && u.Host != "" {
			continue
		}
		return Errorf(Invalid, "nameserver %q is neither an IP address, with or without a port, nor an https:// URL", s)
	}
	return nil
}

func checkDomain(domain string) (string, error) {
	clean := strings.ToLower(strings.Trim(strings.TrimSpace(domain), "."))
	odd := func(c rune) bool { // underscores occur in _msdcs.corp.example and the like
		return !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.ContainsRune("-_.", c))
	}
	if _, err := dnsname.ToFQDN(clean); err != nil || clean == "" || strings.ContainsFunc(clean, odd) {
		return "", Errorf(Invalid, "%q is not a domain name (international names must be written as xn--…)", domain)
	}
	return clean, nil
}

func checkRecord(r DNSRecord) (DNSRecord, error) {
	name, err := checkDomain(r.Name)
	if err != nil {
		return r, err
	}
	ip, err := netip.ParseAddr(r.Value)
	typ := strings.ToUpper(r.Type)
	if typ == "" && err == nil {
		typ = "AAAA"
		if ip.Is4() {
			typ = "A"
		}
	}
	if err != nil || typ == "A" && !ip.Is4() || typ == "AAAA" && !ip.Is6() || typ != "A" && typ != "AAAA" {
		return r, Errorf(Invalid, "DNS record %s (%q, %q): clients know only A records with an IPv4 and AAAA records with an IPv6 address", r.Name, r.Type, r.Value)
	}
	return DNSRecord{Name: name, Type: typ, Value: ip.String()}, nil
}
