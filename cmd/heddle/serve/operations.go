package serve

import (
	"context"
	"time"

	"heddle/api"
	"heddle/cmd/heddle/serve/metrics"
	"heddle/control/oidc"
	"heddle/control/tailnet"
	"heddle/control/webhook"
)

// operations are for those who run the server.
type operations struct {
	metrics *metrics.Metrics
	clock   clock
	hooks   *webhook.Sender
	idp     *oidc.Providers
}

func newOperations() operations { return operations{metrics: metrics.New()} }

// debug is what the API may look at and turn.
func (s *server) debug() api.Debug {
	return api.Debug{Netmap: s.netmap, Level: s.Level, Called: s.metrics.Call}
}

// netmap is what a node would be sent, for `heddle debug netmap`.
func (s *server) netmap(ctx context.Context, id tailnet.NodeID) (*api.Netmap, error) {
	m, err := s.control.Netmap(ctx, id)
	if err != nil {
		return nil, err
	}
	out := &api.Netmap{Connected: m.Connected, CapVer: m.CapVer, Snapshot: m.Snapshot, Sent: m.Sent}
	out.Full.Wire, out.Delta.Wire = m.Full.AppendTo(nil), m.Delta.AppendTo(nil)
	if out.Full.JSON, err = m.Full.Text(m.Plain); err != nil {
		return nil, err
	}
	out.Delta.JSON, err = m.Delta.Text(m.Plain)
	return out, err
}

func (s *server) newHooks() *webhook.Sender {
	return webhook.New(webhook.Options{
		State: s.state, Store: s.db, ServerURL: s.cfg.ServerURL, Allow: s.cfg.Webhooks.AllowedNetworks, Log: s.Log,
	})
}

// delivery tells the API how the receiver of a webhook does.
func (s *server) delivery(id string) api.Delivery { return api.Delivery(s.hooks.Delivery(id)) }

// webhookNumbers are for the metrics.
func (s *server) webhookNumbers() metrics.Webhooks {
	out := metrics.Webhooks{Endpoints: len(s.state.Snapshot().Settings().Webhooks)}
	for _, d := range s.hooks.Deliveries() {
		out.Delivered += d.Delivered
		out.Failed += d.Failed
		if d.Err != "" {
			out.Failing++
		}
	}
	return out
}

// pruneEvery is how often old entries of the audit log are forgotten.
const pruneEvery = time.Hour

// pruneAudit forgets old entries of the audit log until ctx ends.
func (s *server) pruneAudit(ctx context.Context) error {
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	for {
		life := s.config().Audit.Retention
		var gone int64
		var err error
		if life > 0 {
			gone, err = s.db.PruneAudit(ctx, tailnet.Default, time.Now().Add(-life))
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			s.Log.Error("old entries of the audit log cannot be forgotten; will retry", "err", err)
		case gone > 0:
			s.Log.Info("old entries of the audit log are forgotten", "entries", gone, "older_than", life)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
