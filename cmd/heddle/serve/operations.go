package serve

import (
	"context"

	"heddle/api"
	"heddle/cmd/heddle/serve/metrics"
	"heddle/control/tailnet"
)

// operations are for those who run the server.
type operations struct {
	metrics *metrics.Metrics
	clock   clock
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
