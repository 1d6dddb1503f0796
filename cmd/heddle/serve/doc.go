// Package serve owns how a heddle server is put together: it opens the
// database, the keys and the sockets that the config names, wires the parts to
// each other and runs them until it is told to stop. It holds no rules of its
// own, and no part imports it.
package serve
