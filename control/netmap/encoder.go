package netmap

import (
	"log/slog"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"heddle/control/netmap/cache"
	"heddle/control/tailnet"
	"heddle/policy"

	"tailscale.com/tailcfg"
)

// Options configure an Encoder.
type Options struct {
	// ServerURL is the URL at which clients reach the server.
	ServerURL string
	// DisplayName is what client apps call the tailnet; empty means the base domain.
	DisplayName string
	// CacheBytes bounds what is kept for sharing; zero means DefaultCacheBytes. Half of
	// it is for views, a quarter for the differences between snapshots, the rest for parts of
	// messages. What is in use while messages are made is not counted.
	CacheBytes int
	// Log hears of nodes that cannot be encoded; nil discards.
	Log *slog.Logger
}

// DefaultCacheBytes holds the blocks of ten thousand nodes for about fifteen
// wholly differing classes of viewers.
const DefaultCacheBytes = 64 << 20

// maxSpans is how many differences between two snapshots are kept. Sessions go
// from one snapshot to the next together; those that joined or were slow come from others.
const maxSpans = 64

// A Viewer is a map session as far as its messages depend on it.
type Viewer struct {
	ID        tailnet.NodeID
	CapVer    tailcfg.CapabilityVersion
	Plain     bool // the client did not ask for zstd
	OmitPeers bool // the client wants to know nothing of peers
}

// An Extra is a request to one client that rides alone in a message.
type Extra struct {
	PingRequest *tailcfg.PingRequest
	// PopBrowserURL must be https, or http if the server itself is; clients ignore others.
	PopBrowserURL string
}

// An Encoder makes the messages for the sessions of one tailnet.State. It holds
// what they share, and is safe for concurrent use.
type Encoder struct {
	opts  Options
	log   *slog.Logger
	cache *cache.Cache // of pieces
	spans *cache.Cache // of diffs
	ids   atomic.Uint64
	views views
	known blocks

	mu   sync.Mutex
	left map[tailnet.NodeID]string // why a node was left out, as logged

	verdicts verdicts
}

// maxLeftOut bounds the memory of what was logged; beyond it a node may be
// logged again.
const maxLeftOut = 1000

// NewEncoder returns an encoder for the snapshots of one tailnet.State.
func NewEncoder(o Options) *Encoder {
	if o.CacheBytes <= 0 {
		o.CacheBytes = DefaultCacheBytes
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Encoder{
		opts: o, log: o.Log,
		cache: cache.New(cache.Limit{Bytes: o.CacheBytes / 4}),
		// All sessions take up the same two snapshots now and the next two soon: to forget what
		// differs between them would be to work it out again for each.
		spans: cache.New(cache.Limit{Bytes: o.CacheBytes / 4, MaxItems: maxSpans, MinItems: 2}),
		views: views{limit: o.CacheBytes / 2, byMember: map[tailnet.NodeID]*view{}},
		left:  map[tailnet.NodeID]string{},
	}
}

// Stats tell how well messages are shared, and what is kept for it.
type Stats struct {
	cache.Stats
	Limit int // of Bytes
}

// Stats tells how the shared parts are used.
func (e *Encoder) Stats() Stats {
	s := Stats{Limit: e.opts.CacheBytes}
	e.cache.AddTo(&s.Stats)
	e.spans.AddTo(&s.Stats)
	e.views.addTo(&s.Stats)
	e.known.addTo(&s.Stats)
	return s
}

// leftOut logs, once for each reason, that a node is missing in maps.
func (e *Encoder) leftOut(n *tailnet.Node, why error) {
	e.mu.Lock()
	known := e.left[n.ID] == why.Error()
	if len(e.left) >= maxLeftOut {
		clear(e.left)
	}
	e.left[n.ID] = why.Error()
	e.mu.Unlock()
	if !known {
		e.log.Error("node left out of all maps", "node", n.ID, "name", n.Name, "err", why)
	}
}

// Full returns the first message of a session: everything that the viewer is
// to know. The error is NotFound if the snapshot does not have the viewer, and
// Internal if its own node cannot be encoded.
func (e *Encoder) Full(s *tailnet.Snapshot, v Viewer, now time.Time) (Message, error) {
	n := s.Node(v.ID)
	if n == nil {
		return Message{}, tailnet.Errorf(tailnet.NotFound, "no node with ID %d", v.ID)
	}
	c := s.Policy().Compiled
	if err := (sight{node: n, v4off: c.IPv4Off(policy.NodeID(v.ID))}).check(s); err != nil {
		return Message{}, &tailnet.Error{Code: tailnet.Internal, Msg: "this device cannot be described to clients; rename it or log in again", Err: err}
	}
	b := newBuilder(v.Plain)
	b.field("ControlTime")
	b.text = appendTime(b.text, now)
	b.field("Node")
	b.text = e.appendSelf(b.text, s, n)
	if d := s.DNS().BaseDomain; d != "" {
		b.field("Domain")
		b.text = appendString(b.text, d)
	}
	// Clients otherwise report the ports that are open on the device, upload
	// their logs, and ask for news about versions.
	b.string(`,"CollectServices":false,"Debug":{"DisableLogTail":true},"ClientVersion":{"RunningLatest":true}`)
	b.field("DNSConfig")
	b.add(e.dns(s, n))
	b.field("DERPMap")
	b.add(e.derp(s))
	b.filters(e.allFilters(c.Filter(policy.NodeID(v.ID))))
	if ssh := c.SSH(policy.NodeID(v.ID)); ssh != nil {
		b.ssh(e.ssh(ssh))
	}
	b.health(v, notices(n))
	seen := new(view)
	if !n.Status.Expired && !v.OmitPeers {
		seen = e.view(s, v.ID)
	}
	var profile []byte
	if !slices.Contains(seen.owners, owner(n)) {
		profile = appendProfile(nil, s, owner(n))
	}
	b.profiles(seen.profiles, profile)
	b.field("Peers")
	b.string("[")
	b.blocks(seen.blocks, v.ID)
	b.string("]")
	return b.message(), nil
}

// Delta returns what is new for the viewer in to, given that it knows all of
// from. If changed is false there is nothing to send. The error is NotFound if
// the viewer is not in to any more: it is to be sent Gone. That its key is
// still the one of the session is for the caller to see to.
func (e *Encoder) Delta(from, to *tailnet.Snapshot, v Viewer, now time.Time) (m Message, changed bool, err error) {
	if from.Version() == to.Version() {
		return Message{}, false, nil
	}
	if from.Node(v.ID) == nil || to.Node(v.ID) == nil {
		m, err := e.Full(to, v, now)
		return m, err == nil, err
	}
	d := e.diff(from, to)
	p := new(peersDelta)
	if !v.OmitPeers {
		p = e.peers(d, from, to, v.ID)
	}
	o := e.ownChanges(d, p, from, to, v)
	if o.empty() && p.empty(v.ID) {
		return Message{}, false, nil
	}
	if o.private() || p.has(v.ID) {
		return e.delta(o, p, v), true, nil
	}
	m, fresh := p.share(o.key(v.Plain), func() Message { return e.delta(o, p, v) }, d.ready.Load() < int64(e.opts.CacheBytes/16))
	if fresh {
		d.ready.Add(int64(m.Len()))
		e.spans.Grow(diffKey{from.Version(), to.Version()}, 100+m.Len())
	}
	return m, true, nil
}

func (e *Encoder) delta(o *own, p *peersDelta, v Viewer) Message {
	b := newBuilder(v.Plain)
	o.write(b, v)
	p.write(b, v.ID, o.profile)
	return b.message()
}

// KeepAlive returns the message that only says that the server is there.
func (e *Encoder) KeepAlive(v Viewer) Message { return keepAlives[v.Plain] }

// Extra returns a message that changes no map.
func (e *Encoder) Extra(v Viewer, x Extra) Message {
	b := newBuilder(v.Plain)
	if x.PingRequest != nil {
		b.field("PingRequest")
		b.text = appendValue(b.text, x.PingRequest, "null")
	}
	if u, err := url.Parse(x.PopBrowserURL); x.PopBrowserURL != "" && err == nil {
		server, _ := url.Parse(e.opts.ServerURL)
		if u.Scheme == "https" || u.Scheme == "http" && server != nil && server.Scheme == "http" {
			b.field("PopBrowserURL")
			b.text = appendString(b.text, x.PopBrowserURL)
		} else {
			e.log.Error("url not sent: clients refuse its scheme", "scheme", u.Scheme)
		}
	}
	return b.message()
}

// Gone returns the message for a client whose key is not good any more: its
// own node with an expiry in the past, so that it asks its person to log in. HTTP errors
// would let it try for ever and stay on its old map.
func (e *Encoder) Gone(t *tailnet.Tombstone, v Viewer, now time.Time) Message {
	b := newBuilder(v.Plain)
	b.field("ControlTime")
	b.text = appendTime(b.text, now)
	b.field("Node")
	b.text = append(b.text, `{"ID":`...)
	b.text = appendInt(b.text, t.Node)
	b.text = append(b.text, `,"StableID":`...)
	b.text = appendString(b.text, string(t.StableID))
	b.text = append(b.text, `,"Name":`...)
	b.text = appendString(b.text, t.Name+".")
	b.text = append(b.text, `,"User":`...)
	b.text = appendInt(b.text, t.Owner)
	b.text = append(b.text, `,"Key":`...)
	b.text = appendKey(b.text, t.Key)
	b.text = append(b.text, `,"KeyExpiry":`...)
	b.text = appendTime(b.text, now.Add(-24*time.Hour)) // whatever the client's clock says
	b.text = append(b.text, `,"Addresses":`...)
	b.text = appendPrefixes(b.text, t.Addrs.Prefixes())
	b.text = append(b.text, `,"Expired":true,"MachineAuthorized":true}`...)
	b.string(`,"PacketFilters":{"*":null,"base":[]}`)
	return b.message()
}
