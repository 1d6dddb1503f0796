package certs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/mholt/acmez/v3/acme"
	"github.com/miekg/dns"
)

const (
	// recordTTL is that of the records, in seconds: they are asked for once.
	recordTTL = 60
	// spread bounds the wait for the zone's other name servers.
	spread = 2 * time.Minute
	// spreadEvery is how often they are asked.
	spreadEvery = 2 * time.Second
	// answerIn bounds one question or update.
	answerIn = 10 * time.Second
	// fudge is the difference of clocks, in seconds, that TSIG allows for (RFC 8945 §10).
	fudge = 300
)

// Zone proves names by DNS-01: it writes records into a zone by dynamic updates
// (RFC 2136). It is a solver of the ACME library.
type Zone struct {
	Server string // HOST:PORT of the primary
	Name   string // of the zone
	// Record is where the records are written; empty for the name that the authority asks for.
	Record string
	// KeyName and Key (base64) sign updates by TSIG with Algorithm, such as hmac-sha256. Without a name
	// updates are not signed.
	KeyName, Key, Algorithm string
}

// Present writes the proof.
func (z *Zone) Present(ctx context.Context, c acme.Challenge) error {
	return z.update(ctx, c, (*dns.Msg).Insert)
}

// CleanUp removes it.
func (z *Zone) CleanUp(ctx context.Context, c acme.Challenge) error {
	return z.update(ctx, c, (*dns.Msg).Remove)
}

func (z *Zone) record(c acme.Challenge) *dns.TXT {
	name := z.Record
	if name == "" {
		name = c.DNS01TXTRecordName()
	}
	return &dns.TXT{
		Hdr: dns.RR_Header{Name: dns.Fqdn(name), Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: recordTTL},
		Txt: []string{c.DNS01KeyAuthorization()},
	}
}

func (z *Zone) update(ctx context.Context, c acme.Challenge, change func(*dns.Msg, []dns.RR)) error {
	msg := new(dns.Msg)
	msg.SetUpdate(dns.Fqdn(z.Name))
	change(msg, []dns.RR{z.record(c)})
	client := &dns.Client{Net: "tcp", Timeout: answerIn}
	if z.KeyName != "" {
		key := dns.Fqdn(z.KeyName)
		client.TsigSecret = map[string]string{key: z.Key}
		msg.SetTsig(key, dns.Fqdn(z.Algorithm), fudge, time.Now().Unix())
	}
	answer, _, err := client.ExchangeContext(ctx, msg, z.Server)
	switch {
	case err != nil:
		return fmt.Errorf("update of the zone %s at %s: %w", z.Name, z.Server, err)
	case answer.Rcode != dns.RcodeSuccess:
		return fmt.Errorf("the name server %s refuses an update of the zone %s (%s): may the key write there?", z.Server, z.Name, dns.RcodeToString[answer.Rcode])
	}
	return nil
}

// Wait waits until all name servers of the zone have the proof, but not for ever: one
// that is down must not hold up the others, of which the authority may ask any.
func (z *Zone) Wait(ctx context.Context, c acme.Challenge) error {
	ctx, cancel := context.WithTimeout(ctx, spread)
	defer cancel()
	want, lacking := z.record(c), z.servers(ctx)
	tick := time.NewTicker(spreadEvery)
	defer tick.Stop()
	for {
		lacking = slices.DeleteFunc(lacking, func(server string) bool { return has(ctx, server, want) })
		if len(lacking) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return nil
			}
			return ctx.Err()
		}
	}
}

// servers are the primary and those that it names for the zone.
func (z *Zone) servers(ctx context.Context) []string {
	all := []string{z.Server}
	answer, err := ask(ctx, z.Server, dns.Fqdn(z.Name), dns.TypeNS)
	if err != nil {
		return all
	}
	for _, rr := range answer.Answer {
		ns, ok := rr.(*dns.NS)
		if !ok {
			continue
		}
		addrs, _ := net.DefaultResolver.LookupHost(ctx, ns.Ns)
		for _, addr := range addrs {
			all = append(all, net.JoinHostPort(addr, "53"))
		}
	}
	return all
}

func ask(ctx context.Context, server, name string, kind uint16) (*dns.Msg, error) {
	msg := new(dns.Msg)
	msg.SetQuestion(name, kind)
	answer, _, err := (&dns.Client{Net: "tcp", Timeout: answerIn}).ExchangeContext(ctx, msg, server)
	return answer, err
}

// has reports whether a name server has a record.
func has(ctx context.Context, server string, want *dns.TXT) bool {
	answer, err := ask(ctx, server, want.Hdr.Name, dns.TypeTXT)
	return err == nil && slices.ContainsFunc(answer.Answer, func(rr dns.RR) bool {
		txt, ok := rr.(*dns.TXT)
		return ok && slices.Equal(txt.Txt, want.Txt)
	})
}
