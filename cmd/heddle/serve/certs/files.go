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
	fits    Fits
	log     *slog.Logger
	current atomic.Pointer[tls.Certificate]

	mu                sync.Mutex
	certFile, keyFile string
}

// Fits says why clients would refuse a certificate now, as the rest of a sentence about it;
// nil if they would not.
type Fits func(leaf *x509.Certificate, now time.Time) error

// FromFiles reads a chain and its key in PEM form. One that does not fit is shown all the
// same, as there is no better one.
func FromFiles(certFile, keyFile string, fits Fits, log *slog.Logger) (*Files, error) {
	f := &Files{certFile: certFile, keyFile: keyFile, fits: fits, log: log}
	return f, f.Load()
}

// Load reads the files again. After an error the certificate from before stays.
func (f *Files) Load() error {
	certFile, keyFile := f.names()
	pair, err := f.read(certFile, keyFile)
	if err != nil {
		return err
	}
	f.mu.Lock()
	still := f.certFile == certFile && f.keyFile == keyFile
	if still {
		f.current.Store(pair)
	}
	f.mu.Unlock()
	if still {
		f.warn(certFile, pair)
	}
	return nil
}

// Try reads other files, or the same once more, and returns what goes on with them.
func (f *Files) Try(certFile, keyFile string) (use func(), err error) {
	pair, err := f.read(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	return func() {
		f.mu.Lock()
		f.current.Store(pair)
		f.certFile, f.keyFile = certFile, keyFile
		f.mu.Unlock()
		f.warn(certFile, pair)
	}, nil
}

// read refuses a certificate that does not fit if the one that is shown does.
func (f *Files) read(certFile, keyFile string) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	now, shown := time.Now(), f.current.Load()
	if err := f.fits(pair.Leaf, now); err != nil && shown != nil && f.fits(shown.Leaf, now) == nil {
		return nil, fmt.Errorf("the certificate %w", err)
	}
	return &pair, nil
}

func (f *Files) warn(certFile string, pair *tls.Certificate) {
	if err := f.fits(pair.Leaf, time.Now()); err != nil {
		f.log.Warn("clients refuse the certificate; it is shown for want of a better one", "file", certFile, "err", fmt.Errorf("it %w", err))
	}
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
	leaf := f.current.Load().Leaf
	if err := f.fits(leaf, now); err != nil {
		return "", fmt.Errorf("it %w", err)
	}
	return validity(leaf, now)
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
// middle of a renewal, or that clients would refuse leaves the old one in use. It is looked at
// again all the same: it may become valid, or the old one may expire. Why is told once.
func (f *Files) Run(ctx context.Context) error {
	tick := time.NewTicker(filesEvery)
	defer tick.Stop()
	stamps, refused := f.stamps(), ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := f.stamps()
		if now == stamps && refused == "" {
			continue
		}
		stamps = now
		file, _ := f.names()
		err := f.Load()
		switch {
		case err == nil:
			f.log.Info("certificate loaded anew", "file", file)
			refused = ""
		case err.Error() != refused:
			f.log.Error("the new certificate cannot be used; the old one stays", "file", file, "err", err)
			refused = err.Error()
		}
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
