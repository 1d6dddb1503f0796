package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// DefaultBaseDomain is dns.base_domain where nobody sets it.
const DefaultBaseDomain = "tailnet.internal"

// defaults is the configuration of an empty file, as far as it depends on
// nothing; the rest is derived.
func defaults() *Config {
	return &Config{
		Listen:  Listen{Addr: "127.0.0.1:8080", Metrics: "127.0.0.1:9090", SocketMode: 0o660},
		Storage: Storage{Backup: Backup{Interval: 24 * time.Hour, Keep: 7}},
		DERP: DERP{
			Embedded: Embedded{
				Enabled:    true,
				RegionID:   999,
				RegionCode: "heddle",
				RegionName: "heddle",
			},
			UpdateInterval: 3 * time.Hour,
		},
		TLS: TLS{ACME: ACME{CheckInterval: 10 * time.Minute, DNS: ACMEDNS{Provider: RFC2136, Algorithm: "hmac-sha256"}}},
		DNS: DNS{BaseDomain: DefaultBaseDomain, MagicDNS: true},
		Log: Log{Format: "text"},
		Addresses: Addresses{
			IPv4:       tailscaleIPv4,
			IPv6:       tailscaleIPv6,
			Allocation: Sequential,
		},
		Nodes: Nodes{
			EphemeralTimeout: 30 * time.Minute,
			OnlineGrace:      10 * time.Second,
			KeyExpiry:        180 * 24 * time.Hour,
		},
		Upkeep: Upkeep{Netmap: Netmap{CacheMB: 64}, Audit: Audit{Retention: 365 * 24 * time.Hour}},
	}
}

// Stock clients treat exactly these ranges as a tailnet's, and the reserved
// ones in their own ways (tailscale.com/net/tsaddr).
var (
	tailscaleIPv4 = netip.MustParsePrefix("100.64.0.0/10")
	tailscaleIPv6 = netip.MustParsePrefix("fd7a:115c:a1e0::/48")

	reserved = []netip.Prefix{
		netip.MustParsePrefix("100.115.92.0/23"),         // ChromeOS
		netip.MustParsePrefix("100.100.0.0/24"),          // the clients' own services
		netip.MustParsePrefix("100.100.100.0/24"),        // MagicDNS
		netip.MustParsePrefix("fd7a:115c:a1e0:b1a::/64"), // 4via6
	}
)

// A checker completes a Config and finds out what does not go together.
type checker struct {
	*Config
	*loader
}

// failf reports a problem at the place where the key was set.
func (c checker) failf(key, format string, args ...any) {
	v := c.raw[key]
	c.problem(v.where, v.line, key, format, args...)
}

func (c checker) warnf(format string, args ...any) {
	c.Warnings = append(c.Warnings, fmt.Sprintf(format, args...))
}

func (c checker) isSet(key string) bool { _, ok := c.raw[key]; return ok }

// broken reports whether one of the keys has a problem already, so that a
// check of how they go together would only confuse.
func (c checker) broken(keys ...string) bool {
	return slices.ContainsFunc(c.problems, func(p Problem) bool {
		return slices.ContainsFunc(keys, func(k string) bool { return p.Key == k || strings.HasPrefix(p.Key, k+"[") })
	})
}

// derive fills in the defaults that depend on other keys or on the machine.
func (c checker) derive() {
	if c.DataDir == "" && !c.broken("data_dir") {
		c.DataDir = c.defaultDataDir(os.Geteuid())
	}
	if c.Listen.Socket == "" {
		c.Listen.Socket = filepath.Join(c.DataDir, "heddle.sock")
	}
	if c.TLS.Automatic() {
		c.deriveACME()
	}
	if c.ServerURL == nil {
		c.ServerURL = c.defaultServerURL()
	}
	relay := &c.DERP.Embedded
	if relay.STUNListenAddr == "" && !c.isSet("derp.embedded.stun_listen_addr") {
		relay.STUNListenAddr = ":3478"
		if isLoopback(c.ServerURL.Hostname()) {
			relay.STUNListenAddr = "127.0.0.1:3478"
		}
	}
	if relay.Hostname == "" {
		relay.Hostname = c.ServerURL.Hostname()
	}
	if !c.isSet("derp.embedded.derp_port") {
		relay.Port = portOfTLS(c.ServerURL)
	}
}

func (c checker) defaultDataDir(uid int) string {
	home, data := c.environ["HOME"], c.environ["XDG_DATA_HOME"]
	switch {
	case uid == 0:
		return "/var/lib/heddle"
	case filepath.IsAbs(data): // the XDG specification says to ignore others
		return filepath.Join(data, "heddle")
	case home != "":
		return filepath.Join(home, ".local/share/heddle")
	}
	c.failf("data_dir", "HOME is not set, so there is no default: set it")
	return ""
}

func (c checker) defaultServerURL() *url.URL {
	host, port, _ := net.SplitHostPort(c.Listen.Addr)
	if isWildcard(host) {
		host = "127.0.0.1"
	}
	if port == "0" && !c.broken("server_url", "listen_addr") {
		c.failf("server_url", "must be set, as listen_addr leaves the port to the system")
	}
	return &url.URL{Scheme: "http", Host: net.JoinHostPort(host, port)}
}

func (c checker) check() {
	c.checkListeners()
	c.checkServerURL()
	c.checkDERP()
	c.checkDNS()
	c.checkStorage()
	c.checkProviders()
	c.checkAddresses("addresses.ipv4", c.Addresses.IPv4, tailscaleIPv4)
	c.checkAddresses("addresses.ipv6", c.Addresses.IPv6, tailscaleIPv6)
	if c.Nodes.EphemeralTimeout < time.Second && !c.broken("nodes.ephemeral_timeout") {
		c.failf("nodes.ephemeral_timeout", "must be at least 1s")
	}
	if c.Netmap.CacheMB < 8 || c.Netmap.CacheMB > 65536 {
		c.failf("netmap.cache_mb", "must be 8 to 65536")
	}
	if r := c.Audit.Retention; r < 0 || r > 0 && r < 24*time.Hour {
		c.failf("audit.retention", "must be at least 24h, or 0 to keep entries for ever")
	}
	for _, p := range c.TrustedProxies {
		if p.Bits() == 0 {
			c.warnf("trusted_proxies holds %s: everybody can pretend to have any address; list only your proxies", p)
		}
	}
}

func (c checker) checkListeners() {
	listeners := []struct{ key, addr string }{
		{"listen_addr", c.Listen.Addr},
		{"metrics_listen_addr", c.Listen.Metrics},
		{"grpc_listen_addr", c.Listen.GRPC},
		{"http_listen_addr", c.Listen.HTTP},
	}
	for i, a := range listeners {
		for _, b := range listeners[i+1:] {
			if overlap(a.addr, b.addr) && !c.broken(a.key, b.key) {
				key, other := b, a
				if !c.isSet(b.key) {
					key, other = a, b
				}
				c.failf(key.key, "%s is taken by %s (%s): choose another port", key.addr, other.key, other.addr)
			}
		}
	}
	if host, _, err := net.SplitHostPort(c.Listen.Metrics); err == nil && !isLoopback(host) {
		c.warnf("metrics_listen_addr %s is not loopback and has no authentication: see that a firewall protects it", c.Listen.Metrics)
	}
	c.checkTLS()
	if limit := len(syscall.RawSockaddrUnix{}.Path) - 1; len(c.Listen.Socket) > limit {
		c.failf("unix_socket", "%s has %d bytes, the system allows %d: set a shorter path", c.Listen.Socket, len(c.Listen.Socket), limit)
	}
	if c.Listen.SocketMode&0o002 != 0 {
		c.warnf("unix_socket_mode %04o makes every local user an administrator: write 0660 and use a group", c.Listen.SocketMode)
	}
}

func (c checker) checkServerURL() {
	if c.broken("server_url", "listen_addr") {
		return
	}
	host, _, _ := net.SplitHostPort(c.Listen.Addr)
	u, set := c.ServerURL, c.isSet("server_url")
	switch {
	case c.TLS.On() && !set:
		c.failf("server_url", "must be set, as TLS is on: write https:// and a name of the certificate")
	case c.TLS.On() && u.Scheme == "http":
		c.failf("server_url", "is http, but listen_addr speaks TLS because of tls.%s: write https://%s", c.tlsKey(), u.Host)
	case !set && isWildcard(host):
		c.warnf("server_url is not set: clients are told %s, which works on this machine only; set it to the public URL", u)
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		c.warnf("server_url %s is plain HTTP: login pages and admin keys can be read on the way; set tls.acme.email, or tls.cert_file and tls.key_file, or use a reverse proxy with https", u)
	case u.Scheme == "https" && !c.TLS.On() && len(c.TrustedProxies) == 0:
		c.warnf("server_url is https and neither tls.acme.email nor tls.cert_file is set: if a reverse proxy terminates TLS, list its address in trusted_proxies")
	}
}

func (c checker) checkDERP() {
	const embedded = "derp.embedded."
	relay := c.DERP.Embedded
	if relay.IPv4.IsValid() && !relay.IPv4.Is4() {
		c.failf(embedded+"ipv4", "%s is not an IPv4 address: use derp.embedded.ipv6", relay.IPv4)
	}
	if relay.IPv6.IsValid() && !relay.IPv6.Is6() {
		c.failf(embedded+"ipv6", "%s is not an IPv6 address: use derp.embedded.ipv4", relay.IPv6)
	}
	for _, a := range []struct {
		key  string
		addr netip.Addr
	}{{"ipv4", relay.IPv4}, {"ipv6", relay.IPv6}} {
		if a.addr.IsValid() && (a.addr.IsUnspecified() || a.addr.IsMulticast()) {
			c.failf(embedded+a.key, "%s is no address that a client can reach: write the public one", a.addr)
		}
	}
	// Clients write the region as the port of 127.3.3.40.
	if (relay.RegionID < 1 || relay.RegionID > 65535) && !c.broken(embedded+"region_id") {
		c.failf(embedded+"region_id", "must be 1 to 65535; 900 to 999 are free for private regions")
	}
	if (relay.Port < 1 || relay.Port > 65535) && c.isSet(embedded+"derp_port") && !c.broken(embedded+"derp_port") {
		c.failf(embedded+"derp_port", "must be 1 to 65535")
	}
	if c.DERP.UpdateInterval < time.Minute && !c.broken("derp.update_interval") {
		c.failf("derp.update_interval", "must be at least 1m, to be kind to the servers")
	}
	if !relay.Enabled && len(c.DERP.Files) == 0 && len(c.DERP.URLs) == 0 {
		c.warnf("there is no relay: devices that cannot reach each other directly stay apart; set derp.embedded.enabled, derp.files or derp.urls")
	}
}

func (c checker) checkDNS() {
	base := c.DNS.BaseDomain
	hosts := []struct{ key, host string }{
		{"server_url", c.ServerURL.Hostname()},
		{"derp.embedded.hostname", c.DERP.Embedded.Hostname},
	}
	for _, h := range hosts {
		if !c.broken("dns.base_domain", h.key) && within(h.host, base) {
			c.failf("dns.base_domain", "%s of %s lies in %s, so devices would look it up inside the tailnet and lose the server: choose another domain", h.host, h.key, base)
			break // the second is derived from the first
		}
	}
	switch {
	case within(base, "local"):
		c.warnf("dns.base_domain %s lies in local, which devices look up by multicast: choose another, like tailnet.internal", base)
	case within(base, "ts.net"):
		c.warnf("dns.base_domain %s belongs to the hosted service: choose another, like tailnet.internal", base)
	}
	for domain := range c.DNS.Nameservers.Split {
		if domain == base {
			c.failf("dns.nameservers.split", "%s is dns.base_domain, which devices answer themselves: remove it", domain)
		}
	}
	if slices.Contains(c.DNS.SearchDomains, base) {
		c.failf("dns.search_domains", "%s is dns.base_domain, which is searched anyway: remove it", base)
	}
	for _, r := range c.DNS.ExtraRecords {
		if r.Type != "" && r.Value.IsValid() && (r.Type == "A") != r.Value.Is4() {
			c.failf("dns.extra_records", "%s: %s does not belong into a record of type %s: A is for IPv4, AAAA for IPv6", r.Name, r.Value, r.Type)
		}
	}
	if c.DNS.OverrideLocalDNS && len(c.DNS.Nameservers.Global) == 0 {
		c.warnf("dns.override_local_dns has no effect before dns.nameservers.global names a resolver")
	}
}

// checkAddresses reports a range that does not lie in all or holds no address
// for devices. The bounds of size leave room for the reserved addresses.
func (c checker) checkAddresses(key string, p, all netip.Prefix) {
	if c.broken(key) {
		return
	}
	if p.Addr().BitLen() != all.Addr().BitLen() || p.Bits() < all.Bits() || !all.Contains(p.Addr()) {
		c.failf(key, "%s is not a part of %s, the range that clients know: choose one in it", p, all)
		return
	}
	if p.Bits() > p.Addr().BitLen()-2 {
		c.failf(key, "%s has no room for devices: choose a larger range", p)
	}
	for _, r := range reserved {
		if r.Bits() <= p.Bits() && r.Contains(p.Addr()) {
			c.failf(key, "%s lies in %s, which clients keep for themselves: choose another range in %s", p, r, all)
		}
	}
}

// within reports whether host is domain or lies below it.
func within(host, domain string) bool {
	return domain != "" && (host == domain || strings.HasSuffix(host, "."+domain))
}

// overlap reports whether two addresses cannot be listened on together.
func overlap(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	return errA == nil && errB == nil && portA == portB && portA != "0" &&
		(hostA == hostB || isWildcard(hostA) || isWildcard(hostB))
}

func isWildcard(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "" || err == nil && a.IsUnspecified()
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.Unmap().IsLoopback()
}

// portOfTLS returns the port of an https URL, 0 for plain http.
func portOfTLS(u *url.URL) int {
	if u.Scheme != "https" {
		return 0
	}
	if port, err := strconv.Atoi(u.Port()); err == nil {
		return port
	}
	return 443
}
