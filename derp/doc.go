// Package derp owns what a mesh needs to pass packets between two clients that
// cannot reach each other: the embedded DERP relay, its STUN responder, the
// certificate that local clients pin, and the DERP map that tells clients where
// all relays are.
//
// It refuses to know nodes, users, policy and state. Who may use the relay is
// asked of an injected function; who reads the DERP map is told by a callback.
package derp
