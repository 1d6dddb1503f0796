package api

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os/user"
	"strings"
	"time"

	"heddle/control/tailnet"

	"github.com/tailscale/peercred"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// An identifier tells who makes a call.
type identifier func(context.Context) (caller, error)

// socketPeer is who opened a connection to the unix socket.
type socketPeer struct {
	credentials.CommonAuthInfo
	name string
}

func (socketPeer) AuthType() string { return "unix" }

// socketCreds finds out who is at the other end of a unix socket. There is no
// handshake and nothing to encrypt.
type socketCreds struct{ log *slog.Logger }

func (c socketCreds) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	p := socketPeer{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		name:           "unknown",
	}
	creds, err := peercred.Get(conn)
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

// localActor trusts whoever may open the unix socket.
func localActor(ctx context.Context) (caller, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return caller{}, status.Error(codes.Unauthenticated, "no peer")
	}
	local, ok := p.AuthInfo.(socketPeer)
	if !ok {
		return caller{}, status.Error(codes.Unauthenticated, "not a local connection")
	}
	return caller{Actor: tailnet.Actor{Kind: tailnet.LocalCLI, Name: local.name}}, nil
}

// touchEvery is how exact the last use of an API key is.
const touchEvery = time.Minute

// remoteActor tells who makes a request through the public listener, by its
// API key, and counts it.
func (s *Server) remoteActor(r *http.Request) (caller, error) {
	var none caller
	addr := remoteIP(r.RemoteAddr)
	if r.TLS == nil && !addr.IsLoopback() {
		return none, status.Error(codes.Unauthenticated,
			"API keys are not accepted over an unencrypted connection: use TLS, and consider this key seen by others")
	}
	now := s.opts.Now()
	secret, ok := bearer(r.Header.Values("Authorization"))
	if !ok {
		refusal, _ := s.noKey(addr, now, status.Error(codes.Unauthenticated,
			"this server wants an API key (`authorization: Bearer tskey-api-…`); make one with `heddle apikeys create` on the server"))
		return none, refusal
	}
	key, err := s.snapshot().FindAPIKey(secret, now)
	if err != nil {
		refusal, tell := s.noKey(addr, now, status.Error(codes.Unauthenticated, tailnet.Message(err)))
		if tell {
			s.log.Warn("api key refused", "key", publicPart(secret), "remote", addr, "err", tailnet.Message(err))
		}
		return none, refusal
	}
	if err := s.pace(key, addr, now); err != nil {
		return none, err
	}
	actor := tailnet.Actor{Kind: tailnet.ByAPIKey, Name: key.Public, User: key.Owner, Role: key.Role, Scopes: key.Scopes, Tags: key.Tags, From: addr.String()}
	if err := s.mayRead(actor); err != nil {
		return none, err
	}
	if now.Sub(key.LastUsed) >= touchEvery {
		_, err = s.opts.State.Update(r.Context(), tailnet.SystemActor("api"), func(tx *tailnet.Tx) error {
			tx.TouchAPIKey(key.ID)
			return nil
		})
	}
	return caller{actor, key.ID}, err
}

// pace refuses what is more than a program needs: no key, and no address, may take
// the CPU from the clients.
func (s *Server) pace(key *tailnet.APIKey, addr netip.Addr, now time.Time) error {
	addr = site(addr)
	if !s.byKey.allow(key.ID, now) {
		return status.Errorf(codes.ResourceExhausted, "too many calls with API key %s: slow down", key.Public)
	}
	if !s.byAddr.allow(addr, now) {
		return status.Error(codes.ResourceExhausted, "too many calls from your address: slow down")
	}
	s.byKey.add(key.ID, now)
	s.byAddr.add(addr, now)
	return nil
}

// noKey answers a call without a valid API key: with the refusal or, if there were
// too many from that address, without a word about the key. The limit is on guesses alone: who has a
// key is served, whoever else calls from the same address. tell is whether the log should have it.
func (s *Server) noKey(addr netip.Addr, now time.Time, refusal error) (_ error, tell bool) {
	addr = site(addr)
	if !s.failed.allow(addr, now) {
		return status.Error(codes.ResourceExhausted, "too many calls without a valid API key from your address: wait a minute"), false
	}
	return refusal, s.failed.add(addr, now)
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

// remoteIP returns the IP address of an http.Request's RemoteAddr; the invalid
// address if it has none.
func remoteIP(addr string) netip.Addr {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// knownActor finds what Handler found out before grpc saw the request.
func knownActor(ctx context.Context) (caller, error) {
	a := callerOf(ctx)
	if a.Kind == "" {
		return a, status.Error(codes.Unauthenticated, "unknown caller")
	}
	return a, nil
}
