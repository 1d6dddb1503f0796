package certs_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"heddle/cmd/heddle/serve/certs"
	"heddle/cmd/heddle/serve/zones"
	"heddle/integration/dnsapi"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// zone is kept by each of the providers, of which each knows who may write there.
const (
	zone      = "example.com"
	keyName   = "heddle"
	keySecret = "c29tZSBrZXkgb2YgdGhlIHRlc3QncyBuYW1lIHNlcnZlcg=="
	token     = "v1-token-of-the-test-0123456789abcdefghij"
	accessKey = "AKIAIOSFODNN7EXAMPLE"
	secretKey = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
)

// keeper is a provider whose records the authority's resolver sees.
type keeper struct {
	certs.Provider
	put    func(name, value string)                // makes a record that is not ours
	fail   func(after int, by ...http.HandlerFunc) // has the provider's API fail; nil if it has none
	secret string                                  // that it writes with
}

// keepers make one for each provider; with a false secret if it is wrong.
var keepers = map[string]func(t *testing.T, n *names, wrong bool) keeper{
	"rfc2136": func(_ *testing.T, n *names, wrong bool) keeper {
		u := &zones.Updates{Server: n.addr, Zone: zone, KeyName: keyName, Key: keySecret, Algorithm: "hmac-sha256"}
		if wrong {
			u.Key = "d3Jvbmcgc2VjcmV0"
		}
		return keeper{u, func(name, value string) { n.set(name, append(n.values(name), value)) }, nil, u.Key}
	},
	"cloudflare": func(t *testing.T, n *names, wrong bool) keeper {
		s := &dnsapi.Cloudflare{Token: token, Changed: n.set, Zones: []dnsapi.CloudflareZone{
			{ID: "1", Name: "com.example", Status: "active"}, {ID: "2", Name: zone, Status: "active"}, {ID: "3", Name: "ample.com", Status: "active"},
		}}
		web := httptest.NewServer(s)
		t.Cleanup(web.Close)
		given := token
		if wrong {
			given = "v1-wrong-secret-1234567890"
		}
		return keeper{zones.NewCloudflare(given, web.URL+"/client/v4", nil), func(name, value string) { s.Put(zone, name, `"`+value+`"`) }, s.Fail, given}
	},
	"route53": func(t *testing.T, n *names, wrong bool) keeper {
		for name, value := range map[string]string{"AWS_CONFIG_FILE": "/none", "AWS_SHARED_CREDENTIALS_FILE": "/none", "AWS_EC2_METADATA_DISABLED": "true", "AWS_PROFILE": "", "AWS_REGION": "", "AWS_CA_BUNDLE": ""} {
			t.Setenv(name, value)
		}
		s := &dnsapi.Route53{AccessKeyID: accessKey, SecretAccessKey: secretKey, Changed: n.set, Zones: []dnsapi.HostedZone{
			{ID: "Z1", Name: zone}, {ID: "Z2", Name: zone, Private: true}, {ID: "Z3", Name: host, Private: true}, {ID: "Z4", Name: "com"},
		}}
		web := httptest.NewServer(s)
		t.Cleanup(web.Close)
		given := secretKey
		if wrong {
			given = "wrongSecretWrongSecret"
		}
		p, err := zones.NewRoute53(t.Context(), zones.Route53Options{AccessKeyID: accessKey, SecretAccessKey: given, API: web.URL})
		if err != nil {
			t.Fatal(err)
		}
		return keeper{p, func(name, value string) { s.Put("Z1", name, 300, `"`+value+`"`) }, s.Fail, given}
	},
}

// everyKeeper runs a test with each provider, and an authority that sees what it writes.
func everyKeeper(t *testing.T, wrong bool, test func(t *testing.T, a *authority, s *site, o certs.ACMEOptions, k keeper)) {
	for name, start := range keepers {
		t.Run(name, func(t *testing.T) {
			s := listen(t)
			a := startAuthority(t, time.Hour, s.HTTP, s.HTTPS)
			k := start(t, a.names, wrong)
			o := a.options()
			o.Dir, o.DNS = t.TempDir(), &certs.DNS{Provider: k.Provider}
			test(t, a, s, o, k)
		})
	}
}

// TestProofWithWrongSecret tells the person why there is no certificate, and tells nobody the secret.
func TestProofWithWrongSecret(t *testing.T) {
	words := map[string]string{
		"*zones.Updates":    "refuses an update of the zone example.com",
		"*zones.Cloudflare": "Invalid access token (9109): check tls.acme.dns.token",
		"*zones.Route53":    "(SignatureDoesNotMatch): check the secret access key",
	}
	everyKeeper(t, true, func(t *testing.T, _ *authority, s *site, o certs.ACMEOptions, k keeper) {
		var log lines
		o.Log = slog.New(slog.NewTextHandler(io.MultiWriter(&log, t.Output()), &slog.HandlerOptions{Level: slog.LevelDebug}))
		s.serve(t, o)
		await(t, "the failure is told", func() error {
			if _, err := s.acme.Health(time.Now()); err == nil || !strings.Contains(err.Error(), words[fmt.Sprintf("%T", k.Provider)]) {
				return fmt.Errorf("health says %v", err)
			}
			return nil
		})
		if text := log.String(); strings.Contains(text, k.secret) || !strings.Contains(text, "no certificate obtained") {
			t.Errorf("the log holds the secret, or no failure:\n%s", text)
		}
	})
}

// lines is a log that is read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestLeftovers starts after a crash that left a proof behind, beside records of others.
func TestLeftovers(t *testing.T) {
	everyKeeper(t, false, func(t *testing.T, a *authority, s *site, o certs.ACMEOptions, k keeper) {
		const name, old, theirs = "_acme-challenge." + host, "proof-from-before-the-crash", "somebody-elses-proof"
		record, err := json.Marshal(map[string]string{"zone": zone, "name": name, "value": old})
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(o.Dir, "dns-01")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for file, content := range map[string][]byte{old: record, "garbage": []byte("{"), "in-no-zone": []byte(`{"zone": "none.example", "name": "x.none.example", "value": "x"}`)} {
			if err := os.WriteFile(filepath.Join(dir, file+".json"), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		k.put("_acme-challenge."+relay, theirs)
		k.put(name, old)
		if k.fail != nil {
			k.fail(3, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
		}
		s.serve(t, o)
		await(t, host+" has a certificate", func() error { _, err := s.leaf(a, host); return err })
		await(t, "the leftover is gone", func() error {
			if left := a.names.values(name); len(left) > 0 {
				return fmt.Errorf("there are %q", left)
			}
			files, err := filepath.Glob(filepath.Join(dir, "*"))
			if err != nil || len(files) != 1 { // that of another zone, which nobody can write to
				return fmt.Errorf("there are the files %q, %v", files, err)
			}
			return nil
		})
		if diff := cmp.Diff([]string{theirs}, a.names.values("_acme-challenge."+relay)); diff != "" {
			t.Errorf("the records of others (-want +got):\n%s", diff)
		}
	})
}

// TestProofIsWaitedFor has a name server that learns of records late.
func TestProofIsWaitedFor(t *testing.T) {
	s := listen(t)
	a := startAuthority(t, time.Hour, s.HTTP, s.HTTPS)
	a.names.late = 2
	o := a.options()
	o.DNS = &certs.DNS{Provider: keepers["rfc2136"](t, a.names, false).Provider, Zone: zone, Record: "_acme-challenge." + host}
	s.serve(t, o)
	await(t, host+" has a certificate", func() error { _, err := s.leaf(a, host); return err })
}

// TestNoZone is about a name that the provider's account has no zone for.
func TestNoZone(t *testing.T) {
	for name, start := range keepers {
		t.Run(name, func(t *testing.T) {
			s := listen(t)
			a := startAuthority(t, time.Hour, s.HTTP, s.HTTPS)
			o := a.options()
			o.Names = []string{"vpn.elsewhere.example"}
			o.DNS = &certs.DNS{Provider: start(t, a.names, false).Provider}
			s.serve(t, o)
			await(t, "the failure is told", func() error {
				_, err := s.acme.Health(time.Now())
				for _, word := range []string{"_acme-challenge.vpn.elsewhere.example lies in none of the", zone, "tls.acme.dns.record"} {
					if err == nil || !strings.Contains(err.Error(), word) {
						return fmt.Errorf("health says %v", err)
					}
				}
				return nil
			})
		})
	}
}

// names is a name server for which every host is 127.0.0.1, and which takes updates of
// TXT records.
type names struct {
	addr string
	mu   sync.Mutex
	txt  map[string][]string // by name without the final dot
	late int                 // how many questions for TXT records it answers before it knows any
}

func startNames(t *testing.T) *names {
	t.Helper()
	n := &names{txt: map[string][]string{}}
	var pc net.PacketConn
	l, err := net.Listen("tcp", "127.0.0.1:0")
	for tries := 0; err == nil; tries++ { // until a port is free for both
		n.addr = l.Addr().String()
		if pc, err = net.ListenPacket("udp", n.addr); err == nil || tries == 20 {
			break
		}
		l.Close()
		l, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	for _, s := range []*dns.Server{{PacketConn: pc}, {Listener: l}} {
		s.Handler, s.TsigSecret = n, map[string]string{keyName + ".": keySecret}
		s.MsgAcceptFunc = func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }
		running.Go(func() { s.ActivateAndServe() })
		t.Cleanup(func() { s.Shutdown() })
	}
	return n
}

// values are those of the TXT records of a name.
func (n *names) values(name string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.txt[name])
}

// set says what they are, in quotes or not.
func (n *names) set(name string, values []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.txt[name] = nil
	for _, v := range values {
		n.txt[name] = append(n.txt[name], strings.Trim(v, `"`))
	}
}

// proofs is how many records there are.
func (n *names) proofs() (sum int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, values := range n.txt {
		sum += len(values)
	}
	return sum
}

// ServeDNS implements dns.Handler.
func (n *names) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	n.mu.Lock()
	defer n.mu.Unlock()
	resp := new(dns.Msg)
	resp.SetReply(q)
	asked := q.Question[0].Name
	switch {
	case q.Opcode == dns.OpcodeUpdate && (q.IsTsig() == nil || w.TsigStatus() != nil || asked != zone+"."):
		resp.Rcode = dns.RcodeRefused
	case q.Opcode == dns.OpcodeUpdate:
		for _, rr := range q.Ns {
			txt := rr.(*dns.TXT)
			name := strings.TrimSuffix(txt.Hdr.Name, ".")
			kept := slices.DeleteFunc(n.txt[name], func(v string) bool { return v == txt.Txt[0] })
			if txt.Hdr.Class == dns.ClassINET {
				kept = append(kept, txt.Txt[0])
			}
			n.txt[name] = kept
		}
		resp.SetTsig(q.IsTsig().Hdr.Name, q.IsTsig().Algorithm, 300, time.Now().Unix())
	case q.Question[0].Qtype == dns.TypeTXT && n.late > 0:
		n.late--
	case q.Question[0].Qtype == dns.TypeTXT:
		for _, v := range n.txt[strings.TrimSuffix(asked, ".")] {
			resp.Answer = append(resp.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: asked, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{v}})
		}
	case q.Question[0].Qtype == dns.TypeA:
		resp.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: asked, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(127, 0, 0, 1)}}
	}
	w.WriteMsg(resp)
}
