package hosted_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"heddle/control/tailnet"

	"github.com/google/go-cmp/cmp"
	"github.com/tailscale/hujson"
	"tailscale.com/client/tailscale/v2"
)

// raw sends a request as programs do that are not the Go client: header has names and values in turn.
func (w *world) raw(method, path, body string, header ...string) (*http.Response, string) {
	w.Helper()
	r, err := http.NewRequest(method, w.url.String()+"/api/v2"+path, strings.NewReader(body))
	w.must(err)
	r.SetBasicAuth(w.secret, "")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	w.must(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	w.must(err)
	return resp, string(text)
}

// The Go client takes every answer of 400 and above for JSON, and tells what is gone by 404 in it.
func TestRefusalsAreJSON(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		method, path, body string
		want               int
	}{
		{"GET", "/device/n404", "", 404},
		{"GET", "/device/n404/routes", "", 404},
		{"GET", "/device/n404/attributes", "", 404},
		{"DELETE", "/device/n404", "", 404},
		{"GET", "/tailnet/-/keys/k404", "", 404},
		{"PUT", "/tailnet/-/keys/k404", `{"keyType": "client", "scopes": ["dns"]}`, 404},
		{"DELETE", "/tailnet/-/keys/k404", "", 404},
		{"GET", "/users/404", "", 404},
		{"GET", "/webhooks/404", "", 404},
		{"PATCH", "/webhooks/404", `{"subscriptions": ["nodeCreated"]}`, 404},
		{"DELETE", "/webhooks/404", "", 404},
		{"GET", "/tailnet/somebody.example/devices", "", 404},
		{"GET", "/nothing/here", "", 404},
		{"GET", "", "", 404},
		{"PUT", "/device/1", "", 405},
		{"POST", "/device/1/tags", `{"tags": ["web"]}`, 400},
		{"POST", "/device/1/ip", `{"ipv4": "192.0.2.1"}`, 400},
		{"POST", "/device/1/ip", `{"ipv4": "x"}`, 400},
		{"POST", "/tailnet/-/acl", `{"grants": 7}`, 400},
		{"POST", "/tailnet/-/dns/split-dns", `{}`, 405},
		{"GET", "/tailnet/-/vip-services/svc:web", "", 501},
		{"PUT", "/tailnet/-/logging/network/stream", "{}", 501},
	} {
		resp, text := w.raw(c.method, c.path, c.body)
		var got struct {
			Message string
			Status  int
		}
		if err := json.Unmarshal([]byte(text), &got); err != nil || resp.StatusCode != c.want || got.Status != c.want || got.Message == "" {
			t.Errorf("%s %s: %s, want %d: %s", c.method, c.path, resp.Status, c.want, text)
		}
	}
}

func TestNamesOfTheTailnet(t *testing.T) {
	w := newWorld(t)
	for name, want := range map[string]int{"-": 200, "default": 200, "tail.test": 200, "other.test": 404, "%2e%2e": 404} {
		if resp, text := w.raw("GET", "/tailnet/"+name+"/devices", ""); resp.StatusCode != want {
			t.Errorf("%s: %s: %s", name, resp.Status, text)
		}
	}
}

// Programs that keep the policy in git compute its ETag from their file; Terraform's If-Match says ts-default where it
// thinks that nobody has set one, and an empty body gives the policy up.
func TestPolicyETags(t *testing.T) {
	w := newWorld(t)
	const path = "/tailnet/-/acl"
	const mine = "{\n// odd form\n\"grants\":[{\"src\":[\"*\"],\"dst\":[\"*\"],\"ip\":[\"22\",],}]}"
	formatted, err := hujson.Format([]byte(mine))
	w.must(err)
	sum := sha256.Sum256(formatted)
	etag := `"` + hex.EncodeToString(sum[:]) + `"`
	post := func(body, ifMatch string, want int) *http.Response {
		t.Helper()
		header := []string{"Content-Type", "application/hujson"}
		if ifMatch != "" {
			header = append(header, "If-Match", ifMatch)
		}
		resp, text := w.raw("POST", path, body, header...)
		if resp.StatusCode != want {
			t.Fatalf("%s, want %d: %s", resp.Status, want, text)
		}
		if want == 200 && (resp.Header.Get("Content-Type") != "application/json" || !json.Valid([]byte(text))) {
			t.Errorf("who names nothing to accept gets %s: %s", resp.Header.Get("Content-Type"), text)
		}
		return resp
	}
	if resp := post(mine, `"ts-default"`, 200); resp.Header.Get("ETag") != etag {
		t.Errorf("the ETag is %s, want %s", resp.Header.Get("ETag"), etag)
	}
	resp, text := w.raw("GET", path, "", "Accept", "application/hujson")
	if text != mine || resp.Header.Get("Content-Type") != "application/hujson" || resp.Header.Get("ETag") != etag {
		t.Errorf("%v %s", resp.Header, text)
	}
	if resp, text := w.raw("GET", path, "", "Accept", "application/json"); !json.Valid([]byte(text)) || resp.Header.Get("ETag") != etag {
		t.Errorf("%v %s", resp.Header, text)
	}
	var details struct {
		ACL    []byte
		Errors []string
	}
	if resp, text := w.raw("GET", path+"?details=true", ""); json.Unmarshal([]byte(text), &details) != nil || string(details.ACL) != mine || details.Errors != nil {
		t.Errorf("%s: %s", resp.Status, text)
	}
	post("{}", `"ts-default"`, 412)
	post("{}", `"0000"`, 412)
	post("", etag, 200)
	if _, text := w.raw("GET", path, "", "Accept", "application/hujson"); !strings.Contains(text, `"src": ["*"], "dst": ["*"], "ip": ["*"]`) {
		t.Errorf("the policy that was given up: %s", text)
	}
	post(mine, `"ts-default"`, 200)
}

// Terraform validates in every plan: what is wrong with a policy is an answer, and no error.
func TestValidationIsNoError(t *testing.T) {
	w := newWorld(t)
	for body, good := range map[string]bool{
		"{\"grants\": []} // ok\n":       true,
		`{"grants": 7}`:                  false,
		`{`:                              false,
		`[]`:                             true,
		`[{"src": "nobody@example.com"}`: false,
		`[{"src": "alice@example.com", "accept": ["100.64.0.1:22"]}]`: true,
		`[{"src": "alice@example.com", "deny": ["100.64.0.1:22"]}]`:   false,
		`{"groups": {"group:a": ["alise@example.com"]}}`:              true,
	} {
		resp, text := w.raw("POST", "/tailnet/-/acl/validate", body, "Content-Type", "application/hujson")
		var got struct {
			Message  string
			Data     any
			Warnings []string
		}
		if err := json.Unmarshal([]byte(text), &got); err != nil || resp.StatusCode != 200 || (got.Message == "") != good ||
			good && got.Data != nil || (len(got.Warnings) == 1 && strings.Contains(got.Warnings[0], "alice@example.com?")) != strings.Contains(body, "alise") {
			t.Errorf("%s: %s: %s", body, resp.Status, text)
		}
	}
}

// The names in JSON are not those of the Go client, which takes any case; times are RFC 3339 or absent.
func TestDeviceOnTheWire(t *testing.T) {
	w := newWorld(t)
	_, text := w.raw("GET", "/device/1?fields=all", "")
	var got map[string]any
	w.must(json.Unmarshal([]byte(text), &got))
	for _, name := range []string{
		"addresses", "advertisedRoutes", "authorized", "blocksIncomingConnections", "clientConnectivity", "clientVersion", "connectedToControl", "created",
		"enabledRoutes", "expires", "hostname", "id", "isEphemeral", "isExternal", "keyExpiryDisabled", "machineKey", "name", "nodeId", "nodeKey", "os",
		"tailnetLockError", "tailnetLockKey", "updateAvailable", "user",
	} {
		if _, ok := got[name]; !ok {
			t.Errorf("no %s in %s", name, text)
		}
	}
	for _, name := range []string{"created", "expires"} {
		if _, err := time.Parse(time.RFC3339, fmt.Sprint(got[name])); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got["id"] != "1" || got["nodeId"] != string(w.laptop.StableID) {
		t.Errorf("%v, %v", got["id"], got["nodeId"])
	}
	_, text = w.raw("GET", "/device/1", "")
	if strings.Contains(text, "Routes") || strings.Contains(text, "clientConnectivity") {
		t.Errorf("what nobody asked for: %s", text)
	}
}

// Terraform makes a key anew if it does not read what it wrote.
func TestKeysAreReadAsTheyWereWritten(t *testing.T) {
	w := newWorld(t)
	for _, preauthorized := range []bool{false, true} {
		var req tailscale.CreateKeyRequest
		create := &req.Capabilities.Devices.Create
		req.ExpirySeconds, req.Description = 7776000, "terraform"
		create.Reusable, create.Ephemeral, create.Preauthorized, create.Tags = true, true, preauthorized, []string{"tag:b", "tag:a"}
		made := ok[*tailscale.Key](t)(w.client.Keys().CreateAuthKey(t.Context(), req))
		read := ok[*tailscale.Key](t)(w.client.Keys().Get(t.Context(), made.ID))
		slices.Sort(create.Tags) // a set, there
		if diff := cmp.Diff(req.Capabilities, read.Capabilities); diff != "" {
			t.Error(diff)
		}
		if read.Description != "terraform" || read.Key != "" || int64(*read.ExpirySeconds) != 7776000 || read.Expires.Sub(read.Created) != 90*24*time.Hour {
			t.Errorf("%+v", read)
		}
	}
	_, text := w.raw("GET", "/tailnet/-/keys?all=true", "")
	if strings.Contains(text, `"key":`) {
		t.Errorf("a list with secrets: %s", text)
	}
}

func TestSplitDNSPatch(t *testing.T) {
	w := newWorld(t)
	for _, step := range []struct {
		method, body string
		want         map[string][]string
	}{
		{"PUT", `{"a.example.com": ["10.0.0.1"], "b.example.com": ["10.0.0.2"]}`, map[string][]string{"a.example.com": {"10.0.0.1"}, "b.example.com": {"10.0.0.2"}}},
		{"PATCH", `{"a.example.com": null, "c.example.com": ["10.0.0.3"]}`, map[string][]string{"b.example.com": {"10.0.0.2"}, "c.example.com": {"10.0.0.3"}}},
		{"PATCH", `{"b.example.com": []}`, map[string][]string{"c.example.com": {"10.0.0.3"}}},
		{"PATCH", `{}`, map[string][]string{"c.example.com": {"10.0.0.3"}}},
		{"PUT", `{}`, map[string][]string{}},
	} {
		_, text := w.raw(step.method, "/tailnet/-/dns/split-dns", step.body)
		var got map[string][]string
		w.must(json.Unmarshal([]byte(text), &got))
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("%s %s: %s", step.method, step.body, diff)
		}
	}
}

// The Kubernetes operator has an OAuth client with these scopes, of which heddle has no services, and tags its
// devices with what its own tag owns. It is ready when three lists are answered.
func TestKubernetesOperator(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.must(w.client.PolicyFile().Set(ctx, `{
		"tagOwners": {"tag:k8s-operator": [], "tag:k8s": ["tag:k8s-operator"], "tag:other": []},
		"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}],
	}`, ""))
	scopes := []string{"auth_keys", "devices:core", "services"}
	made := ok[*tailscale.Key](t)(w.client.Keys().CreateOAuthClient(ctx, tailscale.CreateOAuthClientRequest{Scopes: scopes, Tags: []string{"tag:k8s-operator"}}))
	if read := ok[*tailscale.Key](t)(w.client.Keys().Get(ctx, made.ID)); !slices.Equal(read.Scopes, scopes) {
		t.Errorf("the client has the scopes %v", read.Scopes)
	}
	for _, ask := range [][]string{nil, scopes} {
		operator := &tailscale.Client{BaseURL: w.url, Auth: &tailscale.OAuth{ClientID: "any", ClientSecret: made.Key, Scopes: ask}}
		if list := ok[[]tailscale.Device](t)(operator.Devices().List(ctx)); len(list) != 1 {
			t.Errorf("devices: %+v", list)
		}
		_ = ok[[]tailscale.Key](t)(operator.Keys().List(ctx, true))
		_ = ok[[]tailscale.VIPService](t)(operator.VIPServices().List(ctx))
		for tag, may := range map[string]bool{"tag:k8s": true, "tag:k8s-operator": true, "tag:other": false} {
			var req tailscale.CreateKeyRequest
			req.Capabilities.Devices.Create.Preauthorized, req.Capabilities.Devices.Create.Tags = true, []string{tag}
			if _, err := operator.Keys().CreateAuthKey(ctx, req); (err == nil) != may {
				t.Errorf("a key with %s: %v", tag, err)
			}
		}
	}
	// What is no scope anywhere is refused, and one of what heddle lacks opens nothing.
	if _, err := w.client.Keys().CreateOAuthClient(ctx, tailscale.CreateOAuthClientRequest{Scopes: []string{"srevices"}}); err == nil {
		t.Error("a scope that there is not was taken")
	}
	nothing := ok[*tailscale.Key](t)(w.client.Keys().CreateOAuthClient(ctx, tailscale.CreateOAuthClientRequest{Scopes: []string{"services"}}))
	if list, err := (&tailscale.Client{BaseURL: w.url, Auth: &tailscale.OAuth{ClientSecret: nothing.Key}}).Devices().List(ctx); err == nil {
		t.Errorf("it sees %+v", list)
	}
}

// A token is had with the secret alone, in the form or in HTTP's basic authentication; what clients call
// themselves does not matter. Where it is sent as the bearer or as a name is one.
func TestTokensOfClients(t *testing.T) {
	w := newWorld(t)
	var secret string
	w.update(func(tx *tailnet.Tx) (err error) {
		secret, _, err = tx.CreateClient(tailnet.ClientSpec{Scopes: []string{"dns"}})
		return err
	})
	for _, way := range []func(*http.Request, url.Values){
		func(_ *http.Request, form url.Values) { form.Set("client_secret", secret) },
		func(_ *http.Request, form url.Values) {
			form.Set("client_secret", secret)
			form.Set("client_id", "some-client-id")
			form.Set("grant_type", "client_credentials")
		},
		func(r *http.Request, form url.Values) {
			form.Set("grant_type", "client_credentials")
			r.SetBasicAuth("some-client-id", secret)
		},
	} {
		form := url.Values{}
		r, _ := http.NewRequest("POST", w.url.String()+"/api/v2/oauth/token", nil)
		way(r, form)
		r.Body = io.NopCloser(strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		resp := ok[*http.Response](t)(http.DefaultClient.Do(r))
		defer resp.Body.Close()
		var got struct {
			AccessToken string `json:"access_token"`
			TokenType   string `json:"token_type"`
			ExpiresIn   int    `json:"expires_in"`
			Scope       string `json:"scope"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || resp.StatusCode != 200 || got.TokenType != "Bearer" || got.ExpiresIn != 3600 || got.Scope != "dns" {
			t.Fatalf("%s %+v %v", resp.Status, got, err)
		}
		for _, sign := range []string{"bearer", "basic"} {
			r, _ := http.NewRequest("GET", w.url.String()+"/api/v2/tailnet/-/dns/nameservers", nil)
			if sign == "basic" {
				r.SetBasicAuth(got.AccessToken, "")
			} else {
				r.Header.Set("Authorization", "Bearer "+got.AccessToken)
			}
			resp := ok[*http.Response](t)(http.DefaultClient.Do(r))
			resp.Body.Close()
			if resp.StatusCode != 200 {
				t.Errorf("by %s: %s", sign, resp.Status)
			}
		}
	}
}
