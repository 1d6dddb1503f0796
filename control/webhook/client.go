package webhook

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// SignatureHeader is the header with the signature, as the hosted service calls it.
const SignatureHeader = "Tailscale-Webhook-Signature"

// maxAnswer bounds what is read of an answer, so that its connection can be used again.
const maxAnswer = 4 << 10

// Sign returns the signature of a body that is sent at a time: "t=UNIX,v1=HEX", where HEX is the HMAC-SHA256
// of the time, a dot and the body.
func Sign(secret string, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(t + "."))
	mac.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}

// errPrivate is the refusal to talk to an address that is not public.
type errPrivate struct{ addr netip.Addr }

func (e errPrivate) Error() string {
	return fmt.Sprintf("its address %s is not public; if it is meant, add its network to webhooks.allowed_networks in the server's configuration", e.addr)
}

// newClient makes a client that cannot be used to reach what is not meant for it: only addresses
// that are public or allowed, checked after the name was looked up, for each connection; no redirects; no
// proxy; bounded in time and size.
func newClient(allow []netip.Prefix) *http.Client {
	dialer := &net.Dialer{
		Timeout: 10 * time.Second,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			if ip := ap.Addr().Unmap().WithZone(""); !reachable(ip, allow) {
				return errPrivate{ip}
			}
			return nil
		},
	}
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            dialer.DialContext,
			ForceAttemptHTTP2:      true,
			TLSHandshakeTimeout:    10 * time.Second,
			ResponseHeaderTimeout:  10 * time.Second,
			MaxResponseHeaderBytes: 16 << 10,
			MaxIdleConns:           32,
			MaxIdleConnsPerHost:    1,
			IdleConnTimeout:        90 * time.Second,
		},
	}
}

// special are networks that are not public although they look so: shared address space, in which tailnets
// and the metadata services of some clouds are; protocol assignments; benchmarks; what stands for
// IPv4 addresses in IPv6.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("2001::/32"),
}

// reachable reports whether events may be sent to an address.
func reachable(ip netip.Addr, allow []netip.Prefix) bool {
	in := func(p netip.Prefix) bool { return p.Contains(ip) }
	return slices.ContainsFunc(allow, in) ||
		ip.IsGlobalUnicast() && !ip.IsPrivate() && !slices.ContainsFunc(special, in)
}

// explain says why an attempt failed, without the URL, whose path may be a secret.
func explain(err error) string {
	var private errPrivate
	var call *url.Error
	var dns *net.DNSError
	switch {
	case errors.As(err, &private):
		return private.Error()
	case errors.As(err, &dns) && dns.IsNotFound:
		return "there is no host " + dns.Name
	case errors.As(err, &dns):
		return fmt.Sprintf("the name %s could not be looked up: %s", dns.Name, dns.Err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("it did not answer within %v", attemptTime)
	case errors.As(err, &call):
		return call.Err.Error()
	}
	return err.Error()
}
