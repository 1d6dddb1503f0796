package cli_test

import (
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"heddle/control/tailnet"
)

// remote serves the world's API over TLS, and returns its address and the
// file with its CA.
func (w *world) remote() (address, ca string) {
	w.t.Helper()
	srv := httptest.NewUnstartedServer(w.api.Handler(http.NotFoundHandler()))
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that fail are meant to
	srv.StartTLS()
	w.t.Cleanup(srv.Close)
	ca = filepath.Join(w.t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return srv.Listener.Addr().String(), ca
}

func (w *world) apiKey(spec tailnet.APIKeySpec) (secret string, id tailnet.APIKeyID) {
	w.t.Helper()
	w.must(func(tx *tailnet.Tx) error {
		s, k, err := tx.CreateAPIKey(spec)
		if err == nil {
			secret, id = s, k.ID
		}
		return err
	})
	return secret, id
}

func TestRemote(t *testing.T) {
	w := newWorld(t)
	w.populate()
	address, ca := w.remote()
	soon := w.clock.now().Add(time.Hour)
	good, _ := w.apiKey(tailnet.APIKeySpec{Expires: soon.Add(time.Hour)})
	reader, _ := w.apiKey(tailnet.APIKeySpec{Role: "auditor", Expires: soon.Add(time.Hour)})
	expired, _ := w.apiKey(tailnet.APIKeySpec{Expires: soon})
	revoked, id := w.apiKey(tailnet.APIKeySpec{Expires: soon.Add(time.Hour)})
	w.must(func(tx *tailnet.Tx) error { return tx.RevokeAPIKey(id) })
	w.clock.pass(time.Hour)
	keyFile := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(keyFile, []byte(good+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	list := []string{"--address", address, "--ca-file", ca, "users", "list"}
	for _, c := range []struct {
		name string
		env  map[string]string
		args []string
		code int
		want string // in the output, or else in the error
	}{
		{"key in the environment", map[string]string{"HEDDLE_API_KEY": good}, list, 0, "alice"},
		{"key in a file", nil, append([]string{"--api-key-file", keyFile}, list...), 0, "alice"},
		{"key file in the environment", map[string]string{"HEDDLE_API_KEY_FILE": keyFile}, list, 0, "alice"},
		{"address in the environment", map[string]string{"HEDDLE_ADDRESS": "https://" + address, "HEDDLE_API_KEY": good}, list[2:], 0, "alice"},
		{"change", map[string]string{"HEDDLE_API_KEY": good}, append(list[:4:4], "users", "create", "carol"), 0, "carol"},
		{"auditor reads", map[string]string{"HEDDLE_API_KEY": reader}, list, 0, "alice"},
		{"auditor changes", map[string]string{"HEDDLE_API_KEY": reader}, append(list[:4:4], "users", "create", "dave"), 5, "admin"},
		{"expired", map[string]string{"HEDDLE_API_KEY": expired}, list, 5, "expired at 2030-01-01T13:00:00Z"},
		{"revoked", map[string]string{"HEDDLE_API_KEY": revoked}, list, 5, "revoked"},
		{"wrong", map[string]string{"HEDDLE_API_KEY": "tskey-api-x-y"}, list, 5, "not valid here"},
		{"none", nil, list, 2, "HEDDLE_API_KEY"},
		{"empty file", nil, append([]string{"--api-key-file", os.DevNull}, list...), 2, "it is empty"},
		{"unknown CA", map[string]string{"HEDDLE_API_KEY": good}, append(list[:2:2], "users", "list"), 1, "--ca-file"},
		{"CA file without a certificate", map[string]string{"HEDDLE_API_KEY": good}, []string{"--address", address, "--ca-file", keyFile, "users", "list"}, 2, "PEM"},
		{"plaintext", map[string]string{"HEDDLE_API_KEY": good}, []string{"--address", "http://" + address, "users", "list"}, 2, "only travels over TLS"},
		{"no address", map[string]string{"HEDDLE_API_KEY": good}, []string{"--address", "https:///x", "users", "list"}, 2, "HOST:PORT"},
		{"nobody there", map[string]string{"HEDDLE_API_KEY": good}, []string{"--address", "127.0.0.1:1", "users", "list"}, 1, "nothing listens there"},
		{"another name", map[string]string{"HEDDLE_API_KEY": good}, []string{"--address", strings.Replace(address, "127.0.0.1", "localhost", 1), "--ca-file", ca, "users", "list"}, 1, "its certificate is for example.com, *.example.com, 127.0.0.1, ::1, not for localhost"},
		{"unknown name", map[string]string{"HEDDLE_API_KEY": good}, []string{"--address", "vpn.invalid", "users", "list"}, 1, "vpn.invalid"},
		{"CA file is missing", map[string]string{"HEDDLE_API_KEY": good}, []string{"--address", address, "--ca-file", "/nowhere", "users", "list"}, 2, "cannot read the CA"},
		{"socket too", nil, append([]string{"--socket", w.socket}, list...), 2, "--socket and --address exclude each other"},
		{"both in the environment", map[string]string{"HEDDLE_ADDRESS": address, "HEDDLE_SOCKET": w.socket}, list[4:], 2, "unset one"},
		{"the flag wins", map[string]string{"HEDDLE_ADDRESS": address}, append([]string{"--socket", w.socket}, list[4:]...), 0, "alice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			r := heddle(t, "", c.args...)
			got := r.out
			if c.code != 0 {
				got = r.err
			}
			if r.code != c.code || !strings.Contains(got, c.want) {
				t.Errorf("exit code %d, want %d with %q:\n%s%s", r.code, c.code, c.want, r.out, r.err)
			}
			if key := c.env["HEDDLE_API_KEY"]; key != "" && strings.Contains(r.out+r.err, key) {
				t.Errorf("the key is in the output:\n%s%s", r.out, r.err)
			}
		})
	}
}

// A server that speaks no TLS never sees the key.
func TestRemoteWithoutTLS(t *testing.T) {
	var seen string
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen = r.Header.Get("Authorization")
	}))
	defer srv.Close()
	t.Setenv("HEDDLE_API_KEY", "tskey-api-x-y")
	r := heddle(t, "", "--address", srv.Listener.Addr().String(), "users", "list")
	if r.code != 1 || !strings.Contains(r.err, "TLS") {
		t.Errorf("exit code %d: %s", r.code, r.err)
	}
	if seen != "" {
		t.Errorf("the key travelled in plain text: %s", seen)
	}
}
