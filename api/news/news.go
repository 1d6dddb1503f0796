// Package news owns what differs between two snapshots for those who watch a
// tailnet, and the snapshots from which they may go on.
//
// It refuses to know how news are sent, and who may see them.
package news

import (
	"cmp"
	"slices"

	"heddle/control/tailnet"
)

// A Kind is a sort of thing that can be watched. Kinds add up.
type Kind uint8

const (
	Nodes Kind = 1 << iota
	Users
	AuthKeys
	APIKeys
	Policy
	Clients // OAuth clients and federated identities
)

// Every is all kinds.
const Every = Nodes | Users | AuthKeys | APIKeys | Policy | Clients

// An Item names a thing; the policy has no ID.
type Item struct {
	Kind Kind
	ID   int64
}

// Between returns what differs between two snapshots, of the given kinds: what is new, different
// or gone in now. Without an old snapshot that is everything. It is in the order of kinds
// and IDs.
func Between(old, now *tailnet.Snapshot, kinds Kind) []Item {
	d := differ{old: old, now: now}
	for _, one := range []struct {
		kind Kind
		add  func()
	}{{Nodes, d.nodes}, {Users, d.users}, {AuthKeys, d.authKeys}, {APIKeys, d.apiKeys}, {Policy, d.policy}, {Clients, d.clients}} {
		if kinds&one.kind != 0 {
			one.add()
		}
	}
	slices.SortFunc(d.items, func(a, b Item) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID))
	})
	return slices.Compact(d.items)
}

type differ struct {
	old, now *tailnet.Snapshot
	items    []Item
}

func (d *differ) add(k Kind, id int64) { d.items = append(d.items, Item{k, id}) }

func (d *differ) nodes() {
	if d.old == nil {
		for n := range d.now.Nodes() {
			d.add(Nodes, int64(n.ID))
		}
		return
	}
	for ch := range d.now.NodesChangedSince(d.old) {
		d.add(Nodes, int64(cmp.Or(ch.New, ch.Old).ID))
	}
	if d.now.Primaries() == d.old.Primaries() {
		return
	}
	// A node that takes over a route from another differs by that alone.
	for n := range d.now.Nodes() {
		for _, p := range n.Approved {
			if (d.now.Primaries().Of(p) == n.ID) != (d.old.Primaries().Of(p) == n.ID) {
				d.add(Nodes, int64(n.ID))
			}
		}
	}
}

func (d *differ) users() {
	if d.old == nil {
		for u := range d.now.Users() {
			d.add(Users, int64(u.ID))
		}
		return
	}
	for id := range d.now.UsersChangedSince(d.old) {
		d.add(Users, int64(id))
	}
}

func (d *differ) authKeys() {
	if d.old == nil {
		for k := range d.now.AuthKeys() {
			d.add(AuthKeys, int64(k.ID))
		}
		return
	}
	for id := range d.now.AuthKeysChangedSince(d.old) {
		d.add(AuthKeys, int64(id))
	}
}

func (d *differ) apiKeys() { d.keys(APIKeys, tailnet.KeyAPI) }
func (d *differ) clients() { d.keys(Clients, tailnet.KeyClient, tailnet.KeyFederated) }

// keys finds the keys of some kinds. Access tokens are of none: they come and go by the hour.
func (d *differ) keys(as Kind, kinds ...tailnet.KeyKind) {
	if d.old == nil {
		for k := range d.now.APIKeys() {
			if slices.Contains(kinds, k.Kind) {
				d.add(as, int64(k.ID))
			}
		}
		return
	}
	for id := range d.now.APIKeysChangedSince(d.old) {
		if k := cmp.Or(d.now.APIKey(id), d.old.APIKey(id)); k != nil && slices.Contains(kinds, k.Kind) {
			d.add(as, int64(id))
		}
	}
}

func (d *differ) policy() {
	if d.old == nil || d.old.Policy().ETag != d.now.Policy().ETag || d.old.Policy().Revision != d.now.Policy().Revision {
		d.add(Policy, 0)
	}
}
