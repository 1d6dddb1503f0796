package netmap

import (
	"cmp"
	"hash/maphash"
	"maps"
	"slices"
	"sync"

	"heddle/control/tailnet"
	"heddle/policy"
)

// A vantage is the point from which the viewers of a class see a snapshot. It
// speaks for the class through one of its nodes, and where that node itself
// is looked at through another.
type vantage struct {
	s     *tailnet.Snapshot
	class policy.Class
	id    tailnet.NodeID
	other func() tailnet.NodeID // zero if the class has no other node
}

func (v *vantage) compiled() *policy.Compiled { return v.s.Policy().Compiled }

// sees reports whether the class sees n. It is true of a node of the class if
// its nodes see each other.
func (v *vantage) sees(n *tailnet.Node) bool {
	c := v.compiled()
	if !c.Visible(v.class, c.Class(policy.NodeID(n.ID))) {
		return false
	}
	return n.ID != v.id || v.other() != 0
}

// look returns what the class sees of n; ok is false if it does not see it, or
// if n cannot be encoded.
func (v *vantage) look(e *Encoder, n *tailnet.Node) (_ sight, ok bool) {
	if n == nil || !v.sees(n) {
		return sight{}, false
	}
	eye := v.id
	if n.ID == eye {
		eye = v.other()
	}
	a := look(v.s, eye, n)
	if err := a.check(v.s.DNS().BaseDomain); err != nil {
		e.leftOut(n, err)
		return sight{}, false
	}
	return a, true
}

// A view is all that the viewers of a class see of their peers. Immutable.
type view struct {
	s        *tailnet.Snapshot
	blocks   []*block // ascending
	len      int      // peers, the viewer itself maybe among them
	owners   []tailnet.UserID
	profiles *piece // of the owners, without brackets
}

// views are those of the newest policy that was asked for.
type views struct {
	mu       sync.Mutex
	compiled *policy.Compiled
	newest   uint64 // version of the snapshot that compiled came with
	byClass  map[policy.Class]*view
	peers    int // in all of them
}

// maxViewed bounds the peers in kept views; a peer takes about 80 bytes in each.
const maxViewed = 1 << 20

// view returns what id sees in s; other viewers of its class share it.
func (e *Encoder) view(s *tailnet.Snapshot, id tailnet.NodeID) *view {
	c := s.Policy().Compiled
	at := &vantage{s: s, class: c.Class(policy.NodeID(id)), id: id}
	at.other = sync.OnceValue(func() tailnet.NodeID {
		for n := range s.Nodes() {
			if n.ID != id && c.Class(policy.NodeID(n.ID)) == at.class {
				return n.ID
			}
		}
		return 0
	})
	e.views.mu.Lock()
	defer e.views.mu.Unlock()
	vs := &e.views
	if vs.compiled != c {
		if s.Version() < vs.newest {
			return e.newView(at, nil) // a session that lags: not worth keeping
		}
		vs.compiled, vs.byClass, vs.peers = c, map[policy.Class]*view{}, 0
	}
	vs.newest = max(vs.newest, s.Version())
	old := vs.byClass[at.class]
	if old != nil && old.s == s {
		return old
	}
	fresh := e.nextView(at, old)
	if at.other() == 0 {
		return fresh // of this viewer alone, and without itself
	}
	if old != nil {
		vs.peers -= old.len
	}
	if vs.peers += fresh.len; vs.peers > maxViewed {
		vs.byClass, vs.peers = map[policy.Class]*view{}, fresh.len
	}
	vs.byClass[at.class] = fresh
	return fresh
}

// nextView derives a view from an older one of the same class and policy. It
// costs what changed if the same peers are there.
func (e *Encoder) nextView(at *vantage, old *view) *view {
	if old == nil || old.s.Primaries() != at.s.Primaries() || old.s.DNS().BaseDomain != at.s.DNS().BaseDomain || !sameUsers(old.s, at.s) {
		return e.newView(at, old)
	}
	next := *old
	next.s = at.s
	next.blocks = slices.Clone(old.blocks)
	was := *at
	was.s = old.s
	for ch := range at.s.NodesChangedSince(old.s) {
		before, ok := false, false
		if ch.Old != nil {
			_, before = was.look(e, ch.Old)
		}
		a, ok := at.look(e, ch.New)
		if before != ok || ok && owner(ch.Old) != owner(ch.New) {
			return e.newView(at, old)
		}
		if !ok {
			continue
		}
		i, found := slices.BinarySearchFunc(next.blocks, a.node.ID, func(b *block, id tailnet.NodeID) int { return b.compare(id) })
		if !found {
			return e.newView(at, old)
		}
		next.blocks[i] = next.blocks[i].with(a)
	}
	return &next
}

// newView looks at all nodes. Blocks of an older view that are still right
// are kept.
func (e *Encoder) newView(at *vantage, old *view) *view {
	v := &view{s: at.s}
	var all []sight
	owners := map[tailnet.UserID]bool{}
	last := tailnet.NodeID(1)
	for n := range at.s.Nodes() {
		if a, ok := at.look(e, n); ok {
			all = append(all, a)
			owners[owner(n)] = true
			last = n.ID
		}
	}
	v.len = len(all)
	v.owners = slices.Sorted(maps.Keys(owners))
	v.profiles = e.intern(appendProfiles(nil, at.s, v.owners))
	span := tailnet.NodeID(blockLen)
	for span <= last {
		span *= 2
	}
	e.split(at.s.DNS().BaseDomain, all, 0, span, func(b *block) { v.blocks = append(v.blocks, b) })
	return v
}

// blockLen is the most peers in a block: beyond it they compress no better,
// and a change would encode more peers anew.
const blockLen = 64

// split cuts peers, whose IDs lie in [lo, lo+span), into blocks of aligned
// ranges of IDs, so that where one ends does not depend on what is in the others.
func (e *Encoder) split(base string, peers []sight, lo, span tailnet.NodeID, emit func(*block)) {
	switch {
	case len(peers) == 0:
	case len(peers) <= blockLen:
		emit(e.block(base, peers, lo, span))
	default:
		span /= 2
		i, _ := slices.BinarySearchFunc(peers, lo+span, func(a sight, id tailnet.NodeID) int { return cmp.Compare(a.node.ID, id) })
		e.split(base, peers[:i], lo, span, emit)
		e.split(base, peers[i:], lo+span, span, emit)
	}
}

// A block is a run of peers that are encoded and compressed together, and
// shared by all who see the same of them. Immutable.
type block struct {
	base     string
	lo, span tailnet.NodeID
	peers    []sight

	once sync.Once
	z    []byte
}

type blockKey struct {
	base     string
	lo, span tailnet.NodeID
	hash     uint64
}

// block returns the shared block with these peers.
func (e *Encoder) block(base string, peers []sight, lo, span tailnet.NodeID) *block {
	key := blockKey{base: base, lo: lo, span: span}
	for _, a := range peers {
		key.hash = key.hash*0x100000001b3 ^ maphash.Comparable(seed, a.node) + uint64(len(a.caps)+len(a.routes)<<8)
	}
	if b, ok := e.cache.get(key).(*block); ok && slices.EqualFunc(b.peers, peers, sight.equal) {
		return b
	}
	b := &block{base: base, lo: lo, span: span, peers: slices.Clone(peers)}
	e.cache.put(key, b, 200+200*len(peers)) // a peer compresses to about a hundred bytes
	return b
}

// compare tells on which side of the block an ID lies; 0 is inside.
func (b *block) compare(id tailnet.NodeID) int {
	switch {
	case id < b.lo:
		return 1
	case id >= b.lo+b.span:
		return -1
	}
	return 0
}

func (b *block) find(id tailnet.NodeID) (int, bool) {
	return slices.BinarySearchFunc(b.peers, id, func(a sight, id tailnet.NodeID) int { return cmp.Compare(a.node.ID, id) })
}

// with returns the block with another sight of one of its peers.
func (b *block) with(a sight) *block {
	i, ok := b.find(a.node.ID)
	if !ok || b.peers[i].equal(a) {
		return b
	}
	out := &block{base: b.base, lo: b.lo, span: b.span, peers: slices.Clone(b.peers)}
	out.peers[i] = a
	return out
}

// appendTo writes the peers, separated by commas, without one of them.
func (b *block) appendTo(text []byte, without tailnet.NodeID) []byte {
	first := true
	for _, a := range b.peers {
		if a.node.ID == without {
			continue
		}
		if !first {
			text = append(text, ',')
		}
		first = false
		text = appendPeer(text, a, b.base)
	}
	return text
}

// frame returns all peers as a zstd frame. Read only.
func (b *block) frame() []byte {
	b.once.Do(func() { b.z = appendFrame(nil, b.appendTo(nil, 0)) })
	return b.z
}

// inlineBlock is the number of peers up to which a block is compressed
// with the text around it.
const inlineBlock = 2

// blocks writes a list of peers, without the viewer.
func (b *builder) blocks(list []*block, viewer tailnet.NodeID) {
	first := true
	for _, k := range list {
		_, cut := k.find(viewer)
		if cut && len(k.peers) == 1 {
			continue
		}
		if !first {
			b.string(",")
		}
		first = false
		if cut || b.plain || len(k.peers) <= inlineBlock {
			b.text = k.appendTo(b.text, viewer)
			continue
		}
		b.flush()
		b.part(k.frame())
	}
}
