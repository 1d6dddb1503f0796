package config

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Check looks at what the configuration names on this machine, for
// `heddle config check`: whether the files are there and readable, whether
// data_dir can be used or created, whether the certificate fits its key,
// server_url and now. It changes nothing. The error is an [Errors].
func (c *Config) Check(now time.Time) error {
	var problems Errors
	fail := func(key, format string, args ...any) {
		where, line := c.placeOf(key)
		problems = append(problems, Problem{Place: where, Line: line, Key: key, Msg: fmt.Sprintf(format, args...)})
	}
	readable := func(key, path string) {
		if path == "" {
			return
		}
		if err := tryRead(path); err != nil {
			fail(key, "cannot be read: %v", err)
		}
	}
	readable("policy.path", c.Policy.Path)
	readable("dns.extra_records_path", c.DNS.ExtraRecordsPath)
	for _, path := range c.DERP.Files {
		readable("derp.files", path)
	}
	if err := tryDir(c.DataDir); err != nil {
		fail("data_dir", "%v", err)
	}
	if c.TLS.Automatic() {
		readable("tls.acme.ca_file", c.TLS.ACME.CAFile)
	}
	if c.TLS.CertFile != "" {
		if key, err := c.checkCertificate(now); err != nil {
			fail(key, "%v", err)
		}
	}
	if len(problems) == 0 {
		return nil
	}
	problems.sort()
	return problems
}

// placeOf takes apart what Set says of a key.
func (c *Config) placeOf(key string) (where string, line int) {
	where = c.Set[key]
	if i := strings.LastIndexByte(where, ':'); i >= 0 { // not in the name of a variable
		line, _ = strconv.Atoi(where[i+1:])
		where = where[:i]
	}
	return where, line
}

// checkCertificate returns what is wrong, and with which key.
func (c *Config) checkCertificate(now time.Time) (key string, err error) {
	certFile, keyFile := c.TLS.CertFile, c.TLS.KeyFile
	chain, err := readFile(certFile)
	if err != nil {
		return "tls.cert_file", fmt.Errorf("cannot be read: %w", err)
	}
	private, err := readFile(keyFile)
	if err != nil {
		return "tls.key_file", fmt.Errorf("cannot be read: %w", err)
	}
	for _, f := range []struct {
		key, file, what string
		text            []byte
	}{{"tls.cert_file", certFile, "CERTIFICATE", chain}, {"tls.key_file", keyFile, "PRIVATE KEY", private}} {
		if !bytes.Contains(f.text, []byte(f.what+"-----")) {
			return f.key, fmt.Errorf("%s holds no %s block in PEM form", f.file, f.what)
		}
	}
	pair, err := tls.X509KeyPair(chain, private)
	if err != nil {
		return "tls.cert_file", fmt.Errorf("%s does not go with tls.key_file %s: %s", certFile, keyFile, strings.TrimPrefix(err.Error(), "tls: "))
	}
	if err := c.Fits(pair.Leaf, now); err != nil {
		return "tls.cert_file", fmt.Errorf("%s %w", certFile, err)
	}
	return "", nil
}

// Fits says why clients that know server_url would refuse a certificate now, as the rest of a
// sentence about it; nil if they would not. Who has signed it is not looked at.
func (c *Config) Fits(leaf *x509.Certificate, now time.Time) error {
	if host := c.ServerURL.Hostname(); leaf.VerifyHostname(host) != nil {
		names := slices.Clone(leaf.DNSNames)
		for _, ip := range leaf.IPAddresses {
			names = append(names, ip.String())
		}
		return fmt.Errorf("is for %s, not for %s of server_url: get one for that name", cmp.Or(strings.Join(names, ", "), "no name"), host)
	}
	if now.After(leaf.NotAfter) {
		return fmt.Errorf("expired at %s: renew it", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	if now.Before(leaf.NotBefore) {
		return fmt.Errorf("is not valid before %s: check the clock", leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

// tryDir reports why a directory, which is created if it is not there, could
// not be used by whoever asks.
func tryDir(dir string) error {
	for missing := false; ; missing = true {
		info, err := os.Stat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir:
			dir = filepath.Dir(dir)
			continue
		case err != nil:
			return fmt.Errorf("cannot be used: %w", err)
		case !info.IsDir():
			return fmt.Errorf("%s is not a directory", dir)
		case syscall.Access(dir, writable) == nil:
			return nil
		case missing:
			return fmt.Errorf("cannot be created: you may not write to %s", dir)
		}
		return fmt.Errorf("you may not write to %s", dir)
	}
}

// writable is the mode of access(2) that asks for writing and searching (POSIX
// W_OK and X_OK).
const writable = 2 | 1

func tryRead(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
		return err // a directory, for one
	}
	return nil
}
