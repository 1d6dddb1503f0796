package doctor

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"heddle/cmd/heddle/config"
	v1 "heddle/proto/heddle/v1"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// The other findings are tested in integration, with real clients, proxies and firewalls.

func TestClocks(t *testing.T) {
	public := key.NewMachine().Public()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(tailcfg.OverTLSPublicKeyResponse{LegacyPublicKey: public, PublicKey: public})
	}))
	defer server.Close()
	for _, tc := range []struct {
		off  time.Duration
		want Verdict
	}{{0, Fine}, {10 * time.Minute, Broken}, {-10 * time.Minute, Broken}} {
		e := &exam{now: func() time.Time { return time.Now().Add(tc.off) }}
		e.url, _ = url.Parse(server.URL)
		if got := e.controlKey(t.Context()); got != public {
			t.Errorf("the server's key is %v", got)
		}
		if last := e.findings[len(e.findings)-1]; last.Name != "clocks" || last.Verdict != tc.want {
			t.Errorf("off by %v: %+v", tc.off, last)
		}
	}
}

func TestNothingListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	for _, tc := range []struct {
		host string
		dns  bool
	}{{"127.0.0.1", false}, {"localhost", false}, {"vpn.example.com", true}} {
		e := &exam{url: &url.URL{Scheme: "http", Host: net.JoinHostPort(tc.host, fmt.Sprint(l.Addr().(*net.TCPAddr).Port))}}
		if good := e.port(t.Context(), []netip.Addr{netip.MustParseAddr("127.0.0.1")}); good != nil {
			t.Fatalf("%v answers", good)
		}
		if f := e.findings[0]; f.Verdict != Broken || !strings.Contains(f.Next, "runs and listens") || strings.Contains(f.Next, "DNS") != tc.dns {
			t.Errorf("%s: %+v", tc.host, f)
		}
	}
}

// TestSTUNFromOutside: nobody has said there which port it is.
func TestSTUNFromOutside(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := silent.LocalAddr().(*net.UDPAddr).Port
	silent.Close() // so that packets are refused at once
	n := node{host: "127.0.0.1", addrs: []string{"127.0.0.1"}, stunPort: port, own: true}
	for _, tc := range []struct {
		cfg  *config.Config
		want Verdict
		next string
	}{{nil, Warning, "run heddle doctor on the server"}, {new(config.Config), Broken, "see that the server runs"}} {
		e := &exam{cfg: tc.cfg}
		e.stun(t.Context(), n)
		if f := e.findings[0]; f.Name != "stun" || f.Verdict != tc.want || !strings.Contains(f.Next, tc.next) {
			t.Errorf("%+v, want %s: %s", f, tc.want, tc.next)
		}
	}
}

// TestNoCertificate: the server knows why it has none, and so does whoever asks the doctor.
func TestNoCertificate(t *testing.T) {
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return nil, errors.New("none")
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go http.Serve(l, http.NotFoundHandler())
	e := &exam{now: time.Now, url: &url.URL{Scheme: "https", Host: l.Addr().String()}}
	addrs := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	e.certificate(t.Context(), addrs)
	if f := e.findings[0]; f.Verdict != Broken || !strings.Contains(f.Next, "look at the log") {
		t.Errorf("the reason is not known: %+v", f)
	}
	e.parts([]*v1.HealthPart{{Name: "certificate", Message: "the authority does not reach port 80"}})
	e.certificate(t.Context(), addrs)
	for _, f := range e.findings[1:] {
		if f.Name != "certificate" || f.Verdict != Broken || !strings.Contains(f.Reason, "does not reach port 80") || strings.Contains(f.Next, "log") {
			t.Errorf("the reason is known: %+v", f)
		}
	}
}

func TestProxiesAreNamed(t *testing.T) {
	for _, tc := range []struct{ server, via, want string }{
		{"nginx/1.22.1", "", "nginx"},
		{"cloudflare", "", "Cloudflare"},
		{"", "1.1 Caddy", "Caddy"},
		{"", "1.1 varnish", "Varnish"},
		{"BigIP", "", `"bigip"`},
		{"", "", "a proxy that does not tell its name"},
	} {
		resp := &http.Response{Header: http.Header{"Server": {tc.server}, "Via": {tc.via}}}
		if got := between(resp); got != tc.want {
			t.Errorf("%q, %q: %s, want %s", tc.server, tc.via, got, tc.want)
		}
	}
}

func TestOpenFiles(t *testing.T) {
	const text = "Limit                     Soft Limit           Hard Limit           Units\nMax open files            1024                 524288               files\n"
	if got := openFilesOf([]byte(text)); got != 1024 {
		t.Errorf("%d open files", got)
	}
	if got := openFilesOf([]byte("nonsense")); got != 0 {
		t.Errorf("%d open files in nonsense", got)
	}
}

func TestOutput(t *testing.T) {
	e := &exam{}
	e.fine("dns", "it leads to %s", "192.0.2.1")
	for _, format := range []string{"table", "json", "yaml"} {
		if err := e.tell(io.Discard, format); err != nil {
			t.Errorf("%s: nothing is broken, and yet %v", format, err)
		}
	}
	e.broken("port", "open it", "it is closed")
	var out bytes.Buffer
	if err := e.tell(&out, "table"); err == nil || !strings.Contains(err.Error(), "1 of 2") {
		t.Errorf("one thing is broken: %v", err)
	}
	if text := out.String(); !strings.Contains(text, "→ open it") || !strings.Contains(text, "192.0.2.1") {
		t.Errorf("the table says\n%s", text)
	}
	out.Reset()
	e.tell(&out, "json")
	var back []Finding
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || len(back) != 2 || back[1] != e.findings[1] {
		t.Errorf("JSON: %v, %+v", err, back)
	}
}
