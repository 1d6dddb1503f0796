package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// Check looks at what the configuration names on this machine, for
// `heddle config check`: whether the files are there and readable, whether the
// certificate fits its key, server_url and now. It changes nothing. The error
// is an [Errors].
func (c *Config) Check(now time.Time) error {
	var problems Errors
	fail := func(key, format string, args ...any) {
		problems = append(problems, Problem{Place: c.Set[key], Key: key, Msg: fmt.Sprintf(format, args...)})
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
	if info, err := os.Stat(c.DataDir); err == nil && !info.IsDir() {
		fail("data_dir", "%s is not a directory", c.DataDir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) { // serve creates it
		fail("data_dir", "cannot be used: %v", err)
	}
	if c.TLS.On() {
		if err := c.checkCertificate(now); err != nil {
			fail("tls.cert_file", "%v", err)
		}
	}
	if len(problems) == 0 {
		return nil
	}
	return problems
}

func (c *Config) checkCertificate(now time.Time) error {
	pair, err := tls.LoadX509KeyPair(c.TLS.CertFile, c.TLS.KeyFile)
	if err != nil {
		return err
	}
	leaf := pair.Leaf
	if err := leaf.VerifyHostname(c.ServerURL.Hostname()); err != nil {
		return fmt.Errorf("does not fit server_url: %w", err)
	}
	if now.After(leaf.NotAfter) {
		return fmt.Errorf("expired at %s: renew it", leaf.NotAfter.Format(time.RFC3339))
	}
	if now.Before(leaf.NotBefore) {
		return fmt.Errorf("is not valid before %s: check the clock", leaf.NotBefore.Format(time.RFC3339))
	}
	return nil
}

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
