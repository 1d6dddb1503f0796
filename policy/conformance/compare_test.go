package conformance_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"go4.org/netipx"
	"tailscale.com/tailcfg"
)

// This file compares by effect, as the checker of the data set does: what a
// client would let pass, not how the rules are cut.

// node is one node of an answer or of an expectation.
type node struct {
	PacketFilter []tailcfg.FilterRule `json:"packet_filter"`
	SSHRules     *[]tailcfg.SSHRule   `json:"ssh_rules"`
	CapMap       *map[string][]any    `json:"cap_map"`
	Addresses    []netip.Prefix
	Peers        map[string]peer
}

type peer struct {
	Routes, Addresses []netip.Prefix
	CapMap            map[string][]any `json:"cap_map"`
}

// atom is the smallest part of a filter as written: it is equal in equal filters
// that are merely cut in another way.
func atoms(rules []tailcfg.FilterRule) map[string]bool {
	out := map[string]bool{}
	for _, r := range rules {
		for _, src := range r.SrcIPs {
			for _, d := range r.DstPorts {
				out[fmt.Sprint(src, d.IP, d.Ports, r.IPProto)] = true
			}
			for _, g := range r.CapGrant {
				for _, d := range g.Dsts {
					for name, values := range g.CapMap {
						out[fmt.Sprint(src, d, name)] = true
						for _, v := range values {
							out[fmt.Sprint(src, d, name, canonical(v))] = true
						}
					}
				}
			}
		}
	}
	return out
}

func canonical(raw tailcfg.RawMessage) string {
	var v any
	if err := json.Unmarshal([]byte(raw), &v); err != nil {
		return string(raw)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return string(raw)
	}
	return string(b)
}

// sameFilter tells a flow or a capability on which two filters differ, "" if
// there is none.
func sameFilter(want, got []tailcfg.FilterRule) string {
	if maps.Equal(atoms(want), atoms(got)) {
		return ""
	}
	both := slices.Concat(want, got)
	var srcs, dsts []string
	protos, ports := map[int]bool{1: true, 6: true, 17: true, 58: true, 99: true}, map[uint16]bool{0: true, 65535: true}
	for _, r := range both {
		srcs = append(srcs, r.SrcIPs...)
		for _, p := range r.IPProto {
			protos[p] = true
		}
		for _, d := range r.DstPorts {
			dsts = append(dsts, d.IP)
			ports[d.Ports.First], ports[d.Ports.Last] = true, true
			ports[d.Ports.First-1], ports[d.Ports.Last+1] = true, true
		}
		for _, g := range r.CapGrant {
			for _, d := range g.Dsts {
				dsts = append(dsts, d.String())
			}
		}
	}
	for _, s := range points(srcs) {
		for _, d := range points(dsts) {
			if !maps.Equal(capsAt(want, s, d), capsAt(got, s, d)) {
				return fmt.Sprintf("%v -> %v: capabilities %v, want %v", s, d, capsAt(got, s, d), capsAt(want, s, d))
			}
			for proto := range protos {
				for port := range ports {
					if allows(want, s, d, proto, port) != allows(got, s, d, proto, port) {
						return fmt.Sprintf("%v -> %v proto %d port %d: want %v", s, d, proto, port, allows(want, s, d, proto, port))
					}
				}
			}
		}
	}
	return ""
}

// points are addresses at and next to the ends of ranges.
func points(ips []string) []netip.Addr {
	seen := map[netip.Addr]bool{}
	for _, s := range ips {
		if s == "*" {
			continue
		}
		r := ipRange(s)
		for _, a := range []netip.Addr{r.From(), r.To(), r.From().Prev(), r.To().Next()} {
			if a.IsValid() {
				seen[a] = true
			}
		}
	}
	seen[netip.MustParseAddr("192.0.2.77")] = true
	seen[netip.MustParseAddr("3fff::77")] = true
	return slices.Collect(maps.Keys(seen))
}

func ipRange(s string) netipx.IPRange {
	if a, err := netip.ParseAddr(s); err == nil {
		return netipx.IPRangeFrom(a, a)
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		return netipx.RangeOfPrefix(p)
	}
	r, err := netipx.ParseIPRange(s)
	if err != nil {
		panic(err)
	}
	return r
}

func has(ips []string, a netip.Addr) bool {
	return slices.ContainsFunc(ips, func(s string) bool { return s == "*" || ipRange(s).Contains(a) })
}

func allows(rules []tailcfg.FilterRule, s, d netip.Addr, proto int, port uint16) bool {
	return slices.ContainsFunc(rules, func(r tailcfg.FilterRule) bool {
		protos := r.IPProto
		if len(protos) == 0 {
			protos = []int{1, 6, 17, 58}
		}
		return slices.Contains(protos, proto) && has(r.SrcIPs, s) && slices.ContainsFunc(r.DstPorts, func(p tailcfg.NetPortRange) bool {
			return p.Ports.Contains(port) && has([]string{p.IP}, d)
		})
	})
}

func capsAt(rules []tailcfg.FilterRule, s, d netip.Addr) map[string]bool {
	out := map[string]bool{}
	for _, r := range rules {
		if !has(r.SrcIPs, s) {
			continue
		}
		for _, g := range r.CapGrant {
			if !slices.ContainsFunc(g.Dsts, func(p netip.Prefix) bool { return p.Contains(d) }) {
				continue
			}
			for name, values := range g.CapMap {
				out[string(name)] = true
				for _, v := range values {
					out[string(name)+canonical(v)] = true
				}
			}
		}
	}
	return out
}

// sshOutcome is what a client makes of a connection from an address.
func sshOutcome(rules []tailcfg.SSHRule, ip, login string) string {
	for _, r := range rules {
		if !slices.ContainsFunc(r.Principals, func(p *tailcfg.SSHPrincipal) bool { return p.Any || p.NodeIP == ip }) {
			continue
		}
		local, ok := r.SSHUsers[login]
		if !ok {
			local = r.SSHUsers["*"]
		}
		if local == "=" {
			local = login
		}
		if local == "" || r.Action == nil {
			continue
		}
		env := slices.Compact(slices.Sorted(slices.Values(r.AcceptEnv)))
		if r.Action.HoldAndDelegate != "" {
			return fmt.Sprint("check as ", local, env)
		}
		a := r.Action
		return fmt.Sprint("accept ", a.Accept, a.AllowAgentForwarding, a.AllowLocalPortForwarding, a.AllowRemotePortForwarding, " as ", local, env)
	}
	return ""
}

// sameSSH tells a connection on which two SSH policies differ, "" if none.
func sameSSH(want, got []tailcfg.SSHRule) string {
	ips, logins := map[string]bool{"100.64.99.99": true}, map[string]bool{"root": true, "some-other-login": true}
	for _, r := range slices.Concat(want, got) {
		for _, p := range r.Principals {
			ips[p.NodeIP] = true
		}
		for l := range r.SSHUsers {
			if l != "*" {
				logins[l] = true
			}
		}
	}
	for ip := range ips {
		for login := range logins {
			if w, g := sshOutcome(want, ip, login), sshOutcome(got, ip, login); w != g {
				return fmt.Sprintf("from %s as %s: %q, want %q", ip, login, g, w)
			}
		}
	}
	return ""
}

// ownCaps are those that a server gives every node on its own account.
var ownCaps = []string{
	"https://tailscale.com/cap/file-sharing", "https://tailscale.com/cap/ssh", "https://tailscale.com/cap/tailnet-lock",
	"https://tailscale.com/cap/is-owner", "https://tailscale.com/cap/is-admin", "probe-udp-lifetime", "ssh-behavior-v1", "ssh-env-vars",
	"store-appc-routes", "tailnet-display-name", "default-auto-update",
}

func sameCaps(want, got map[string][]any) string {
	for name := range got {
		if _, ok := want[name]; !ok && !slices.Contains(ownCaps, name) {
			return "capability " + name + " is not wanted"
		}
	}
	for name, values := range want {
		have, ok := got[name]
		texts := func(l []any) []string {
			var out []string
			for _, v := range l {
				b, err := json.Marshal(v)
				if err != nil {
					panic(err)
				}
				out = append(out, string(b))
			}
			slices.Sort(out)
			return slices.Compact(out)
		}
		if !ok || !slices.Equal(texts(values), texts(have)) {
			return fmt.Sprintf("capability %s: %v, want %v", name, have, values)
		}
	}
	return ""
}
