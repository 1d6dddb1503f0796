//go:build linux

package lab

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
)

// Switch is an Ethernet segment: a bridge in a namespace of its own.
type Switch struct {
	name  string
	ports int
	lab   *Lab
}

// Switch adds a segment. Names are at most ten characters long, for they become those of network
// interfaces. Given gateways, the segment has a router: packets between all segments that have one
// are forwarded, as on the internet.
func (l *Lab) Switch(name string, gateways ...netip.Prefix) *Switch {
	l.t.Helper()
	l.ip("-n", l.fabric.namespace, "link", "add", name, "type", "bridge")
	l.ip("-n", l.fabric.namespace, "link", "set", name, "up")
	for _, gw := range gateways {
		l.ip("-n", l.fabric.namespace, "addr", "add", gw.String(), "dev", name, "nodad")
	}
	return &Switch{name: name, lab: l}
}

// Attach plugs the host into the switch; the host's interface has the switch's name.
func (h *Host) Attach(sw *Switch, addrs ...netip.Prefix) {
	l := h.lab
	l.t.Helper()
	sw.ports++
	port := fmt.Sprintf("%s.%d", sw.name, sw.ports)
	l.ip("link", "add", port, "netns", l.fabric.namespace,
		"type", "veth", "peer", "name", sw.name, "netns", h.namespace)
	l.ip("-n", l.fabric.namespace, "link", "set", port, "master", sw.name, "up")
	l.ip("-n", h.namespace, "link", "set", sw.name, "up")
	for _, a := range addrs {
		h.AddAddr(sw, a)
	}
}

// AddAddr gives the host's interface on the switch one more address.
func (h *Host) AddAddr(sw *Switch, a netip.Prefix) {
	h.lab.t.Helper()
	h.lab.ip("-n", h.namespace, "addr", "add", a.String(), "dev", sw.name, "nodad")
}

// DelAddr takes an address from the host's interface on the switch; routes that need it go too.
func (h *Host) DelAddr(sw *Switch, a netip.Prefix) {
	h.lab.t.Helper()
	h.lab.ip("-n", h.namespace, "addr", "del", a.String(), "dev", sw.name)
}

// Gateway makes gw the host's default route for gw's address family.
func (h *Host) Gateway(gw netip.Addr) {
	h.lab.t.Helper()
	family := "-4"
	if gw.Is6() {
		family = "-6"
	}
	h.lab.ip("-n", h.namespace, family, "route", "replace", "default", "via", gw.String())
}

// Forward makes the host a router for both address families.
func (h *Host) Forward() {
	h.lab.t.Helper()
	h.mustRun("sh", "-c", `echo 1 >/proc/sys/net/ipv4/ip_forward
		echo 1 >/proc/sys/net/ipv6/conf/all/forwarding`)
}

// NAT makes the host a home router between inside and outside: it forwards what comes from inside
// under its own address and lets in nothing that nobody inside asked for.
//
// Its input chain drops unsolicited packets. Without that a packet from a peer that punches first
// makes a connection of the router's own in conntrack, and the mapping from inside then gets
// another port than the one that STUN told.
func (h *Host) NAT(inside, outside *Switch) {
	h.lab.t.Helper()
	h.Forward()
	h.nft(fmt.Sprintf(`
		table ip home {
			chain input {
				type filter hook input priority 0; policy drop;
				iifname { "lo", %[1]q } accept
				ct state established,related accept
			}
			chain forward {
				type filter hook forward priority 0; policy drop;
				iifname %[1]q oifname %[2]q accept
				ct state established,related accept
			}
			chain leaving {
				type nat hook postrouting priority 100;
				oifname %[2]q masquerade
			}
		}`, inside.name, outside.name))
}

// BlockUDP makes a router drop every UDP packet, as some company networks do.
func (h *Host) BlockUDP() {
	h.lab.t.Helper()
	h.nft(`
		table inet noudp {
			chain forward { type filter hook forward priority -10; meta l4proto udp drop; }
			chain input { type filter hook input priority -10; meta l4proto udp drop; }
		}`)
}

// Drop makes the host drop every packet that comes from an address.
func (h *Host) Drop(from netip.Addr) {
	h.lab.t.Helper()
	family := "ip"
	if from.Is6() {
		family = "ip6"
	}
	h.nft(fmt.Sprintf(`
		table inet drops {
			chain input { type filter hook input priority -10; %s saddr %s drop; }
		}`, family, from))
}

func (h *Host) nft(rules string) {
	h.lab.t.Helper()
	h.mustRun("nft", rules)
}

// ip runs iproute2 on the machine itself; all names in its arguments are of this lab's namespaces.
func (l *Lab) ip(args ...string) {
	l.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		l.t.Fatalf("lab: ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}
