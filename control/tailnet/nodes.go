package tailnet

import (
	"net/netip"
	"slices"
	"time"

	"tailscale.com/tailcfg"
)

// node returns the node that an admin wants to change, or an error.
func (tx *Tx) node(id NodeID, area Area, what string) (*Node, error) {
	if err := tx.may(Write(area), what); err != nil {
		return nil, err
	}
	n := tx.snap.Node(id)
	if n == nil {
		return nil, Errorf(NotFound, "no node with ID %d", id)
	}
	return n, nil
}

// edit stores a changed node with its audit entry.
func (tx *Tx) edit(action string, old, n *Node) {
	changes := nodeChanges(old, n)
	if len(changes) == 0 {
		return
	}
	tx.putHard(n)
	tx.audit(action, n.label(), changes...)
}

// RenameNode gives a node a name that stays; "" makes it follow its OS hostname again.
func (tx *Tx) RenameNode(id NodeID, name string) error {
	n, err := tx.node(id, AreaDevices, "rename nodes")
	if err != nil {
		return err
	}
	out := n.clone()
	if name == "" {
		out.Fixed = false
		tx.followHostname(out)
		tx.edit("node.rename", n, out)
		return nil
	}
	name, err = checkName(name)
	if err != nil {
		return err
	}
	if other := tx.snap.NodeByName(name); other != nil && other.ID != id {
		return Errorf(Conflict, "the name %q is taken by node %d", name, other.ID)
	}
	out.Name, out.Fixed = name, true
	tx.edit("node.rename", n, out)
	return nil
}

// DeleteNode removes a node; its client is told to log in again.
func (tx *Tx) DeleteNode(id NodeID) error {
	n, err := tx.node(id, AreaDevices, "delete nodes")
	if err != nil {
		return err
	}
	tx.removeNode(n, "node.delete")
	return nil
}

// ApproveNode lets a node that waits take part in the tailnet. One that does not wait stays as it is.
func (tx *Tx) ApproveNode(id NodeID) error {
	n, err := tx.node(id, AreaDevices, "approve devices")
	if err != nil || !n.Pending {
		return err
	}
	if u := tx.snap.User(n.Owner); u != nil && u.Status != UserActive {
		return Errorf(Conflict, "%s belongs to user %s, who is not active (%s); approve the user first (`heddle users approve %s`)", n.Name, u.Name, u.Status, u.Name)
	}
	tx.admitPending(n)
	return nil
}

func (tx *Tx) admitPending(n *Node) {
	out := n.clone()
	out.Pending, out.Held = false, false
	tx.edit("node.approve", n, out)
}

// HoldNode makes a node wait until an admin approves it, whatever else would let it in: it leaves the tailnet
// until then, but stays logged in.
func (tx *Tx) HoldNode(id NodeID) error {
	n, err := tx.node(id, AreaDevices, "withdraw the approval of devices")
	if err != nil || n.Held {
		return err
	}
	out := n.clone()
	out.Pending, out.Held = true, true
	tx.edit("node.hold", n, out)
	return nil
}

// SetNodeAddress gives a node another IPv4 address of the tailnet's range, which must be free.
func (tx *Tx) SetNodeAddress(id NodeID, v4 netip.Addr) error {
	n, err := tx.node(id, AreaDevices, "change addresses")
	if err != nil || n.Addrs.V4 == v4 {
		return err
	}
	if !v4.Is4() || !tx.state.alloc.v4.contains(v4) {
		return Errorf(Invalid, "%v is not an IPv4 address that devices of this tailnet can have", v4)
	}
	if _, resting := tx.snap.index.resting.Get(v4); resting || tx.snap.NodeByIP(v4) != nil {
		return Errorf(Conflict, "the address %v is another device's, or was until lately", v4)
	}
	out := n.clone()
	out.Addrs.V4 = v4
	tx.edit("node.address", n, out)
	return nil
}

// RejectNode removes a node that waits for approval.
func (tx *Tx) RejectNode(id NodeID) error {
	n, err := tx.node(id, AreaDevices, "reject devices")
	if err != nil {
		return err
	}
	if !n.Pending {
		return Errorf(Conflict, "%s does not wait for approval; `heddle nodes delete` removes it", n.Name)
	}
	tx.removeNode(n, "node.reject")
	return nil
}

func (tx *Tx) removeNode(n *Node, action string) {
	tx.dropNode(n)
	tx.bury(n, n.Addrs)
	tx.audit(action, n.label(), nodeChanges(n, &Node{})...)
}

// ExpireNode ends the life of a node's key now.
func (tx *Tx) ExpireNode(id NodeID) error { return tx.SetNodeExpiry(id, tx.now) }

// SetNodeExpiry sets when a node's key expires; zero means never, also after it
// logs in again. A time in the future revives an expired node without touching the device.
func (tx *Tx) SetNodeExpiry(id NodeID, t time.Time) error {
	n, err := tx.node(id, AreaDevices, "change when node keys expire")
	if err != nil {
		return err
	}
	if err := checkTime(t); err != nil {
		return err
	}
	if n.Tagged() && t.After(tx.now) {
		return Errorf(Conflict, "%s has tags: its key never expires by itself; `heddle nodes expire` ends it now", n.Name)
	}
	if err := tx.mayRevive(n); err != nil && (t.IsZero() || t.After(tx.now)) {
		return err
	}
	out := n.clone()
	out.NoExpiry = t.IsZero() && !n.Tagged()
	tx.setExpiry(out, t)
	tx.edit("node.expiry", n, out)
	return nil
}

// mayRevive refuses to bring back the device of somebody who was shut out.
func (tx *Tx) mayRevive(n *Node) error {
	if u := tx.snap.User(n.Owner); u != nil && u.Status == UserSuspended {
		return Errorf(Conflict, "%s belongs to user %s, who is suspended; `heddle users restore %s` comes first", n.Name, u.Name, u.Name)
	}
	return nil
}

// SetNoExpiry says whether a node's key never expires, also after it logs in again. One that is
// to expire again gets the time that it would after a login now.
func (tx *Tx) SetNoExpiry(id NodeID, never bool) error {
	if never {
		return tx.SetNodeExpiry(id, time.Time{})
	}
	n, err := tx.node(id, AreaDevices, "change when node keys expire")
	switch {
	case err != nil:
		return err
	case n.Tagged():
		return Errorf(Conflict, "%s has tags, and the keys of tagged nodes do not expire by themselves", n.Name)
	case !n.NoExpiry:
		return nil
	}
	if err := tx.mayRevive(n); err != nil {
		return err
	}
	out := n.clone()
	out.NoExpiry = false
	tx.setExpiry(out, tx.freshExpiry(out))
	tx.edit("node.expiry", n, out)
	return nil
}

// SetTags makes a node belong to tags; its key then never expires, but one that has expired already
// stays so: tags let nobody in who was shut out. A node cannot be without tags again except by logging in as a user.
func (tx *Tx) SetTags(id NodeID, tags []string) error {
	n, err := tx.node(id, AreaDevices, "tag nodes")
	if err != nil {
		return err
	}
	if tags, err = tx.checkTags(tags); err != nil {
		return err
	}
	if err := tx.limitTags(tags, "a device"); err != nil {
		return err
	}
	if len(tags) == 0 {
		return Errorf(Invalid, "a tagged node cannot lose all its tags: log in on the device as a user instead")
	}
	out := n.clone()
	out.Tags, out.Owner = tags, 0
	if !expired(n, tx.now) {
		tx.setExpiry(out, time.Time{})
	}
	tx.edit("node.tag", n, out)
	return nil
}

// checkTags returns the tags sorted and without doubles if they are well
// formed and, where the policy defines any, defined.
func (tx *Tx) checkTags(tags []string) ([]string, error) {
	doc := tx.snap.policy.Doc
	for _, tag := range tags {
		if err := tailcfg.CheckTag(tag); err != nil {
			return nil, Errorf(Invalid, "tag %q: %v; tags look like tag:server", tag, err)
		}
		if doc.HasTags() && !doc.TagDefined(tag) {
			return nil, Errorf(Invalid, "tag %q is not in the policy's tagOwners; add it there first", tag)
		}
	}
	return sortedUnique(tags), nil
}

func sortedUnique(in []string) []string {
	out := slices.Clone(in)
	slices.Sort(out)
	return slices.Compact(out)
}
