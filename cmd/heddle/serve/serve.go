package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"heddle/api"
	"heddle/cmd/heddle/archive"
	"heddle/cmd/heddle/config"
	"heddle/cmd/heddle/serve/systemd"
	"heddle/control"
	"heddle/control/idtoken"
	"heddle/control/netmap"
	"heddle/control/tailnet"
	"heddle/db"
	"heddle/derp"

	"golang.org/x/sync/errgroup"
)

// stopLimit bounds a graceful stop. What has not ended by then ends with the
// process: everything that was acknowledged is in the database already.
const stopLimit = 9 * time.Second

// Options are what Run needs besides the config.
type Options struct {
	Config  *config.Config
	Version api.Version
	Log     *slog.Logger
	Level   *slog.LevelVar // of Log; nil if it cannot be changed
	// Out gets the welcome: how to join the first device.
	Out io.Writer
	// Command is how the user calls this program, for commands ready to paste,
	// such as "heddle --config /etc/heddle/config.yaml".
	Command string
	// Load loads the configuration anew; nil: it cannot be.
	Load func() (*config.Config, error)
	// Systemd is told how the server is; the zero value tells nobody.
	Systemd systemd.Notifier
	// Ready is called once the server serves; nil is allowed.
	Ready func()
}

// server is what Run puts together.
type server struct {
	Options
	cfg     *config.Config // that of the start, for what cannot change
	inForce *inForce
	db      *db.DB
	state   *tailnet.State
	maps    *netmap.Encoder
	control *control.Server
	tokens  *idtoken.Issuer
	relay   *relay            // nil if there is none
	backups *archive.Schedule // nil if none are made
	sources *derp.Sources
	api     *api.Server
	rest    http.Handler
	sockets sockets
	operations
}

// Run serves until ctx ends, then stops within ten seconds. It returns nil
// after a graceful stop.
func Run(ctx context.Context, o Options) (err error) {
	s := &server{Options: o, cfg: o.Config, inForce: newInForce(o.Config), operations: newOperations()}
	s.warn(s.cfg)
	if err := s.openData(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.db.Close()) }()
	if err := s.build(); err != nil {
		return err
	}
	if err := s.openSockets(); err != nil {
		return err
	}
	return s.run(ctx)
}

// openData opens what is in the data directory.
func (s *server) openData(ctx context.Context) error {
	if err := os.MkdirAll(s.cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	store, err := db.Open(ctx, s.database())
	if err != nil {
		return err
	}
	s.db = store
	s.state, err = tailnet.Open(ctx, store, tailnet.Options{
		Addresses: tailnet.Ranges{
			V4: s.cfg.Addresses.IPv4, V6: s.cfg.Addresses.IPv6, Random: s.cfg.Addresses.Allocation == config.Random,
		},
		OnlineGrace:      s.cfg.Nodes.OnlineGrace,
		EphemeralTimeout: s.cfg.Nodes.EphemeralTimeout,
		KeyExpiry:        s.cfg.Nodes.KeyExpiry,
		Owners:           s.cfg.OIDC.Owners,
		SSHCheckURL:      control.SSHCheckURL(s.cfg.ServerURL),
		Log:              s.Log,
		Count:            s.metrics.Writer(),
	})
	if err == nil {
		err = s.clock.remember(ctx, store)
	}
	if err != nil {
		return errors.Join(err, store.Close())
	}
	return nil
}

func (s *server) dataFile(name string) string { return filepath.Join(s.cfg.DataDir, name) }

// build makes the parts; nothing runs yet.
func (s *server) build() error {
	noiseKey, err := noiseKey(s.dataFile("noise.key"))
	if err != nil {
		return err
	}
	s.maps = netmap.NewEncoder(netmap.Options{ServerURL: s.cfg.ServerURL.String(), CacheBytes: s.cfg.Netmap.CacheMB << 20, Log: s.Log})
	s.tokens, err = idtoken.Open(s.cfg.ServerURL, keyFile(s.dataFile("idtoken.keys")), time.Now, s.Log)
	if err != nil {
		return err
	}
	s.idp = s.newProviders()
	s.control = control.New(control.Options{
		State:     s.state,
		Maps:      s.maps,
		NoiseKey:  noiseKey,
		ServerURL: s.cfg.ServerURL,
		Providers: s.idp,
		Tokens:    s.tokens,
		Log:       s.Log,
		Delay:     s.metrics.Delay,
	})
	if s.backups, err = s.newBackups(); err != nil {
		return err
	}
	if s.cfg.DERP.Embedded.Enabled {
		if s.relay, err = s.newRelay(); err != nil {
			return err
		}
	}
	s.hooks = s.newHooks()
	s.api = api.New(api.Options{
		State:      s.state,
		Pending:    s.control,
		Logins:     s.logins,
		PolicyFile: s.policyFile,
		History:    s.db,
		Health:     s.health,
		Reload:     s.reload,
		Streams:    s.streams,
		Debug:      s.debug(),
		Audit:      s.db,
		Deliveries: s.delivery,
		Version:    s.Version,
		Log:        s.Log,
	})
	s.rest, err = s.api.REST()
	return err
}

// logins tells the API what waits for a person.
func (s *server) logins(most int) (list []api.Login, more int) {
	waiting, more := s.control.Logins(most)
	for _, l := range waiting {
		host := l.Registration.Hostinfo
		list = append(list, api.Login{
			ID: l.ID, Hostname: host.Hostname, OS: host.OS, Machine: l.Registration.Machine.ShortString(), From: l.From, Started: l.Started,
		})
	}
	for _, c := range s.control.SSHChecks() {
		list = append(list, api.Login{ID: c.ID, Started: c.Started, SSH: &api.SSHLogin{Source: c.Ends.Source, Dest: c.Ends.Dest, User: c.Login}})
	}
	slices.SortStableFunc(list, func(a, b api.Login) int { return b.Started.Compare(a.Started) })
	return list, more
}

// run runs the parts until ctx ends or one of them fails.
func (s *server) run(ctx context.Context) error {
	// The writer outlives those who still have something to say when they stop.
	writer, stopWriter := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWriter()
	written := make(chan error, 1)
	go func() { written <- s.state.Run(writer) }()
	if err := s.prepare(ctx); err != nil {
		s.closeSockets()
		stopWriter()
		return errors.Join(err, <-written)
	}
	g, ctx := errgroup.WithContext(ctx)
	s.start(ctx, g)
	s.welcome()
	s.tellSystemd(s.Systemd.Ready())
	if s.Ready != nil {
		s.Ready()
	}
	done := make(chan error, 1)
	go func() {
		err := g.Wait()
		stopWriter()
		done <- errors.Join(stopped(err), <-written)
	}()
	<-ctx.Done()
	s.Log.Info("stopping")
	s.tellSystemd(s.Systemd.Stopping())
	select {
	case err := <-done:
		return err
	case <-time.After(stopLimit):
		return errors.New("some connections did not end in time; nothing is lost")
	}
}

// prepare sets what no client may miss in its first map.
func (s *server) prepare(ctx context.Context) error {
	pins := s.pins(s.cfg)
	if err := s.update(ctx, "config", func(tx *tailnet.Tx) error { return tx.SetDNSPins(pins) }); err != nil {
		return err
	}
	if err := s.update(ctx, "DERP map", func(tx *tailnet.Tx) error { return tx.SetDERPMap(s.sources.Map()) }); err != nil {
		return err
	}
	if path := recordsPath(s.cfg); path != "" {
		data, err := readBounded(path)
		s.setRecords(ctx, path, data, err)
	}
	path := policyPath(s.cfg)
	if path == "" {
		return nil
	}
	data, err := readBounded(path)
	s.setPolicy(ctx, path, data, err)
	if _, err := s.sockets.files.refused(path); err != nil && s.state.Snapshot().Policy().Source == "" {
		// Without any policy everything would be allowed, which this admin does not want.
		return fmt.Errorf("policy.path: %s cannot be used, and there is no earlier policy to go on with: %w", path, err)
	}
	return nil
}

// start starts every part but the writer.
func (s *server) start(ctx context.Context, g *errgroup.Group) {
	g.Go(func() error { return s.control.Run(ctx) })
	g.Go(func() error { return s.tokens.Run(ctx) })
	g.Go(func() error { giveBackMemory(ctx); return nil })
	g.Go(func() error { return s.reloads(ctx) })
	g.Go(func() error { s.tellSystemd(s.Systemd.Run(ctx, func() { s.control.Stats() })); return nil })
	g.Go(func() error { return s.hooks.Run(ctx) })
	g.Go(func() error { return s.pruneAudit(ctx) })
	g.Go(func() error {
		return s.sources.Run(ctx, func(m *derpMap) {
			s.try(ctx, "DERP map", func(tx *tailnet.Tx) error { return tx.SetDERPMap(m) })
		})
	})
	if s.relay != nil {
		s.relay.start(ctx, g, s.sources)
	}
	if s.backups != nil {
		g.Go(func() error { return s.backups.Run(ctx) })
	}
	g.Go(func() error { return s.watch(ctx, recordsPath, s.setRecords) })
	g.Go(func() error { return s.watch(ctx, policyPath, s.setPolicy) })
	s.serveSockets(ctx, g)
}

// try makes a change that the config asks for; a failure is logged and leaves
// things as they were.
func (s *server) try(ctx context.Context, what string, fn func(*tailnet.Tx) error) {
	if err := s.update(ctx, what, fn); err != nil && ctx.Err() == nil {
		s.Log.Error("a setting is not taken over; what was in force stays so", "what", what, "err", err)
	}
}

func (s *server) update(ctx context.Context, what string, fn func(*tailnet.Tx) error) error {
	_, err := s.state.Update(ctx, tailnet.SystemActor(what), fn)
	return err
}

// stopped drops the errors that only say that we were told to stop.
func stopped(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// streams are the open map streams, for `heddle debug fleet`.
func (s *server) streams() []api.Stream {
	var out []api.Stream
	for st := range s.control.Streams() {
		out = append(out, api.Stream(st))
	}
	return out
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
