package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

const (
	soon     = 14 * 24 * time.Hour // before a certificate's end: renewals come earlier than that
	skew     = 30 * time.Second    // of two clocks, the way between them included
	proxyDoc = "see docs/reverse-proxy.md for a configuration that works"

	mendCertificate = "mend what it says, and heddle goes on by itself; docs/tls.md has what authorities need"
)

// outside goes the way of a device.
func (e *exam) outside(ctx context.Context) {
	if ip, err := netip.ParseAddr(e.url.Hostname()); e.cfg != nil && (e.url.Hostname() == "localhost" || err == nil && ip.IsLoopback()) {
		e.warn("server_url", "set server_url to the URL that devices elsewhere can use", "%s works on this machine alone", e.url)
	}
	addrs := e.dns(ctx)
	if len(addrs) == 0 {
		return
	}
	if addrs = e.port(ctx, addrs); len(addrs) == 0 {
		return
	}
	e.certificate(ctx, addrs)
	control := e.controlKey(ctx)
	if !control.IsZero() {
		e.upgrade(ctx, control)
		e.webSocket(ctx, control)
	}
	if e.url.Scheme == "https" {
		e.plainPort(ctx, addrs[0])
	}
	e.relays(ctx)
}

// dns looks up the server's name.
func (e *exam) dns(ctx context.Context) []netip.Addr {
	const name = "dns"
	host := e.url.Hostname()
	if ip, err := netip.ParseAddr(host); err == nil {
		e.fine(name, "%s is an address", host)
		return []netip.Addr{ip}
	}
	ctx, cancel := within(ctx)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		e.broken(name, "make an A record (and AAAA, if the server has IPv6) for "+host+" with the server's public address", "%s cannot be looked up: %s", host, cause(err))
		return nil
	}
	var texts []string
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
		texts = append(texts, addrs[i].String())
	}
	all := strings.Join(texts, ", ")
	for _, a := range addrs {
		if cgnat := netip.MustParsePrefix("100.64.0.0/10"); cgnat.Contains(a) || netip.MustParsePrefix("fd7a:115c:a1e0::/48").Contains(a) {
			e.broken(name, "let "+host+" lead to the server's public address", "%s leads to %s, an address inside the tailnet: devices would need the tailnet to reach the server of the tailnet", host, a)
			return addrs
		}
		if (a.IsPrivate() || a.IsLoopback()) && host != "localhost" {
			e.warn(name, "if devices elsewhere are to log in, let "+host+" lead to the public address", "%s leads to %s, which only this network reaches", host, a)
			return addrs
		}
	}
	e.fine(name, "%s leads to %s", host, all)
	return addrs
}

// port is the server's, as text.
func port(scheme, port string) string {
	switch {
	case port != "":
		return port
	case scheme == "https":
		return "443"
	}
	return "80"
}

// port connects to all addresses and returns those at which something answers.
func (e *exam) port(ctx context.Context, addrs []netip.Addr) (good []netip.Addr) {
	const name = "port"
	p := port(e.url.Scheme, e.url.Port())
	orOther := ", or take the address out of DNS"
	if _, err := netip.ParseAddr(e.url.Hostname()); err == nil || e.url.Hostname() == "localhost" {
		orOther = "" // DNS has no part in it
	}
	for _, a := range addrs {
		at := net.JoinHostPort(a.String(), p)
		conn, err := reach(ctx, "tcp", at)
		switch {
		case err == nil:
			conn.Close()
			good = append(good, a)
		case a.Is6() && errors.Is(err, syscall.ENETUNREACH):
			e.skip(name, "this machine has no IPv6, so %s is not tried", at)
		case errors.Is(err, syscall.ECONNREFUSED):
			e.broken(name, "see that heddle or the proxy runs and listens there"+orOther, "nothing listens at %s", at)
		default:
			e.broken(name, "open the port in the firewall (and in that of the hosting provider)"+orOther, "no connection to %s: %s", at, cause(err))
		}
	}
	if len(good) == len(addrs) {
		e.fine(name, "port %s answers at all addresses", p)
	}
	return good
}

func reach(ctx context.Context, network, addr string) (net.Conn, error) {
	return (&net.Dialer{Timeout: patience}).DialContext(ctx, network, addr)
}

// certificate looks at what is shown at each address.
func (e *exam) certificate(ctx context.Context, addrs []netip.Addr) {
	const name = "certificate"
	if e.url.Scheme != "https" {
		e.warn(name, "set tls.acme.email and an https server_url, or put a reverse proxy with TLS in front", "%s is plain HTTP: login pages and admin keys can be read on the way", e.url)
		return
	}
	var until time.Time
	for _, a := range addrs {
		leaf, next, err := e.handshake(ctx, net.JoinHostPort(a.String(), port("https", e.url.Port())), e.url.Hostname())
		if err != nil {
			e.broken(name, next, "at %s: %s", a, err)
			e.distrusted = true
			return
		}
		if until.IsZero() || leaf.NotAfter.Before(until) {
			until = leaf.NotAfter
		}
	}
	if left := until.Sub(e.now()); left < soon && left < 30*24*time.Hour/3 && e.cfg != nil && !e.cfg.TLS.Automatic() {
		e.warn(name, "see that whatever renews it works", "it is valid for %s, but only until %s", e.url.Hostname(), until.Format(time.RFC3339))
		return
	}
	e.fine(name, "valid for %s until %s", e.url.Hostname(), until.Format(time.RFC3339))
}

// handshake makes a TLS connection and says what is wrong with the certificate, and what to do.
func (e *exam) handshake(ctx context.Context, addr, host string) (leaf *x509.Certificate, next string, err error) {
	ctx, cancel := within(ctx)
	defer cancel()
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: e.roots, ServerName: host}}).DialContext(ctx, "tcp", addr)
	if err == nil {
		defer conn.Close()
		return conn.(*tls.Conn).ConnectionState().PeerCertificates[0], "", nil
	}
	var (
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
		plain   tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &name):
		return nil, "get a certificate for " + host, fmt.Errorf("the certificate is for %s, not for %s", strings.Join(name.Certificate.DNSNames, ", "), host)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return nil, "renew it, and see why that did not happen by itself; or set the clock", fmt.Errorf("the certificate has expired or is not valid yet: %v", invalid)
	case errors.As(err, &unknown):
		return nil, "let the server send the whole chain (fullchain.pem); if it is of an authority of your own, devices need its root, and this command --ca-file", errors.New("nobody known here has signed the certificate")
	case errors.As(err, &plain):
		return nil, "let server_url begin with http://, or turn TLS on (tls.acme.email)", errors.New("what answers does not speak TLS")
	}
	if e.ailing != "" && host == e.url.Hostname() {
		return nil, mendCertificate, fmt.Errorf("the TLS handshake fails, and heddle says why it has no good certificate: %s", e.ailing)
	}
	return nil, "look at the log of heddle or of the proxy: there may be no certificate yet", fmt.Errorf("the TLS handshake fails: %s", cause(err))
}

// client talks HTTP/1.1 to the server, as devices do.
func (e *exam) client() *http.Client {
	return &http.Client{
		Timeout: patience,
		Transport: &http.Transport{
			TLSClientConfig: e.tls(), TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}, DisableKeepAlives: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (e *exam) tls() *tls.Config {
	return &tls.Config{RootCAs: e.roots, ServerName: e.url.Hostname(), InsecureSkipVerify: e.distrusted}
}

// controlKey asks for what a device asks for first; zero if there is no answer to go on with.
func (e *exam) controlKey(ctx context.Context) (k key.MachinePublic) {
	const name = "answer"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/key?v=%d", e.url, tailcfg.CurrentCapabilityVersion), nil)
	if err != nil {
		e.broken(name, "", "%v", err)
		return k
	}
	resp, err := e.client().Do(req)
	if err != nil {
		e.broken(name, "look at the logs of heddle and of the proxy", "no answer to GET /key: %s", cause(err))
		return k
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var keys tailcfg.OverTLSPublicKeyResponse
	if resp.StatusCode != http.StatusOK || json.Unmarshal(body, &keys) != nil || keys.PublicKey.IsZero() {
		e.broken(name, "see that the proxy sends all paths of this host to heddle; "+proxyDoc, "%s answers GET /key with %s: that is not heddle", between(resp), resp.Status)
		return k
	}
	e.fine(name, "heddle answers at %s", e.url)
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		if off := date.Sub(e.now()); off.Abs() > skew {
			e.broken("clocks", "set both by NTP", "the server's clock and the one here differ by %v", off.Round(time.Second))
		} else if e.cfg == nil {
			e.fine("clocks", "the server's and the one here agree")
		}
	}
	return keys.PublicKey
}

// plainPort looks at port 80, which devices try first.
func (e *exam) plainPort(ctx context.Context, addr netip.Addr) {
	const name = "port 80"
	at := net.JoinHostPort(addr.String(), "80")
	conn, err := reach(ctx, "tcp", at)
	switch {
	case err == nil:
		conn.Close()
		e.fine(name, "it answers")
	case errors.Is(err, syscall.ECONNREFUSED):
		e.fine(name, "it refuses at once, and devices go on to port %s", port("https", e.url.Port()))
	default:
		e.warn(name, "let heddle listen there (http_listen_addr: :80), or let the firewall refuse instead of drop", "nothing at all answers at %s: each connection of a device waits half a second for it", at)
	}
}

// between names what stands before heddle, by what it says of itself.
func between(resp *http.Response) string {
	said := strings.ToLower(resp.Header.Get("Server") + " " + resp.Header.Get("Via"))
	known := []struct{ token, name string }{
		{"cloudflare", "Cloudflare"}, {"nginx", "nginx"}, {"openresty", "nginx"}, {"caddy", "Caddy"}, {"haproxy", "HAProxy"},
		{"apache", "Apache"}, {"envoy", "Envoy"}, {"traefik", "Traefik"}, {"varnish", "Varnish"}, {"cloudfront", "CloudFront"}, {"awselb", "an AWS load balancer"},
	}
	if i := slices.IndexFunc(known, func(k struct{ token, name string }) bool { return strings.Contains(said, k.token) }); i >= 0 {
		return known[i].name
	}
	if s := strings.TrimSpace(said); s != "" {
		return fmt.Sprintf("%.40q", s)
	}
	return "a proxy that does not tell its name"
}

// cause is what the system said, without the names of calls.
func cause(err error) string {
	var op *net.OpError
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return dns.Err
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &op) && op.Timeout():
		return "no answer in time"
	case errors.As(err, &op):
		return op.Err.Error()
	}
	return err.Error()
}
