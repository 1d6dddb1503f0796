package derp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	certValid  = 2 * 365 * 24 * time.Hour
	renewAhead = 30 * 24 * time.Hour

	// clockSkew is how far a client's clock may lag: it refuses a certificate
	// that is not valid yet.
	clockSkew = 48 * time.Hour
)

// certificate is a self-made certificate and its key.
type certificate struct {
	tls  tls.Certificate
	leaf *x509.Certificate
	pem  []byte // of the certificate and the key
}

// newCertificate makes a certificate for the names and addresses in hosts.
func newCertificate(hosts []string, now time.Time) (*certificate, error) {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "heddle relay"},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(certValid),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, priv.Public(), priv)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...)
	return parseCertificate(text)
}

func parseCertificate(text []byte) (*certificate, error) {
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, err
	}
	if len(pair.Certificate) != 1 {
		return nil, fmt.Errorf("%d certificates instead of one", len(pair.Certificate))
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, err
	}
	return &certificate{tls: pair, leaf: leaf, pem: text}, nil
}

func loadCertificate(file string) (*certificate, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return parseCertificate(text)
}

// save replaces file in one step.
func (c *certificate) save(file string) error { return replaceFile(file, c.pem) }

// usable returns why c cannot serve hosts at now, nil if it can.
func (c *certificate) usable(hosts []string, now time.Time) error {
	if now.Before(c.leaf.NotBefore) {
		return fmt.Errorf("it is not valid before %v", c.leaf.NotBefore)
	}
	if now.After(c.leaf.NotAfter.Add(-renewAhead)) {
		return fmt.Errorf("it expires at %v", c.leaf.NotAfter)
	}
	for _, host := range hosts {
		if err := c.leaf.VerifyHostname(host); err != nil {
			return errors.New("it is not for " + host)
		}
	}
	return nil
}

// pin is what a client compares: tlsdial.SetConfigExpectedCertHash.
func (c *certificate) pin() string {
	sum := sha256.Sum256(c.leaf.Raw)
	return "sha256-raw:" + hex.EncodeToString(sum[:])
}

// replaceFile writes data to file in one step, readable by the owner only.
func replaceFile(file string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
