package config

import (
	"encoding/base64"
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
		c.TLS.ACME.Challenges = []Challenge{HTTP01, TLSALPN01}
		if c.Listen.HTTP == "" {
			c.TLS.ACME.Challenges = []Challenge{TLSALPN01}
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
	ways, update := c.TLS.ACME.Challenges, c.TLS.ACME.DNS
	switch {
	case slices.Contains(ways, DNS01) && len(ways) > 1:
		c.failf(list, "dns-01 stands alone: remove the others, or dns-01")
	case slices.Contains(ways, DNS01) && (update.Server == "" || update.Zone == ""):
		c.failf(list, "dns-01 needs tls.acme.dns.server and tls.acme.dns.zone")
	case slices.Contains(ways, HTTP01) && c.Listen.HTTP == "":
		c.failf(list, "http-01 needs http_listen_addr, where the authority connects to at port 80")
	}
	if update.Record != "" && !within(update.Record, update.Zone) {
		c.failf(acme+"dns.record", "%s does not lie in tls.acme.dns.zone, %s", update.Record, update.Zone)
	}
	if update.KeyName != "" != !update.Key.IsZero() {
		c.failf(acme+"dns.tsig_key_name", "goes with tls.acme.dns.tsig_key: set both or none")
	}
	if _, err := base64.StdEncoding.DecodeString(update.Key.Reveal()); err != nil {
		c.failf(acme+"dns.tsig_key", "is not base64: copy the secret as the name server has it")
	}
	if port := c.ServerURL.Port(); port != "" && port != "443" && !slices.Contains(ways, DNS01) && !strings.HasSuffix(c.Listen.HTTP, ":80") {
		c.warnf("server_url has port %s: certificate authorities connect to port 443, or to port 80 for http-01, which must lead to this server", port)
	}
}
