// Package certs owns the certificates that the public listeners show: read from
// files and again when these change, or obtained and renewed by ACME. It refuses to
// know what is served with them: it opens no listener of its own.
package certs

import (
	"crypto/tls"
	"slices"
)

// aead are the suites of TLS 1.2 that encrypt with authentication and keep old
// connections secret if a key is stolen. Those of TLS 1.3 all do, and are not for choice.
var aead = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// Get is a tls.Config's GetCertificate.
type Get func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// Challenge is the protocol by which an authority asks for the proof of
// TLS-ALPN-01 (RFC 8737).
const Challenge = "acme-tls/1"

// Config is the TLS configuration of a public listener. It makes browsers speak
// HTTP/2; stock clients offer no protocol for what must be HTTP/1.1. further, unless nil, is a
// certificate in DER that is sent after the chain. protocols are more that are spoken.
func Config(get Get, further []byte, protocols ...string) *tls.Config {
	if further != nil {
		bare := get
		get = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			c, err := bare(hello)
			if err != nil || slices.Contains(hello.SupportedProtos, Challenge) {
				return c, err // what proves a name is one certificate
			}
			more := *c
			more.Certificate = append(slices.Clip(c.Certificate), further)
			return &more, nil
		}
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		CipherSuites:   aead,
		NextProtos:     append([]string{"h2", "http/1.1"}, protocols...),
		GetCertificate: get,
	}
}
