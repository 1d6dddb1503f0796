package zones

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/libdns/libdns"
	"github.com/miekg/dns"
)

// fudge is the difference of clocks, in seconds, that TSIG allows for (RFC 8945 §10).
const fudge = 300

// Updates is a zone on a name server that takes dynamic updates (RFC 2136).
type Updates struct {
	Server string // HOST:PORT of the primary
	Zone   string
	// KeyName and Key (base64) sign updates by TSIG with Algorithm, such as hmac-sha256. Without a name
	// updates are not signed.
	KeyName, Key, Algorithm string
}

// ListZones returns the one.
func (u *Updates) ListZones(context.Context) ([]libdns.Zone, error) {
	return []libdns.Zone{{Name: u.Zone}}, nil
}

// AppendRecords adds TXT records. One that is there already is no error.
func (u *Updates) AppendRecords(ctx context.Context, zone string, recs []libdns.Record) ([]libdns.Record, error) {
	return u.update(ctx, zone, recs, (*dns.Msg).Insert)
}

// DeleteRecords removes TXT records of just these values, whatever their TTL.
func (u *Updates) DeleteRecords(ctx context.Context, zone string, recs []libdns.Record) ([]libdns.Record, error) {
	return u.update(ctx, zone, recs, (*dns.Msg).Remove)
}

func (u *Updates) update(ctx context.Context, zone string, recs []libdns.Record, change func(*dns.Msg, []dns.RR)) ([]libdns.Record, error) {
	return each(zone, recs, func(t text) (bool, error) {
		msg := new(dns.Msg)
		msg.SetUpdate(dns.Fqdn(zone))
		change(msg, []dns.RR{&dns.TXT{
			Hdr: dns.RR_Header{Name: dns.Fqdn(t.name), Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: uint32(t.ttl / time.Second)},
			Txt: []string{t.value},
		}})
		client := &dns.Client{Net: "tcp", Timeout: answerIn}
		if u.KeyName != "" {
			key := dns.Fqdn(u.KeyName)
			client.TsigSecret = map[string]string{key: u.Key}
			msg.SetTsig(key, dns.Fqdn(u.Algorithm), fudge, time.Now().Unix())
		}
		answer, _, err := client.ExchangeContext(ctx, msg, u.Server)
		switch {
		case err != nil:
			return false, fmt.Errorf("update of the zone %s at %s: %w", zone, u.Server, err)
		case answer.Rcode != dns.RcodeSuccess:
			return false, fmt.Errorf("the name server %s refuses an update of the zone %s (%s): may the key write there?", u.Server, zone, dns.RcodeToString[answer.Rcode])
		}
		return true, nil
	})
}

// NameServers returns the primary and those that it names for the zone.
func (u *Updates) NameServers(ctx context.Context, zone string) []string {
	msg := new(dns.Msg)
	msg.SetQuestion(dns.Fqdn(zone), dns.TypeNS)
	all := []string{u.Server}
	answer, _, err := (&dns.Client{Net: "tcp", Timeout: answerIn}).ExchangeContext(ctx, msg, u.Server)
	if err != nil {
		return all
	}
	for _, rr := range answer.Answer {
		if ns, ok := rr.(*dns.NS); ok {
			all = append(all, net.JoinHostPort(ns.Ns, "53"))
		}
	}
	return all
}
