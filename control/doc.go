// Package control owns what clients talk to: the server's public key, the
// Noise listener, every /machine path, map sessions, logins that wait for a
// person, requests from the server to a client, and the liveness probe of
// subnet routers. It refuses to know how state is kept and which rules hold in a tailnet
// (control/tailnet), what map responses consist of (control/netmap), and what browsers are shown (control/login).
package control
