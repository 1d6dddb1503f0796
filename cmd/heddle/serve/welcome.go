package serve

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"heddle/control/tailnet"
)

func dirOf(file string) string { return filepath.Dir(file) }

// pinConfig lays the config's settings over the tailnet's.
func (s *server) pinConfig(ctx context.Context) error {
	cfg := s.cfg.DNS
	set := func(key string) bool { _, ok := s.cfg.Set[key]; return ok }
	pins := tailnet.DNSPins{BaseDomain: cfg.BaseDomain}
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
	_, err := s.state.Update(ctx, tailnet.SystemActor("config"), func(tx *tailnet.Tx) error { return tx.SetDNSPins(pins) })
	return err
}

// welcome tells how to go on.
func (s *server) welcome() {
	snap := s.state.Snapshot()
	s.Log.Info("heddle serves", "url", s.cfg.ServerURL.String(), "listen", s.sockets.public.Addr().String(),
		"nodes", snap.NumNodes(), "data", s.cfg.DataDir)
	for _, w := range s.cfg.Warnings {
		s.Log.Warn("config", "warning", w)
	}
	if snap.NumNodes() > 0 || s.Out == nil {
		return
	}
	fmt.Fprintf(s.Out, `
heddle serves %[1]s, and no device has joined yet. To join the first one:

on this machine, make a user and a key (it is shown once):
    %[2]s users create me
    %[2]s preauthkeys create --user me

on the device, with that key:
    sudo tailscale up --login-server %[1]s --auth-key KEY

`, s.cfg.ServerURL, s.Command)
	if isLoopback(s.cfg.ServerURL.Hostname()) {
		fmt.Fprint(s.Out, `This server is reachable from this machine only. For others set server_url and
listen_addr in a config file (heddle config example) and start with --config.

`)
	}
}
