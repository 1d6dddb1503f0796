package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// ACMEOptions say what is to be obtained, and where. Names, Email, Dir and Log are required.
type ACMEOptions struct {
	Names []string // hosts; the first stands for clients that name none of them
	Email string
	Dir   string // for keys, certificates and the account; made if it is not there

	Directory string // URL; empty for Let's Encrypt
	CAFile    string // PEM of the roots that Directory is trusted by; empty for the system's
	HTTP      int    // port at which AnswerHTTP is served; 0 forbids HTTP-01
	TLSALPN   int    // port of the listener with Get; 0 forbids TLS-ALPN-01
	Host      string // that both listen at; empty for all interfaces
	DNS       *DNS   // unless nil, names are proven by DNS-01 alone

	CheckEvery time.Duration
	Log        *slog.Logger
}

// ACME obtains and renews certificates. Handshakes get the newest; connections that
// are open go on with theirs.
type ACME struct {
	opts  ACMEOptions
	roots *x509.CertPool

	magic  atomic.Pointer[manager] // nil before Run
	failed atomic.Pointer[string]  // why the last attempt failed; nil after a success
}

// manager is what Run runs.
type manager struct {
	cache  *certmagic.Cache
	config *certmagic.Config
	issuer *certmagic.ACMEIssuer
}

// NewACME checks the options. Nothing is obtained before Run.
func NewACME(o ACMEOptions) (*ACME, error) {
	a := &ACME{opts: o}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, err
		}
		a.roots = x509.NewCertPool()
		if !a.roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM form", o.CAFile)
		}
	}
	return a, nil
}

// Run obtains what is missing and renews what is due until ctx ends. What fails is told
// in the log and tried again, at first after a minute.
func (a *ACME) Run(ctx context.Context) error {
	m := &manager{}
	log := zap.New(core{a.opts.Log})
	m.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return m.config, nil },
		RenewCheckInterval: a.opts.CheckEvery,
		Logger:             log,
	})
	defer m.cache.Stop()
	m.config = certmagic.New(m.cache, certmagic.Config{
		Storage: &certmagic.FileStorage{Path: a.opts.Dir},
		OnEvent: a.note,
		Logger:  log,
	})
	template := certmagic.ACMEIssuer{
		CA: a.opts.Directory, Email: a.opts.Email, Agreed: true, TrustedRoots: a.roots,
		ListenHost:           a.opts.Host,
		DisableHTTPChallenge: a.opts.HTTP == 0, AltHTTPPort: a.opts.HTTP,
		DisableTLSALPNChallenge: a.opts.TLSALPN == 0, AltTLSALPNPort: a.opts.TLSALPN,
		Logger: log,
	}
	var proofs *prover
	var leftovers []string
	if a.opts.DNS != nil {
		proofs = &prover{DNS: *a.opts.DNS, dir: filepath.Join(a.opts.Dir, proofsDir), log: a.opts.Log}
		leftovers = proofs.leftovers()
		template.DNS01Solver = proofs
	}
	m.issuer = certmagic.NewACMEIssuer(m.config, template)
	m.config.Issuers = []certmagic.Issuer{m.issuer}
	a.magic.Store(m)
	if err := m.config.ManageAsync(ctx, a.opts.Names); err != nil {
		return err
	}
	if proofs != nil {
		proofs.sweep(ctx, leftovers)
	}
	<-ctx.Done()
	return nil
}

// note hears of the attempts.
func (a *ACME) note(_ context.Context, event string, data map[string]any) error {
	name, _ := data["identifier"].(string)
	renewal, _ := data["renewal"].(bool)
	switch event {
	case "cert_obtained":
		a.failed.Store(nil)
		a.opts.Log.Info("certificate obtained", "name", name, "renewal", renewal)
	case "cert_failed":
		err, _ := data["error"].(error)
		why := fmt.Sprintf("%s: %v", name, err)
		a.failed.Store(&why)
		a.opts.Log.Error("no certificate obtained; it will be tried again", "name", name, "renewal", renewal, "err", err)
	}
	return nil
}

var errNone = errors.New("there is no certificate yet")

// Get is a [Get].
func (a *ACME) Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	m := a.magic.Load()
	if m == nil {
		return nil, errNone
	}
	if slices.Contains(hello.SupportedProtos, Challenge) {
		if !a.owns(hello.ServerName) {
			return nil, errors.New("a proof for a foreign name is asked for")
		}
		return m.config.GetCertificate(hello)
	}
	if c, ok := a.newest(hello.ServerName); ok {
		return &c.Certificate, nil
	}
	return nil, errNone
}

// newest returns the certificate for a name, or for the first if it is none of ours.
func (a *ACME) newest(name string) (best certmagic.Certificate, ok bool) {
	m := a.magic.Load()
	if m == nil {
		return best, false
	}
	if !a.owns(name) {
		name = a.opts.Names[0]
	}
	for _, c := range m.cache.AllMatchingCertificates(strings.ToLower(name)) {
		if !ok || c.Leaf.NotAfter.After(best.Leaf.NotAfter) {
			best, ok = c, true
		}
	}
	return best, ok
}

func (a *ACME) owns(name string) bool {
	return slices.ContainsFunc(a.opts.Names, func(n string) bool { return strings.EqualFold(n, name) })
}

// AnswerHTTP answers the authority's requests of HTTP-01, and lets next answer others.
func (a *ACME) AnswerHTTP(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		// Strangers must not make the library look for what nobody asked for.
		if m := a.magic.Load(); m != nil && a.owns(host) && m.issuer.HandleHTTPChallenge(w, r) {
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Health says until when the certificates are valid, or why there is none.
func (a *ACME) Health(now time.Time) (fine string, err error) {
	failed := a.failed.Load()
	for _, name := range a.opts.Names {
		c, ok := a.newest(name)
		switch {
		case !ok && failed != nil:
			return "", errors.New(*failed)
		case !ok:
			return "", fmt.Errorf("%s: it is being obtained", name)
		}
		if fine, err = validity(c.Leaf, now); err != nil {
			return "", err
		}
		if failed != nil {
			fine += "; the last attempt to renew it failed: " + *failed
		}
	}
	return fine, nil
}
