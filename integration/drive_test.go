//go:build linux

package integration_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"heddle/integration/lab"
	"heddle/integration/stock"
)

// testTaildrive shares a directory of dave's: by the policy alice may read it, and later write.
func (p *policyMesh) testTaildrive(t *testing.T) {
	dir := filepath.Join(p.dave.Dir(), "docs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "minutes.txt"), []byte("all agreed"), 0o644); err != nil {
		t.Fatal(err)
	}
	share := func(access string) {
		t.Helper()
		p.setPolicy(t, `
	"grants": [`+amongNodes+`,
		{"src": ["alice@"], "dst": ["tag:server"], "app": {"tailscale.com/cap/drive": [{"shares": ["docs"], "access": "`+access+`"}]}},
	],
	"nodeAttrs": [
		{"target": ["tag:server"], "attr": ["drive:share"]},
		{"target": ["autogroup:member"], "attr": ["drive:access"]},
	],`)
	}
	share("ro")
	lab.Await(t, seconds, "dave may share", func() error {
		_, err := p.dave.CLI(t.Context(), "drive", "share", "docs", dir)
		return err
	})
	lab.Await(t, 2*seconds, "anna reads dave's file", func() error {
		return expect(p.anna, http.MethodGet, "/dave/docs/minutes.txt", "", http.StatusOK, "all agreed")
	})
	lab.Await(t, seconds, "anna lists dave's share", func() error {
		return expect(p.anna, "PROPFIND", "/dave/docs/", "", http.StatusMultiStatus, "minutes.txt")
	})
	if err := expect(p.anna, http.MethodPut, "/dave/docs/new.txt", "mine", http.StatusForbidden, ""); err != nil {
		t.Errorf("a share that is read only: %v", err)
	}
	if err := expect(p.ben, http.MethodGet, "/dave/docs/minutes.txt", "", http.StatusOK, ""); err == nil {
		t.Error("ben reads a share that nobody granted him")
	}

	share("rw")
	lab.Await(t, seconds, "anna writes to dave's share", func() error {
		return expect(p.anna, http.MethodPut, "/dave/docs/new.txt", "mine", http.StatusCreated, "")
	})
	if got, err := os.ReadFile(filepath.Join(dir, "new.txt")); err != nil || string(got) != "mine" {
		t.Errorf("dave got %q, %v", got, err)
	}

	p.grant(t, amongNodes)
	lab.Await(t, seconds, "anna reads no more", func() error {
		if expect(p.anna, http.MethodGet, "/dave/docs/minutes.txt", "", http.StatusOK, "") == nil {
			return errors.New("she still does")
		}
		return nil
	})
}

// expect sends a request to the Taildrive of a client, which offers all shares of the tailnet at
// one address.
func expect(c *stock.Client, method, path, body string, status int, content string) error {
	req, err := http.NewRequest(method, "http://100.100.100.100:8080/"+baseDomain+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	if method == "PROPFIND" {
		req.Header.Set("Depth", "1")
	}
	client := c.HTTP()
	client.Timeout = seconds
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && (resp.StatusCode != status || !strings.Contains(string(got), content)) {
		err = fmt.Errorf("%s %s on %s: %s, %q", method, path, c.Name, resp.Status, got)
	}
	return err
}
