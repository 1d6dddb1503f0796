// Package netmap owns the map responses that clients are sent: the bytes of a
// full map, of the difference between two snapshots, and of the small messages
// that ride alone. It is the only place that builds them, and it owns the
// cache of encoded parts that the sessions of a tailnet share.
//
// It refuses to know about sessions, connections and clocks: snapshots, a
// viewer and the time come in, an immutable Message comes out.
package netmap
