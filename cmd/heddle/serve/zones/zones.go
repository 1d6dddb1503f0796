// Package zones owns writing TXT records into DNS zones where these are kept: at
// Cloudflare, in Amazon Route 53, or on a name server that takes dynamic updates. Each of
// these is a provider in the sense of libdns. It refuses to know what the records are for.
package zones

import (
	"fmt"
	"strings"
	"time"

	"github.com/libdns/libdns"
)

const (
	// answerIn bounds one question to a name server and one request to an API.
	answerIn = 10 * time.Second
	// tries is how often a request to an API is made in all that meets a limit of its rate, a server in trouble or no server.
	tries = 4
	// maxPages bounds a list that comes page by page: 100 of them hold thousands of zones.
	maxPages = 100
	// maxText is how much one string of a TXT record holds (RFC 1035 §3.3).
	maxText = 255
)

// text is one TXT record.
type text struct {
	name  string // absolute, as canonical has it
	value string // printable, and nothing in it needs an escape in quotes
	ttl   time.Duration
}

// quoted is the value as it stands in a zone's file.
func (t text) quoted() string { return `"` + t.value + `"` }

// canonical is a name in lower case and without the final dot, for comparing.
func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

func textOf(zone string, rec libdns.Record) (text, error) {
	rr := rec.RR()
	plain := !strings.ContainsFunc(rr.Data, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' })
	switch {
	case rr.Type != "TXT":
		return text{}, fmt.Errorf("%s is of type %s: only TXT records are written here", rr.Name, rr.Type)
	case !plain || rr.Data == "" || len(rr.Data) > maxText:
		return text{}, fmt.Errorf("the value of %s is not plain text of at most %d bytes", rr.Name, maxText)
	}
	return text{canonical(libdns.AbsoluteName(rr.Name, zone)), rr.Data, rr.TTL}, nil
}

// each has the records done one by one and returns those that were, up to the first that fails. do reports
// whether there was anything to do.
func each(zone string, recs []libdns.Record, do func(text) (bool, error)) (done []libdns.Record, err error) {
	for _, rec := range recs {
		t, err := textOf(zone, rec)
		if err != nil {
			return done, err
		}
		did, err := do(t)
		if err != nil {
			return done, err
		}
		if did {
			done = append(done, libdns.TXT{Name: libdns.RelativeName(t.name, canonical(zone)), TTL: t.ttl, Text: t.value})
		}
	}
	return done, nil
}
