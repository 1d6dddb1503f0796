package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"heddle/api"
	"heddle/control/tailnet"
)

// health reports on the parts for `heddle health`.
func (s *server) health(ctx context.Context) []api.Part {
	snap, stats := s.state.Snapshot(), s.control.Stats()
	parts := []api.Part{
		part("database", errors.Join(s.db.Ping(ctx), s.state.Trouble()), ""),
		part("policy", s.policyHealth(snap.Policy()), ""),
		part("clients", nil, fmt.Sprintf("%d connected, %d known", stats.Streams, snap.NumNodes())),
		part("listeners", nil, s.listenerHealth()),
	}
	if c := s.sockets.cert; c != nil {
		fine, err := c.Health(time.Now())
		parts = append(parts, part("certificate", err, fine))
	}
	if path := recordsPath(s.config()); path != "" {
		if _, err := s.sockets.files.refused(path); err != nil {
			parts = append(parts, part("dns records", fmt.Errorf("the last edit of %s is not in force: %w", path, err), ""))
		}
	}
	parts = append(parts, s.backupHealth()...)
	for _, p := range s.idp.List() {
		parts = append(parts, part("identity provider "+p.Name, s.idp.Trouble(p.Name), ""))
	}
	if n := s.webhookNumbers(); n.Endpoints > 0 {
		// A receiver that is down is no fault of the server's.
		parts = append(parts, part("webhooks", nil, fmt.Sprintf("%d, of which %d fail at present; see `heddle webhooks list`", n.Endpoints, n.Failing)))
	}
	if s.relay != nil {
		parts = append(parts, part("derp", nil, fmt.Sprintf("%d connections", s.relay.Stats().Connections)))
	}
	if len(snap.DERPMap().Regions) == 0 {
		parts = append(parts, part("derp map", errors.New("no region: clients cannot connect; enable derp.embedded or add derp.files"), ""))
	} else if err := s.sources.Trouble(); err != nil {
		parts = append(parts, part("derp map", fmt.Errorf("what it was made of before stays in force: %w", err), ""))
	}
	fine, err := s.clock.health(time.Now())
	return append(parts, part("clock", err, fine))
}

func part(name string, err error, fine string) api.Part {
	if err != nil {
		return api.Part{Name: name, Message: err.Error()}
	}
	return api.Part{Name: name, OK: true, Message: fine}
}

// listenerHealth tells where the server listens. One that fails ends the server, so there is no
// other news of them.
func (s *server) listenerHealth() string {
	var at []string
	for _, l := range []struct {
		name   string
		socket net.Listener
	}{
		{"public", s.sockets.public}, {"http", s.sockets.http}, {"grpc", s.sockets.grpc},
		{"metrics", s.sockets.metrics}, {"socket", s.sockets.unix},
	} {
		if l.socket != nil {
			at = append(at, l.name+" "+l.socket.Addr().String())
		}
	}
	if s.relay != nil && s.relay.pinned != nil {
		at = append(at, "derp "+s.relay.pinned.Addr().String())
	}
	if s.relay != nil && s.relay.stun != nil {
		at = append(at, "stun "+s.relay.stun.Addr().String())
	}
	return strings.Join(at, ", ")
}

// policyHealth says why the policy is not what it should be; nil if it is.
func (s *server) policyHealth(p *tailnet.Policy) error {
	file := policyPath(s.config())
	_, edit := s.sockets.files.refused(file)
	switch {
	case file != "" && edit != nil:
		return fmt.Errorf("the last edit of %s is refused, the policy before it stays in force: %s", file, firstLine(edit))
	case p.Err != nil:
		return fmt.Errorf("parts of the stored policy are refused by this version and left out, so that less is allowed than it says: %s", firstLine(p.Err))
	}
	return nil
}

// firstLine returns the first of several problems, and how many there are more.
func firstLine(err error) string {
	line, rest, more := strings.Cut(err.Error(), "\n")
	if more {
		line += fmt.Sprintf(" (and %d more; see `heddle policy get`)", 1+strings.Count(rest, "\n"))
	}
	return line
}
