package netmap

import "heddle/control/tailnet"

// Diff works out what differs between two snapshots, as the first of the sessions that ask for it
// does, and returns how many nodes do.
func Diff(from, to *tailnet.Snapshot) int {
	d := new(diff)
	d.fill(from, to)
	return len(d.nodes)
}
