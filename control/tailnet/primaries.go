package tailnet

import (
	"maps"
	"net/netip"

	"tailscale.com/net/tsaddr"
)

// Primaries tells which node carries which subnet prefix: of all nodes for which
// a prefix is approved and advertised, clients send it to exactly one. Exit
// routes have no primary; every exit node keeps them. Immutable.
type Primaries struct {
	node   map[netip.Prefix]NodeID
	serves map[netip.Prefix]int // how many nodes serve the prefix
}

// Of returns the node that carries the prefix, or zero.
func (p *Primaries) Of(prefix netip.Prefix) NodeID { return p.node[prefix] }

// Contested reports whether the node is one of several that serve some prefix:
// only then is it worth probing, since another could take over.
func (p *Primaries) Contested(n *Node) bool {
	for _, r := range n.Serves() {
		if p.serves[r] > 1 {
			return true
		}
	}
	return false
}

// elect chooses the primaries among nodes. An incumbent stays as long as it is
// alive, so that a router which comes back does not disturb the traffic that has moved;
// if nobody is alive the incumbent stays too. Otherwise the lowest ID that is alive wins, or the lowest. It returns
// old itself if nothing changed.
func elect(old *Primaries, s *Snapshot) *Primaries {
	fresh := &Primaries{node: map[netip.Prefix]NodeID{}, serves: map[netip.Prefix]int{}}
	for n := range s.Nodes() {
		if len(n.Approved) == 0 || n.Status.Expired || n.Pending {
			continue
		}
		for _, r := range n.Serves() {
			if tsaddr.IsExitRoute(r) {
				continue
			}
			fresh.serves[r]++
			best := s.Node(fresh.node[r])
			if best == nil || better(n, best, old.node[r]) {
				fresh.node[r] = n.ID
			}
		}
	}
	if maps.Equal(fresh.node, old.node) && maps.Equal(fresh.serves, old.serves) {
		return old
	}
	return fresh
}

// better reports whether a should carry a prefix rather than b, which has the lower ID.
func better(a, b *Node, incumbent NodeID) bool {
	if a.Status.Alive != b.Status.Alive {
		return a.Status.Alive
	}
	return a.ID == incumbent
}
