package certs_test

import (
	"context"
	"crypto/tls"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"heddle/cmd/heddle/serve/certs"
)

func TestFilesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := selfSigned(t, dir)
	older := selfSignedIn(t, filepath.Join(dir, "older"))
	synctest.Test(t, func(t *testing.T) {
		f, err := certs.FromFiles(certFile, keyFile, slog.New(slog.NewTextHandler(t.Output(), nil)))
		if err != nil {
			t.Fatal(err)
		}
		shown := func() *tls.Certificate {
			c, err := certs.Config(f.Get, []byte("more")).GetCertificate(&tls.ClientHelloInfo{})
			if err != nil || len(c.Certificate) != 2 || string(c.Certificate[1]) != "more" {
				t.Fatalf("%v, %v", c, err)
			}
			return c
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		defer func() {
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}()
		first := shown()

		// Half a renewal: the key does not fit yet.
		replace(t, certFile, older[0])
		time.Sleep(time.Minute)
		synctest.Wait()
		if string(shown().Certificate[0]) != string(first.Certificate[0]) {
			t.Error("a certificate without its key is in use")
		}
		replace(t, keyFile, older[1])
		time.Sleep(time.Minute)
		synctest.Wait()
		if string(shown().Certificate[0]) == string(first.Certificate[0]) {
			t.Error("the new certificate is not in use")
		}
	})
	if _, err := certs.FromFiles(certFile, filepath.Join(dir, "none"), slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("a missing file: %v", err)
	}
}

func selfSignedIn(t *testing.T, dir string) [2]string {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c, k := selfSigned(t, dir)
	return [2]string{c, k}
}

// replace gives a file the content of another, and another time of change.
func replace(t *testing.T, file, with string) {
	t.Helper()
	text, err := os.ReadFile(with)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	stamp := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
	if err := os.Chtimes(file, stamp, stamp); err != nil {
		t.Fatal(err)
	}
}
