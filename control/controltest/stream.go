package controltest

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/util/zstdframe"
)

// Stream is an open map stream. It reads on by itself and keeps what a stock
// client would know.
type Stream struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when the stream has ended

	mu      sync.Mutex
	changed chan struct{} // closed and replaced with each message
	netmap  Netmap
	log     []*tailcfg.MapResponse
	err     error
}

// Netmap is what a client knows from its map stream.
type Netmap struct {
	Self      *tailcfg.Node
	Peers     map[tailcfg.NodeID]*tailcfg.Node
	Profiles  map[tailcfg.UserID]tailcfg.UserProfile
	DNS       *tailcfg.DNSConfig
	DERP      *tailcfg.DERPMap
	SSH       *tailcfg.SSHPolicy
	Domain    string
	KeepAlive int // keepalives so far
	Messages  int // other messages so far
	Pings     []*tailcfg.PingRequest
	URLs      []string // pages to open
}

// Peer returns the peer of that DNS label, or nil.
func (n *Netmap) Peer(label string) *tailcfg.Node {
	for _, p := range n.Peers {
		if strings.HasPrefix(p.Name, label+".") {
			return p
		}
	}
	return nil
}

// Carrier returns the label of the one peer that gets traffic for a route, or "".
func (n *Netmap) Carrier(route string) string {
	p := netip.MustParsePrefix(route)
	for _, peer := range n.Peers {
		if slices.Contains(peer.AllowedIPs, p) {
			label, _, _ := strings.Cut(peer.Name, ".")
			return label
		}
	}
	return ""
}

func newStream(body io.ReadCloser, compressed bool, cancel context.CancelFunc) *Stream {
	st := &Stream{
		cancel: cancel, done: make(chan struct{}), changed: make(chan struct{}),
		netmap: Netmap{Peers: map[tailcfg.NodeID]*tailcfg.Node{}, Profiles: map[tailcfg.UserID]tailcfg.UserProfile{}},
	}
	go st.read(body, compressed)
	return st
}

func (st *Stream) read(body io.ReadCloser, compressed bool) {
	defer close(st.done)
	defer body.Close()
	for {
		m, err := readMessage(body, compressed)
		st.mu.Lock()
		if err != nil {
			st.err = err
		} else {
			st.log = append(st.log, m)
			st.netmap.apply(m)
		}
		close(st.changed)
		st.changed = make(chan struct{})
		st.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func readMessage(r io.Reader, compressed bool) (*tailcfg.MapResponse, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.LittleEndian.Uint32(head[:]))
	if _, err := io.ReadFull(r, msg); err != nil {
		return nil, err
	}
	if compressed {
		var err error
		if msg, err = zstdframe.AppendDecode(nil, msg); err != nil {
			return nil, err
		}
	}
	m := new(tailcfg.MapResponse)
	return m, json.Unmarshal(msg, m)
}

// apply does what stock clients do with a message, in their order.
func (n *Netmap) apply(m *tailcfg.MapResponse) {
	if m.PingRequest != nil {
		n.Pings = append(n.Pings, m.PingRequest)
	}
	if m.PopBrowserURL != "" {
		n.URLs = append(n.URLs, m.PopBrowserURL)
	}
	if m.KeepAlive {
		n.KeepAlive++
		return
	}
	n.Messages++
	if m.Node != nil {
		n.Self = m.Node
	}
	if m.DNSConfig != nil {
		n.DNS = m.DNSConfig
	}
	if m.DERPMap != nil {
		n.DERP = m.DERPMap
	}
	if m.SSHPolicy != nil {
		n.SSH = m.SSHPolicy
	}
	if m.Domain != "" {
		n.Domain = m.Domain
	}
	for _, p := range m.UserProfiles {
		n.Profiles[p.ID] = p
	}
	n.Peers = maps.Clone(n.Peers)
	if len(m.Peers) > 0 {
		clear(n.Peers)
		for _, p := range m.Peers {
			n.Peers[p.ID] = p
		}
		return
	}
	for _, id := range m.PeersRemoved {
		delete(n.Peers, id)
	}
	for _, p := range m.PeersChanged {
		n.Peers[p.ID] = p
	}
	for id, online := range m.OnlineChange {
		n.edit(id, func(p *tailcfg.Node) { p.Online = &online })
	}
	for _, patch := range m.PeersChangedPatch {
		n.edit(patch.NodeID, func(p *tailcfg.Node) { applyPatch(p, patch) })
	}
}

func (n *Netmap) edit(id tailcfg.NodeID, change func(*tailcfg.Node)) {
	if p, ok := n.Peers[id]; ok {
		p = p.Clone()
		change(p)
		n.Peers[id] = p
	}
}

func applyPatch(p *tailcfg.Node, c *tailcfg.PeerChange) {
	if c.DERPRegion != 0 {
		p.HomeDERP = c.DERPRegion
	}
	if c.Endpoints != nil {
		p.Endpoints = c.Endpoints
	}
	if c.Key != nil {
		p.Key = *c.Key
	}
	if c.KeyExpiry != nil {
		p.KeyExpiry = *c.KeyExpiry
	}
	if c.DiscoKey != nil {
		p.DiscoKey = *c.DiscoKey
	}
	if c.Online != nil {
		p.Online = c.Online
	}
	if c.LastSeen != nil {
		p.LastSeen = c.LastSeen
	}
	if c.Cap != 0 {
		p.Cap = c.Cap
	}
	if c.CapMap != nil {
		p.CapMap = c.CapMap
	}
}

// patience bounds Await: in a synctest bubble it costs nothing, elsewhere a
// failure is noticed in reasonable time.
const patience = time.Minute

// Await waits until the netmap is as cond wants it. It returns false if the
// stream ends first, or after a minute. The netmap is cond's only during the call.
func (st *Stream) Await(cond func(*Netmap) bool) bool {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		st.mu.Lock()
		ok, err, changed := cond(&st.netmap), st.err, st.changed
		st.mu.Unlock()
		if ok || err != nil {
			return ok
		}
		select {
		case <-changed:
		case <-limit.C:
			return false
		}
	}
}

// Netmap returns a copy of what the client knows now. It is read only.
func (st *Stream) Netmap() *Netmap {
	st.mu.Lock()
	defer st.mu.Unlock()
	n := st.netmap
	n.Profiles = maps.Clone(n.Profiles)
	return &n
}

// Log returns all messages so far.
func (st *Stream) Log() []*tailcfg.MapResponse {
	st.mu.Lock()
	defer st.mu.Unlock()
	return slices.Clone(st.log)
}

// Ended reports whether the stream has ended.
func (st *Stream) Ended() bool {
	select {
	case <-st.done:
		return true
	default:
		return false
	}
}

// Done is closed when the stream has ended.
func (st *Stream) Done() <-chan struct{} { return st.done }

// Err returns why the stream ended, or nil.
func (st *Stream) Err() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.err
}

// Close ends the stream from the client's side.
func (st *Stream) Close() {
	st.cancel()
	<-st.done
}

// Forget closes the stream and drops all that it was sent.
func (st *Stream) Forget() {
	st.Close()
	<-st.done
	st.mu.Lock()
	defer st.mu.Unlock()
	st.netmap, st.log = Netmap{}, nil
}
