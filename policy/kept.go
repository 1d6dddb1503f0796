package policy

import "slices"

// Kept tells what a node is sent that is certainly the same as before. What is
// not kept may be the same nevertheless.
type Kept struct {
	Caps   bool // and IPv4Off
	Filter bool
	SSH    bool
}

// Kept compares what a node is sent with what it was sent under an earlier compilation
// of the same policy, by what both are made of: it costs far less than to make them. In a
// tailnet where a node joins, next to all the others keep everything.
func (c *Compiled) Kept(old *Compiled, id NodeID) Kept {
	n := c.node(id)
	if n == nil || c.doc != old.doc || n != old.node(id) {
		return Kept{}
	}
	return Kept{
		Caps:   c.settings.AutoUpdates == old.settings.AutoUpdates,
		Filter: !slices.ContainsFunc(c.groups(n), func(f from) bool { return c.source(n, f) != old.source(n, f) }),
		SSH:    c.sameSSH(old, n),
	}
}

// sameSSH reports whether a node's SSH policy is what it was.
func (c *Compiled) sameSSH(old *Compiled, n *node) bool {
	same := true
	c.sshRules(n, func(i int, _ *sshRule, self bool) {
		if self {
			same = same && c.holding(n.ident.user) == old.holding(n.ident.user)
		} else {
			same = same && c.ssh[i] == old.ssh[i]
		}
	})
	return same
}

// sameMembers reports whether the same nodes, unchanged, are in a set by identity. Lists of members are
// made anew if anything about a member changes.
func (c *Compiled) sameMembers(old *Compiled, set int32) bool {
	return !slices.ContainsFunc(c.doc.sets[set].terms, func(t int32) bool {
		a, b := c.members[t], old.members[t]
		return len(a) != len(b) || len(a) > 0 && &a[0] != &b[0]
	})
}
