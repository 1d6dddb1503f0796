package api

import (
	"context"

	"heddle/control/tailnet"
	v1 "heddle/proto/heddle/v1"
)

// Reloaded is what became of a configuration that was loaded anew.
type Reloaded struct {
	Applied      []string        // keys whose changes are in force
	NeedsRestart []string        // those whose changes wait for a restart
	Failed       []ConfigFailure // if there are any, nothing has changed
}

// ConfigFailure is why a configuration is refused.
type ConfigFailure struct {
	Key    string // "" if none is to blame
	Reason string // for people; holds no secrets
}

type configOf struct {
	*Server
	v1.UnimplementedConfigServiceServer
}

// ReloadConfig is put on record before it is done: nobody can undo it.
func (s configOf) ReloadConfig(ctx context.Context, _ *v1.ReloadConfigRequest) (*v1.ReloadConfigResponse, error) {
	if s.opts.Reload == nil {
		return nil, tailnet.Errorf(tailnet.Unavailable, "this server cannot load its configuration anew: restart it")
	}
	_, err := s.update(ctx, func(tx *tailnet.Tx) error {
		return tx.Record(tailnet.Write(tailnet.AreaSettings), "reload the configuration", "config.reload", "server")
	})
	if err != nil {
		return nil, err
	}
	out, err := s.opts.Reload(ctx)
	if err != nil {
		return nil, err
	}
	resp := &v1.ReloadConfigResponse{Applied: out.Applied, NeedsRestart: out.NeedsRestart}
	for _, f := range out.Failed {
		resp.Failed = append(resp.Failed, &v1.ConfigFailure{Key: f.Key, Reason: f.Reason})
	}
	return resp, nil
}
