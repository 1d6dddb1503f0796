package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// filesEvery is how often the files are looked at.
const filesEvery = 10 * time.Second

// Files is a certificate from files, read again when they change, so that
// whatever renews it need not know heddle.
type Files struct {
	certFile, keyFile string
	log               *slog.Logger
	current           atomic.Pointer[tls.Certificate]
}

// FromFiles reads a chain and its key in PEM form.
func FromFiles(certFile, keyFile string, log *slog.Logger) (*Files, error) {
	f := &Files{certFile: certFile, keyFile: keyFile, log: log}
	return f, f.Load()
}

// Load reads the files again. After an error the certificate from before stays.
func (f *Files) Load() error {
	pair, err := tls.LoadX509KeyPair(f.certFile, f.keyFile)
	if err == nil {
		f.current.Store(&pair)
	}
	return err
}

// Get is a [Get].
func (f *Files) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.current.Load(), nil }

// Health says until when the certificate is valid, or what is wrong with it.
func (f *Files) Health(now time.Time) (fine string, err error) {
	return validity(f.current.Load().Leaf, now)
}

// validity says until when a certificate is valid.
func validity(leaf *x509.Certificate, now time.Time) (string, error) {
	until := leaf.NotAfter.UTC().Format(time.RFC3339)
	if now.After(leaf.NotAfter) {
		return "", fmt.Errorf("it expired at %s: renew it", until)
	}
	return "valid until " + until, nil
}

// Run follows the files until ctx ends. A pair that does not fit together, as in the
// middle of a renewal, leaves the old one in use.
func (f *Files) Run(ctx context.Context) error {
	tick := time.NewTicker(filesEvery)
	defer tick.Stop()
	stamps := f.stamps()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := f.stamps()
		if now == stamps {
			continue
		}
		if err := f.Load(); err != nil {
			f.log.Error("the new certificate cannot be used; the old one stays", "file", f.certFile, "err", err)
		} else {
			f.log.Info("certificate loaded anew", "file", f.certFile)
		}
		stamps = now
	}
}

// stamp changes when a file does.
type stamp struct {
	size int64
	mod  time.Time
}

func (f *Files) stamps() (s [2]stamp) {
	for i, path := range []string{f.certFile, f.keyFile} {
		if st, err := os.Stat(path); err == nil { // a missing file is a change too; Load tells of it
			s[i] = stamp{st.Size(), st.ModTime()}
		}
	}
	return s
}
