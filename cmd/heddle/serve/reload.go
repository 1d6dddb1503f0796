package serve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"heddle/api"
	"heddle/cmd/heddle/config"
	"heddle/cmd/heddle/serve/certs"
	"heddle/control/tailnet"
)

// inForce is the configuration that is in force. Keys that need a restart have what they had at the
// start in it.
type inForce struct {
	cfg atomic.Pointer[config.Config]
	// turn holds one while the configuration, or what stands in the files that it names, is taken over: it
	// is not known before which of two such changes is the newer one.
	turn chan struct{}
}

func newInForce(cfg *config.Config) *inForce {
	f := &inForce{turn: make(chan struct{}, 1)}
	f.cfg.Store(cfg)
	return f
}

// begin waits for the turn to take something over; end ends it.
func (f *inForce) begin(ctx context.Context) (end func(), err error) {
	select {
	case f.turn <- struct{}{}:
		return func() { <-f.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// config is the configuration in force.
func (s *server) config() *config.Config { return s.inForce.cfg.Load() }

// reloads loads the configuration anew whenever SIGHUP comes, until ctx ends.
func (s *server) reloads(ctx context.Context) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hup:
		}
		if _, err := s.reload(ctx); err != nil {
			return nil // ctx has ended
		}
	}
}

// reload loads the configuration anew and tells the log and the service manager. The error is ctx's,
// which has ended before its turn.
func (s *server) reload(ctx context.Context) (*api.Reloaded, error) {
	end, err := s.inForce.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	s.tellSystemd(s.Systemd.Reloading())
	out := s.takeOver(ctx)
	for _, f := range out.Failed {
		s.Log.Error("the configuration is not loaded anew; what was in force stays so", "key", f.Key, "reason", f.Reason)
	}
	if len(out.Failed) == 0 {
		s.Log.Info("configuration loaded anew", "applied", out.Applied)
	}
	if len(out.NeedsRestart) > 0 {
		s.Log.Warn("some changes of the configuration need a restart", "keys", out.NeedsRestart)
	}
	s.tellSystemd(s.Systemd.Ready())
	return out, nil
}

// tellSystemd logs why the service manager could not be told something.
func (s *server) tellSystemd(err error) {
	if err != nil {
		s.Log.Warn("the service manager does not know how we are", "err", err)
	}
}

// livePart is what goes by some keys of the configuration, and can go by other values of them.
type livePart struct {
	keys []string
	// prepare finds out what there is to do to go by a configuration, and whether that is possible. Nothing
	// changes yet. Nil: the part looks at the configuration in force whenever it needs it.
	prepare func(context.Context, *config.Config) (change, error)
}

// change is what a part has to do. Nil functions are nothing to do.
type change struct {
	state func(*tailnet.Tx) error // in one update with the others', so that they happen together or not at all
	take  func()                  // after that; it cannot fail
	waits bool                    // for a restart, as this very change cannot be made

	keys  []string // of the part
	blame string   // the key that is wrong, if something is; "" is the first
}

// parts are all that can change while the server runs. A test compares them with the marks of the keys.
func (s *server) parts() []livePart {
	return []livePart{
		{[]string{"log.level"}, s.prepareLevel},
		{[]string{"audit.retention"}, nil},
		{[]string{"trusted_proxies"}, s.prepareProxies},
		{[]string{"tls.cert_file", "tls.key_file"}, s.prepareCertificate},
		{[]string{"derp.files", "derp.urls", "derp.update_interval"}, s.prepareSources},
		{[]string{
			"dns.extra_records", "dns.magic_dns", "dns.nameservers.global", "dns.nameservers.split",
			"dns.override_local_dns", "dns.search_domains",
		}, s.preparePins},
		{[]string{"dns.extra_records_path"}, s.prepareRecords},
		{[]string{"policy.path"}, s.preparePolicy},
		{[]string{"oidc.owners"}, prepareOwners},
		{[]string{"oidc.providers"}, s.prepareProviders},
	}
}

// maxPrepares bounds how often all is prepared anew because users or devices have changed meanwhile.
const maxPrepares = 4

// takeOver loads the configuration and puts in force what can be. If anything is wrong nothing changes.
func (s *server) takeOver(ctx context.Context) *api.Reloaded {
	if s.Load == nil {
		return &api.Reloaded{Failed: refusals("", errors.New("there is nothing to load it anew from"))}
	}
	cfg, err := s.Load()
	if err != nil {
		return &api.Reloaded{Failed: refusals("", err)}
	}
	for n := 1; ; n++ {
		changes, failed := s.prepareParts(ctx, cfg)
		if failed != nil {
			return &api.Reloaded{Failed: failed}
		}
		switch blame, err := s.changeState(ctx, changes); {
		case err == nil:
			return s.putInForce(cfg, changes)
		case n == maxPrepares || !errors.Is(err, tailnet.ErrStale):
			return &api.Reloaded{Failed: refusals(blame, err)}
		}
	}
}

// prepareParts prepares all parts and returns why some cannot go by the configuration.
func (s *server) prepareParts(ctx context.Context, cfg *config.Config) (changes []change, failed []api.ConfigFailure) {
	for _, p := range s.parts() {
		var c change
		var err error
		if p.prepare != nil {
			c, err = p.prepare(ctx, cfg)
		}
		c.keys, c.blame = p.keys, cmp.Or(c.blame, p.keys[0])
		if err != nil {
			failed = append(failed, refusals(c.blame, err)...)
		}
		changes = append(changes, c)
	}
	return changes, failed
}

// changeState makes one update of all that changes the tailnet. It returns the key to blame for an error, if one is.
func (s *server) changeState(ctx context.Context, changes []change) (blame string, err error) {
	err = s.update(ctx, "config", func(tx *tailnet.Tx) error {
		for _, c := range changes {
			if c.state == nil {
				continue
			}
			if err := c.state(tx); err != nil {
				blame = c.blame
				return err
			}
		}
		blame = ""
		return nil
	})
	return blame, err
}

// putInForce does what cannot fail, and tells what is in force now and what is not.
func (s *server) putInForce(cfg *config.Config, changes []change) *api.Reloaded {
	was, out, able := s.config(), &api.Reloaded{}, []string(nil)
	for _, c := range changes {
		if c.take != nil {
			c.take()
		}
		if !c.waits {
			able = append(able, c.keys...)
		}
	}
	for _, key := range was.Changed(cfg) {
		if slices.Contains(able, key) {
			out.Applied = append(out.Applied, key)
		} else {
			out.NeedsRestart = append(out.NeedsRestart, key)
		}
	}
	cfg.Keep(was, out.NeedsRestart...)
	s.inForce.cfg.Store(cfg)
	s.warn(cfg)
	return out
}

// refusals says what is wrong: with a key, unless the error names some itself.
func refusals(key string, err error) (out []api.ConfigFailure) {
	var all config.Errors
	if !errors.As(err, &all) {
		return []api.ConfigFailure{{Key: key, Reason: err.Error()}}
	}
	for _, p := range all {
		out = append(out, api.ConfigFailure{Key: p.Key, Reason: p.Reason()})
	}
	return out
}

// prepareLevel also ends what `heddle debug log-level` has set.
func (s *server) prepareLevel(_ context.Context, cfg *config.Config) (change, error) {
	if s.Level == nil {
		return change{waits: true}, nil
	}
	return change{take: func() { s.Level.Set(cfg.Log.Level) }}, nil
}

// prepareCertificate reads the files, which may have changed although their names have not.
func (s *server) prepareCertificate(_ context.Context, cfg *config.Config) (change, error) {
	files, ok := s.sockets.cert.(*certs.Files)
	// The certificate of another server_url would not do for clients that know this one.
	if !ok || cfg.TLS.CertFile == "" || cfg.ServerURL.String() != s.cfg.ServerURL.String() {
		return change{waits: true}, nil
	}
	use, err := files.Try(cfg.TLS.CertFile, cfg.TLS.KeyFile)
	if err != nil {
		err = fmt.Errorf("%s and %s cannot be used: %s", cfg.TLS.CertFile, cfg.TLS.KeyFile, strings.TrimPrefix(err.Error(), "tls: "))
	}
	return change{take: use}, err
}

// prepareProxies has nothing to do: who is trusted is looked up for each request. But without TLS the listeners speak
// HTTP/2 only if there were some at the start.
func (s *server) prepareProxies(_ context.Context, cfg *config.Config) (change, error) {
	return change{waits: len(s.cfg.TrustedProxies) == 0 && len(cfg.TrustedProxies) > 0}, nil
}

// preparePins lays what the configuration fixes of DNS over the tailnet's own settings.
func (s *server) preparePins(_ context.Context, cfg *config.Config) (change, error) {
	pins := s.pins(cfg)
	return change{state: func(tx *tailnet.Tx) error { return tx.SetDNSPins(pins) }}, nil
}
