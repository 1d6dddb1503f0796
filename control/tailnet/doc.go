// Package tailnet owns the model of a tailnet and every rule about it: who may
// join, which names, addresses and routes a node gets, who may change what. A
// State has one writer and publishes immutable snapshots; what must survive is
// committed to a Store before anyone sees it.
//
// It refuses to know about wires and disks: no HTTP, no gRPC, no SQL. Nothing
// slow happens inside an update.
package tailnet
