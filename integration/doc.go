// Package integration runs the built heddle binary and stock Tailscale clients together, on real
// TUN devices in network namespaces, and asserts what people would see: the clients' own status,
// their pings, and packets through the tunnel.
//
// It owns the scenarios and the driving of heddle through its command line. It refuses to know
// anything of the server's inside.
package integration
