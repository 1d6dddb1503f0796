package tailnet

import (
	"slices"
	"time"

	"tailscale.com/tailcfg"
)

// node returns the node that an admin wants to change, or an error.
func (tx *Tx) node(id NodeID, what string) (*Node, error) {
	if err := tx.admin(what); err != nil {
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
	if len(changes) == 0 && old.Fixed == n.Fixed {
		return
	}
	tx.putHard(n)
	tx.audit(action, n.label(), changes...)
}

// RenameNode gives a node a name that stays; "" makes it follow its OS hostname again.
func (tx *Tx) RenameNode(id NodeID, name string) error {
	n, err := tx.node(id, "rename nodes")
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
	n, err := tx.node(id, "delete nodes")
	if err != nil {
		return err
	}
	tx.removeNode(n, "node.delete")
	return nil
}

func (tx *Tx) removeNode(n *Node, action string) {
	tx.dropNode(n)
	tx.bury(n, n.Addrs)
	tx.audit(action, n.label())
}

// ExpireNode ends the life of a node's key now.
func (tx *Tx) ExpireNode(id NodeID) error { return tx.SetNodeExpiry(id, tx.now) }

// SetNodeExpiry sets when a node's key expires; zero means never. A time in
// the future revives an expired node without touching the device.
func (tx *Tx) SetNodeExpiry(id NodeID, t time.Time) error {
	n, err := tx.node(id, "change when node keys expire")
	if err != nil {
		return err
	}
	if n.Tagged() && t.After(tx.now) {
		return Errorf(Conflict, "%s has tags: its key never expires by itself; `heddle nodes expire` ends it now", n.Name)
	}
	out := n.clone()
	tx.setExpiry(out, t)
	tx.edit("node.expiry", n, out)
	return nil
}

// SetTags makes a node belong to tags; its key then never expires. A node
// cannot be without tags again except by logging in as a user.
func (tx *Tx) SetTags(id NodeID, tags []string) error {
	n, err := tx.node(id, "tag nodes")
	if err != nil {
		return err
	}
	if tags, err = tx.checkTags(tags); err != nil {
		return err
	}
	if len(tags) == 0 {
		return Errorf(Invalid, "a tagged node cannot lose all its tags: log in on the device as a user instead")
	}
	out := n.clone()
	out.Tags, out.Owner = tags, 0
	tx.setExpiry(out, time.Time{})
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
