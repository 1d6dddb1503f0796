package tailnet

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"heddle/policy"

	"tailscale.com/types/key"
)

// This file is about what other processes that share the store commit.

// watch returns a channel that tells when others may have committed. The second result
// ends the watching and waits for that.
func (s *State) watch(ctx context.Context) (<-chan struct{}, func()) {
	ctx, cancel := context.WithCancel(ctx)
	news, done := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(done)
		s.store.Watch(ctx, s.opts.Tailnet, func() {
			select {
			case news <- struct{}{}:
			default: // the writer will look anyway
			}
		})
	}()
	return news, func() { cancel(); <-done }
}

// catchUpLimit bounds how long the writer waits for what others committed, which may be everything
// there is.
const catchUpLimit = time.Minute

// catchUp takes over and publishes what others committed.
func (s *State) catchUp(ctx context.Context) error {
	// The last flush must be able to, too.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), catchUpLimit)
	defer cancel()
	d, head, err := s.store.Since(ctx, s.opts.Tailnet, s.seq)
	if errors.Is(err, ErrForgotten) {
		var img Image
		if img, err = s.store.Load(ctx, s.opts.Tailnet); err == nil {
			d, head = s.Snapshot().difference(&img), img.Seq
		}
	}
	if err != nil {
		return storeError(err)
	}
	if head == s.seq {
		return nil
	}
	b := s.newBatch()
	tx := &Tx{state: s, now: b.begun, work: work{snap: b.snap}}
	tx.takeOver(d)
	tx.dirtyNodes = b.dirtyNodes // who committed has approved what the policy approves
	b.adopt(tx)
	b.softOnly = true
	b.derive()
	s.seq = head
	s.publish(b)
	return nil
}

// difference returns what makes an image of the snapshot.
func (s *Snapshot) difference(img *Image) *Delta {
	d := &Delta{LastID: img.LastID, Settings: img.Settings}
	replaceAll(&d.Nodes, img.Nodes, s.Nodes(), func(n *Node) NodeID { return n.ID })
	replaceAll(&d.Users, img.Users, s.Users(), func(u *User) UserID { return u.ID })
	replaceAll(&d.AuthKeys, img.AuthKeys, s.AuthKeys(), func(k *AuthKey) AuthKeyID { return k.ID })
	replaceAll(&d.APIKeys, img.APIKeys, s.APIKeys(), func(k *APIKey) APIKeyID { return k.ID })
	replaceAll(&d.Tombstones, img.Tombstones, func(yield func(*Tombstone) bool) {
		for it := s.tombstones.Iterator(); !it.Done(); {
			if _, t, _ := it.Next(); !yield(t) {
				return
			}
		}
	}, func(t *Tombstone) string { return t.Key.String() })
	if p := img.Policy; p != nil && (p.Revision != s.policy.Revision || p.ETag != s.policy.ETag) {
		d.Policy = p
	}
	return d
}

// replaceAll makes changes that leave of one kind of things what is in put.
func replaceAll[ID comparable, T any](c *Changes[ID, T], put []T, now func(func(T) bool), idOf func(T) ID) {
	for _, v := range put {
		c.put(idOf(v), v)
	}
	now(func(v T) bool {
		if _, ok := c.Put[idOf(v)]; !ok {
			c.drop(idOf(v))
		}
		return true
	})
}

// noteSaved remembers how nodes are stored that a batch changes softly, so that
// such a change can be told from one of another process.
func (s *State) noteSaved(b *batch) {
	for id := range b.delta.Nodes.Put {
		if _, known := s.soft.Nodes.Put[id]; known {
			continue
		}
		if s.saved == nil {
			s.saved = map[NodeID]*Node{}
		}
		s.saved[id] = b.base.Node(id)
	}
}

// forgetSoft is called when what was soft is stored.
func (s *State) forgetSoft() { s.soft, s.saved = Delta{}, nil }

// takeOver brings the draft, and what is soft, in line with a delta that others committed.
func (tx *Tx) takeOver(d *Delta) {
	tx.changed = true
	tx.snap.lastID = LastIDs{
		Node:    max(tx.snap.lastID.Node, d.LastID.Node),
		User:    max(tx.snap.lastID.User, d.LastID.User),
		AuthKey: max(tx.snap.lastID.AuthKey, d.LastID.AuthKey),
		APIKey:  max(tx.snap.lastID.APIKey, d.LastID.APIKey),
	}
	tx.takeUsers(d)
	tx.takeNodes(d)
	tx.takeKeys(d)
	tx.takeTombstones(d)
	if d.Settings != nil {
		tx.snap.settings = d.Settings
		tx.refreshDNS()
	}
	if d.Policy != nil {
		p := tx.state.loadPolicy(d.Policy)
		tx.snap.policy = p
		p.Compiled, p.of = policy.Compile(p.Doc, tx.snap.PolicyInput()), rosterOf(&tx.snap)
		tx.dirtyPolicy = false // compiled is of the draft as it stands
		tx.refreshDERPMap()
	}
}

// takeUsers takes all out before it puts any in: what is unique may have changed hands.
func (tx *Tx) takeUsers(d *Delta) {
	for _, ids := range [][]UserID{slices.Collect(maps.Keys(d.Users.Drop)), slices.Collect(maps.Keys(d.Users.Put))} {
		for _, id := range ids {
			if old := tx.snap.User(id); old != nil {
				tx.dirtyPolicy = tx.dirtyPolicy || !sameUserToPolicy(old, d.Users.Put[id])
				tx.snap.dropUser(old)
			}
		}
	}
	for id, u := range d.Users.Put {
		tx.dirtyPolicy = tx.dirtyPolicy || tx.state.Snapshot().User(id) == nil
		tx.snap.setUser(u)
	}
}

// takeNodes is like takeUsers.
func (tx *Tx) takeNodes(d *Delta) {
	for id := range d.Nodes.Drop {
		old := tx.snap.Node(id)
		if old == nil {
			continue
		}
		tx.snap.nodes = tx.snap.nodes.with(id, nil)
		tx.snap.index = tx.snap.index.replace(old, nil)
		tx.noteNode(old, nil)
		delete(tx.state.soft.Nodes.Put, id)
		delete(tx.state.saved, id)
		for _, kind := range []timerKind{offlineTimer, dormantTimer, ephemeralTimer, expiryTimer} {
			tx.cancel(kind, id)
		}
	}
	for id := range d.Nodes.Put {
		if old := tx.snap.Node(id); old != nil {
			tx.snap.index = tx.snap.index.replace(old, nil)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(d.Nodes.Put)) {
		tx.takeNode(tx.snap.Node(id), d.Nodes.Put[id])
	}
}

// takeNode puts a node in that others stored, with what this process knows better: its own map
// streams, and what it has not stored yet. Old, which may be nil, is out of the index.
func (tx *Tx) takeNode(old, n *Node) {
	if old != nil {
		tx.keepOwn(old, n)
	}
	if old == nil || old.Status.streams == 0 {
		n.Status.Alive = n.Status.Online
		if n.Status.Online && old != nil && !old.Status.Online { // who says so also sees to it that it ends
			tx.cancel(offlineTimer, n.ID)
			tx.cancel(dormantTimer, n.ID)
		}
	}
	n.Status.refresh(expired(n, tx.now), tx.now)
	n.Status.Expiring = expiring(n, tx.now)
	if n.Expiry.IsZero() || n.Status.Expired {
		tx.cancel(expiryTimer, n.ID)
	} else {
		tx.at(expiryTimer, n.ID, n.expiryNews(tx.now))
	}
	if n.Report.attrs == nil {
		n.Report.attrs = postureAttrs(n.Report.Hostinfo)
	}
	tx.snap.nodes = tx.snap.nodes.with(n.ID, n)
	tx.snap.index = tx.snap.index.replace(nil, n)
	tx.noteNode(old, n)
	tx.state.alloc.taken(n.Addrs)
}

func (tx *Tx) keepOwn(old, n *Node) {
	if theirs := n.Report; theirs.equal(old.Report) {
		n.Report = old.Report // which tells readers that it is the same
	}
	n.Status.streams, n.Status.mute, n.Status.Alive = old.Status.streams, old.Status.mute, old.Status.Alive
	saved, unsaved := tx.state.saved[n.ID]
	if !unsaved {
		return
	}
	theirs := *n
	tx.state.saved[n.ID] = &theirs
	if saved == nil || old.Report != saved.Report {
		n.Report = old.Report
	}
	if saved == nil || old.Status.Online != saved.Status.Online || !old.Status.LastSeen.Equal(saved.Status.LastSeen) {
		n.Status.Online, n.Status.LastSeen = old.Status.Online, old.Status.LastSeen
	}
	tx.state.soft.Nodes.Put[n.ID] = n
}

// equal reports whether two reports say the same.
func (r *Report) equal(o *Report) bool {
	return r.Disco == o.Disco && r.HomeDERP == o.HomeDERP && r.CapVer == o.CapVer &&
		slices.Equal(r.Endpoints, o.Endpoints) && r.Hostinfo.Equal(o.Hostinfo)
}

func (tx *Tx) takeKeys(d *Delta) {
	for id := range d.AuthKeys.Drop {
		if k := tx.snap.AuthKey(id); k != nil {
			tx.snap.authKeys.m = tx.snap.authKeys.m.Delete(id)
			tx.snap.index.authKey = tx.snap.index.authKey.Delete(k.Public)
		}
	}
	for _, k := range d.AuthKeys.Put {
		tx.snap.setAuthKey(k)
	}
	soft := tx.state.soft.APIKeys.Put
	for id := range d.APIKeys.Drop {
		delete(soft, id)
		if k := tx.snap.APIKey(id); k != nil {
			tx.snap.apiKeys.m = tx.snap.apiKeys.m.Delete(id)
			tx.snap.index.apiKey = tx.snap.index.apiKey.Delete(k.Public)
		}
	}
	for id, k := range d.APIKeys.Put {
		if own := soft[id]; own != nil {
			if own.LastUsed.After(k.LastUsed) {
				k.LastUsed = own.LastUsed
			}
			soft[id] = k
		}
		tx.snap.setAPIKey(k)
	}
}

func (tx *Tx) takeTombstones(d *Delta) {
	drop := func(text string) {
		var k key.NodePublic
		if k.UnmarshalText([]byte(text)) != nil {
			return // nobody has it
		}
		if t := tx.snap.Tombstone(k); t != nil {
			tx.snap.dropTombstone(t)
		}
	}
	for text := range d.Tombstones.Drop {
		drop(text)
	}
	for text := range d.Tombstones.Put {
		drop(text)
	}
	for _, t := range d.Tombstones.Put {
		tx.snap.setTombstone(t)
		tx.effects = append(tx.effects, func() {
			tx.state.timers.setEarlier(timer{kind: tombstoneTimer}, t.Ends)
		})
	}
}
