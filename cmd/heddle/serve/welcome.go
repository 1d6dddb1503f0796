package serve

import (
	"fmt"
	"net"
	"slices"

	"heddle/cmd/heddle/config"
	"heddle/control/tailnet"
)

// pins are what a configuration fixes of DNS. The base domain is that of the start.
func (s *server) pins(c *config.Config) tailnet.DNSPins {
	cfg := c.DNS
	set := func(key string) bool { _, ok := c.Set[key]; return ok }
	pins := tailnet.DNSPins{BaseDomain: s.cfg.DNS.BaseDomain}
	if set("dns.magic_dns") {
		pins.MagicDNS = &cfg.MagicDNS
	}
	if set("dns.override_local_dns") {
		pins.OverrideLocal = &cfg.OverrideLocalDNS
	}
	if set("dns.nameservers.global") {
		pins.Nameservers = slices.Concat([]string{}, cfg.Nameservers.Global) // never nil: set to none is set
	}
	if set("dns.nameservers.split") {
		pins.Split = map[string][]string{}
		for domain, servers := range cfg.Nameservers.Split {
			pins.Split[domain] = servers
		}
	}
	if set("dns.search_domains") {
		pins.Search = slices.Concat([]string{}, cfg.SearchDomains)
	}
	for _, r := range cfg.ExtraRecords {
		pins.Records = append(pins.Records, tailnet.DNSRecord{Name: r.Name, Type: r.Type, Value: r.Value.String()})
	}
	return pins
}

// warn logs what is allowed in the config and yet probably not meant.
func (s *server) warn(cfg *config.Config) {
	for _, w := range cfg.Warnings {
		s.Log.Warn("config: " + w) // a sentence for people, each from a fixed pattern
	}
}

// welcome tells what runs where, and how to go on.
func (s *server) welcome() {
	snap := s.state.Snapshot()
	attrs := []any{"url", s.cfg.ServerURL.String(), "listen", listening(s.cfg.Listen.Addr, s.sockets.public.Addr())}
	for _, l := range []struct {
		name, addr string
		socket     net.Listener
	}{
		{"http", s.cfg.Listen.HTTP, s.sockets.http},
		{"grpc", s.cfg.Listen.GRPC, s.sockets.grpc},
		{"metrics", s.cfg.Listen.Metrics, s.sockets.metrics},
	} {
		if l.socket != nil {
			attrs = append(attrs, l.name, listening(l.addr, l.socket.Addr()))
		}
	}
	if s.relay != nil && s.relay.pinned != nil {
		attrs = append(attrs, "relay", s.relay.pinned.Addr().String())
	}
	if s.relay != nil && s.relay.stun != nil {
		attrs = append(attrs, "stun", listening(s.cfg.DERP.Embedded.STUNListenAddr, s.relay.stun.Addr()))
	}
	s.Log.Info("heddle serves", append(attrs, "socket", s.cfg.Listen.Socket, "nodes", snap.NumNodes(), "data", s.cfg.DataDir)...)
	if snap.NumNodes() > 0 || s.Out == nil {
		return
	}
	s.invite(snap)
}

// invite tells how to join the first device.
func (s *server) invite(snap *tailnet.Snapshot) {
	what, create, owner := "a user and a key", "    "+s.Command+" users create me\n", "me"
	for u := range snap.Users() {
		if u.Status == tailnet.UserActive { // the ID, as names of others' making may mean something to a shell
			what, create, owner = "a key for the user "+u.Name, "", u.ID.String()
			break
		}
	}
	fmt.Fprintf(s.Out, `
heddle serves %[1]s, and no device has joined yet. To join the first one:

on this machine, make %[3]s (it is shown once):
%[4]s    %[2]s preauthkeys create --user %[5]s

on the device, with that key:
    sudo tailscale up --login-server %[1]s --auth-key KEY

`, s.cfg.ServerURL, s.Command, what, create, owner)
	if isLoopback(s.cfg.ServerURL.Hostname()) {
		fmt.Fprint(s.Out, `This server is reachable from this machine only. For others set server_url and
listen_addr in a config file (heddle config example) and start with --config.

`)
	}
}

// listening returns where a listener listens as it is configured, unless the
// system has chosen the port.
func listening(configured string, actual fmt.Stringer) string {
	if _, port, err := net.SplitHostPort(configured); err == nil && port != "0" {
		return configured
	}
	return actual.String()
}
