package control

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"heddle/control/noise"
	"heddle/control/tailnet"

	"github.com/go-chi/chi/v5"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// sideRoutes are the paths for single features. What heddle does not have says
// so, in words that the client's command line shows.
func (s *Server) sideRoutes(r chi.Router) {
	r.Post("/machine/set-dns", endpoint(s, s.setDNS))
	r.Post("/machine/feature/query", endpoint(s, s.queryFeature))
	r.Post("/machine/audit-log", endpoint(s, s.auditLog))
	r.Post("/machine/update-health", endpoint(s, s.updateHealth))
	r.Get("/machine/whoami", s.whoAmI)

	r.Post("/machine/id-token", endpoint(s, s.idToken))
	r.Patch("/machine/set-device-attr", endpoint(s, s.setDeviceAttr))
	r.Post("/machine/webclient/*", missing("the login check of the device web interface"))
	// Clients send GET with a body to these.
	r.HandleFunc("/machine/tka/*", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "tailnet lock is not enabled on this server", http.StatusNotImplemented)
	})
}

// missing answers for a feature that heddle does not have.
func missing(what string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "this server (heddle) does not have "+what, http.StatusNotImplemented)
	}
}

// own returns the node that a side request comes from; its login must be valid, and approved.
func (s *Server) own(c *call, k key.NodePublic) (*tailnet.Node, error) {
	n, err := c.node(k)
	if err != nil {
		return nil, err
	}
	if s.expired(n) {
		return nil, tailnet.Errorf(tailnet.Denied, "this device's login has expired; log in again with `tailscale up`")
	}
	if n.Pending {
		return nil, tailnet.Errorf(tailnet.Denied, "this device waits for an administrator's approval; `heddle nodes approve %s` gives it", n.Name)
	}
	return n, nil
}

// setDNS serves `tailscale cert`: a device wants a TXT record published that
// proves to a certificate authority that it owns its name.
func (s *Server) setDNS(ctx context.Context, c *call, req *tailcfg.SetDNSRequest) error {
	n, err := s.own(c, req.NodeKey)
	if err != nil {
		return err
	}
	name := c.snap.FQDN(n)
	if want := "_acme-challenge." + name[:len(name)-1]; req.Name != want || req.Type != "TXT" {
		return tailnet.Errorf(tailnet.Denied, "a device may only publish the TXT record %s", want)
	}
	http.Error(c.w, "this server (heddle) does not publish DNS records, so it cannot help to get certificates", http.StatusNotImplemented)
	return nil
}

// queryFeature serves `tailscale serve` and `tailscale funnel`, which ask what is still to be
// enabled.
func (s *Server) queryFeature(ctx context.Context, c *call, req *tailcfg.QueryFeatureRequest) error {
	if _, err := s.own(c, req.NodeKey); err != nil {
		return err
	}
	text := map[string]string{
		"serve":  "HTTPS certificates are not available on this server (heddle). `tailscale serve --http` and `--tcp` work without.",
		"funnel": "Funnel is not available on this server (heddle).",
	}[req.Feature]
	if text == "" {
		text = fmt.Sprintf("This server (heddle) does not know the feature %.40q.", req.Feature)
	}
	writeJSON(c.w, tailcfg.QueryFeatureResponse{Text: text})
	return nil
}

// auditLog keeps what a client must report, such as the reason why its person disconnected it
// although the device's management forbids that.
func (s *Server) auditLog(ctx context.Context, c *call, req *tailcfg.AuditLogRequest) error {
	n, err := s.own(c, req.NodeKey)
	if err != nil {
		return err
	}
	if !s.throttle.reports.allow(c.machine) {
		return errTooOften // the client keeps it and tries again
	}
	_, err = s.state.Update(ctx, c.actor(), func(tx *tailnet.Tx) error {
		return tx.ClientReport(n.ID, string(req.Action), req.Details)
	})
	if err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusOK)
	return nil
}

// setDeviceAttr serves clients that set posture attributes of their own device.
func (s *Server) setDeviceAttr(ctx context.Context, c *call, req *tailcfg.SetDeviceAttributesRequest) error {
	n, err := s.own(c, req.NodeKey)
	if err != nil {
		return err
	}
	_, err = s.state.Update(ctx, c.actor(), func(tx *tailnet.Tx) error {
		before := tx.Snapshot().Node(n.ID)
		err := tx.SetOwnAttributes(n.ID, req.Update)
		if err == nil && tx.Snapshot().Node(n.ID) != before && !s.throttle.reports.allow(c.machine) {
			return errTooOften
		}
		return err
	})
	if err != nil {
		return err
	}
	writeJSON(c.w, struct{}{})
	return nil
}

// updateHealth serves clients up to v1.88, which ignore the answer.
func (s *Server) updateHealth(ctx context.Context, c *call, req *tailcfg.HealthChangeRequest) error {
	if _, err := s.own(c, req.NodeKey); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// whoAmI serves `tailscale debug ts2021`.
func (s *Server) whoAmI(w http.ResponseWriter, r *http.Request) {
	conn := noise.FromContext(r.Context())
	io.WriteString(w, "machine key "+conn.Peer().String()+"\n")
	for _, n := range s.state.Snapshot().NodesByMachine(conn.Peer()) {
		fmt.Fprintf(w, "node %d (%s)\n", n.ID, n.Name)
	}
}

// maxAudience bounds the audience of an identity token; they are URLs and short names.
const maxAudience = 1024

// idToken serves `tailscale id-token`: a statement of who the device is, for others.
func (s *Server) idToken(ctx context.Context, c *call, req *tailcfg.TokenRequest) error {
	if s.tokens == nil {
		return tailnet.Errorf(tailnet.NotFound, "this server makes no identity tokens")
	}
	n, err := s.own(c, req.NodeKey)
	switch {
	case err != nil:
		return err
	case req.Audience == "" || len(req.Audience) > maxAudience:
		return tailnet.Errorf(tailnet.Invalid, "an identity token needs an audience of at most %d bytes: for whom it is", maxAudience)
	case !s.throttle.tokens.allow(c.machine):
		return errTooOften
	}
	token, err := s.tokens.Sign(c.snap, n, req.Audience)
	if err != nil {
		return err
	}
	s.log.Info("identity token given", "node", n.Name, "audience", req.Audience)
	writeJSON(c.w, tailcfg.TokenResponse{IDToken: token})
	return nil
}
