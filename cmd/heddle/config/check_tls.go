package config

import (
	"encoding/base64"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// deriveACME fills in what else follows from getting certificates by ACME: the
// ports that people and certificate authorities use.
func (c checker) deriveACME() {
	if !c.isSet("listen_addr") {
		c.Listen.Addr = ":443"
	}
	if !c.isSet("http_listen_addr") {
		c.Listen.HTTP = ":80"
	}
	if len(c.TLS.ACME.Challenges) == 0 {
		switch {
		case c.isSet("tls.acme.dns.provider"):
			c.TLS.ACME.Challenges = []Challenge{DNS01}
		case c.Listen.HTTP == "":
			c.TLS.ACME.Challenges = []Challenge{TLSALPN01}
		default:
			c.TLS.ACME.Challenges = []Challenge{HTTP01, TLSALPN01}
		}
	}
}

// tlsKey names the key that turned TLS on.
func (c checker) tlsKey() string {
	if c.TLS.Automatic() {
		return "acme.email"
	}
	return "cert_file"
}

func (c checker) checkTLS() {
	switch tls := c.TLS; {
	case c.broken("tls.cert_file", "tls.key_file", "tls.acme.email"):
		return
	case tls.CertFile != "" && tls.KeyFile == "":
		c.failf("tls.cert_file", "needs tls.key_file, the private key of the certificate: set both or none")
	case tls.CertFile == "" && tls.KeyFile != "":
		c.failf("tls.key_file", "needs tls.cert_file, the certificate of the key: set both or none")
	case !tls.On() && c.Listen.GRPC != "":
		c.failf("grpc_listen_addr", "needs TLS: set tls.acme.email, or tls.cert_file and tls.key_file, or remove it and use the local socket")
	case !tls.On() && c.Listen.HTTP != "":
		c.failf("http_listen_addr", "is for a server with TLS, and listen_addr speaks plain HTTP here: set tls.acme.email, or tls.cert_file and tls.key_file, or remove it")
	}
	if c.TLS.CertFile != "" && c.TLS.ACME.Email != "" {
		c.warnf("tls.acme has no effect, as tls.cert_file is set: remove one of them")
	}
	if c.TLS.Automatic() {
		c.checkACME()
	}
}

func (c checker) checkACME() {
	const acme, list = "tls.acme.", "tls.acme.challenges"
	host := c.ServerURL.Hostname()
	if _, err := netip.ParseAddr(host); !c.broken("server_url") && c.isSet("server_url") && (err == nil || host == "localhost") {
		c.failf("server_url", "%s is not a name that a certificate can be had for: write the public name of this server", host)
	}
	if c.TLS.ACME.CheckInterval < time.Second && !c.broken(acme+"check_interval") {
		c.failf(acme+"check_interval", "must be at least 1s")
	}
	if c.broken(list) {
		return
	}
	ways := c.TLS.ACME.Challenges
	byDNS := slices.Contains(ways, DNS01)
	switch {
	case byDNS && len(ways) > 1:
		c.failf(list, "dns-01 stands alone: remove the others, or dns-01")
	case slices.Contains(ways, HTTP01) && c.Listen.HTTP == "":
		c.failf(list, "http-01 needs http_listen_addr, where the authority connects to at port 80")
	case byDNS:
		c.checkACMEDNS()
	case c.isSet("tls.acme.dns.provider"):
		c.warnf("tls.acme.dns has no effect, as tls.acme.challenges does not hold dns-01: remove one of them")
	}
	if port := c.ServerURL.Port(); port != "" && port != "443" && !byDNS && !strings.HasSuffix(c.Listen.HTTP, ":80") {
		c.warnf("server_url has port %s: certificate authorities connect to port 443, or to port 80 for http-01, which must lead to this server", port)
	}
}

// ofProvider are the keys of tls.acme.dns that only one provider has.
var ofProvider = map[string]DNSProvider{
	"token": Cloudflare, "access_key_id": Route53, "secret_access_key": Route53,
	"server": RFC2136, "tsig_key_name": RFC2136, "tsig_key": RFC2136, "tsig_algorithm": RFC2136,
}

func (c checker) checkACMEDNS() {
	const dns = "tls.acme.dns."
	at := c.TLS.ACME.DNS
	if c.broken(dns + "provider") {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(ofProvider)) {
		if owner := ofProvider[name]; c.isSet(dns+name) && owner != at.Provider {
			c.failf(dns+name, "is for the provider %s, and tls.acme.dns.provider is %s: remove it, or change that", owner, at.Provider)
		}
	}
	switch at.Provider {
	case RFC2136:
		if (at.Server == "" || at.Zone == "") && !c.broken(dns+"server", dns+"zone") {
			c.failf("tls.acme.challenges", "dns-01 needs tls.acme.dns.server and tls.acme.dns.zone, or another tls.acme.dns.provider")
		}
		if at.KeyName != "" != !at.Key.IsZero() {
			c.failf(dns+"tsig_key_name", "goes with tls.acme.dns.tsig_key: set both or none")
		}
		if _, err := base64.StdEncoding.DecodeString(at.Key.Reveal()); err != nil {
			c.failf(dns+"tsig_key", "is not base64: copy the secret as the name server has it")
		}
	case Cloudflare:
		switch token := at.Token.Reveal(); {
		case token == "" && !c.broken(dns+"token", dns+"token_file"):
			c.failf(dns+"token", "must be set for the provider cloudflare: make an API token with the rights Zone:Read and DNS:Edit at dash.cloudflare.com")
		case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
			c.failf(dns+"token", "is no API token: copy it as Cloudflare shows it, without Bearer before it")
		}
	case Route53:
		if at.AccessKeyID != "" != !at.SecretAccessKey.IsZero() && !c.broken(dns+"secret_access_key", dns+"secret_access_key_file") {
			c.failf(dns+"access_key_id", "goes with tls.acme.dns.secret_access_key: set both, or none to use the environment or the role of this machine")
		}
	}
	if at.Record != "" && at.Zone != "" && !within(at.Record, at.Zone) {
		c.failf(dns+"record", "%s does not lie in tls.acme.dns.zone, %s", at.Record, at.Zone)
	}
}
