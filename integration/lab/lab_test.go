//go:build linux

package lab_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"heddle/integration/lab"
)

// TestNetwork proves the lab itself: who reaches whom, and that a NAT router lets nothing in.
func TestNetwork(t *testing.T) {
	l := lab.New(t)
	inet := l.Internet()
	public := inet.Host("public", 20)
	elsewhere := inet.Elsewhere("elsewhere")
	home := inet.Site("home", 11)
	inside := home.Host("inside", 2)

	for _, tc := range []struct {
		from *lab.Host
		to   string
		want bool
	}{
		{public, "203.0.113.80", true},
		{public, "2001:db8:2::80", true},
		{elsewhere, "198.51.100.20", true},
		{inside, "203.0.113.80", true},
		{inside, "198.51.100.20", true},
		{public, "10.11.0.2", false},
		{public, "198.51.100.11", false},
	} {
		_, err := tc.from.Run(t.Context(), "ping", "-c1", "-W1", tc.to)
		if got := err == nil; got != tc.want {
			t.Errorf("%s reaches %s: %v, want %v: %v", tc.from.Name, tc.to, got, tc.want, err)
		}
	}

	ln, err := elsewhere.Listen("203.0.113.80:80")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.RemoteAddr)
	}))
	resp, err := inside.HTTP().Get("http://203.0.113.80/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || !strings.HasPrefix(string(body), "198.51.100.11:") {
		t.Errorf("the web server saw %q, %v; want the router's address", body, err)
	}
}

func TestProcess(t *testing.T) {
	l := lab.New(t)
	h := l.Host("solo")
	p, err := h.Start("sleeper", nil, "sleep", "1000")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(5 * time.Second); err != nil {
		t.Error(err)
	}
	if p.Err() == nil {
		t.Error("a process that a signal ended has no error")
	}
	if out := h.MustRun(t, "cat", "/etc/hostname"); out != "solo\n" {
		t.Errorf("the host reads %q as its name", out)
	}
}
