// Package dial owns how the command line reaches a server: through its socket
// on this machine, or elsewhere over TLS with an API key, and what people are
// told when that fails. It refuses to know what they want from the server.
package dial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"heddle/cmd/heddle/config"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

const (
	// callTimeout bounds a call to the server.
	callTimeout = 60 * time.Second
	dialTimeout = 10 * time.Second
	// maxResponse bounds an answer: a page of nodes with room to spare.
	maxResponse = 64 << 20
	// maxFile bounds a file that holds an API key or CAs: all of a system's
	// have some 300 kB.
	maxFile = 1 << 20
)

// Target says which server is meant. Of what is empty, the HEDDLE_ variables
// decide; without any of them the configuration's socket is meant.
type Target struct {
	Config  string // file; empty for none
	Socket  string // path
	Address string // HOST:PORT, HOST or https://HOST[:PORT]
	KeyFile string // with the API key for Address
	CAFile  string // PEM; empty for the system's CAs
}

// Kind is what somebody has to mend.
type Kind int

const (
	Usage       Kind = iota // the command line or the variables
	Input                   // a file that they name
	Denied                  // rights on this machine
	Unreachable             // the server, or the way to it
)

// Error says why there is no connection. Its text is for people.
type Error struct {
	Kind Kind
	Msg  string
}

func (e *Error) Error() string { return e.Msg }

func failf(kind Kind, format string, args ...any) error {
	return &Error{kind, fmt.Sprintf(format, args...)}
}

// ErrNoServer is wrapped where there is no server at a socket.
var ErrNoServer = errors.New("no server answers")

// Conn is a connection to a server, made when first used.
type Conn struct {
	*grpc.ClientConn
	// LoginServer is the URL that clients are given; empty if it is not known here.
	LoginServer string

	failed *failure
}

// failure is why the last attempt to connect failed: grpc passes on its text
// only, wrapped in words of its own.
type failure struct {
	mu  sync.Mutex
	err error
}

func (f *failure) note(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
	return err
}

// Explain returns why err, of a call, came from a failed connection; nil if it
// did not.
func (c *Conn) Explain(err error) error {
	if c == nil || status.Code(err) != codes.Unavailable {
		return nil
	}
	c.failed.mu.Lock()
	defer c.failed.mu.Unlock()
	return c.failed.err
}

// New decides which server is meant and how to reach it. Errors are of type
// *Error, or say what is wrong with the configuration.
func New(t Target) (*Conn, error) {
	if t.Socket == "" && t.Address == "" {
		t.Socket, t.Address = os.Getenv("HEDDLE_SOCKET"), os.Getenv("HEDDLE_ADDRESS")
		if t.Socket != "" && t.Address != "" {
			return nil, failf(Usage, "HEDDLE_SOCKET and HEDDLE_ADDRESS are both set: unset one, or use --socket or --address")
		}
	}
	if t.Address != "" {
		return newRemote(t)
	}
	if t.Socket != "" {
		return newSocket(t.Socket, "")
	}
	cfg, err := config.Load(t.Config, os.Environ())
	if err != nil {
		return nil, fmt.Errorf("%w\n(the configuration tells where the server's socket is; --socket PATH does without it)", err)
	}
	return newSocket(cfg.Listen.Socket, cfg.ServerURL.String())
}

func newSocket(path, loginServer string) (*Conn, error) {
	failed := new(failure)
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", path)
		if err != nil {
			return nil, failed.note(socketError(path, err))
		}
		return conn, nil
	}
	// passthrough: the dialer knows where to; the name is only for the :authority header.
	return newConn(loginServer, failed, "passthrough:///localhost", grpc.WithContextDialer(dial), grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// socketError says why nobody answers on the socket and what to do.
func socketError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		if _, err := os.Stat(path); errors.Is(err, fs.ErrPermission) { // before anybody can be let in by the socket's own mode
			return failf(Denied, "you may not look into %s, where the server's socket is: run this as the server's user or as root. "+
				"For a group to use the socket, set unix_socket to a path outside data_dir, such as /run/heddle/heddle.sock", filepath.Dir(path))
		}
		return failf(Denied, "you may not use the server's socket %s: run this as its owner or as root, or join its group (`ls -l` shows them)", path)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w on %s: start it with `heddle serve`, or say which one is meant with --config FILE, --socket PATH or --address HOST:PORT", ErrNoServer, path)
	}
	return failf(Unreachable, "cannot use the server's socket %s: %v", path, cause(err))
}

// cause returns what the system said, without the names of calls.
func cause(err error) error {
	var call *os.SyscallError
	var op *net.OpError
	switch {
	case errors.As(err, &call):
		return call.Err
	case errors.As(err, &op):
		return op.Err
	}
	return err
}

func newConn(loginServer string, failed *failure, target string, opts ...grpc.DialOption) (*Conn, error) {
	conn, err := grpc.NewClient(target, append(opts,
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxResponse)),
		grpc.WithUnaryInterceptor(withTimeout),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
	)...)
	if err != nil {
		return nil, err
	}
	return &Conn{ClientConn: conn, LoginServer: loginServer, failed: failed}, nil
}

func withTimeout(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return invoke(ctx, method, req, reply, cc, opts...)
}

// readFile reads a file that the command line names.
func readFile(what, name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", failf(Input, "cannot read %s: %v", what, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1)) // it may be a pipe
	if err != nil {
		return "", failf(Input, "cannot read %s: %v", what, err)
	}
	if len(text) > maxFile {
		return "", failf(Input, "cannot read %s: %s has more than %d bytes", what, name, maxFile)
	}
	return strings.TrimSpace(string(text)), nil
}
