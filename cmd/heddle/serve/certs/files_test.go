package certs_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
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
		f, err := certs.FromFiles(certFile, keyFile, fine, slog.New(slog.NewTextHandler(t.Output(), nil)))
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
	if _, err := certs.FromFiles(certFile, filepath.Join(dir, "none"), fine, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("a missing file: %v", err)
	}
}

func fine(*x509.Certificate, time.Time) error { return nil }

// TestBetterCertificateStays: one that clients would refuse is shown only if there is no better one.
func TestBetterCertificateStays(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := selfSigned(t, dir)
	foreign, early := selfSignedIn(t, filepath.Join(dir, "foreign")), selfSignedIn(t, filepath.Join(dir, "early"))
	rawOf := func(certFile string) string {
		text, err := os.ReadFile(certFile)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		return string(block.Bytes)
	}
	first, isForeign, isEarly := rawOf(certFile), rawOf(foreign[0]), rawOf(early[0])
	synctest.Test(t, func(t *testing.T) {
		valid := time.Now().Add(time.Hour) // the early one, from then on
		fits := func(leaf *x509.Certificate, now time.Time) error {
			switch {
			case string(leaf.Raw) == isForeign:
				return errors.New("is for another name")
			case string(leaf.Raw) == isEarly && now.Before(valid):
				return errors.New("is not valid before later")
			}
			return nil
		}
		var log bytes.Buffer
		f, err := certs.FromFiles(certFile, keyFile, fits, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
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
		synctest.Wait() // it knows the first files
		for _, step := range []struct {
			name         string
			files        [2]string
			wait         time.Duration
			shown, wrong string
			told         int
		}{
			{"of another name", foreign, time.Minute, first, "is for another name", 1},
			{"not valid yet", early, time.Minute, first, "is not valid before later", 1},
			{"valid now", early, time.Hour, isEarly, "", 0},
		} {
			log.Reset()
			replace(t, certFile, step.files[0])
			replace(t, keyFile, step.files[1])
			time.Sleep(step.wait)
			synctest.Wait()
			c, err := f.Get(nil)
			if err != nil || string(c.Certificate[0]) != step.shown {
				t.Errorf("%s: the wrong certificate is shown", step.name)
			}
			if n := strings.Count(log.String(), "the old one stays"); n != step.told || !strings.Contains(log.String(), step.wrong) {
				t.Errorf("%s: told %d times:\n%s", step.name, n, log.String())
			}
			if _, err := f.Try(certFile, keyFile); (err != nil) != (step.wrong != "") || err != nil && !strings.Contains(err.Error(), step.wrong) {
				t.Errorf("%s: taken over at once: %v", step.name, err)
			}
			if _, err := f.Health(time.Now()); err != nil && step.wrong != "" {
				t.Errorf("%s: what is shown is good, and yet %v", step.name, err)
			}
		}
		// At the start there is no better one.
		log.Reset()
		f, err = certs.FromFiles(foreign[0], foreign[1], fits, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil || !strings.Contains(log.String(), "it is for another name") {
			t.Errorf("a wrong one at the start: %v, told is %s", err, log.String())
		}
		if _, err := f.Health(time.Now()); err == nil || err.Error() != "it is for another name" {
			t.Errorf("health of a wrong one: %v", err)
		}
	})
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
