package netmap

import (
	"bytes"
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"heddle/control/tailnet"
	"heddle/policy"
)

// A diff is what differs between two snapshots, for everyone.
type diff struct {
	once      sync.Once
	nodes     []*nodeDelta     // ascending
	routers   []*nodeDelta     // nodes, and the routers whose routes may have moved
	policy    bool             // compiled anew
	rules     bool             // the relation of two unchanged nodes may be another
	primaries bool             // elected anew
	base      bool             // the base domain, and so every name
	users     []tailnet.UserID // whose data changed

	all func() []*nodeDelta
	// like returns some node, but not one, of those viewers who were and are of
	// the same classes; zero if there is none.
	like func(before, after policy.Class, not tailnet.NodeID) tailnet.NodeID

	ready  atomic.Int64 // bytes of the messages that are kept with it
	mu     sync.Mutex
	peers  map[peersKey]*peersDelta
	chunks map[chunkKey]*chunk // of patches, which different viewers have in common
}

type diffKey struct{ from, to uint64 }

// diff returns the differences, which all sessions with the same two
// snapshots share.
func (e *Encoder) diff(from, to *tailnet.Snapshot) *diff {
	key := diffKey{from.Version(), to.Version()}
	d := e.spans.GetOrPut(key, func() any {
		return &diff{peers: map[peersKey]*peersDelta{}, chunks: map[chunkKey]*chunk{}}
	}).(*diff)
	d.once.Do(func() {
		d.fill(from, to)
		// A changed node holds on to what it was before, which is gone otherwise.
		e.spans.Grow(key, 500+1000*len(d.nodes)+100*(len(d.routers)-len(d.nodes)))
	})
	return d
}

func (d *diff) fill(from, to *tailnet.Snapshot) {
	d.policy = from.Policy().Compiled != to.Policy().Compiled
	d.primaries = from.Primaries() != to.Primaries()
	d.base = from.DNS().BaseDomain != to.DNS().BaseDomain
	d.users = slices.Collect(to.UsersChangedSince(from))
	for ch := range to.NodesChangedSince(from) {
		d.nodes = append(d.nodes, &nodeDelta{old: ch.Old, new: ch.New})
	}
	// What the policy says of two nodes depends on its text, on them and on their users only.
	d.rules = d.policy && (from.Policy().Doc != to.Policy().Doc || len(d.users) > 0)
	d.routers = d.nodes
	if moved := d.movedRoutes(); len(moved) > 0 {
		d.routers = d.and(to, func(n *tailnet.Node) bool {
			return slices.ContainsFunc(n.Approved, func(r netip.Prefix) bool { return moved[r] })
		})
	}
	d.all = sync.OnceValue(func() []*nodeDelta { return d.and(to, func(*tailnet.Node) bool { return true }) })
	members := sync.OnceValue(func() map[[2]policy.Class][]tailnet.NodeID { return membersOfBoth(from, to) })
	d.like = func(before, after policy.Class, not tailnet.NodeID) tailnet.NodeID {
		return anyBut(members()[[2]policy.Class{before, after}], not)
	}
}

// News reports whether anybody who knows from is to be told anything of to. Much of what changes concerns
// no map: the keys of the admin API, or a stream that ended within its grace. It costs what changed at most,
// and is asked once for all sessions.
func (e *Encoder) News(from, to *tailnet.Snapshot) bool {
	if from.Policy().Compiled != to.Policy().Compiled || from.Primaries() != to.Primaries() || from.DNS() != to.DNS() || from.DERPMap() != to.DERPMap() {
		return true
	}
	for range to.UsersChangedSince(from) {
		return true
	}
	for ch := range to.NodesChangedSince(from) {
		if e.tells(&nodeDelta{old: ch.Old, new: ch.New}, from, to) {
			return true
		}
	}
	return false
}

// tells reports whether a node's change is news for its peers or for itself, if nothing else changed.
func (e *Encoder) tells(n *nodeDelta, from, to *tailnet.Snapshot) bool {
	if n.old == nil || n.new == nil {
		return true
	}
	patch, ok := n.patches()
	return !ok || len(patch) > 0 || !slices.Equal(notices(n.old), notices(n.new)) ||
		!bytes.Equal(e.appendSelf(nil, from, n.old), e.appendSelf(nil, to, n.new))
}

// movedRoutes returns the subnets that a changed node served or serves, if
// what changed may have moved them.
func (d *diff) movedRoutes() map[netip.Prefix]bool {
	moved := map[netip.Prefix]bool{}
	for _, ch := range d.nodes {
		a, b := ch.old, ch.new
		if a != nil && b != nil && a.Status.Alive == b.Status.Alive && a.Status.Expired == b.Status.Expired &&
			slices.Equal(a.Tags, b.Tags) && slices.Equal(a.Approved, b.Approved) && slices.Equal(a.Advertised(), b.Advertised()) {
			continue
		}
		for _, n := range []*tailnet.Node{a, b} {
			if n == nil {
				continue
			}
			for _, r := range withoutExit(n.Approved) {
				moved[r] = true
			}
		}
	}
	return moved
}

// and returns the changed nodes and those of the unchanged ones that are wanted.
func (d *diff) and(to *tailnet.Snapshot, want func(*tailnet.Node) bool) []*nodeDelta {
	var out []*nodeDelta
	rest := d.nodes
	for n := range to.Nodes() {
		for len(rest) > 0 && rest[0].id() < n.ID {
			out, rest = append(out, rest[0]), rest[1:]
		}
		if len(rest) > 0 && rest[0].id() == n.ID {
			out, rest = append(out, rest[0]), rest[1:]
		} else if want(n) {
			out = append(out, &nodeDelta{old: n, new: n})
		}
	}
	return append(out, rest...)
}

// membersOfBoth returns two nodes, or the only one, for each pair of classes
// that some node was and is of.
func membersOfBoth(from, to *tailnet.Snapshot) map[[2]policy.Class][]tailnet.NodeID {
	was, is := from.Policy().Compiled, to.Policy().Compiled
	out := map[[2]policy.Class][]tailnet.NodeID{}
	for n := range to.Nodes() {
		if from.Node(n.ID) == nil {
			continue
		}
		id := policy.NodeID(n.ID)
		key := [2]policy.Class{was.Class(id), is.Class(id)}
		if len(out[key]) < 2 {
			out[key] = append(out[key], n.ID)
		}
	}
	return out
}

func anyBut(ids []tailnet.NodeID, not tailnet.NodeID) tailnet.NodeID {
	for _, id := range ids {
		if id != not {
			return id
		}
	}
	return 0
}

// changed reports whether the node itself differs.
func (d *diff) changed(id tailnet.NodeID) bool {
	_, ok := d.find(id)
	return ok
}

func (d *diff) find(id tailnet.NodeID) (int, bool) {
	return slices.BinarySearchFunc(d.nodes, id, func(ch *nodeDelta, id tailnet.NodeID) int { return cmp.Compare(ch.id(), id) })
}

// reclassed reports whether the node differs in what the policy looks at, or is none.
func (d *diff) reclassed(id tailnet.NodeID) bool {
	i, ok := d.find(id)
	if !ok {
		return id == 0
	}
	ch := d.nodes[i]
	return ch.old == nil || ch.new == nil || !ch.old.SameToPolicy(ch.new)
}

// candidates returns the nodes of which viewers like that one, or like that other one, may see another
// copy than before.
func (d *diff) candidates(viewer tailnet.NodeID, other func() tailnet.NodeID) []*nodeDelta {
	switch {
	case d.base || d.rules || d.policy && d.reclassed(viewer) && d.reclassed(other()):
		return d.all()
	case d.policy || d.primaries:
		return d.routers
	}
	return d.nodes
}

// A nodeDelta is one node in two snapshots: old is nil if it is new, new if it is gone; they
// are equal if only what others see of it may have changed.
type nodeDelta struct {
	old, new *tailnet.Node

	once    sync.Once
	checked sync.Once
	fine    bool   // it can be encoded, before and after
	lasting bool   // the part that no patch can change is equal, as far as it is the node's own
	patch   []byte // the rest, for whom that is enough; maybe empty
}

// good reports whether the node can be encoded before and after.
func (n *nodeDelta) good(before, after *vantage) bool {
	n.checked.Do(func() { n.fine = before.good(n.old) && after.good(n.new) })
	return n.fine
}

func (n *nodeDelta) id() tailnet.NodeID {
	if n.new != nil {
		return n.new.ID
	}
	return n.old.ID
}

// patches returns what patches to make of the change, if that is enough.
// Both old and new must be there.
func (n *nodeDelta) patches() (patch []byte, ok bool) {
	n.once.Do(func() {
		if n.old == n.new {
			n.lasting = true
			return
		}
		n.lasting = bytes.Equal(appendLasting(nil, sight{node: n.old}, ""), appendLasting(nil, sight{node: n.new}, ""))
		if n.lasting {
			n.patch = appendPatches(nil, n.old, n.new)
		}
	})
	return n.patch, n.lasting
}

// peersKey names what changes in the peers of a kind of viewers: those of one
// class before and one class after. Blind viewers, whose key has expired, see nobody.
type peersKey struct {
	before, after policy.Class
	wasBlind      bool
	isBlind       bool
}

// A peersDelta is what changes in the peers of a kind of viewers, the viewer
// itself maybe among them. Immutable, but for the messages that it collects.
type peersDelta struct {
	once     sync.Once
	all      []*block // if not nil all peers anew, instead of what follows
	removed  []*chunk
	changed  []*block
	patches  []*chunk
	profiles *piece // without brackets; nil if there are none

	filtering sync.Once
	uniform   bool           // their own filters change alike
	filters   []filterChange // if uniform

	mu    sync.Mutex
	ready map[string]Message // by what else they contain
}

// peers returns what changes in the peers of viewers like id.
func (e *Encoder) peers(d *diff, from, to *tailnet.Snapshot, id tailnet.NodeID) *peersDelta {
	was, is := from.Policy().Compiled, to.Policy().Compiled
	key := peersKey{
		before: was.Class(policy.NodeID(id)), after: is.Class(policy.NodeID(id)),
		wasBlind: from.Node(id).Status.Expired, isBlind: to.Node(id).Status.Expired,
	}
	d.mu.Lock()
	p := d.peers[key]
	if p == nil {
		p = new(peersDelta)
		d.peers[key] = p
	}
	d.mu.Unlock()
	p.once.Do(func() {
		p.find(e, d, key, from, to, id)
		e.spans.Grow(diffKey{from.Version(), to.Version()}, p.cost())
	})
	return p
}

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

// find works it out, as id sees it.
func (p *peersDelta) find(e *Encoder, d *diff, key peersKey, from, to *tailnet.Snapshot, id tailnet.NodeID) {
	if key.isBlind && key.wasBlind {
		return
	}
	if key.wasBlind {
		v := e.view(to, id)
		p.all, p.profiles = v.blocks, v.profiles
		return
	}
	other := func() tailnet.NodeID { return d.like(key.before, key.after, id) }
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
		if d.rules && p.anew(e, from, to, id) {
			return
		}
		c.owners = e.renamed(d, after)
		for _, n := range d.candidates(id, other) {
			c.note(e, d, n, before, after)
		}
	}
	if len(c.changed) > 4*blockLen {
		if v := e.view(to, id); len(c.changed) > v.len/2 {
			// The blocks of the view are encoded already, or soon will be.
			p.all, p.profiles = v.blocks, v.profiles
			return
		}
	}
	p.fill(e, d, &c, to)
}

// anew makes it all peers anew if another policy lets the class see so many others that a list
// of those that come and go would be longer. It reports whether it did. Where a policy
// makes many classes of viewers, that also takes the least time and room for each.
func (p *peersDelta) anew(e *Encoder, from, to *tailnet.Snapshot, id tailnet.NodeID) bool {
	was, is := e.view(from, id), e.view(to, id)
	const removal = 16 // so many of them are about as long as a peer
	// With at least two some are left for a viewer that is one of them: clients take an empty list for none.
	if is.len < 2 || was.len/removal+2*blockLen < is.len || was.len < is.len+2*blockLen {
		return false
	}
	p.all, p.profiles = is.blocks, is.profiles
	return true
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

// note looks at a node from before and after the change.
func (c *changes) note(e *Encoder, d *diff, n *nodeDelta, before, after *vantage) {
	if !d.policy && !d.primaries && !d.base && n.old != nil && n.new != nil {
		// All copies of it have changed alike.
		if patch, ok := n.patches(); ok && n.good(before, after) {
			if len(patch) > 0 && after.sees(n.new) {
				c.patches.add(n.id(), patch)
			}
			return
		}
	}
	was, hadIt := before.look(e, n.old)
	is, hasIt := after.look(e, n.new)
	switch {
	case hadIt && !hasIt:
		c.remove(n.id())
	case !hadIt && hasIt:
		c.add(is)
	case hadIt && hasIt:
		c.compare(n, was, is, d.base)
	}
}

// compare notes how a peer that was there before changed. What a patch can
// say is patched, and presence always: clients do not take the time of a peer
// that went offline from a whole node.
func (c *changes) compare(n *nodeDelta, was, is sight, renamed bool) {
	patch, ok := n.patches()
	if !ok || renamed || !was.sameCopy(is) {
		c.changed = append(c.changed, is)
		if owner(n.old) != owner(n.new) {
			c.owners[owner(n.new)] = true
		}
		patch = appendPresence(nil, n.old, n.new)
	}
	if len(patch) > 0 {
		c.patches.add(n.id(), patch)
	}
}

// fill turns what was collected into shareable parts.
func (p *peersDelta) fill(e *Encoder, d *diff, c *changes, to *tailnet.Snapshot) {
	p.removed, p.patches = c.removed, c.patches.share(d)
	p.changed = e.blocks(to.DNS().BaseDomain, c.changed)
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

// share returns the message of that key, made once for all viewers if it may be kept. It is
// fresh if it was made, and kept, just now.
func (p *peersDelta) share(key string, compose func() Message, keep bool) (m Message, fresh bool) {
	p.mu.Lock()
	m, ok := p.ready[key]
	if ok {
		p.mu.Unlock()
		return m, false
	}
	if !keep || len(p.ready) >= maxReady {
		p.mu.Unlock()
		return compose(), false
	}
	defer p.mu.Unlock()
	m = compose()
	if p.ready == nil {
		p.ready = map[string]Message{}
	}
	p.ready[key] = m
	return m, true
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
