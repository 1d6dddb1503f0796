package dial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

func newRemote(t Target) (*Conn, error) {
	target, err := hostPort(t.Address)
	if err != nil {
		return nil, err
	}
	key, err := findKey(t.KeyFile)
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CAFile != "" {
		pem, err := readFile("the CA", t.CAFile)
		if err != nil {
			return nil, err
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM([]byte(pem)) {
			return nil, failf(Input, "%s holds no certificate in PEM form", t.CAFile)
		}
	}
	failed := new(failure)
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", target)
		if err != nil {
			return nil, failed.note(remoteError(target, err))
		}
		return conn, nil
	}
	return newConn("", failed, "passthrough:///"+target,
		grpc.WithContextDialer(dial),
		grpc.WithTransportCredentials(remoteTLS{credentials.NewTLS(conf), failed, target}),
		grpc.WithPerRPCCredentials(apiKey(key)))
}

// remoteTLS notes why a handshake failed.
type remoteTLS struct {
	credentials.TransportCredentials
	failed *failure
	target string
}

func (t remoteTLS) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := t.TransportCredentials.ClientHandshake(ctx, authority, conn)
	if err != nil {
		return nil, nil, t.failed.note(remoteError(t.target, err))
	}
	return conn, info, nil
}

func (t remoteTLS) Clone() credentials.TransportCredentials {
	t.TransportCredentials = t.TransportCredentials.Clone()
	return t
}

// remoteError says why there is no connection to target and what to do.
func remoteError(target string, err error) error {
	var (
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		plain   tls.RecordHeaderError
		dns     *net.DNSError
	)
	host, _, _ := net.SplitHostPort(target)
	switch {
	case errors.As(err, &unknown):
		return failf(Unreachable, "cannot trust %s: nobody known here has signed its certificate; if it has a private CA, give that with --ca-file", target)
	case errors.As(err, &name):
		return failf(Unreachable, "cannot trust %s: its certificate is for %s, not for %s; give --address a name of the certificate", target, names(name.Certificate), host)
	case errors.As(err, &plain):
		return failf(Unreachable, "cannot reach %s: what answers there does not speak TLS; give --address the port of heddle's TLS listener (or that of a proxy before it)", target)
	case errors.As(err, &dns) && dns.IsNotFound:
		return failf(Unreachable, "cannot reach %s: there is no host %s; check the name in --address, and that this machine's DNS knows it", target, host)
	case errors.As(err, &dns):
		return failf(Unreachable, "cannot reach %s: the name %s could not be looked up (%s); check this machine's DNS", target, host, dns.Err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return failf(Unreachable, "cannot reach %s: nothing listens there; check that heddle runs, and that this is its listen_addr or grpc_listen_addr", target)
	}
	return failf(Unreachable, "cannot reach %s: %v; is the address that of heddle's TLS listener?", target, cause(err))
}

// names are the names of a certificate for people.
func names(c *x509.Certificate) string {
	all := append([]string(nil), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	const most = 5
	switch {
	case len(all) == 0:
		return "no host"
	case len(all) > most:
		return strings.Join(all[:most], ", ") + ", …"
	}
	return strings.Join(all, ", ")
}

// hostPort understands HOST:PORT, HOST and https://HOST[:PORT].
func hostPort(address string) (string, error) {
	host := address
	if strings.Contains(address, "://") {
		u, err := url.Parse(address)
		if err != nil || u.Host == "" {
			return "", failf(Usage, "--address %q: write HOST:PORT", address)
		}
		if u.Scheme != "https" {
			return "", failf(Usage, "--address %q: an API key only travels over TLS; write HOST:PORT or https://HOST:PORT", address)
		}
		host = u.Host
	}
	if _, port, err := net.SplitHostPort(host); err == nil && port != "" {
		return host, nil
	}
	host = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSuffix(host, ":"), "["), "]")
	if host == "" || strings.ContainsAny(host, "/ ") {
		return "", failf(Usage, "--address %q: write HOST:PORT", address)
	}
	return net.JoinHostPort(host, "443"), nil
}

// Host is the host of an Address, without a port and brackets: as it is if it is none.
func Host(address string) string {
	target, err := hostPort(address)
	if err != nil {
		return address
	}
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		return address
	}
	return host
}

// findKey returns the key for a remote server.
func findKey(file string) (string, error) {
	if file == "" {
		if key := strings.TrimSpace(os.Getenv("HEDDLE_API_KEY")); key != "" {
			return key, nil
		}
		file = os.Getenv("HEDDLE_API_KEY_FILE")
	}
	if file == "" {
		return "", failf(Usage, "a remote server wants an API key: set HEDDLE_API_KEY or give --api-key-file (`heddle apikeys create` on the server makes one)")
	}
	key, err := readFile("the API key", file)
	if err == nil && key == "" {
		err = failf(Input, "%s holds no API key: it is empty", file)
	}
	return key, err
}

// apiKey sends the key with each call, and only over TLS.
type apiKey string

func (k apiKey) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(k)}, nil
}

func (apiKey) RequireTransportSecurity() bool { return true }
