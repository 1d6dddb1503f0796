package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"heddle/cmd/heddle/config"
)

func TestCheck(t *testing.T) {
	now := time.Date(2030, 5, 1, 0, 0, 0, 0, time.UTC)
	dir := t.TempDir()
	certificate(t, dir, "vpn.example.com", now.Add(-time.Hour), now.Add(time.Hour))
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "other"), 0o700); err != nil {
		t.Fatal(err)
	}
	certificate(t, filepath.Join(dir, "other"), "vpn.example.com", now.Add(-time.Hour), now.Add(time.Hour))
	const tls = "tls: {cert_file: DIR/cert.pem, key_file: DIR/key.pem}\nserver_url: https://vpn.example.com\n"
	for _, tt := range []struct {
		name, yaml string
		at         time.Time
		want       string
	}{
		{"files are missing", "policy: {path: DIR/none}\ndns: {extra_records_path: DIR}\nderp: {files: [DIR/file, DIR/gone]}", now,
			"f.yaml:1: policy.path: cannot be read: open DIR/none: no such file or directory\n" +
				"f.yaml:2: dns.extra_records_path: cannot be read: read DIR: is a directory\n" +
				"f.yaml:3: derp.files: cannot be read: open DIR/gone: no such file or directory"},
		{"data_dir is a file", "data_dir: DIR/file", now, "f.yaml:1: data_dir: DIR/file is not a directory"},
		{"data_dir below a file", "data_dir: DIR/file/data", now, "f.yaml:1: data_dir: cannot be used: stat DIR/file/data: not a directory"},
		{"by line", "\ndns: {extra_records_path: DIR/none}\npolicy: {path: DIR/none}\ndata_dir: DIR/file", now,
			"f.yaml:2: dns.extra_records_path: cannot be read: open DIR/none: no such file or directory\n" +
				"f.yaml:3: policy.path: cannot be read: open DIR/none: no such file or directory\n" +
				"f.yaml:4: data_dir: DIR/file is not a directory"},
		{"other name", strings.Replace(tls, "vpn", "www", 1), now, "f.yaml:1: tls.cert_file: DIR/cert.pem is for vpn.example.com, not for www.example.com of server_url: get one for that name"},
		{"expired", tls, now.Add(2 * time.Hour), "f.yaml:1: tls.cert_file: DIR/cert.pem expired at 2030-05-01T01:00:00Z: renew it"},
		{"not yet valid", tls, now.Add(-2 * time.Hour), "f.yaml:1: tls.cert_file: DIR/cert.pem is not valid before 2030-04-30T23:00:00Z: check the clock"},
		{"not a certificate", strings.Replace(tls, "cert.pem", "file", 1), now, "f.yaml:1: tls.cert_file: DIR/file holds no CERTIFICATE block in PEM form"},
		{"not a key", strings.Replace(tls, "key.pem", "cert.pem", 1), now, "f.yaml:1: tls.key_file: DIR/cert.pem holds no PRIVATE KEY block in PEM form"},
		{"another key", strings.Replace(tls, "key.pem", "other/key.pem", 1), now, "f.yaml:1: tls.cert_file: DIR/cert.pem does not go with tls.key_file DIR/other/key.pem: private key does not match public key"},
		{"no certificate", strings.Replace(tls, "cert.pem", "none", 1), now, "f.yaml:1: tls.cert_file: cannot be read: open DIR/none: no such file or directory"},
		{"all is well", tls + "policy: {path: DIR/file}\nderp: {files: [DIR/file]}\ndata_dir: DIR/new", now, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := config.Parse("f.yaml", []byte(strings.ReplaceAll(tt.yaml, "DIR", dir)), []string{"HOME=" + dir})
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(tt.yaml, "data_dir") {
				cfg.DataDir = dir
			}
			got := ""
			if err := cfg.Check(tt.at); err != nil {
				got = strings.ReplaceAll(err.Error(), dir, "DIR")
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func certificate(t *testing.T, dir, name string, from, to time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: from, NotAfter: to}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: cert},
		"key.pem":  {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestChanged(t *testing.T) {
	parse := func(text string) *config.Config {
		t.Helper()
		cfg, err := config.Parse("f.yaml", []byte(text), home())
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	const was = "server_url: https://a.example\ntrusted_proxies: [127.0.0.1]\n"
	for _, tt := range []struct {
		now  string
		want []string
	}{
		{was, nil},
		{"# moved\n" + was, nil},
		{was + "log: {level: debug}\n", []string{"log.level"}},
		{"server_url: https://b.example\ntrusted_proxies: [127.0.0.1]\n", []string{"derp.embedded.hostname", "server_url"}},
		{was + "tls: {acme: {dns: {tsig_key_name: k, tsig_key: c2VjcmV0}}}\n", []string{"tls.acme.dns.tsig_key", "tls.acme.dns.tsig_key_name"}},
		// What is set to its default is the same, unless it is fixed by that.
		{was + "log: {level: info}\ndns: {magic_dns: true, nameservers: {global: [9.9.9.9]}}\n", []string{"dns.magic_dns", "dns.nameservers.global"}},
	} {
		from, to := parse(was), parse(tt.now)
		if diff := cmp.Diff(tt.want, from.Changed(to)); diff != "" {
			t.Errorf("%s: (-want +got):\n%s", tt.now, diff)
		}
		to.Keep(from, tt.want...)
		if left := from.Changed(to); left != nil {
			t.Errorf("%s: %v differ although they were kept", tt.now, left)
		}
	}
}
