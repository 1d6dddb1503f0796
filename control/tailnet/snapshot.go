package tailnet

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/benbjohnson/immutable"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// A Snapshot is a tailnet at one moment. It is immutable and may be kept and
// shared for any time; consecutive snapshots share what did not change.
type Snapshot struct {
	version uint64 // of this process: grows by one with each snapshot
	lastID  LastIDs

	nodes nodeTable
	index indexes

	users      sorted[UserID, *User]
	authKeys   sorted[AuthKeyID, *AuthKey]
	apiKeys    sorted[APIKeyID, *APIKey]
	tombstones *immutable.Map[key.NodePublic, *Tombstone]

	settings  *Settings
	policy    *Policy
	inputs    inputs
	primaries *Primaries

	heir *heir
}

// heir tells of the snapshot that follows one, once it is published.
type heir struct {
	published chan struct{} // closed then
	begun     time.Time     // when the writer took up the first change of it; set before published is closed
}

func newHeir() *heir { return &heir{published: make(chan struct{})} }

// inputs come from outside (config, files, DERP sources) and are not stored.
type inputs struct {
	pins       *DNSPins
	records    []DNSRecord // of the watched file
	derpSource *tailcfg.DERPMap
	dns        *DNS             // derived: what is in force
	derpMap    *tailcfg.DERPMap // derived, with the policy's
	sshCheck   string           // see Options.SSHCheckURL
	owners     []string         // see Options.Owners
}

// indexes find nodes by other names than their ID.
type indexes struct {
	key     *immutable.Map[key.NodePublic, NodeID]
	machine *immutable.Map[key.MachinePublic, []NodeID] // ascending
	ip      *immutable.Map[netip.Addr, NodeID]
	name    *immutable.Map[string, NodeID]
	graves  *immutable.Map[key.MachinePublic, []key.NodePublic] // tombstones, oldest first
	resting *immutable.Map[netip.Addr, bool]                    // addresses that tombstones hold
	authKey *immutable.Map[string, AuthKeyID]                   // by public part
	apiKey  *immutable.Map[string, APIKeyID]                    // by public part
	person  *immutable.Map[Identity, UserID]
}

// Version numbers the snapshots of this process, in order. Two with the same
// number are the same to their readers.
func (s *Snapshot) Version() uint64 { return s.version }

// Superseded is closed once a newer snapshot is published.
func (s *Snapshot) Superseded() <-chan struct{} { return s.heir.published }

// StaleSince returns when the writer took up the first change that s lacks; zero
// if s is the latest.
func (s *Snapshot) StaleSince() time.Time {
	select {
	case <-s.heir.published:
		return s.heir.begun
	default:
		return time.Time{}
	}
}

// Node returns the node with that ID, or nil.
func (s *Snapshot) Node(id NodeID) *Node { return s.nodes.get(id) }

// Nodes yields all nodes in ascending order of ID.
func (s *Snapshot) Nodes() iter.Seq[*Node] { return s.nodes.all() }

// NumNodes returns how many nodes there are.
func (s *Snapshot) NumNodes() int { return s.nodes.len }

// NodeByKey returns the node whose current key is k, or nil.
func (s *Snapshot) NodeByKey(k key.NodePublic) *Node {
	return find(s, s.index.key, k)
}

// NodeByIP returns the node with that address of its own, or nil.
func (s *Snapshot) NodeByIP(ip netip.Addr) *Node { return find(s, s.index.ip, ip) }

// NodeByName returns the node with that DNS label, or nil.
func (s *Snapshot) NodeByName(name string) *Node { return find(s, s.index.name, name) }

// NodesByMachine returns the nodes of a machine (one device may be logged in
// as several users), oldest first.
func (s *Snapshot) NodesByMachine(m key.MachinePublic) []*Node {
	ids, _ := s.index.machine.Get(m)
	out := make([]*Node, 0, len(ids))
	for _, id := range ids {
		out = append(out, s.Node(id))
	}
	return out
}

func find[K any](s *Snapshot, m *immutable.Map[K, NodeID], k K) *Node {
	id, ok := m.Get(k)
	if !ok {
		return nil
	}
	return s.Node(id)
}

// Tombstone returns what is left of a node key that was good once, or nil.
func (s *Snapshot) Tombstone(k key.NodePublic) *Tombstone {
	t, _ := s.tombstones.Get(k)
	return t
}

// User returns the user with that ID, or nil.
func (s *Snapshot) User(id UserID) *User { return s.users.get(id) }

// Users yields all users in ascending order of ID.
func (s *Snapshot) Users() iter.Seq[*User] { return s.users.all() }

// UserByIdentity returns the user whom an identity belongs to, or nil.
func (s *Snapshot) UserByIdentity(id Identity) *User {
	user, ok := s.index.person.Get(id)
	if !ok {
		return nil
	}
	return s.User(user)
}

// AuthKey returns the auth key with that ID, or nil.
func (s *Snapshot) AuthKey(id AuthKeyID) *AuthKey { return s.authKeys.get(id) }

// AuthKeys yields all auth keys in ascending order of ID.
func (s *Snapshot) AuthKeys() iter.Seq[*AuthKey] { return s.authKeys.all() }

// APIKey returns the API key with that ID, or nil.
func (s *Snapshot) APIKey(id APIKeyID) *APIKey { return s.apiKeys.get(id) }

// APIKeys yields all API keys in ascending order of ID.
func (s *Snapshot) APIKeys() iter.Seq[*APIKey] { return s.apiKeys.all() }

// Policy returns the policy in force; never nil.
func (s *Snapshot) Policy() *Policy { return s.policy }

// DNS returns the DNS settings in force: the config's pins over the tailnet's
// own settings, with all extra records. Never nil.
func (s *Snapshot) DNS() *DNS { return s.inputs.dns }

// DNSPins returns what the config fixes. Never nil.
func (s *Snapshot) DNSPins() *DNSPins { return s.inputs.pins }

// Settings returns the stored settings. Never nil.
func (s *Snapshot) Settings() *Settings { return s.settings }

// DERPMap returns the DERP map in force: that of the config with what the
// policy says in its derpMap. Never nil, maybe empty.
func (s *Snapshot) DERPMap() *tailcfg.DERPMap { return s.inputs.derpMap }

// Primaries returns which node carries which prefix. Snapshots with the same
// elections share the pointer. Never nil.
func (s *Snapshot) Primaries() *Primaries { return s.primaries }

// NodeChange is one node that differs between two snapshots: Old is nil if it
// was added, New if it was removed.
type NodeChange struct {
	Old, New *Node
}

// NodesChangedSince yields the nodes that differ from an older snapshot, in
// ascending order of ID: those that differ to readers, see Node.Alike. It costs what changed, not what is there.
func (s *Snapshot) NodesChangedSince(old *Snapshot) iter.Seq[NodeChange] {
	return s.nodes.changedSince(old.nodes)
}

// UsersChangedSince yields the IDs of the users that differ from an older
// snapshot. It costs nothing if none does, else a look at every user.
func (s *Snapshot) UsersChangedSince(old *Snapshot) iter.Seq[UserID] {
	return changedSince(s.users, old.users)
}

// AuthKeysChangedSince is the same for auth keys.
func (s *Snapshot) AuthKeysChangedSince(old *Snapshot) iter.Seq[AuthKeyID] {
	return changedSince(s.authKeys, old.authKeys)
}

// APIKeysChangedSince is the same for API keys.
func (s *Snapshot) APIKeysChangedSince(old *Snapshot) iter.Seq[APIKeyID] {
	return changedSince(s.apiKeys, old.apiKeys)
}

// changedSince yields the IDs of what differs between two tables.
func changedSince[ID cmp.Ordered, T comparable](now, old sorted[ID, T]) iter.Seq[ID] {
	return func(yield func(ID) bool) {
		if now.m == old.m {
			return
		}
		for it := now.m.Iterator(); !it.Done(); {
			if id, v, _ := it.Next(); old.get(id) != v && !yield(id) {
				return
			}
		}
		for it := old.m.Iterator(); !it.Done(); {
			id, _, _ := it.Next()
			if _, lives := now.m.Get(id); !lives && !yield(id) {
				return
			}
		}
	}
}

// sorted is a persistent map in the order of its IDs.
type sorted[ID cmp.Ordered, T any] struct {
	m *immutable.SortedMap[ID, T]
}

func newSorted[ID cmp.Ordered, T any]() sorted[ID, T] {
	return sorted[ID, T]{immutable.NewSortedMap[ID, T](nil)}
}

func (s sorted[ID, T]) get(id ID) T {
	v, _ := s.m.Get(id)
	return v
}

func (s sorted[ID, T]) all() iter.Seq[T] {
	return func(yield func(T) bool) {
		for it := s.m.Iterator(); !it.Done(); {
			_, v, _ := it.Next()
			if !yield(v) {
				return
			}
		}
	}
}

// nodeTable is a persistent table of nodes: a sorted list of buckets of up to
// bucketSize neighbours by ID. A change copies one bucket and the list.
type nodeTable struct {
	buckets []bucket
	len     int
}

type bucket struct {
	no    NodeID // ID / bucketSize
	nodes *[bucketSize]*Node
}

// bucketSize is also the number of peers that share one compressed frame: fewer
// compress worse, more make each change dearer.
const bucketSize = 64

func (t nodeTable) find(no NodeID) (int, bool) {
	return slices.BinarySearchFunc(t.buckets, no, func(b bucket, no NodeID) int { return cmp.Compare(b.no, no) })
}

func (t nodeTable) get(id NodeID) *Node {
	if id <= 0 {
		return nil
	}
	i, ok := t.find(id / bucketSize)
	if !ok {
		return nil
	}
	return t.buckets[i].nodes[id%bucketSize]
}

// with returns a table in which n is the node of that ID; nil removes it.
func (t nodeTable) with(id NodeID, n *Node) nodeTable {
	i, ok := t.find(id / bucketSize)
	nodes := new([bucketSize]*Node)
	if ok {
		*nodes = *t.buckets[i].nodes
	}
	if nodes[id%bucketSize] != nil {
		t.len--
	}
	if n != nil {
		t.len++
	}
	nodes[id%bucketSize] = n
	fresh := bucket{id / bucketSize, nodes}
	switch empty := *nodes == [bucketSize]*Node{}; {
	case ok && empty:
		t.buckets = slices.Concat(t.buckets[:i], t.buckets[i+1:])
	case ok:
		t.buckets = slices.Clone(t.buckets)
		t.buckets[i] = fresh
	case !empty:
		t.buckets = slices.Concat(t.buckets[:i], []bucket{fresh}, t.buckets[i:])
	}
	return t
}

func (t nodeTable) all() iter.Seq[*Node] {
	return func(yield func(*Node) bool) {
		for _, b := range t.buckets {
			for _, n := range b.nodes {
				if n != nil && !yield(n) {
					return
				}
			}
		}
	}
}

func (t nodeTable) changedSince(old nodeTable) iter.Seq[NodeChange] {
	none := new([bucketSize]*Node)
	return func(yield func(NodeChange) bool) {
		was, is := old.buckets, t.buckets
		for len(was) > 0 || len(is) > 0 {
			a, b := none, none
			switch {
			case len(is) == 0 || len(was) > 0 && was[0].no < is[0].no:
				a, was = was[0].nodes, was[1:]
			case len(was) == 0 || is[0].no < was[0].no:
				b, is = is[0].nodes, is[1:]
			default:
				a, b, was, is = was[0].nodes, is[0].nodes, was[1:], is[1:]
			}
			if a == b {
				continue
			}
			for i := range a {
				if !sameToReaders(a[i], b[i]) && !yield(NodeChange{a[i], b[i]}) {
					return
				}
			}
		}
	}
}
