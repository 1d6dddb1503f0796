package doctor

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

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
