package certs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/libdns/libdns"
	"github.com/mholt/acmez/v3/acme"
	"github.com/miekg/dns"
)

const (
	// recordTTL is that of the records: they are asked for once.
	recordTTL = time.Minute
	// spread bounds the wait for the zone's name servers.
	spread = 2 * time.Minute
	// spreadEvery is how often they are asked.
	spreadEvery = 2 * time.Second
	// answerIn bounds one question.
	answerIn = 10 * time.Second
	// maxSilent is how often a server may give no answer before it is not waited for: one with an IPv6 address, say, where
	// this machine has none.
	maxSilent = 3
	// cleanIn bounds the removal of a record, which goes on when what it was for is given up.
	cleanIn = time.Minute
	// maxNamed is how many zones an error names.
	maxNamed = 5
)

// proofsDir is where proofs in zones are noted, beside what the ACME library keeps.
const proofsDir = "dns-01"

// DNS says how names are proven by DNS-01.
type DNS struct {
	Provider Provider
	Zone     string // that the records lie in; empty for the longest of Provider's that fits
	Record   string // where the records are written; empty for the name that the authority asks for
}

// A Provider keeps zones. If it has a method NameServers, those are asked until all have the
// proof; otherwise AppendRecords has waited for that itself.
type Provider interface {
	libdns.RecordAppender
	libdns.RecordDeleter
	libdns.ZoneLister
}

// knower is a Provider that knows which name servers a zone has.
type knower interface {
	// NameServers are HOST:PORT. None if they are not known.
	NameServers(ctx context.Context, zone string) []string
}

// prover is a solver of the ACME library. Each proof lies in a file of dir as long as its record may be in the zone, so
// that what a crash leaves behind is removed at the next start.
type prover struct {
	DNS
	dir string
	log *slog.Logger
}

// proof is a record in a zone.
type proof struct {
	Zone  string `json:"zone"`
	Name  string `json:"name"` // absolute, without the final dot
	Value string `json:"value"`
}

func (p *prover) name(c acme.Challenge) string {
	if p.Record != "" {
		return p.Record
	}
	return c.DNS01TXTRecordName()
}

// file is where a proof of this value lies. Values are base64 for URLs.
func (p *prover) file(value string) string { return filepath.Join(p.dir, value+".json") }

// Present writes the proof.
func (p *prover) Present(ctx context.Context, c acme.Challenge) error {
	made := proof{Zone: p.Zone, Name: p.name(c), Value: c.DNS01KeyAuthorization()}
	if made.Zone == "" {
		var err error
		if made.Zone, err = p.find(ctx, made.Name); err != nil {
			return err
		}
	}
	content, err := json.Marshal(made)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(p.file(made.Value), content, 0o600); err != nil {
		return err
	}
	_, err = p.Provider.AppendRecords(ctx, made.Zone, []libdns.Record{made.record()})
	return err
}

// record is the proof as providers take it. The final dot makes the name absolute.
func (made proof) record() libdns.TXT {
	return libdns.TXT{Name: made.Name + ".", TTL: recordTTL, Text: made.Value}
}

// CleanUp removes it.
func (p *prover) CleanUp(ctx context.Context, c acme.Challenge) error {
	return p.remove(context.WithoutCancel(ctx), p.file(c.DNS01KeyAuthorization()))
}

// remove removes the proof that lies in a file, and then the file. Without a file no record was written.
func (p *prover) remove(ctx context.Context, file string) error {
	made, err := readProof(file)
	var half *json.SyntaxError // the crash came while it was written, and so before the record was
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.As(err, &half):
		return os.Remove(file)
	case err != nil:
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, cleanIn)
	defer cancel()
	if _, err := p.Provider.DeleteRecords(ctx, made.Zone, []libdns.Record{made.record()}); err != nil {
		return err
	}
	return os.Remove(file)
}

func readProof(file string) (made proof, err error) {
	content, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(content, &made)
	}
	return made, err
}

// leftovers are the files of proofs that nobody removes any more. It is called before there are new ones.
func (p *prover) leftovers() (files []string) {
	entries, err := os.ReadDir(p.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.log.Warn("it is not known whether proofs are left over in the zone", "err", err)
	}
	for _, e := range entries {
		files = append(files, filepath.Join(p.dir, e.Name()))
	}
	return files
}

// sweep removes what a crash left behind.
func (p *prover) sweep(ctx context.Context, files []string) {
	for _, file := range files {
		switch err := p.remove(ctx, file); {
		case err == nil:
			p.log.Info("a proof in the zone was left over and is removed", "file", file)
		case ctx.Err() == nil:
			p.log.Warn("a proof in the zone is left over; its removal is tried again at the next start", "file", file, "err", err)
		}
	}
}

// find returns the longest zone of the provider's that a name lies in.
func (p *prover) find(ctx context.Context, name string) (zone string, err error) {
	all, err := p.Provider.ListZones(ctx)
	if err != nil {
		return "", err
	}
	var names []string
	for _, z := range all {
		candidate := strings.ToLower(strings.TrimSuffix(z.Name, "."))
		names = append(names, candidate)
		if len(candidate) > len(zone) && dns.IsSubDomain(candidate, name) {
			zone = candidate
		}
	}
	switch {
	case zone != "":
		return zone, nil
	case len(names) == 0:
		return "", errors.New("no zone of the DNS provider may be seen: check its account, and the rights of the key")
	}
	slices.Sort(names)
	return "", fmt.Errorf("%s lies in none of the %d zones that may be written at the DNS provider (%s): check the rights of the key, or make it a CNAME into one of these and set tls.acme.dns.record",
		name, len(names), strings.Join(names[:min(len(names), maxNamed)], ", "))
}

// Wait waits until all name servers of the zone have the proof, but not for ever: one
// that is down must not hold up the others, of which the authority may ask any.
func (p *prover) Wait(ctx context.Context, c acme.Challenge) error {
	from, ok := p.Provider.(knower)
	if !ok {
		return nil
	}
	made, err := readProof(p.file(c.DNS01KeyAuthorization()))
	if err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, spread)
	defer cancel()
	lacking := resolved(waiting, from.NameServers(waiting, made.Zone))
	silent := map[string]int{} // how often a server did not answer
	tick := time.NewTicker(spreadEvery)
	defer tick.Stop()
	for {
		lacking = slices.DeleteFunc(lacking, func(server string) bool {
			there, err := has(waiting, server, made)
			if err != nil {
				silent[server]++
			}
			return there || silent[server] == maxSilent
		})
		if len(lacking) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-waiting.Done():
			return ctx.Err()
		}
	}
}

// resolved are the addresses of servers, HOST:PORT. A name that leads nowhere is not waited for.
func resolved(ctx context.Context, servers []string) (all []string) {
	for _, server := range servers {
		host, port, err := net.SplitHostPort(server)
		if err != nil {
			continue
		}
		addrs, _ := net.DefaultResolver.LookupHost(ctx, host)
		for _, addr := range addrs {
			all = append(all, net.JoinHostPort(addr, port))
		}
	}
	return all
}

// has reports whether a name server has a proof.
func has(ctx context.Context, server string, made proof) (bool, error) {
	msg := new(dns.Msg)
	msg.SetQuestion(dns.Fqdn(made.Name), dns.TypeTXT)
	answer, _, err := (&dns.Client{Net: "tcp", Timeout: answerIn}).ExchangeContext(ctx, msg, server)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(answer.Answer, func(rr dns.RR) bool {
		txt, ok := rr.(*dns.TXT)
		return ok && strings.Join(txt.Txt, "") == made.Value
	}), nil
}
