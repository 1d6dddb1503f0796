package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"time"

	v1 "heddle/proto/heddle/v1"

	"tailscale.com/net/stun"
)

const (
	maxRelays   = 8 // that are looked at: a map of others' may have a hundred
	stunTries   = 3
	stunTimeout = time.Second
)

// node is a relay as devices know it.
type node struct {
	host           string
	addrs          []string // literal ones; none: the host is looked up
	port, stunPort int      // zero: none
	own            bool     // heddle's own
	pinned         bool     // its certificate is its own, and devices know it by its hash
}

// relays looks at the relays that devices are told of, and at STUN.
func (e *exam) relays(ctx context.Context) {
	for _, n := range e.nodes(ctx) {
		if n.port > 0 {
			e.relay(ctx, n)
		}
		if n.stunPort > 0 {
			e.stun(ctx, n)
		}
	}
}

// nodes are those of the server's DERP map, or from outside what a server usually has.
func (e *exam) nodes(ctx context.Context) (all []node) {
	if e.cfg == nil {
		p, _ := strconv.Atoi(port(e.url.Scheme, e.url.Port()))
		n := node{host: e.url.Hostname(), port: p, stunPort: 3478, own: true}
		if e.url.Scheme == "http" {
			n.port = 0
		}
		return []node{n}
	}
	ctx, cancel := within(ctx)
	defer cancel()
	conn, err := e.server()
	var resp *v1.GetDERPMapResponse
	if err == nil {
		resp, err = v1.NewDERPServiceClient(conn).GetDERPMap(ctx, &v1.GetDERPMapRequest{})
	}
	if err != nil {
		e.skip("relay", "the server does not answer, and so the relays are not known")
		return nil
	}
	for _, r := range resp.GetRegions() {
		for _, n := range r.GetNodes() {
			own := e.cfg.DERP.Embedded.Enabled && int(r.GetId()) == e.cfg.DERP.Embedded.RegionID
			next := node{host: n.GetHostName(), port: int(n.GetDerpPort()), stunPort: int(n.GetStunPort()), own: own, pinned: own && e.cfg.ServerURL.Scheme == "http"}
			if n.GetStunOnly() {
				next.port = 0
			}
			for _, a := range []string{n.GetIpv4(), n.GetIpv6()} {
				if _, err := netip.ParseAddr(a); err == nil {
					next.addrs = append(next.addrs, a)
				}
			}
			all = append(all, next)
		}
	}
	if len(all) == 0 {
		e.broken("relay", "set derp.embedded.enabled, or derp.files", "there is none: devices that cannot reach each other directly stay apart")
	}
	return all[:min(len(all), maxRelays)]
}

// reachable are the addresses that devices use.
func (n node) reachable(ctx context.Context) []string {
	if len(n.addrs) > 0 {
		return n.addrs
	}
	ctx, cancel := within(ctx)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupHost(ctx, n.host)
	if err != nil {
		return []string{n.host} // whatever comes next tells
	}
	return addrs
}

// relay looks at the relay's certificate at each address, and opens a relay connection.
func (e *exam) relay(ctx context.Context, n node) {
	name := "relay"
	if !n.own {
		name += " " + n.host
	}
	for _, a := range n.reachable(ctx) {
		at := net.JoinHostPort(a, strconv.Itoa(n.port))
		conn, err := reach(ctx, "tcp", at)
		if err != nil {
			e.broken(name, "open the port, or set derp.embedded.derp_port, ipv4 and ipv6 to what devices can reach", "no connection to %s: %s", at, cause(err))
			return
		}
		conn.Close()
		if n.pinned {
			continue
		}
		if _, next, err := e.handshake(ctx, at, n.host); err != nil {
			e.broken(name, next+"; without it devices do not use the relay", "at %s: %s", at, err)
			return
		}
	}
	if n.pinned {
		e.fine(name, "port %d answers; devices know its certificate by its hash", n.port)
		return
	}
	u := url.URL{Scheme: "https", Host: net.JoinHostPort(n.host, strconv.Itoa(n.port)), Path: "/derp"}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		e.broken(name, "", "%v", err)
		return
	}
	req.Header.Set("Upgrade", "DERP")
	req.Header.Set("Connection", "Upgrade")
	conn, resp, err := e.switchTo(ctx, req)
	var refused errRefused
	switch {
	case err == nil:
		conn.Close()
		e.fine(name, "%s:%d relays, and its certificate is right", n.host, n.port)
	case errors.As(err, &refused):
		e.broken(name, proxyDoc, "%s answers GET /derp with %s instead of the upgrade to DERP", between(resp), resp.Status)
	default:
		e.broken(name, proxyDoc, "no answer to GET /derp at %s: %s", u.Host, cause(err))
	}
}

// stun asks at each address which one we have.
func (e *exam) stun(ctx context.Context, n node) {
	name := "stun"
	if !n.own {
		name += " " + n.host
	}
	told := ""
	for _, a := range n.reachable(ctx) {
		at := net.JoinHostPort(a, strconv.Itoa(n.stunPort))
		seen, local, err := askSTUN(ctx, at)
		switch ip, _ := netip.ParseAddr(a); {
		case err != nil && ip.Is6() && !hasIPv6():
			e.skip(name, "this machine has no IPv6, so %s is not tried", at)
		case err != nil && e.cfg == nil:
			e.warn(name, fmt.Sprintf("%d is assumed; if derp.embedded.stun_listen_addr has another port, run heddle doctor on the server; otherwise see that it runs, and that the firewalls on the way let UDP through", n.stunPort),
				"nothing answers STUN at %s", at)
			return
		case err != nil && n.own && e.answersInside(ctx):
			e.broken(name, fmt.Sprintf("open UDP port %d in the firewall (and in that of the hosting provider), or publish it from the container", n.stunPort),
				"UDP is blocked on the way to %s: the server answers on its own machine, but not there", at)
			return
		case err != nil:
			e.broken(name, fmt.Sprintf("see that the server runs, and that UDP port %d is open in the firewalls on the way", n.stunPort), "nothing answers STUN at %s", at)
			return
		case seen.Addr() != local.Addr() && (!local.Addr().IsPrivate() || notPublic(seen.Addr()) && !notPublic(ip)):
			e.broken(name, "let the packets arrive with their source address: in containers use the host's network, or turn the userland proxy off",
				"%s tells us the address %s, but our packets leave from %s: something on the way rewrites them, and devices would learn a wrong address", at, seen.Addr(), local.Addr())
			return
		default:
			told = fmt.Sprintf("%s tells us our address, %s", at, seen.Addr())
		}
	}
	if told != "" {
		e.fine(name, "%s", told)
	}
}

func notPublic(a netip.Addr) bool { return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() }

// answersInside reports whether STUN answers on this machine.
func (e *exam) answersInside(ctx context.Context) bool {
	if e.cfg == nil {
		return false
	}
	host, p, err := net.SplitHostPort(e.cfg.DERP.Embedded.STUNListenAddr)
	if err != nil {
		return false
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	_, _, err = askSTUN(ctx, net.JoinHostPort(host, p))
	return err == nil
}

// askSTUN returns the address that a server sees us come from, and the one that our packets leave from.
func askSTUN(ctx context.Context, at string) (seen, local netip.AddrPort, err error) {
	conn, err := reach(ctx, "udp", at)
	if err != nil {
		return seen, local, err
	}
	defer conn.Close()
	local = conn.LocalAddr().(*net.UDPAddr).AddrPort()
	local = netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
	buf := make([]byte, 1500)
	for range stunTries {
		id := stun.NewTxID()
		if _, err = conn.Write(stun.Request(id)); err != nil {
			continue
		}
		conn.SetReadDeadline(time.Now().Add(stunTimeout))
		var n int
		if n, err = conn.Read(buf); err != nil {
			continue // refused at once, or lost
		}
		got, addr, err := stun.ParseResponse(buf[:n])
		if err == nil && got == id {
			return netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()), local, nil
		}
	}
	if err == nil {
		err = os.ErrDeadlineExceeded
	}
	return seen, local, err
}

// hasIPv6 reports whether packets can leave this machine by IPv6.
func hasIPv6() bool {
	conn, err := net.Dial("udp6", "[2001:db8::1]:9") // sends nothing
	if err == nil {
		conn.Close()
	}
	return err == nil
}
