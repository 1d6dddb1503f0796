package netmap

import (
	"bytes"
	"maps"
	"slices"
	"sync"

	"heddle/control/tailnet"
	"heddle/policy"
)

// A diff is what differs between two snapshots, for everyone.
type diff struct {
	nodes     []tailnet.NodeChange // ascending
	policy    bool                 // compiled anew
	rules     bool                 // the relation of two unchanged nodes may be another
	primaries bool
	base      bool             // the base domain, and so every name
	users     []tailnet.UserID // whose data changed
}

type diffKey struct{ from, to uint64 }

// diff returns the differences, which all sessions with the same two
// snapshots share.
func (e *Encoder) diff(from, to *tailnet.Snapshot) *diff {
	key := diffKey{from.Version(), to.Version()}
	if d, ok := e.cache.get(key).(*diff); ok {
		return d
	}
	d := &diff{
		nodes:     slices.Collect(to.NodesChangedSince(from)),
		policy:    from.Policy().Compiled != to.Policy().Compiled,
		primaries: from.Primaries() != to.Primaries(),
		base:      from.DNS().BaseDomain != to.DNS().BaseDomain,
		users:     changedUsers(from, to),
	}
	// What the policy says of two nodes depends on its text, on them and on their users only.
	d.rules = d.policy && (from.Policy().Doc != to.Policy().Doc || len(d.users) > 0)
	e.cache.put(key, d, 200+100*len(d.nodes))
	return d
}

func sameUsers(a, b *tailnet.Snapshot) bool { return len(changedUsers(a, b)) == 0 }

func changedUsers(from, to *tailnet.Snapshot) []tailnet.UserID {
	return slices.Collect(to.UsersChangedSince(from))
}

// changed reports whether the node itself differs.
func (d *diff) changed(id tailnet.NodeID) bool {
	_, ok := slices.BinarySearchFunc(d.nodes, id, func(ch tailnet.NodeChange, id tailnet.NodeID) int { return int(changeID(ch) - id) })
	return ok
}

func changeID(ch tailnet.NodeChange) tailnet.NodeID {
	if ch.New != nil {
		return ch.New.ID
	}
	return ch.Old.ID
}

// candidates returns the nodes of which some viewer like v may see another
// copy than before.
func (d *diff) candidates(from, to *tailnet.Snapshot, viewer tailnet.NodeID) []tailnet.NodeChange {
	every := d.base || d.rules || d.policy && d.changed(viewer)
	if !every && !d.policy && !d.primaries {
		return d.nodes
	}
	var out []tailnet.NodeChange
	rest := d.nodes
	for n := range to.Nodes() {
		for len(rest) > 0 && changeID(rest[0]) < n.ID {
			out, rest = append(out, rest[0]), rest[1:]
		}
		if len(rest) > 0 && changeID(rest[0]) == n.ID {
			out, rest = append(out, rest[0]), rest[1:]
			continue
		}
		// Which routes a router gets depends on the other routers too.
		if every || len(n.Approved) > 0 {
			out = append(out, tailnet.NodeChange{Old: n, New: n})
		}
	}
	return append(out, rest...)
}

// peersKey names what changes in the peers of a kind of viewers: those of one
// class before and one class after. Blind viewers, whose key has expired, see nobody.
type peersKey struct {
	diffKey
	before, after policy.Class
	wasBlind      bool
	isBlind       bool
}

// A peersDelta is what changes in the peers of a kind of viewers, the viewer
// itself maybe among them. Immutable, but for the messages that it collects.
type peersDelta struct {
	all      []*block // if not nil all peers anew, instead of what follows
	removed  []*chunk
	changed  []*block
	patches  []*chunk
	profiles *piece // without brackets; nil if there are none

	mu    sync.Mutex
	ready map[string]Message // by what else they contain
}

// peers returns what changes in the peers of viewers like id.
func (e *Encoder) peers(d *diff, from, to *tailnet.Snapshot, id tailnet.NodeID) *peersDelta {
	was, is := from.Policy().Compiled, to.Policy().Compiled
	key := peersKey{
		diffKey: diffKey{from.Version(), to.Version()},
		before:  was.Class(policy.NodeID(id)), after: is.Class(policy.NodeID(id)),
		wasBlind: from.Node(id).Status.Expired, isBlind: to.Node(id).Status.Expired,
	}
	if p, ok := e.cache.get(key).(*peersDelta); ok {
		return p
	}
	p := e.newPeers(d, key, from, to, id)
	e.cache.put(key, p, p.cost())
	return p
}

func newPeersDelta() *peersDelta { return &peersDelta{ready: map[string]Message{}} }

func (p *peersDelta) cost() int {
	n := 500
	for _, k := range p.changed {
		n += 200 + 200*len(k.peers)
	}
	for _, c := range slices.Concat(p.removed, p.patches) {
		n += 200 + 30*len(c.items) + 2*c.len
	}
	return n + 10*len(p.all)
}

func (e *Encoder) newPeers(d *diff, key peersKey, from, to *tailnet.Snapshot, id tailnet.NodeID) *peersDelta {
	p := newPeersDelta()
	if key.isBlind && key.wasBlind {
		return p
	}
	if key.wasBlind {
		v := e.view(to, id)
		p.all, p.profiles = v.blocks, v.profiles
		return p
	}
	other := sync.OnceValue(func() tailnet.NodeID { return otherLike(key, from, to, id) })
	before := &vantage{s: from, class: key.before, id: id, other: other}
	after := &vantage{s: to, class: key.after, id: id, other: other}
	var c changes
	if key.isBlind {
		for n := range from.Nodes() {
			if _, ok := before.look(e, n); ok {
				c.remove(n.ID)
			}
		}
	} else {
		c.owners = e.renamed(d, after)
		for _, ch := range d.candidates(from, to, id) {
			was, hadIt := before.look(e, ch.Old)
			is, hasIt := after.look(e, ch.New)
			switch {
			case hadIt && !hasIt:
				c.remove(ch.Old.ID)
			case !hadIt && hasIt:
				c.add(is)
			case hadIt && hasIt:
				c.compare(was, is, from.DNS().BaseDomain, to.DNS().BaseDomain)
			}
		}
	}
	if len(c.changed) > 4*blockLen {
		if v := e.view(to, id); len(c.changed) > v.len/2 {
			// The blocks of the view are encoded already, or soon will be.
			p.all, p.profiles = v.blocks, v.profiles
			return p
		}
	}
	p.fill(e, &c, to)
	return p
}

// otherLike returns another node of the same kind of viewers, or zero.
func otherLike(key peersKey, from, to *tailnet.Snapshot, id tailnet.NodeID) tailnet.NodeID {
	was, is := from.Policy().Compiled, to.Policy().Compiled
	for n := range to.Nodes() {
		if n.ID != id && is.Class(policy.NodeID(n.ID)) == key.after && was.Class(policy.NodeID(n.ID)) == key.before && from.Node(n.ID) != nil {
			return n.ID
		}
	}
	return 0
}

// renamed returns the changed users of whom the class sees a node.
func (e *Encoder) renamed(d *diff, at *vantage) map[tailnet.UserID]bool {
	out := map[tailnet.UserID]bool{}
	if len(d.users) == 0 {
		return out
	}
	for n := range at.s.Nodes() {
		if o := owner(n); !out[o] && slices.Contains(d.users, o) && at.sees(n) {
			out[o] = true
		}
	}
	return out
}

// changes are collected in ascending order of ID.
type changes struct {
	removed, patches chunks
	changed          []sight
	owners           map[tailnet.UserID]bool // whose profiles are needed
}

func (c *changes) remove(id tailnet.NodeID) { c.removed.add(id, appendInt(nil, id)) }

func (c *changes) add(a sight) {
	c.changed = append(c.changed, a)
	c.owners[owner(a.node)] = true
}

// compare notes how a peer that was there before changed. What a patch can
// say is patched, and presence always: clients do not take the time of a peer
// that went offline from a whole node.
func (c *changes) compare(was, is sight, oldBase, newBase string) {
	id := is.node.ID
	if was.node == is.node && was.sameCopy(is) && oldBase == newBase {
		return
	}
	if !bytes.Equal(appendLasting(nil, was, oldBase), appendLasting(nil, is, newBase)) {
		c.changed = append(c.changed, is)
		if owner(was.node) != owner(is.node) {
			c.owners[owner(is.node)] = true
		}
		if patch := appendPresence(nil, was.node, is.node); len(patch) > 0 {
			c.patches.add(id, patch)
		}
		return
	}
	if patch := appendPatches(nil, was.node, is.node); len(patch) > 0 {
		c.patches.add(id, patch)
	}
}

// fill turns what was collected into shareable parts.
func (p *peersDelta) fill(e *Encoder, c *changes, to *tailnet.Snapshot) {
	p.removed, p.patches = c.removed, c.patches
	base := to.DNS().BaseDomain
	for run := range slices.Chunk(c.changed, blockLen) {
		p.changed = append(p.changed, &block{base: base, peers: run})
	}
	if len(c.owners) > 0 {
		p.profiles = e.intern(appendProfiles(nil, to, slices.Sorted(maps.Keys(c.owners))))
	}
}

// empty reports whether there is nothing for a viewer.
func (p *peersDelta) empty(viewer tailnet.NodeID) bool {
	if p.all != nil {
		return false
	}
	if p.profiles != nil && len(p.changed) == 0 {
		return false
	}
	return only(p.removed, viewer) && only(p.patches, viewer) && onlyBlock(p.changed, viewer)
}

// has reports whether the viewer itself is among the peers.
func (p *peersDelta) has(viewer tailnet.NodeID) bool {
	for _, k := range slices.Concat(p.all, p.changed) {
		if _, ok := k.find(viewer); ok {
			return true
		}
	}
	return slices.ContainsFunc(p.removed, func(c *chunk) bool { return c.has(viewer) }) ||
		slices.ContainsFunc(p.patches, func(c *chunk) bool { return c.has(viewer) })
}

// maxReady bounds the messages kept with one delta: what is in them besides the
// peers differs with the filters of the viewers.
const maxReady = 1000

// share returns the message of that key, made once for all viewers.
func (p *peersDelta) share(key string, make func() Message) Message {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, ok := p.ready[key]
	if !ok {
		m = make()
		if len(p.ready) < maxReady {
			p.ready[key] = m
		}
	}
	return m
}

// write writes all of it but the viewer. profile is one more user's, or nil.
func (p *peersDelta) write(b *builder, viewer tailnet.NodeID, profile []byte) {
	b.profiles(p.profiles, profile)
	if p.all != nil {
		b.field("Peers")
		b.string("[")
		b.blocks(p.all, viewer)
		b.string("]")
		return
	}
	b.chunks("PeersRemoved", p.removed, viewer)
	if !onlyBlock(p.changed, viewer) {
		b.field("PeersChanged")
		b.string("[")
		b.blocks(p.changed, viewer)
		b.string("]")
	}
	b.chunks("PeersChangedPatch", p.patches, viewer)
}

func onlyBlock(list []*block, viewer tailnet.NodeID) bool {
	return len(list) == 0 || len(list) == 1 && len(list[0].peers) == 1 && list[0].peers[0].node.ID == viewer
}
