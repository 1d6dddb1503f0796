package serve

import (
	"context"
	"crypto/tls"
	"log/slog"
	"sync/atomic"
	"time"
)

// certEvery is how often the certificate files are looked at.
const certEvery = 10 * time.Second

// certificate is a certificate from files, read again when they change, so
// that whatever renews it need not know heddle. extra is sent after the chain.
type certificate struct {
	certFile, keyFile string
	extra             []byte
	current           atomic.Pointer[tls.Certificate]
}

func loadCertificate(certFile, keyFile string, extra []byte) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, extra: extra}
	return c, c.load()
}

func (c *certificate) load() error {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return err
	}
	if c.extra != nil {
		pair.Certificate = append(pair.Certificate, c.extra)
	}
	c.current.Store(&pair)
	return nil
}

// config makes clients' browsers speak HTTP/2; stock clients offer no protocol
// for what must be HTTP/1.1.
func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
	}
}

// run follows the files. A pair that does not fit together, as in the middle
// of a renewal, leaves the old one in use.
func (c *certificate) run(ctx context.Context, log *slog.Logger) error {
	tick := time.NewTicker(certEvery)
	defer tick.Stop()
	stamps := c.stamps()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := c.stamps()
		if now == stamps {
			continue
		}
		if err := c.load(); err != nil {
			log.Error("the new certificate cannot be used; the old one stays", "file", c.certFile, "err", err)
		} else {
			log.Info("certificate loaded anew", "file", c.certFile)
		}
		stamps = now
	}
}

// stamps changes when either file does.
func (c *certificate) stamps() (s [2]fileStamp) {
	for i, f := range []string{c.certFile, c.keyFile} {
		s[i], _ = stampOf(f) // a missing file is a change too; load tells of it
	}
	return s
}
