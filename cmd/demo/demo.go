package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"heddle/api"
	"heddle/cmd/heddle/config"
	"heddle/cmd/heddle/serve"
	v1 "heddle/proto/heddle/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"
	"tailscale.com/envknob"
	"tailscale.com/ipn"
	"tailscale.com/tsnet"
)

// The site behind the router exists only in the router's user space: it
// answers for this one box.
var (
	site = netip.MustParsePrefix("10.99.0.0/24")
	box  = netip.MustParseAddrPort("10.99.0.80:80")
)

// names are the devices; the last one is the subnet router.
var names = []string{"laptop", "phone", "server", "router"}

type demo struct {
	out     io.Writer
	live    bool // redraw until interrupted
	limit   time.Duration
	verbose bool

	url   string
	admin *grpc.ClientConn
	nodes []*tsnet.Server
}

// run shows the mesh until ctx ends or, unless it is live, until it is whole.
func (d *demo) run(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "heddle-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	serverCtx, stopServer := context.WithCancel(context.WithoutCancel(ctx))
	serverDone, err := d.startServer(serverCtx, dir)
	defer func() {
		stopServer()
		if serverDone != nil {
			err = errors.Join(err, <-serverDone)
		}
	}()
	if err != nil {
		return err
	}
	defer d.admin.Close()
	defer d.stopNodes()
	if err := d.startNodes(ctx, dir); err != nil {
		return interrupted(ctx, err)
	}
	if err := d.approve(ctx); err != nil {
		return interrupted(ctx, err)
	}
	if d.live {
		return d.watch(ctx)
	}
	limited, cancel := context.WithTimeout(ctx, d.limit)
	defer cancel()
	return interrupted(ctx, d.waitWhole(limited))
}

// interrupted drops an error that only follows from Ctrl-C.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// startServer runs heddle on its defaults, on free ports and in dir.
func (d *demo) startServer(ctx context.Context, dir string) (done chan error, err error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	d.url = "http://" + addr
	socket := filepath.Join(dir, "heddle.sock")
	text := fmt.Sprintf("listen_addr: %q\nmetrics_listen_addr: \"\"\ndata_dir: %q\nunix_socket: %q\nderp: {embedded: {stun_listen_addr: \"127.0.0.1:0\"}}\n",
		addr, filepath.Join(dir, "data"), socket)
	cfg, err := config.Parse("demo", []byte(text), nil)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(d.out, "starting heddle at %s …\n", d.url)
	done = make(chan error, 1)
	ready := make(chan struct{})
	go func() {
		done <- serve.Run(ctx, serve.Options{
			Config: cfg, Version: api.Version{Version: "demo"}, Log: d.logger(), Ready: func() { close(ready) },
		})
	}()
	select {
	case <-ready:
	case err := <-done:
		return nil, fmt.Errorf("the server did not start: %w", err)
	}
	d.admin, err = grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	return done, err
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func (d *demo) logger() *slog.Logger {
	if d.verbose {
		return slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return slog.New(slog.DiscardHandler)
}

// startNodes makes a user and a key, and joins the devices with it.
func (d *demo) startNodes(ctx context.Context, dir string) error {
	if _, err := v1.NewUserServiceClient(d.admin).CreateUser(ctx, &v1.CreateUserRequest{Name: "demo"}); err != nil {
		return err
	}
	key, err := v1.NewPreAuthKeyServiceClient(d.admin).CreatePreAuthKey(ctx, &v1.CreatePreAuthKeyRequest{
		User: "demo", Reusable: true, Lifetime: durationpb.New(time.Hour),
	})
	if err != nil {
		return err
	}
	envknob.SetNoLogsNoSupport()
	for _, name := range names {
		d.nodes = append(d.nodes, &tsnet.Server{
			Dir: filepath.Join(dir, name), Hostname: name, ControlURL: d.url, AuthKey: key.GetPreAuthKey().GetKey(),
			Logf: d.logf(name), UserLogf: d.logf(name),
		})
	}
	fmt.Fprintf(d.out, "joining %d devices with a pre-auth key …\n", len(names))
	errs := make([]error, len(d.nodes))
	var wg sync.WaitGroup
	for i, n := range d.nodes {
		wg.Go(func() {
			up, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			if _, errs[i] = n.Up(up); errs[i] != nil {
				errs[i] = fmt.Errorf("%s did not join: %w", n.Hostname, errs[i])
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (d *demo) logf(name string) func(string, ...any) {
	if !d.verbose {
		return func(string, ...any) {}
	}
	log := d.logger()
	return func(format string, args ...any) { log.Info(fmt.Sprintf(format, args...), "node", name) }
}

func (d *demo) stopNodes() {
	var wg sync.WaitGroup
	for _, n := range d.nodes {
		wg.Go(func() { n.Close() })
	}
	wg.Wait()
}

// approve lets the router offer its site and the others use it.
func (d *demo) approve(ctx context.Context) error {
	router := d.nodes[len(d.nodes)-1]
	router.RegisterFallbackTCPHandler(serveBox)
	for _, n := range d.nodes {
		lc, err := n.LocalClient()
		if err != nil {
			return err
		}
		prefs := &ipn.MaskedPrefs{RouteAllSet: true, Prefs: ipn.Prefs{RouteAll: true}}
		if n == router {
			prefs = &ipn.MaskedPrefs{AdvertiseRoutesSet: true, Prefs: ipn.Prefs{AdvertiseRoutes: []netip.Prefix{site}}}
		}
		if _, err := lc.EditPrefs(ctx, prefs); err != nil {
			return err
		}
	}
	nodes := v1.NewNodeServiceClient(d.admin)
	for {
		_, err := nodes.SetApprovedRoutes(ctx, &v1.SetApprovedRoutesRequest{Node: router.Hostname, Routes: []string{site.String()}})
		if err == nil {
			fmt.Fprintf(d.out, "approved %s by way of %s\n\n", site, router.Hostname)
			return nil
		}
		select { // its advertisement is on its way
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// serveBox is the plain box of the site: a connection to it is answered and closed.
func serveBox(_, dst netip.AddrPort) (func(net.Conn), bool) {
	if dst != box {
		return nil, false
	}
	return func(c net.Conn) {
		defer c.Close()
		io.WriteString(c, "hello from the site\n")
	}, true
}
