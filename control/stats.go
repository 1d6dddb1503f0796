package control

import (
	"sync/atomic"
	"time"

	"heddle/control/noise"
	"heddle/control/tailnet"
)

// kind sorts the messages of map streams.
type kind int

const (
	kindFull kind = iota
	kindDelta
	kindKeepAlive
	kindOther // requests to the client, the end of its key
	kinds
)

// login sorts what becomes of logins.
type login int

const (
	loginAuthKey  login = iota // admitted by an auth key
	loginApproved              // admitted by a person
	loginWaits                 // sent to a page
	loginRefused
	logins
)

var (
	kindNames  = [kinds]string{"full", "delta", "keepalive", "other"}
	loginNames = [logins]string{"auth_key", "approved", "waiting", "refused"}
)

// counters are for Stats. To count costs an atomic addition.
type counters struct {
	slow, replaced, held, unheard atomic.Int64

	sent   [kinds]traffic
	logins [logins]atomic.Int64
	failed [tailnet.Unavailable + 1]atomic.Int64 // by tailnet.Code
	delay  func(time.Duration)
}

type traffic struct{ messages, bytes atomic.Int64 }

func (t *traffic) add(bytes int) {
	t.messages.Add(1)
	t.bytes.Add(int64(bytes))
}

// Stats are numbers for operators. Those of the present come and go, the others only grow.
type Stats struct {
	Slow     int64 // streams ended because the client did not read
	Replaced int64 // streams ended because the node opened another
	Held     int64 // streams that had to wait because two devices share keys
	Unheard  int64 // times that a subnet router stopped answering its probe

	Sent   map[string]Sent  // messages of map streams: full, delta, keepalive, other
	Logins map[string]int64 // auth_key and approved (both admitted), waiting (sent to a page), refused
	Failed map[string]int64 // requests answered with an error, by code

	// Of the present.
	Streams int // map streams that are open
	Pending int // logins that wait for a person
	Maps    int // full maps, and others made for one client alone, under way
	Joining int // registrations with auth keys under way
	Calls   int // requests to clients that wait for an answer

	Noise noise.Stats
}

// Sent counts messages and their bytes on the wire, before encryption.
type Sent struct{ Messages, Bytes int64 }

// Stats returns the current numbers.
func (s *Server) Stats() Stats {
	c := &s.counts
	out := Stats{
		Slow: c.slow.Load(), Replaced: c.replaced.Load(), Held: c.held.Load(), Unheard: c.unheard.Load(),
		Sent: map[string]Sent{}, Logins: map[string]int64{}, Failed: map[string]int64{},
		Streams: s.hub.len(), Pending: s.pending.Len(),
		Maps: len(s.hub.maps), Joining: len(s.hub.logins), Calls: s.calls.len(),
		Noise: s.noise.Stats(),
	}
	for k := range c.sent {
		out.Sent[kindNames[k]] = Sent{c.sent[k].messages.Load(), c.sent[k].bytes.Load()}
	}
	for l := range c.logins {
		out.Logins[loginNames[l]] = c.logins[l].Load()
	}
	for code := range c.failed {
		out.Failed[tailnet.Code(code).String()] = c.failed[code].Load()
	}
	return out
}
