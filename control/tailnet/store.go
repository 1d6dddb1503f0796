package tailnet

import (
	"context"
	"errors"
)

// ErrConflict is what a Store's Commit returns when the tailnet's sequence
// number is no longer the delta's Base: another process committed.
var ErrConflict = errors.New("another process changed the tailnet")

// ErrForgotten is what a Store's Since returns when it does not know what
// changed since: everything must be loaded.
var ErrForgotten = errors.New("the changes of the tailnet are not remembered so far back")

// A Store keeps tailnets. It holds no rules: what a Delta says is written.
type Store interface {
	// Load returns everything that is stored of a tailnet; a tailnet that was
	// never committed to is an empty Image with sequence number zero. The
	// caller owns the image.
	Load(ctx context.Context, tailnet string) (Image, error)
	// Commit writes a delta in one transaction if and only if the stored
	// sequence number is still d.Base, and sets it to d.Base+1. When it returns nil the
	// delta survives a kill of the process and a power cut. It neither keeps nor changes d.
	Commit(ctx context.Context, d *Delta) error
	// Since returns what was committed after a sequence number, merged into one
	// delta without the audit log, and the sequence number that it leads to. What is in Put is as it
	// was at that moment. It fails with ErrForgotten if that was too long ago. The caller
	// owns the delta.
	Since(ctx context.Context, tailnet string, after Seq) (d *Delta, head Seq, err error)
	// Watch calls news whenever another process may have committed to the
	// tailnet, soon after it has, and once for what it may have missed, until ctx ends.
	// news must be quick. Troubles of the store do not end it.
	Watch(ctx context.Context, tailnet string, news func())
}

// Image is all that is stored of a tailnet. Slices are in ascending order of
// ID. Derived state (Status.Alive, Status.Expired, Policy.Doc and Compiled) is not part of it.
type Image struct {
	Seq        Seq
	LastID     LastIDs
	Nodes      []*Node
	Users      []*User
	AuthKeys   []*AuthKey
	APIKeys    []*APIKey
	Tombstones []*Tombstone
	Settings   *Settings // nil if never set
	Policy     *Policy   // nil if never set
}

// LastIDs are the highest IDs ever given, so that none is used twice.
type LastIDs struct {
	Node    NodeID
	User    UserID
	AuthKey AuthKeyID
	APIKey  APIKeyID
}

// Delta is what one commit changes. A thing is in Put whole, or its ID is in
// Drop. The same ID is never in both.
type Delta struct {
	Tailnet string
	Base    Seq
	LastID  LastIDs // always set

	Nodes      Changes[NodeID, *Node]
	Users      Changes[UserID, *User]
	AuthKeys   Changes[AuthKeyID, *AuthKey]
	APIKeys    Changes[APIKeyID, *APIKey]
	Tombstones Changes[string, *Tombstone] // by Key.String()
	Settings   *Settings                   // nil if unchanged
	Policy     *Policy                     // nil if unchanged
	Audit      []AuditEntry
}

// Changes are the rows of one kind that a delta writes and removes. A nil map is empty.
type Changes[ID comparable, T any] struct {
	Put  map[ID]T
	Drop map[ID]bool
}

func (c *Changes[ID, T]) put(id ID, v T) {
	if c.Put == nil {
		c.Put = map[ID]T{}
	}
	delete(c.Drop, id)
	c.Put[id] = v
}

func (c *Changes[ID, T]) drop(id ID) {
	if c.Drop == nil {
		c.Drop = map[ID]bool{}
	}
	delete(c.Put, id)
	c.Drop[id] = true
}

// merge adds later changes to c.
func (c *Changes[ID, T]) merge(later Changes[ID, T]) {
	for id, v := range later.Put {
		c.put(id, v)
	}
	for id := range later.Drop {
		c.drop(id)
	}
}

// Empty reports whether nothing changes.
func (c Changes[ID, T]) Empty() bool { return len(c.Put) == 0 && len(c.Drop) == 0 }

// merge adds a later delta to d.
func (d *Delta) merge(later *Delta) {
	d.LastID = later.LastID
	d.Nodes.merge(later.Nodes)
	d.Users.merge(later.Users)
	d.AuthKeys.merge(later.AuthKeys)
	d.APIKeys.merge(later.APIKeys)
	d.Tombstones.merge(later.Tombstones)
	if later.Settings != nil {
		d.Settings = later.Settings
	}
	if later.Policy != nil {
		d.Policy = later.Policy
	}
	d.Audit = append(d.Audit, later.Audit...)
}

// clone returns a copy that can be merged into without touching d.
func (d *Delta) clone() Delta {
	var c Delta
	c.merge(d)
	return c
}

func (d *Delta) empty() bool {
	return d.Nodes.Empty() && d.Users.Empty() && d.AuthKeys.Empty() && d.APIKeys.Empty() &&
		d.Tombstones.Empty() && d.Settings == nil && d.Policy == nil && len(d.Audit) == 0
}
