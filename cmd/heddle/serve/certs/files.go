package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// filesEvery is how often the files are looked at.
const filesEvery = 10 * time.Second

// Files is a certificate from files, read again when they change, so that
// whatever renews it need not know heddle.
type Files struct {
	log     *slog.Logger
	current atomic.Pointer[tls.Certificate]

	mu                sync.Mutex
	certFile, keyFile string
}

// FromFiles reads a chain and its key in PEM form.
func FromFiles(certFile, keyFile string, log *slog.Logger) (*Files, error) {
	f := &Files{certFile: certFile, keyFile: keyFile, log: log}
	return f, f.Load()
}

// Load reads the files again. After an error the certificate from before stays.
func (f *Files) Load() error {
	certFile, keyFile := f.names()
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.certFile == certFile && f.keyFile == keyFile { // still
		f.current.Store(&pair)
	}
	return nil
}

// Try reads other files, or the same once more, and returns what goes on with them.
func (f *Files) Try(certFile, keyFile string) (use func(), err error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.current.Store(&pair)
		f.certFile, f.keyFile = certFile, keyFile
	}, nil
}

func (f *Files) names() (certFile, keyFile string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.certFile, f.keyFile
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
		file, _ := f.names()
		if err := f.Load(); err != nil {
			f.log.Error("the new certificate cannot be used; the old one stays", "file", file, "err", err)
		} else {
			f.log.Info("certificate loaded anew", "file", file)
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
	certFile, keyFile := f.names()
	for i, path := range []string{certFile, keyFile} {
		if st, err := os.Stat(path); err == nil { // a missing file is a change too; Load tells of it
			s[i] = stamp{st.Size(), st.ModTime()}
		}
	}
	return s
}
