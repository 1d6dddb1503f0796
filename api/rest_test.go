package api_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"heddle/api"
	"heddle/control/tailnet"

	"github.com/google/go-cmp/cmp"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

var update = flag.Bool("update", false, "write what the REST API answers into testdata/rest")

// rest returns the REST API of a world.
func (w *world) rest() http.Handler {
	w.t.Helper()
	h, err := w.api.REST()
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

// answer is what a request got.
type answer struct {
	Status int
	Type   string
	Body   string
	Header http.Header
}

// ask makes a request as over TLS from elsewhere.
func ask(h http.Handler, method, path, secret, body string, header ...string) answer {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.TLS, r.RemoteAddr = &tls.ConnectionState{HandshakeComplete: true}, elsewhere
	if secret != "" {
		r.Header.Set("Authorization", "Bearer "+secret)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	text, _ := io.ReadAll(rec.Body)
	return answer{rec.Code, rec.Header().Get("Content-Type"), string(text), rec.Header()}
}

// problem returns the code of a problem document; the test fails if it is none.
func (a answer) problem(t *testing.T, status int) (code string) {
	t.Helper()
	var p struct {
		Type, Title, Detail, Code, Message string
		Status                             int
	}
	if err := json.Unmarshal([]byte(a.Body), &p); err != nil || a.Type != "application/problem+json" ||
		a.Status != status || p.Status != status || p.Detail == "" || p.Message != p.Detail || p.Title == "" || p.Type != "/api/v1/docs#"+p.Code {
		t.Errorf("want a problem with status %d, got %d %s %s", status, a.Status, a.Type, a.Body)
	}
	return p.Code
}

// journal is what a store keeps of changes, for the API. It filters nothing.
type journal struct{ w *world }

func (j *journal) Audit(_ context.Context, _ string, q tailnet.AuditQuery) (page []tailnet.AuditRecord, next int64, err error) {
	for i, e := range j.w.store.Audit() {
		id := int64(i + 1)
		if q.Oldest && id > q.After || !q.Oldest && (q.Before == 0 || id < q.Before) {
			page = append(page, tailnet.AuditRecord{ID: id, AuditEntry: e})
		}
	}
	if !q.Oldest {
		slices.Reverse(page)
	}
	if q.Limit > 0 && len(page) > q.Limit {
		page = page[:q.Limit]
		next = last(page).ID
	}
	return page, next, nil
}

// furnished is a world with users, nodes and keys whose every attribute is known.
func furnished(t *testing.T, edit ...func(*api.Options)) *world {
	log := &journal{}
	w := newWorld(t, append(edit, func(o *api.Options) {
		o.Audit = log
		o.Debug.Level = new(slog.LevelVar)
		o.Reload = func(context.Context) (*api.Reloaded, error) {
			return &api.Reloaded{Applied: []string{"log.level"}, Failed: []api.ConfigFailure{{Key: "policy.path", Reason: "p.hujson: it cannot be read"}}}, nil
		}
		o.Debug.Netmap = func(context.Context, tailnet.NodeID) (*api.Netmap, error) {
			return &api.Netmap{CapVer: 130, Full: api.Payload{Wire: []byte("x"), JSON: []byte(`{"Domain": "example.com"}`)}}, nil
		}
	})...)
	log.w = w
	w.must(func(tx *tailnet.Tx) error {
		alice, err := tx.CreateUser(tailnet.User{Name: "alice", DisplayName: "Alice", Email: "alice@example.com", Role: "admin"})
		if err != nil {
			return err
		}
		if _, err := tx.CreateUser(tailnet.User{Name: "bob"}); err != nil {
			return err
		}
		secret, _, err := tx.CreateAuthKey(tailnet.AuthKeySpec{Owner: alice.ID, Reusable: true, Expires: tx.Now().Add(time.Hour)})
		if err != nil {
			return err
		}
		for i, name := range []string{"laptop", "router"} {
			r := tailnet.Registration{
				Machine: machineKey(byte(i + 1)), Key: nodeKey(byte(i + 1)),
				Hostinfo: &tailcfg.Hostinfo{Hostname: name, OS: "linux", IPNVersion: "1.80.0"},
			}
			if _, err := tx.RegisterWithAuthKey(r, secret); err != nil {
				return err
			}
		}
		return nil
	})
	return w
}

// machineKey and nodeKey are the same in each run.
func machineKey(n byte) key.MachinePublic {
	var k key.MachinePublic
	if err := k.UnmarshalText([]byte("mkey:" + strings.Repeat("0"+string('0'+n), 32))); err != nil {
		panic(err)
	}
	return k
}

func nodeKey(n byte) key.NodePublic {
	var k key.NodePublic
	if err := k.UnmarshalText([]byte("nodekey:" + strings.Repeat("0"+string('0'+n), 32))); err != nil {
		panic(err)
	}
	return k
}

// volatile are what differs from run to run: secrets, their public parts, random IDs.
var volatile = []struct {
	re *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`tskey-(auth|api|client)-[0-9a-z]+-[0-9A-Za-z*]+`), "tskey-$1-PUBLIC-SECRET"},
	{regexp.MustCompile(`("(?:prefix|clientId)": ")[0-9a-z]{8,}"`), `${1}PUBLIC"`},
	{regexp.MustCompile(`("stableId": ")[^"]*"`), `${1}STABLE"`},
	{regexp.MustCompile(`("kind": "api-key",\s+"name": ")[^"]*"`), `${1}PUBLIC"`},
	{regexp.MustCompile(`("secret": ")[^"]+"`), `${1}SECRET"`},
	{regexp.MustCompile(`("(?:id|creator)": ")[0-9a-z]*[a-z][0-9a-z]*"`), `${1}NAME"`},
	{regexp.MustCompile(`("goVersion": ")[^"]*"`), `${1}GO"`},
	{regexp.MustCompile(`(API|api)[- ]key [0-9a-z]{8,}`), `$1 key PUBLIC`},
}

// hook puts the ID of the first webhook into a path that wants one.
func (w *world) hook(path string) string {
	for _, hook := range w.state.Snapshot().Settings().Webhooks {
		return strings.ReplaceAll(path, "HOOK", hook.ID)
	}
	return path
}

// A step is a REST operation with a golden answer. They run in order.
type step struct {
	name, method, path, body string
}

var steps = []step{
	{"health", "GET", "/health", ""},
	{"version", "GET", "/version", ""},

	{"user-create", "POST", "/user", `{"name": "carol", "displayName": "Carol", "email": "carol@example.com", "pictureUrl": "https://example.com/c.png"}`},
	{"user-create-again", "POST", "/user", `{"name": "carol"}`},
	{"user-list", "GET", "/user", ""},
	{"user-list-id", "GET", "/user?id=2", ""},
	{"user-list-name", "GET", "/user?name=bob", ""},
	{"user-list-email", "GET", "/user?email=carol@example.com", ""},
	{"user-list-page", "GET", "/user?pageSize=1", ""},
	{"user-get", "GET", "/user/carol", ""},
	{"user-rename", "POST", "/user/3/rename/caroline", ""},
	{"user-role", "POST", "/user/3/role", `{"role": "auditor"}`},
	{"user-link", "POST", "/user/3/link", `{"identity": {"issuer": "https://id.example.com", "subject": "42"}}`},
	{"user-unlink", "POST", "/user/3/unlink", `{"identity": {"issuer": "https://id.example.com", "subject": "42"}}`},
	{"user-approve-active", "POST", "/user/3/approve", ""},
	{"user-suspend", "POST", "/user/3/suspend", ""},
	{"user-restore", "POST", "/user/3/restore", ""},
	{"user-delete", "DELETE", "/user/3", ""},
	{"user-delete-owner-of-nodes", "DELETE", "/user/1", ""},
	{"user-get-none", "GET", "/user/99", ""},

	{"preauthkey-create", "POST", "/preauthkey", `{"user": "2", "reusable": true, "ephemeral": false, "expiration": "2030-01-02T00:00:00Z", "aclTags": []}`},
	{"preauthkey-create-number", "POST", "/preauthkey", `{"user": 2, "reusable": false, "preauthorized": true, "description": "for the rack"}`},
	{"preauthkey-list", "GET", "/preauthkey", ""},
	{"preauthkey-list-user", "GET", "/preauthkey?user=1", ""},
	{"preauthkey-expire", "POST", "/preauthkey/expire", `{"id": "3"}`},
	{"preauthkey-expire-of-user", "POST", "/preauthkey/expire", `{"id": 2, "user": "1"}`},
	{"preauthkey-delete", "DELETE", "/preauthkey?id=3", ""},

	{"node-list", "GET", "/node", ""},
	{"node-list-user", "GET", "/node?user=2", ""},
	{"node-get", "GET", "/node/1", ""},
	{"node-get-none", "GET", "/node/77", ""},
	{"node-rename", "POST", "/node/1/rename/notebook", ""},
	{"node-rename-back", "POST", "/node/1/rename", `{"newName": ""}`},
	{"node-routes", "POST", "/node/2/approve_routes", `{"routes": ["10.0.0.0/8"], "force": true}`},
	{"node-routes-bad", "POST", "/node/2/approve_routes", `{"routes": ["10.0.0.1/8"]}`},
	{"route-list", "GET", "/route", ""},
	{"node-tags", "POST", "/node/2/tags", `{"tags": ["tag:web"]}`},
	{"node-expire-at", "POST", "/node/1/expire?expiry=2030-06-01T00:00:00Z", ""},
	{"node-key-expiry", "POST", "/node/1/key_expiry", `{"disabled": true}`},
	{"node-expire", "POST", "/node/1/expire", ""},
	{"node-approve-none", "POST", "/node/1/approve", ""},
	{"node-reject-none", "POST", "/node/1/reject", ""},
	{"node-attribute-set", "PUT", "/node/2/attribute/custom:tier", `{"value": 2, "expiration": "2030-06-01T00:00:00Z"}`},
	{"node-attribute-set-bad", "PUT", "/node/2/attribute/tier", `{"value": 2}`},
	{"node-attribute-set-nothing", "PUT", "/node/2/attribute/custom:tier", ""},
	{"node-attribute-list", "GET", "/node/2/attribute", ""},
	{"node-attribute-delete", "DELETE", "/node/2/attribute/custom:tier", ""},
	{"node-address", "POST", "/node/2/address", `{"address": "100.64.0.200"}`},
	{"node-address-taken", "POST", "/node/2/address", `{"address": "100.64.0.1"}`},
	{"node-address-bad", "POST", "/node/2/address", `{"address": "router"}`},
	{"node-hold", "POST", "/node/2/hold", ""},
	{"node-approve", "POST", "/node/2/approve", ""},
	{"node-register-none", "POST", "/node/register?user=alice&key=abc", ""},
	{"node-backfillips", "POST", "/node/backfillips?confirmed=true", ""},
	{"node-backfillips-unconfirmed", "POST", "/node/backfillips", ""},
	{"node-delete", "DELETE", "/node/1", ""},

	{"auth-list", "GET", "/auth", ""},
	{"auth-register-none", "POST", "/auth/register", `{"user": "alice", "authId": "abc"}`},
	{"auth-approve-none", "POST", "/auth/approve", `{"authId": "abc"}`},
	{"auth-reject-none", "POST", "/auth/reject", `{"authId": "abc"}`},

	{"policy-get-none", "GET", "/policy", ""},
	{"policy-check", "POST", "/policy/check", `{"policy": "{\"grants\": []}"}`},
	{"policy-check-bad", "POST", "/policy/check", `{"policy": "{\n\"nope\": 1}"}`},
	{"policy-put", "PUT", "/policy", `{"policy": "// nobody\n{\"grants\": []}"}`},
	{"policy-put-bad", "PUT", "/policy", `{"policy": "{\n\"nope\": 1}"}`},
	{"policy-put-changed", "PUT", "/policy", `{"policy": "{}", "ifMatch": "0123"}`},
	{"policy-get", "GET", "/policy", ""},
	{"policy-history", "GET", "/policy/history", ""},
	{"policy-rollback-none", "POST", "/policy/rollback", `{"version": "99"}`},
	{"policy-explain", "POST", "/policy/explain", `{"source": "alice@example.com", "destination": "router", "port": 22, "policy": "{}"}`},
	{"policy-preview", "POST", "/policy/preview", `{"node": "router"}`},

	{"apikey-create", "POST", "/apikey", `{"expiration": "2030-01-02T00:00:00Z"}`},
	{"apikey-create-scoped", "POST", "/apikey", `{"scopes": ["dns", "devices:core:read"], "description": "for DNS"}`},
	{"apikey-list", "GET", "/apikey", ""},
	{"apikey-expire", "POST", "/apikey/expire", `{"id": "2"}`},
	{"apikey-delete", "DELETE", "/apikey/-?id=2", ""},
	{"apikey-delete-none", "DELETE", "/apikey/nobody", ""},

	{"oauthclient-create", "POST", "/oauthclient", `{"scopes": ["dns", "devices:core:read"], "description": "for Terraform"}`},
	{"oauthclient-create-federated", "POST", "/oauthclient", `{"scopes": ["dns:read"], "trust": {"issuer": "https://ci.example.com", "subject": "repo:acme/*", "audience": "vpn", "claims": {"env": "prod"}}}`},
	{"oauthclient-create-without-tags", "POST", "/oauthclient", `{"scopes": ["auth_keys"]}`},
	{"oauthclient-list", "GET", "/oauthclient", ""},
	{"oauthclient-update", "PATCH", "/oauthclient/4", `{"scopes": ["dns:read"], "updateMask": "scopes"}`},
	{"oauthclient-update-nothing", "PATCH", "/oauthclient/4", `{"scopes": ["dns"]}`},
	{"oauthclient-update-trust", "PATCH", "/oauthclient/4", `{"trust": {"issuer": "https://ci.example.com"}, "updateMask": "trust"}`},
	{"oauthclient-delete", "DELETE", "/oauthclient/5", ""},
	{"oauthclient-delete-key", "DELETE", "/oauthclient/3", ""},

	{"dns-get", "GET", "/dns", ""},
	{"dns-update", "PATCH", "/dns", `{"settings": {"nameservers": ["192.0.2.53"]}, "updateMask": "nameservers"}`},
	{"dns-update-nothing", "PATCH", "/dns", `{"settings": {"nameservers": ["192.0.2.53"]}}`},
	{"dns-update-changed", "PATCH", "/dns", `{"settings": {}, "updateMask": "nameservers", "ifMatch": "0123"}`},
	{"dns-split", "PUT", "/dns/split/corp.example", `{"nameservers": ["192.0.2.1"]}`},
	{"dns-record", "POST", "/dns/record", `{"record": {"name": "db.example.com", "value": "192.0.2.9"}}`},
	{"dns-record-delete", "DELETE", "/dns/record?record.name=db.example.com", ""},

	{"settings-get", "GET", "/settings", ""},
	{"settings-update", "PATCH", "/settings", `{"settings": {"deviceApproval": true, "keyExpiry": "7776000s"}, "updateMask": "deviceApproval,keyExpiry"}`},

	{"contact-set", "PUT", "/contact/security", `{"email": "security@example.com"}`},
	{"contact-set-bad", "PUT", "/contact/nobody", `{"email": "security@example.com"}`},
	{"contact-get", "GET", "/contact", ""},

	{"derp", "GET", "/derp", ""},
	{"debug-fleet", "GET", "/debug/fleet", ""},
	{"debug-netmap", "GET", "/debug/netmap/router", ""},
	{"debug-netmap-none", "GET", "/debug/netmap/laptop", ""},
	{"debug-log-level", "GET", "/debug/log_level", ""},
	{"debug-log-level-set", "PUT", "/debug/log_level", `{"level": "warn"}`},
	{"debug-log-level-bad", "PUT", "/debug/log_level", `{"level": "loud"}`},

	{"audit", "GET", "/audit?pageSize=2", ""},
	{"config-reload", "POST", "/config/reload", ""},

	{"webhook-create", "POST", "/webhook", `{"url": "https://example.com/hook", "events": ["nodeCreated"]}`},
	{"webhook-create-bad", "POST", "/webhook", `{"url": "ftp://example.com", "events": ["nodeCreated"]}`},
	{"webhook-list", "GET", "/webhook", ""},
	{"webhook-get", "GET", "/webhook/HOOK", ""},
	{"webhook-get-none", "GET", "/webhook/none", ""},
	{"webhook-update", "PATCH", "/webhook/HOOK", `{"events": ["userCreated", "policyUpdate"]}`},
	{"webhook-rotate", "POST", "/webhook/HOOK/rotate", ""},
	{"webhook-test", "POST", "/webhook/HOOK/test", ""},
	{"webhook-delete", "DELETE", "/webhook/HOOK", ""},
}

// What programs that were made for headscale rely on is in these files.
func TestRESTGolden(t *testing.T) {
	w := furnished(t)
	secret, h := w.key(tailnet.APIKeySpec{Role: "owner"}), w.rest()
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			a := ask(h, s.method, "/api/v1"+w.hook(s.path), secret, s.body)
			var pretty bytes.Buffer
			if err := json.Indent(&pretty, []byte(a.Body), "", "  "); err != nil {
				t.Fatalf("%v: %s", err, a.Body)
			}
			text := pretty.String()
			for _, v := range volatile {
				text = v.re.ReplaceAllString(text, v.to)
			}
			got := s.method + " " + s.path + "\n" + s.body + "\n" + http.StatusText(a.Status) + ", " + a.Type + "\n" + strings.TrimSpace(text) + "\n"
			file := filepath.Join("testdata", "rest", s.name+".txt")
			if *update {
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("-want +got (go test ./api -update writes it):\n%s", diff)
			}
			if a.Status >= 400 {
				a.problem(t, a.Status)
			}
		})
	}
}
