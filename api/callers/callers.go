// Package callers owns who calls the admin API, as a tailnet.Actor: whoever may open
// the unix socket, or the holder of an API key over TLS; how often they may call, and how many are
// served at a time.
//
// It refuses to know what they call. It holds no state but counts of calls.
package callers

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os/user"
	"regexp"
	"strings"
	"time"

	"heddle/control/tailnet"
	"heddle/control/tailnet/site"

	"github.com/tailscale/peercred"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// A Caller is who calls and, unless it is a local party, by which key.
type Caller struct {
	tailnet.Actor
	Key tailnet.APIKeyID
}

type contextKey struct{}

// With returns a context of a call by c.
func With(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, contextKey{}, c)
}

// Of returns who makes a call; without one, an actor without rights.
func Of(ctx context.Context) Caller {
	c, _ := ctx.Value(contextKey{}).(Caller)
	return c
}

// A Gate lets remote callers in.
type Gate struct {
	state  *tailnet.State
	now    func() time.Time
	log    *slog.Logger
	failed *limiter[netip.Prefix]
	byKey  *limiter[tailnet.APIKeyID]
	byAddr *limiter[netip.Prefix]

	// asking are the turns of working that those who may only read can have.
	reading, working, asking line
	held                     *semaphore.Weighted // bytes
}

// NewGate makes a gate to a tailnet.
func NewGate(state *tailnet.State, now func() time.Time, log *slog.Logger) *Gate {
	return &Gate{
		state: state, now: now, log: log,
		failed: newLimiter[netip.Prefix](failPace), byAddr: newLimiter[netip.Prefix](addrPace), byKey: newLimiter[tailnet.APIKeyID](keyPace),
		reading: make(line, maxReading), working: make(line, maxBusy), asking: make(line, maxBusy-1),
		held: semaphore.NewWeighted(maxHeld),
	}
}

// socketPeer is who opened a connection to the unix socket.
type socketPeer struct {
	credentials.CommonAuthInfo
	name string
}

func (socketPeer) AuthType() string { return "unix" }

// SocketCreds returns what finds out who is at the other end of a unix socket, for Local.
func SocketCreds(log *slog.Logger) credentials.TransportCredentials { return socketCreds{log} }

// socketCreds finds out who is at the other end of a unix socket. There is no
// handshake and nothing to encrypt.
type socketCreds struct{ log *slog.Logger }

func (c socketCreds) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	p := socketPeer{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		name:           "unknown",
	}
	socket := conn
	if counted, ok := conn.(interface{ NetConn() net.Conn }); ok {
		socket = counted.NetConn()
	}
	creds, err := peercred.Get(socket)
	if err != nil {
		// Whoever could connect is trusted; the name is only for the record.
		c.log.Debug("local admin connection without peer credentials", "err", err)
		return conn, p, nil
	}
	uid, _ := creds.UserID()
	pid, _ := creds.PID()
	p.name = "uid " + uid
	if u, err := user.LookupId(uid); err == nil {
		p.name = u.Username
	}
	c.log.Debug("local admin connected", "uid", uid, "pid", pid, "user", p.name)
	return conn, p, nil
}

func (c socketCreds) ClientHandshake(_ context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return conn, socketPeer{}, nil
}

func (c socketCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix"}
}

func (c socketCreds) Clone() credentials.TransportCredentials { return c }

func (c socketCreds) OverrideServerName(string) error { return nil }

// Local trusts whoever may open the unix socket.
func Local(ctx context.Context) (Caller, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Caller{}, status.Error(codes.Unauthenticated, "no peer")
	}
	local, ok := p.AuthInfo.(socketPeer)
	if !ok {
		return Caller{}, status.Error(codes.Unauthenticated, "not a local connection")
	}
	return Caller{Actor: tailnet.Actor{Kind: tailnet.LocalCLI, Name: local.name}}, nil
}

// touchEvery is how exact the last use of an API key is.
const touchEvery = time.Minute

// Identify tells who makes a request through the public listener, by its API key, and
// counts it. The request is private if its TLS is set or its RemoteAddr is loopback (a proxy
// on the same machine); otherwise no key is good. The error is a gRPC status or the tailnet's.
func (g *Gate) Identify(r *http.Request) (Caller, error) {
	var none Caller
	addr := remoteIP(r.RemoteAddr)
	if err := private(r); err != nil {
		return none, err
	}
	if tellsSecret(r.URL) {
		return none, status.Error(codes.InvalidArgument,
			"a secret does not belong into a URL, which ends up in logs: name the key by its ID or prefix, and consider this one seen by others")
	}
	now := g.now()
	secret, ok := secretOf(r)
	if !ok {
		refusal, _ := g.noKey(addr, now, status.Error(codes.Unauthenticated,
			"this server wants an API key (`authorization: Bearer tskey-api-…`); make one with `heddle apikeys create` on the server"))
		return none, refusal
	}
	key, err := g.state.Snapshot().FindAPIKey(secret, now)
	if err != nil {
		refusal, tell := g.noKey(addr, now, status.Error(codes.Unauthenticated, tailnet.Message(err)))
		if tell {
			g.log.Warn("api key refused", "key", publicPart(secret), "remote", addr, "err", tailnet.Message(err))
		}
		return none, refusal
	}
	if err := g.pace(key, addr, now); err != nil {
		return none, err
	}
	actor := tailnet.Actor{Kind: tailnet.ByAPIKey, Name: key.Public, User: key.Owner, Role: key.Role, Scopes: key.Scopes, Tags: key.Tags, From: addr.String()}
	if err := g.mayRead(actor); err != nil {
		return none, err
	}
	// What is only noted keeps nobody from reading while the writer cannot do its work.
	if now.Sub(key.LastUsed) >= touchEvery && g.state.Trouble() == nil {
		_, err := g.state.Update(r.Context(), tailnet.SystemActor("api"), func(tx *tailnet.Tx) error {
			tx.TouchAPIKey(key.ID)
			return nil
		})
		if err != nil {
			g.log.Debug("the last use of an api key is not noted", "key", key.Public, "err", err)
		}
	}
	return Caller{actor, key.ID}, nil
}

// secretText finds the secrets of keys, of whatever sort.
var secretText = regexp.MustCompile(`tskey-[a-z]+-[0-9A-Za-z]+-[0-9A-Za-z]+`)

// tellsSecret reports whether a URL has a secret in it.
func tellsSecret(u *url.URL) bool {
	query, err := url.QueryUnescape(u.RawQuery)
	if err != nil {
		query = u.RawQuery
	}
	return secretText.MatchString(u.Path) || secretText.MatchString(query)
}

// private refuses requests that others can read.
func private(r *http.Request) error {
	if r.TLS == nil && !remoteIP(r.RemoteAddr).IsLoopback() {
		return status.Error(codes.Unauthenticated,
			"API keys are not accepted over an unencrypted connection: use TLS, and consider this key seen by others")
	}
	return nil
}

// MayTry refuses a request with another secret than an API key if others can read it, or if too many
// wrong ones came from its address.
func (g *Gate) MayTry(r *http.Request) error {
	if err := private(r); err != nil {
		return err
	}
	if !g.failed.allow(site.Of(remoteIP(r.RemoteAddr)), g.now()) {
		return status.Error(codes.ResourceExhausted, "too many wrong secrets from your address: wait a minute")
	}
	return nil
}

// Wrong counts a request whose secret was wrong.
func (g *Gate) Wrong(r *http.Request) { g.failed.add(site.Of(remoteIP(r.RemoteAddr)), g.now()) }

// Pace refuses a request with another secret than an API key, which is right, if others can read it or
// if there are more than a program needs.
func (g *Gate) Pace(r *http.Request, key *tailnet.APIKey) error {
	if err := private(r); err != nil {
		return err
	}
	return g.pace(key, remoteIP(r.RemoteAddr), g.now())
}

// pace refuses what is more than a program needs: no key, and no address, may take
// the CPU from the clients.
func (g *Gate) pace(key *tailnet.APIKey, addr netip.Addr, now time.Time) error {
	from := site.Of(addr)
	if !g.byKey.allow(key.ID, now) {
		return status.Errorf(codes.ResourceExhausted, "too many calls with API key %s: slow down", key.Public)
	}
	if !g.byAddr.allow(from, now) {
		return status.Error(codes.ResourceExhausted, "too many calls from your address: slow down")
	}
	g.byKey.add(key.ID, now)
	g.byAddr.add(from, now)
	return nil
}

// noKey answers a call without a valid API key: with the refusal or, if there were
// too many from that address, without a word about the key. The limit is on guesses alone: who has a
// key is served, whoever else calls from the same address. tell is whether the log should have it.
func (g *Gate) noKey(addr netip.Addr, now time.Time, refusal error) (_ error, tell bool) {
	from := site.Of(addr)
	if !g.failed.allow(from, now) {
		return status.Error(codes.ResourceExhausted, "too many calls without a valid API key from your address: wait a minute"), false
	}
	return refusal, g.failed.add(from, now)
}

// publicPart returns the part of an API key that names it and may be logged;
// "?" for what does not look like a key, and so may be anybody's password.
func publicPart(secret string) string {
	const most = 32
	name, _, ok := strings.Cut(strings.TrimPrefix(secret, apiKeyPrefix), "-")
	if !ok || !strings.HasPrefix(secret, apiKeyPrefix) || name == "" || len(name) > most ||
		strings.Trim(name, "0123456789abcdefghijklmnopqrstuvwxyz") != "" {
		return "?"
	}
	return name
}

// secretOf returns the API key of a request: as a bearer token or, as programs for the hosted service
// send it, as the user name of HTTP's basic authentication. That is no good in what another site
// has a browser send, since browsers remember the name and add it to everything.
func secretOf(r *http.Request) (string, bool) {
	values := r.Header.Values("Authorization")
	var origins http.CrossOriginProtection
	if name, _, ok := r.BasicAuth(); ok && len(values) == 1 && name != "" && origins.Check(r) == nil {
		return name, true
	}
	return bearer(values)
}

// bearer returns the token of an authorization header. Its scheme is
// case-insensitive (RFC 9110 §11.1).
func bearer(values []string) (string, bool) {
	if len(values) != 1 {
		return "", false
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "bearer") {
		return "", false
	}
	token = strings.TrimSpace(token)
	return token, token != ""
}

// Address is where a request came from, for the audit log.
func Address(r *http.Request) string { return remoteIP(r.RemoteAddr).String() }

// remoteIP returns the IP address of an http.Request's RemoteAddr; the invalid
// address if it has none.
func remoteIP(addr string) netip.Addr {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// Known is who Identify said it is, when the request was looked at first; see With.
func Known(ctx context.Context) (Caller, error) {
	c := Of(ctx)
	if c.Kind == "" {
		return c, status.Error(codes.Unauthenticated, "unknown caller")
	}
	return c, nil
}

// mayRead refuses who may not read any area: whose key is good for nothing here.
func (g *Gate) mayRead(a tailnet.Actor) error {
	snap := g.state.Snapshot()
	for _, area := range tailnet.Areas {
		if snap.Can(a, tailnet.Read(area)) {
			return nil
		}
	}
	return tailnet.Errorf(tailnet.Denied, "%s may not use this API: neither its role nor its scopes let it", a)
}

// StillValid refuses a caller whose key does not work any more.
func (g *Gate) StillValid(c Caller) error {
	if c.Key == 0 {
		return nil
	}
	k := g.state.Snapshot().APIKey(c.Key)
	if k == nil || !k.Revoked.IsZero() || !g.now().Before(k.Expires) {
		return status.Errorf(codes.Unauthenticated, "API key %s does not work any more", c.Name)
	}
	return nil
}

// apiKeyPrefix begins every API key.
const apiKeyPrefix = "tskey-api-"
