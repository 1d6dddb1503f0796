package netmap

import (
	"cmp"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"weak"

	"heddle/control/netmap/cache"
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

func (v *vantage) base() string { return v.s.DNS().BaseDomain }

// good reports whether the node itself can be encoded.
func (v *vantage) good(n *tailnet.Node) bool {
	return sight{node: n, v4off: v.compiled().IPv4Off(policy.NodeID(n.ID))}.check(v.s) == nil
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
	if err := e.verdicts.of(v.s, a); err != nil {
		e.leftOut(n, err)
		return sight{}, false
	}
	return a, true
}

// verdicts are what check says of the nodes of the snapshot that was asked about last, since all
// classes of viewers ask about the same nodes.
type verdicts struct {
	mu      sync.RWMutex
	version uint64
	known   map[tailnet.NodeID]error
}

// of returns why a node of the snapshot cannot be encoded, or nil.
func (v *verdicts) of(s *tailnet.Snapshot, a sight) error {
	v.mu.RLock()
	err, ok := v.known[a.node.ID]
	ok = ok && v.version == s.Version()
	v.mu.RUnlock()
	if ok {
		return err
	}
	err = a.check(s)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.version < s.Version() {
		v.version, v.known = s.Version(), map[tailnet.NodeID]error{}
	}
	if v.version == s.Version() {
		v.known[a.node.ID] = err
	}
	return err
}

// A view is all that the viewers of a class see of their peers. Immutable.
type view struct {
	s        *tailnet.Snapshot
	blocks   []*block         // ascending
	len      int              // peers, the viewer itself maybe among them
	solo     tailnet.NodeID   // the only node of the class, which is not in the view; zero if there are others
	owners   []tailnet.UserID // ascending
	profiles *piece           // of the owners, without brackets

	refs int // how often it is kept; guarded by views.mu
}

// views are kept under the first few nodes of their class, since classes
// have other numbers when the policy is compiled again.
type views struct {
	limit int // of used

	mu       sync.Mutex
	members  membersOf
	byMember map[tailnet.NodeID]*view
	used     int // about the bytes of what byMember holds
	stored   int
	evicted  uint64
}

func (vs *views) addTo(s *cache.Stats) {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	s.Evicted += vs.evicted
	s.Bytes += vs.used
	s.Items += len(vs.byMember)
}

// membersOf are the first few nodes of each class of a compiled policy.
type membersOf struct {
	compiled *policy.Compiled
	version  uint64 // of a snapshot with it
	classes  map[policy.Class][]tailnet.NodeID
}

// maxMembers is how many nodes of a class a view is kept under: one of them is
// likely to be there still when it is wanted next.
const maxMembers = 3

func newMembersOf(s *tailnet.Snapshot) membersOf {
	m := membersOf{s.Policy().Compiled, s.Version(), map[policy.Class][]tailnet.NodeID{}}
	for n := range s.Nodes() {
		c := m.compiled.Class(policy.NodeID(n.ID))
		if ids := m.classes[c]; len(ids) < maxMembers {
			m.classes[c] = append(ids, n.ID)
		}
	}
	return m
}

// view returns what id sees in s; other viewers of its class share it.
func (e *Encoder) view(s *tailnet.Snapshot, id tailnet.NodeID) *view {
	e.views.mu.Lock()
	defer e.views.mu.Unlock()
	vs := &e.views
	m := vs.members
	if m.compiled != s.Policy().Compiled {
		m = newMembersOf(s)
		if m.version >= vs.members.version {
			vs.members = m
		}
	}
	class := m.compiled.Class(policy.NodeID(id))
	ids := m.classes[class]
	old := e.relative(s, ids)
	if old != nil && old.s.Version() == s.Version() {
		return old
	}
	at := &vantage{s: s, class: class, id: id, other: func() tailnet.NodeID { return anyBut(ids, id) }}
	v := e.nextView(at, old)
	if old == nil || old.s.Version() < s.Version() {
		vs.keep(ids, v)
	}
	return v
}

// relative returns a view that the class of these nodes has, or had when
// another compilation of the same policy was in force; nil if there is none.
func (e *Encoder) relative(s *tailnet.Snapshot, ids []tailnet.NodeID) *view {
	for _, id := range ids {
		old := e.views.byMember[id]
		if old == nil || old.s.Node(id) == nil {
			continue
		}
		if old.s.Policy().Compiled == s.Policy().Compiled {
			return old
		}
		if d := e.diff(old.s, s); !d.rules && !d.reclassed(id) {
			return old
		}
	}
	return nil
}

// maxViewAge bounds how old a view may be, in snapshots, if the policy was
// compiled anew since: it holds on to its snapshot and so to the old compilation.
const maxViewAge = 256

func (vs *views) keep(ids []tailnet.NodeID, v *view) {
	for _, id := range ids {
		vs.drop(id)
		vs.byMember[id] = v
	}
	if v.refs = len(ids); v.refs > 0 {
		vs.used += v.cost()
		for _, b := range v.blocks {
			if b.refs++; b.refs == 1 {
				vs.used += b.cost()
			}
		}
	}
	vs.stored++
	sweep := vs.stored%64 == 0
	for id, old := range vs.byMember {
		if !sweep && vs.used <= vs.limit {
			break
		}
		stale := old.s.Policy().Compiled != v.s.Policy().Compiled && old.s.Version()+maxViewAge < v.s.Version()
		full := vs.used > vs.limit && old != v
		if stale || full {
			vs.drop(id)
		}
		if full {
			vs.evicted++
		}
	}
}

func (vs *views) drop(id tailnet.NodeID) {
	old := vs.byMember[id]
	if old == nil {
		return
	}
	delete(vs.byMember, id)
	if old.refs--; old.refs > 0 {
		return
	}
	vs.used -= old.cost()
	for _, b := range old.blocks {
		if b.refs--; b.refs == 0 {
			vs.used -= b.cost()
		}
	}
}

func (v *view) cost() int { return 500 + 8*len(v.blocks) + 8*len(v.owners) }

// nextView derives a view from another of the same class. It costs what
// changed, if that is not too much.
func (e *Encoder) nextView(at *vantage, old *view) *view {
	if old == nil {
		return e.newView(at)
	}
	d := e.diff(old.s, at.s)
	if d.base || d.rules || len(d.users) > 0 || len(d.routers) > old.len/4+blockLen {
		return e.newView(at)
	}
	changed := d.nodes
	if d.policy || d.primaries {
		changed = d.routers
	}
	dirty := make(map[tailnet.NodeID]*sight, len(changed)+1)
	for _, n := range changed {
		dirty[n.id()] = nil
		if a, ok := at.look(e, n.new); ok {
			dirty[n.id()] = &a
		}
	}
	if old.solo != 0 && at.other() != 0 && !d.changed(old.solo) {
		if a, ok := at.look(e, at.s.Node(old.solo)); ok {
			dirty[old.solo] = &a
		}
	}
	return e.amend(at, old, dirty)
}

// amend returns a view with other sights of some nodes, nil where there is none any more.
func (e *Encoder) amend(at *vantage, old *view, dirty map[tailnet.NodeID]*sight) *view {
	next := *old
	next.refs = 0
	next.s = at.s
	next.solo = at.solo()
	next.blocks = slices.Clone(old.blocks)
	moved := map[int][]*sight{} // by block
	for id, a := range dirty {
		i, found := slices.BinarySearchFunc(next.blocks, id, func(b *block, id tailnet.NodeID) int { return b.compare(id) })
		if !found {
			if a != nil {
				return e.rebuild(at, old, dirty)
			}
			continue
		}
		k, was := next.blocks[i].find(id)
		switch {
		case was != (a != nil):
			return e.rebuild(at, old, dirty)
		case was && owner(next.blocks[i].peers[k].node) != owner(a.node):
			return e.rebuild(at, old, dirty)
		case was:
			moved[i] = append(moved[i], a)
		}
	}
	for i, list := range moved {
		next.blocks[i] = e.with(next.blocks[i], list)
	}
	return &next
}

// rebuild is amend if other peers are there than before.
func (e *Encoder) rebuild(at *vantage, old *view, dirty map[tailnet.NodeID]*sight) *view {
	all := make([]sight, 0, old.len+len(dirty))
	for _, b := range old.blocks {
		for _, a := range b.peers {
			if _, ok := dirty[a.node.ID]; !ok {
				all = append(all, a)
			}
		}
	}
	for _, a := range dirty {
		if a != nil {
			all = append(all, *a)
		}
	}
	slices.SortFunc(all, func(a, b sight) int { return cmp.Compare(a.node.ID, b.node.ID) })
	return e.viewOf(at, all)
}

// newView looks at all nodes.
func (e *Encoder) newView(at *vantage) *view {
	var all []sight
	for n := range at.s.Nodes() {
		if a, ok := at.look(e, n); ok {
			all = append(all, a)
		}
	}
	return e.viewOf(at, all)
}

func (e *Encoder) viewOf(at *vantage, all []sight) *view {
	v := &view{s: at.s, len: len(all), solo: at.solo()}
	owners := map[tailnet.UserID]bool{}
	for _, a := range all {
		owners[owner(a.node)] = true
	}
	v.owners = slices.Sorted(maps.Keys(owners))
	v.profiles = e.intern(appendProfiles(nil, at.s, v.owners))
	v.blocks = e.blocks(at.base(), all)
	return v
}

// solo is the ID of the class's only node, zero if there are others.
func (v *vantage) solo() tailnet.NodeID {
	if v.other() == 0 {
		return v.id
	}
	return 0
}

// blockLen is the most peers in a block: beyond it they compress no better,
// and a change would encode more peers anew.
const blockLen = 64

// blocks cuts peers, ascending, into blocks.
func (e *Encoder) blocks(base string, peers []sight) []*block {
	if len(peers) == 0 {
		return nil
	}
	span := tailnet.NodeID(blockLen)
	for span <= peers[len(peers)-1].node.ID {
		span *= 2
	}
	var out []*block
	e.split(base, peers, 0, span, func(b *block) { out = append(out, b) })
	return out
}

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
	cuts [blockLen / cutLen]cut

	refs int // of the views that are kept; guarded by views.mu
}

// A cut is a part of a block as a frame of its own. The maps of those who are in the block
// consist of all the others: a viewer is not its own peer.
type cut struct {
	once sync.Once
	z    []byte
}

// cutLen is the number of peers in a cut. Fewer compress worse, more are more to
// compress again for each viewer.
const cutLen = 8

// cost is about the bytes that it takes: a peer compresses to about a hundred.
func (b *block) cost() int { return 600 + 330*len(b.peers) }

// sightKey is the part of a sight that changes often.
type sightKey struct {
	id     tailnet.NodeID
	report *tailnet.Report
	online bool
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
		key.hash = key.hash*0x100000001b3 ^ maphash.Comparable(seed, sightKey{a.node.ID, a.node.Report, a.node.Status.Online}) + uint64(len(a.caps)+len(a.routes)<<8)
	}
	return e.known.get(key, func(b *block) bool { return slices.EqualFunc(b.peers, peers, sight.equal) }, func() *block {
		return &block{base: base, lo: lo, span: span, peers: slices.Clone(peers)}
	})
}

// blocks are those that something holds, to be shared by content: views, deltas, and messages
// under way. What nothing else holds is not kept.
type blocks struct {
	mu           sync.Mutex
	m            map[blockKey]weak.Pointer[block]
	sweep        int // size of m at which the entries of dead blocks are removed
	hits, misses uint64
}

// get returns the block of that key if it is the one, else what make returns.
func (k *blocks) get(key blockKey, same func(*block) bool, make func() *block) *block {
	k.mu.Lock()
	defer k.mu.Unlock()
	if b := k.m[key].Value(); b != nil && same(b) {
		k.hits++
		return b
	}
	k.misses++
	b := make()
	if len(k.m) >= k.sweep {
		maps.DeleteFunc(k.m, func(_ blockKey, p weak.Pointer[block]) bool { return p.Value() == nil })
		k.sweep = max(1000, 2*len(k.m))
	}
	if k.m == nil {
		k.m = map[blockKey]weak.Pointer[block]{}
	}
	k.m[key] = weak.Make(b)
	return b
}

func (k *blocks) addTo(s *cache.Stats) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s.Hits += k.hits
	s.Misses += k.misses
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

// with returns the block with other sights of some of its peers.
func (e *Encoder) with(b *block, fresh []*sight) *block {
	peers := slices.Clone(b.peers)
	same := true
	for _, a := range fresh {
		i, _ := b.find(a.node.ID)
		same = same && b.peers[i].equal(*a)
		peers[i] = *a
	}
	if same {
		return b
	}
	return e.block(b.base, peers, b.lo, b.span)
}

// appendTo writes the peers, separated by commas, without one of them.
func (b *block) appendTo(text []byte, without tailnet.NodeID) []byte {
	return b.appendRun(text, b.peers, without)
}

func (b *block) appendRun(text []byte, run []sight, without tailnet.NodeID) []byte {
	first := true
	for _, a := range run {
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

// without writes all peers but one.
func (k *block) without(b *builder, id tailnet.NodeID) {
	at, _ := k.find(id)
	first := true
	for i := 0; i < len(k.peers); i += cutLen {
		run := k.peers[i:min(i+cutLen, len(k.peers))]
		own := at/cutLen == i/cutLen
		if own && len(run) == 1 {
			continue
		}
		if !first {
			b.string(",")
		}
		first = false
		if own {
			b.text = k.appendRun(b.text, run, id)
			continue
		}
		c := &k.cuts[i/cutLen]
		c.once.Do(func() { c.z = appendFrame(nil, k.appendRun(nil, run, 0)) })
		b.flush()
		b.part(c.z)
	}
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
		switch {
		case b.plain || len(k.peers) <= inlineBlock:
			b.text = k.appendTo(b.text, viewer)
			continue
		case cut && len(k.peers) > 2*cutLen:
			k.without(b, viewer)
			continue
		case cut:
			b.text = k.appendTo(b.text, viewer)
			continue
		}
		b.flush()
		b.part(k.frame())
	}
}
