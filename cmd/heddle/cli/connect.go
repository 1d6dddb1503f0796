package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"heddle/cmd/heddle/config"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

const (
	// callTimeout bounds a call to the server.
	callTimeout = 60 * time.Second
	dialTimeout = 10 * time.Second
	// maxResponse bounds an answer: a page of nodes with room to spare.
	maxResponse = 64 << 20
	// maxKeyFile bounds a file that holds an API key.
	maxKeyFile = 4 << 10
)

// server returns the connection to the server, which is made when first used.
func (a *app) server() (*grpc.ClientConn, error) {
	if a.conn != nil {
		return a.conn, nil
	}
	conn, err := a.connect()
	if err != nil {
		return nil, err
	}
	a.conn = conn
	return conn, nil
}

func (a *app) close() {
	if a.conn != nil {
		a.conn.Close()
	}
}

// connect decides which server is meant: a flag wins over a variable, and the
// configuration's socket is the default.
func (a *app) connect() (*grpc.ClientConn, error) {
	socket, address := a.flags.socket, a.flags.address
	if socket == "" && address == "" {
		socket, address = os.Getenv("HEDDLE_SOCKET"), os.Getenv("HEDDLE_ADDRESS")
		if socket != "" && address != "" {
			return nil, usagef("HEDDLE_SOCKET and HEDDLE_ADDRESS are both set: unset one, or use --socket or --address")
		}
	}
	if address != "" {
		return a.connectRemote(address)
	}
	if socket == "" {
		path := a.configPath()
		cfg, err := config.Load(path, os.Environ())
		if err != nil {
			return nil, fmt.Errorf("%w\n(the configuration tells where the server's socket is; --socket PATH does without it)", err)
		}
		socket = cfg.Listen.Socket
	}
	return a.connectSocket(socket)
}

func (a *app) configPath() string {
	if a.flags.config != "" {
		return a.flags.config
	}
	return os.Getenv("HEDDLE_CONFIG")
}

func (a *app) connectSocket(path string) (*grpc.ClientConn, error) {
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", path)
		if err != nil {
			return nil, a.dial.note(socketError(path, err))
		}
		return conn, nil
	}
	// passthrough: the dialer knows where to; the name is only for the :authority header.
	return newClient("passthrough:///localhost", grpc.WithContextDialer(dial), grpc.WithTransportCredentials(insecure.NewCredentials()))
}

var errNoServer = errors.New("no server answers")

// socketError says why nobody answers on the socket and what to do.
func socketError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return status.Errorf(codes.PermissionDenied,
			"you may not use the server's socket %s: become its owner, or join its group", path)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w on %s: start it with `heddle serve`, or say which one is meant with --config FILE, --socket PATH or --address HOST:PORT", errNoServer, path)
	}
	return fmt.Errorf("cannot use the server's socket %s: %w", path, err)
}

func (a *app) connectRemote(address string) (*grpc.ClientConn, error) {
	target, err := hostPort(address)
	if err != nil {
		return nil, err
	}
	key, err := a.apiKey()
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if a.flags.caFile != "" {
		pem, err := os.ReadFile(a.flags.caFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read the CA: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM form", a.flags.caFile)
		}
	}
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", target)
		if err != nil {
			return nil, a.dial.note(remoteError(target, err))
		}
		return conn, nil
	}
	return newClient("passthrough:///"+target,
		grpc.WithContextDialer(dial),
		grpc.WithTransportCredentials(remoteTLS{credentials.NewTLS(conf), &a.dial, target}),
		grpc.WithPerRPCCredentials(apiKey(key)))
}

// remoteTLS notes why a handshake failed.
type remoteTLS struct {
	credentials.TransportCredentials
	dial   *dialErrors
	target string
}

func (t remoteTLS) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := t.TransportCredentials.ClientHandshake(ctx, authority, conn)
	if err != nil {
		return nil, nil, t.dial.note(remoteError(t.target, err))
	}
	return conn, info, nil
}

func (t remoteTLS) Clone() credentials.TransportCredentials {
	t.TransportCredentials = t.TransportCredentials.Clone()
	return t
}

func remoteError(target string, err error) error {
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return fmt.Errorf("cannot trust %s: %w; if it has a private CA, give that with --ca-file", target, err)
	}
	return fmt.Errorf("cannot reach %s: %w; is the address that of heddle's TLS listener?", target, err)
}

func newClient(target string, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	return grpc.NewClient(target, append(opts,
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxResponse)),
		grpc.WithUnaryInterceptor(withTimeout),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
	)...)
}

func withTimeout(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return invoke(ctx, method, req, reply, cc, opts...)
}

// hostPort understands HOST:PORT, HOST and https://HOST[:PORT].
func hostPort(address string) (string, error) {
	host := address
	if strings.Contains(address, "://") {
		u, err := url.Parse(address)
		if err != nil || u.Host == "" {
			return "", usagef("--address %q: write HOST:PORT", address)
		}
		if u.Scheme != "https" {
			return "", usagef("--address %q: an API key only travels over TLS; write HOST:PORT or https://HOST:PORT", address)
		}
		host = u.Host
	}
	if _, port, err := net.SplitHostPort(host); err == nil && port != "" {
		return host, nil
	}
	host = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSuffix(host, ":"), "["), "]")
	if host == "" || strings.ContainsAny(host, "/ ") {
		return "", usagef("--address %q: write HOST:PORT", address)
	}
	return net.JoinHostPort(host, "443"), nil
}

// apiKey returns the key for a remote server.
func (a *app) apiKey() (string, error) {
	file := a.flags.apiKeyFile
	if file == "" {
		if key := strings.TrimSpace(os.Getenv("HEDDLE_API_KEY")); key != "" {
			return key, nil
		}
		file = os.Getenv("HEDDLE_API_KEY_FILE")
	}
	if file == "" {
		return "", usagef("a remote server wants an API key: set HEDDLE_API_KEY or give --api-key-file (`heddle apikeys create` on the server makes one)")
	}
	text, err := readBounded(file, nil, maxKeyFile)
	if err != nil {
		return "", fmt.Errorf("cannot read the API key: %w", err)
	}
	key := strings.TrimSpace(string(text))
	if key == "" {
		return "", fmt.Errorf("%s holds no API key: it is empty", file)
	}
	return key, nil
}

// apiKey sends the key with each call, and only over TLS.
type apiKey string

func (k apiKey) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(k)}, nil
}

func (apiKey) RequireTransportSecurity() bool { return true }

// dialErrors remembers why no connection could be made: grpc only passes on
// its text, wrapped in words of its own.
type dialErrors struct {
	mu  sync.Mutex
	err error
}

func (d *dialErrors) note(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
	return err
}

func (d *dialErrors) last() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// explains reports whether err, of a call, came from a failed connection.
func (d *dialErrors) explains(err error) bool {
	return status.Code(err) == codes.Unavailable && d.last() != nil
}
