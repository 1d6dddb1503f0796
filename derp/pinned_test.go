package derp_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"heddle/derp"
)

func TestPinnedCertificate(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	file := filepath.Join(t.TempDir(), "relay.pem")
	cfg := derp.PinnedConfig{
		Addr:    "127.0.0.1:0",
		Hosts:   []string{"127.0.0.1", "relay.example"},
		File:    file,
		Handler: http.NotFoundHandler(),

		ConnState: func(net.Conn, http.ConnState) {},
		Now:       func() time.Time { return now },
	}
	open := func() string {
		t.Helper()
		p, err := derp.ListenPinned(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		return p.Pin()
	}
	first := open()
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
	tests := []struct {
		name    string
		prepare func()
		renewed bool
	}{
		{"restart", func() {}, false},
		{"a year later", func() { now = now.AddDate(1, 0, 0) }, false},
		{"fewer hosts", func() { cfg.Hosts = cfg.Hosts[:1] }, false},
		{"about to expire", func() { now = now.AddDate(0, 11, 20) }, true},
		{"another host", func() { cfg.Hosts = append(cfg.Hosts, "::1") }, true},
		{"clock far behind", func() { now = now.AddDate(-1, 0, 0) }, true},
		{"damaged", func() { os.WriteFile(file, []byte("rubbish"), 0o600) }, true},
		{"restart again", func() {}, false},
		{"gone", func() { os.Remove(file) }, true},
	}
	for _, tt := range tests {
		tt.prepare()
		pin := open()
		if renewed := pin != first; renewed != tt.renewed {
			t.Errorf("%s: renewed %v", tt.name, renewed)
		}
		first = pin
	}
	if left, _ := filepath.Glob(file + ".*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	cfg.File = filepath.Join(t.TempDir(), "missing", "relay.pem")
	if _, err := derp.ListenPinned(cfg); err == nil {
		t.Error("no error for a directory that is missing")
	}
}

// A client that pins another certificate must not connect.
func TestWrongPin(t *testing.T) {
	r := startRelay(t)
	node := *r.region.Nodes[0]
	node.CertName = "sha256-raw:" + "00000000000000000000000000000000000000000000000000000000000000aa"
	region := *r.region
	region.Nodes = append(region.Nodes[:0:0], &node)
	wrong := &testRelay{r.Relay, r.admission, &region}
	if err := wrong.client(t, r.newMember()).Connect(t.Context()); err == nil {
		t.Error("the client accepts any certificate")
	}
	if err := r.client(t, r.newMember()).Connect(t.Context()); err != nil {
		t.Error(err)
	}
}

// HTTP/2 cannot carry DERP, so the listener must not offer it.
func TestPinnedOffersNoHTTP2(t *testing.T) {
	r := startRelay(t)
	addr := fmt.Sprintf("127.0.0.1:%d", r.region.Nodes[0].DERPPort)
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if p := c.ConnectionState().NegotiatedProtocol; p == "h2" {
		t.Error("it negotiates h2")
	}
}
