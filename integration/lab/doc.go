// Package lab makes a small internet out of network namespaces: hosts, switches, NAT routers
// and firewalls on one machine, for programs that must meet real packets.
//
// It owns the namespaces, their links and addresses, a private /etc for each host, the processes
// that run on the hosts, their logs, and the removal of all of it, also of what a killed run left
// behind. It knows nothing of meshes: what runs on a host is its caller's business.
package lab
