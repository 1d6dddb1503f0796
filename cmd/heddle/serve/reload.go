package serve

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"heddle/cmd/heddle/config"
	"heddle/cmd/heddle/serve/certs"
)

// reloads loads the configuration anew whenever SIGHUP comes, until ctx ends.
func (s *server) reloads(ctx context.Context) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	inForce := s.cfg
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hup:
		}
		s.tellSystemd(s.Systemd.Reloading())
		inForce = s.reload(inForce)
		s.tellSystemd(s.Systemd.Ready())
	}
}

// reload applies what can change while the server runs, names what needs a restart, and returns
// the configuration that is compared with next time. A configuration with mistakes changes nothing.
func (s *server) reload(inForce *config.Config) *config.Config {
	if s.Load == nil {
		s.Log.Warn("there is nothing to load the configuration anew from")
		return inForce
	}
	cfg, err := s.Load()
	if err != nil {
		s.Log.Error("the configuration is not loaded anew; what was in force stays so", "err", err)
		return inForce
	}
	changed := inForce.Changed(cfg)
	var applied []string
	done := func(keys ...string) {
		for _, k := range keys {
			if i := slices.Index(changed, k); i >= 0 {
				changed = slices.Delete(changed, i, i+1)
				applied = append(applied, k)
			}
		}
	}
	if s.Level != nil && slices.Contains(changed, "log.level") {
		s.Level.Set(cfg.Log.Level)
		done("log.level")
	}
	// The files may have changed although their names have not.
	if files, ok := s.sockets.cert.(*certs.Files); ok && cfg.TLS.CertFile != "" {
		if err := files.Use(cfg.TLS.CertFile, cfg.TLS.KeyFile); err != nil {
			s.Log.Error("the new certificate cannot be used; the old one stays", "file", cfg.TLS.CertFile, "err", err)
			done("tls.cert_file", "tls.key_file") // told of already
			cfg.TLS = inForce.TLS
		}
		done("tls.cert_file", "tls.key_file")
	}
	s.Log.Info("configuration loaded anew", "applied", applied)
	if len(changed) > 0 {
		s.Log.Warn("some changes of the configuration need a restart", "keys", changed)
	}
	return cfg
}

// tellSystemd logs why the service manager could not be told something.
func (s *server) tellSystemd(err error) {
	if err != nil {
		s.Log.Warn("the service manager does not know how we are", "err", err)
	}
}
