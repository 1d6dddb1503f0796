package tailnet

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"heddle/policy"

	"github.com/benbjohnson/immutable"
	"tailscale.com/types/key"
)

// A Tx is the draft of one update. Its methods check the actor's rights, keep
// the model's invariants and write the audit entries. It is good only inside
// the function that it was given to.
type Tx struct {
	state *State
	actor Actor
	now   time.Time
	work
}

// work is what a draft consists of; a batch has one and each of its updates
// works on a copy, which replaces it on success.
type work struct {
	snap    Snapshot
	delta   Delta
	changed bool // snap differs from what was published
	stirred bool // snap differs, but maybe only in what nobody but the writer looks at
	hard    bool // must be committed before it is published
	effects []func()

	dirtyPolicy bool            // an input of the policy compiler changed
	dirtyRoutes bool            // an input of the election changed
	dirtyNodes  map[NodeID]bool // whose routes may now be approved by the policy
}

// Snapshot returns the draft as it stands. It is good until the next change.
func (tx *Tx) Snapshot() *Snapshot { return &tx.snap }

// Now is the time of this update.
func (tx *Tx) Now() time.Time { return tx.now }

// audit records a change in the same commit. Names in a target may be a stranger's choice.
func (tx *Tx) audit(action, target string, changes ...Change) {
	tx.hard, tx.changed = true, true
	tx.delta.Audit = append(tx.delta.Audit, AuditEntry{
		At: tx.now, Actor: tx.actor, Action: action, Target: clip(target, maxTarget), Changes: changes,
	})
}

// after sets a deadline once the update is published.
func (tx *Tx) after(kind timerKind, id NodeID, d time.Duration) {
	tx.at(kind, id, tx.now.Add(d))
}

func (tx *Tx) at(kind timerKind, id NodeID, at time.Time) {
	tx.effects = append(tx.effects, func() { tx.state.timers.set(timer{kind, id}, at) })
}

func (tx *Tx) cancel(kind timerKind, id NodeID) {
	tx.effects = append(tx.effects, func() { tx.state.timers.drop(timer{kind, id}) })
}

// putHard stores a node that must be committed; putSoft one whose change may be
// lost; putDerived one of which nothing changed that is stored at all.
func (tx *Tx) putHard(n *Node) { tx.putSoft(n); tx.hard = true }
func (tx *Tx) putSoft(n *Node) { tx.putDerived(n); tx.delta.Nodes.put(n.ID, n) }
func (tx *Tx) putDerived(n *Node) {
	old := tx.snap.Node(n.ID)
	if n.Report.attrs == nil { // a new report, which is nobody else's yet
		n.Report.attrs = postureAttrs(n.Report.Hostinfo)
		if old != nil && maps.Equal(n.Report.attrs, old.Report.attrs) {
			n.Report.attrs = old.Report.attrs
		}
	}
	tx.snap.nodes = tx.snap.nodes.with(n.ID, n)
	tx.snap.index = tx.snap.index.replace(old, n)
	tx.noteNode(old, n)
}

func (tx *Tx) dropNode(n *Node) {
	tx.snap.nodes = tx.snap.nodes.with(n.ID, nil)
	tx.snap.index = tx.snap.index.replace(n, nil)
	tx.delta.Nodes.drop(n.ID)
	tx.hard = true
	tx.noteNode(n, nil)
	for _, kind := range []timerKind{offlineTimer, dormantTimer, ephemeralTimer, expiryTimer, attributeTimer} {
		tx.cancel(kind, n.ID)
	}
}

// noteNode notes what must be derived anew because a node changed.
func (w *work) noteNode(old, n *Node) {
	w.stirred = true
	if sameToReaders(old, n) {
		return
	}
	w.changed = true
	if !sameToPolicy(old, n) {
		w.dirtyPolicy = true
	}
	if !sameRouteInput(old, n) {
		w.dirtyRoutes = true
	}
	if n != nil && len(n.Advertised()) > 0 && !sameApprovalInput(old, n) {
		if w.dirtyNodes == nil {
			w.dirtyNodes = map[NodeID]bool{}
		}
		w.dirtyNodes[n.ID] = true
	}
}

func sameToPolicy(a, b *Node) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.SameToPolicy(b)
}

// SameToPolicy reports whether the policy's compiler takes n and o, states of
// one node, for the same.
func (n *Node) SameToPolicy(o *Node) bool {
	a, b := n, o
	return a.Owner == b.Owner && a.Addrs == b.Addrs && a.Pending == b.Pending &&
		slices.Equal(a.Tags, b.Tags) && slices.Equal(a.Approved, b.Approved) &&
		slices.Equal(a.Advertised(), b.Advertised()) &&
		a.Attrs == b.Attrs && maps.Equal(a.Report.attrs, b.Report.attrs)
}

// sameApprovalInput reports whether there is no news for the approval of
// routes by the policy. What an admin approves or withdraws is none: the policy does not
// overrule that until the node or the policy changes.
func sameApprovalInput(a, b *Node) bool {
	return a != nil && a.Owner == b.Owner && a.Pending == b.Pending && slices.Equal(a.Tags, b.Tags) && slices.Equal(a.Advertised(), b.Advertised())
}

func sameRouteInput(a, b *Node) bool {
	if a == nil || b == nil {
		n := cmp.Or(a, b)
		return n == nil || len(n.Approved) == 0
	}
	if len(a.Approved) == 0 && len(b.Approved) == 0 {
		return true
	}
	return a.Status.Alive == b.Status.Alive && a.Status.Expired == b.Status.Expired && a.Pending == b.Pending &&
		slices.Equal(a.Approved, b.Approved) && slices.Equal(a.Advertised(), b.Advertised())
}

// replace returns the indexes after old became n; either may be nil.
func (x indexes) replace(old, n *Node) indexes {
	if old != nil && n != nil && old.Key == n.Key && old.Machine == n.Machine && old.Addrs == n.Addrs && old.Name == n.Name {
		return x
	}
	if old != nil {
		x.key = x.key.Delete(old.Key)
		x.name = x.name.Delete(old.Name)
		for _, p := range old.Addrs.Prefixes() {
			x.ip = x.ip.Delete(p.Addr())
		}
		ids, _ := x.machine.Get(old.Machine)
		if ids = slices.DeleteFunc(slices.Clone(ids), func(id NodeID) bool { return id == old.ID }); len(ids) == 0 {
			x.machine = x.machine.Delete(old.Machine)
		} else {
			x.machine = x.machine.Set(old.Machine, ids)
		}
	}
	if n != nil {
		x.key = x.key.Set(n.Key, n.ID)
		x.name = x.name.Set(n.Name, n.ID)
		for _, p := range n.Addrs.Prefixes() {
			x.ip = x.ip.Set(p.Addr(), n.ID)
		}
		ids, _ := x.machine.Get(n.Machine)
		ids = append(slices.Clone(ids), n.ID)
		slices.Sort(ids)
		x.machine = x.machine.Set(n.Machine, ids)
	}
	return x
}

func newIndexes() indexes {
	return indexes{
		key:     immutable.NewMap[key.NodePublic, NodeID](hasher[key.NodePublic]{}),
		machine: immutable.NewMap[key.MachinePublic, []NodeID](hasher[key.MachinePublic]{}),
		ip:      immutable.NewMap[netip.Addr, NodeID](hasher[netip.Addr]{}),
		name:    immutable.NewMap[string, NodeID](hasher[string]{}),
		graves:  immutable.NewMap[key.MachinePublic, []key.NodePublic](hasher[key.MachinePublic]{}),
		resting: immutable.NewMap[netip.Addr, bool](hasher[netip.Addr]{}),
		authKey: immutable.NewMap[string, AuthKeyID](hasher[string]{}),
		apiKey:  immutable.NewMap[string, APIKeyID](hasher[string]{}),
		person:  immutable.NewMap[Identity, UserID](hasher[Identity]{}),
	}
}

// putUser stores a user.
func (tx *Tx) putUser(u *User) {
	tx.dirtyPolicy = tx.dirtyPolicy || !sameUserToPolicy(tx.snap.User(u.ID), u)
	tx.snap.setUser(u)
	tx.delta.Users.put(u.ID, u)
	tx.hard, tx.changed = true, true
}

// putAuthKey stores an auth key.
func (tx *Tx) putAuthKey(k *AuthKey) {
	tx.snap.setAuthKey(k)
	tx.delta.AuthKeys.put(k.ID, k)
	tx.hard, tx.changed = true, true
}

// putAPIKey stores an API key; only its last use may be lost.
func (tx *Tx) putAPIKey(k *APIKey, hard bool) {
	tx.snap.setAPIKey(k)
	tx.delta.APIKeys.put(k.ID, k)
	tx.hard, tx.changed = tx.hard || hard, true
}

// bury leaves a tombstone for a node key that is good no more. With the
// node's addresses it also keeps them from being given out again.
func (tx *Tx) bury(n *Node, addrs Addrs) {
	t := &Tombstone{
		Key: n.Key, Machine: n.Machine, Node: n.ID, StableID: n.StableID, Name: n.Name,
		Addrs: addrs, Owner: n.Owner, Ends: tx.now.Add(TombstoneLife),
	}
	if n.Ephemeral {
		t.Ends = tx.now.Add(ephemeralRest)
	}
	for graves, _ := tx.snap.index.graves.Get(n.Machine); len(graves) >= maxGraves; graves = graves[1:] {
		tx.unbury(tx.snap.Tombstone(graves[0]))
	}
	tx.snap.setTombstone(t)
	tx.delta.Tombstones.put(t.Key.String(), t)
	tx.hard, tx.changed = true, true
	tx.effects = append(tx.effects, func() {
		tx.state.timers.setEarlier(timer{kind: tombstoneTimer}, t.Ends)
	})
}

// The setters below put a thing into a snapshot that nobody else sees yet.

func (s *Snapshot) setUser(u *User) {
	if old := s.User(u.ID); old != nil {
		s.dropUser(old)
	}
	s.users.m = s.users.m.Set(u.ID, u)
	for _, id := range u.Identities {
		s.index.person = s.index.person.Set(id, u.ID)
	}
}

func (s *Snapshot) dropUser(u *User) {
	s.users.m = s.users.m.Delete(u.ID)
	for _, id := range u.Identities {
		s.index.person = s.index.person.Delete(id)
	}
}

func (s *Snapshot) setAuthKey(k *AuthKey) {
	s.authKeys.m = s.authKeys.m.Set(k.ID, k)
	s.index.authKey = s.index.authKey.Set(k.Public, k.ID)
}

func (s *Snapshot) setAPIKey(k *APIKey) {
	s.apiKeys.m = s.apiKeys.m.Set(k.ID, k)
	s.index.apiKey = s.index.apiKey.Set(k.Public, k.ID)
}

func (s *Snapshot) setTombstone(t *Tombstone) {
	s.tombstones = s.tombstones.Set(t.Key, t)
	graves, _ := s.index.graves.Get(t.Machine)
	s.index.graves = s.index.graves.Set(t.Machine, append(slices.Clip(graves), t.Key))
	for _, p := range t.Addrs.Prefixes() {
		s.index.resting = s.index.resting.Set(p.Addr(), true)
	}
}

func (s *Snapshot) dropTombstone(t *Tombstone) {
	s.tombstones = s.tombstones.Delete(t.Key)
	graves, _ := s.index.graves.Get(t.Machine)
	if graves = slices.DeleteFunc(slices.Clone(graves), func(k key.NodePublic) bool { return k == t.Key }); len(graves) == 0 {
		s.index.graves = s.index.graves.Delete(t.Machine)
	} else {
		s.index.graves = s.index.graves.Set(t.Machine, graves)
	}
	for _, p := range t.Addrs.Prefixes() {
		s.index.resting = s.index.resting.Delete(p.Addr())
	}
}

// unbury forgets a tombstone.
func (tx *Tx) unbury(t *Tombstone) {
	tx.snap.dropTombstone(t)
	tx.delta.Tombstones.drop(t.Key.String())
	tx.hard, tx.changed = true, true
}

// A batch is a run of updates that share one commit and one snapshot.
type batch struct {
	state *State
	base  *Snapshot
	begun time.Time
	work
	ran      []ran
	softOnly bool // no commit is to be expected to succeed
}

// ran is an update that succeeded and waits for its commit.
type ran struct {
	req  *request
	hard bool
}

func (s *State) newBatch() *batch {
	base := s.Snapshot()
	return &batch{state: s, base: base, begun: s.opts.Now(), work: work{snap: *base, dirtyNodes: s.owed}}
}

// run applies one update to the batch; if it fails the caller is told and the
// batch stays as it was.
func (b *batch) run(req *request) {
	tx := &Tx{state: b.state, actor: req.actor, now: b.state.opts.Now(), work: work{
		snap: b.snap, dirtyPolicy: b.dirtyPolicy, dirtyRoutes: b.dirtyRoutes, dirtyNodes: maps.Clone(b.dirtyNodes),
	}}
	if err := req.fn(tx); err != nil {
		req.done <- result{err: err}
		return
	}
	b.ran = append(b.ran, ran{req, tx.hard})
	b.adopt(tx)
}

// adopt takes over what an update did.
func (b *batch) adopt(tx *Tx) {
	b.snap = tx.snap
	tx.delta.LastID = tx.snap.lastID
	b.delta.merge(&tx.delta)
	b.changed = b.changed || tx.changed
	b.stirred = b.stirred || tx.stirred
	b.hard = b.hard || tx.hard
	b.effects = append(b.effects, tx.effects...)
	b.dirtyPolicy, b.dirtyRoutes, b.dirtyNodes = tx.dirtyPolicy, tx.dirtyRoutes, tx.dirtyNodes
}

// derive brings up to date what follows from the batch's changes: the compiled policy, the
// routes that the policy approves, and the primaries.
func (b *batch) derive() {
	if b.dirtyPolicy {
		b.compile()
	}
	if b.softOnly {
		b.postpone()
	} else if b.autoApprove() {
		b.compile() // approved routes are an input of the compiler
	}
	if b.dirtyRoutes {
		b.snap.primaries = elect(b.snap.primaries, &b.snap)
	}
}

func (b *batch) compile() {
	p := *b.snap.policy
	p.Compiled, p.of = p.of.follow(p.Compiled, &b.snap), rosterOf(&b.snap)
	b.snap.policy = &p
}

// postpone keeps for a later batch what autoApprove would do: it takes a
// commit, and commits fail at present.
func (b *batch) postpone() {
	b.state.owed = b.dirtyNodes
}

// autoApprove approves what the policy says of the routes of nodes that
// changed; it reports whether it approved any.
func (b *batch) autoApprove() bool {
	if len(b.dirtyNodes) == 0 {
		return false
	}
	tx := &Tx{state: b.state, actor: SystemActor("policy"), now: b.state.opts.Now(), work: work{snap: b.snap, dirtyRoutes: b.dirtyRoutes}}
	for _, id := range slices.Sorted(maps.Keys(b.dirtyNodes)) {
		n := b.snap.Node(id)
		if n == nil {
			continue
		}
		var add []netip.Prefix
		for _, r := range n.Advertised() {
			if !slices.Contains(n.Approved, r) && b.snap.policy.Compiled.AutoApproves(policy.NodeID(id), r) {
				add = append(add, r)
			}
		}
		if len(add) > 0 {
			tx.approve(n, append(add, n.Approved...))
		}
	}
	b.adopt(tx)
	b.dirtyPolicy, b.dirtyNodes = true, nil
	return tx.changed
}
