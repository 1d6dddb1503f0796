package api_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"heddle/api"
	"heddle/control/tailnet"
	"heddle/control/tailnet/tailnettest"
	"heddle/policy"
	v1 "heddle/proto/heddle/v1"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"tailscale.com/tailcfg"
)

// An operation is a method of the contract and a call of it that succeeds in a full
// world, whoever may make it.
type operation struct {
	method             string // without the package
	area               tailnet.Area
	verb, path, body   string
	changes, elsewhere bool // whether it changes something; whether that is shown elsewhere, since here there is nothing to do
}

const anywhere tailnet.Area = "" // any right will do

var operations = []operation{
	{"HealthService.Health", anywhere, "GET", "/health", "", false, false},
	{"HealthService.GetVersion", anywhere, "GET", "/version", "", false, false},

	{"UserService.CreateUser", tailnet.AreaUsers, "POST", "/user", `{"name": "zoe"}`, true, false},
	{"UserService.GetUser", tailnet.AreaUsers, "GET", "/user/bob", "", false, false},
	{"UserService.ListUsers", tailnet.AreaUsers, "GET", "/user", "", false, false},
	{"UserService.RenameUser", tailnet.AreaUsers, "POST", "/user/bob/rename/robert", "", true, false},
	{"UserService.DeleteUser", tailnet.AreaUsers, "DELETE", "/user/erin", "", true, false},
	{"UserService.ApproveUser", tailnet.AreaUsers, "POST", "/user/dora/approve", "", true, false},
	{"UserService.SuspendUser", tailnet.AreaUsers, "POST", "/user/bob/suspend", "", true, false},
	{"UserService.RestoreUser", tailnet.AreaUsers, "POST", "/user/erin/restore", "", true, false},
	{"UserService.SetUserRole", tailnet.AreaUsers, "POST", "/user/erin/role", `{"role": "member"}`, true, false},
	{"UserService.LinkIdentity", tailnet.AreaUsers, "POST", "/user/bob/link", `{"identity": {"issuer": "https://id.example.com", "subject": "7"}}`, true, false},
	{"UserService.UnlinkIdentity", tailnet.AreaUsers, "POST", "/user/dora/unlink", `{"identity": {"issuer": "https://id.example.com", "subject": "dora"}}`, true, false},

	{"NodeService.GetNode", tailnet.AreaDevices, "GET", "/node/laptop", "", false, false},
	{"NodeService.ListNodes", tailnet.AreaDevices, "GET", "/node", "", false, false},
	{"NodeService.RenameNode", tailnet.AreaDevices, "POST", "/node/laptop/rename/desk", "", true, false},
	{"NodeService.DeleteNode", tailnet.AreaDevices, "DELETE", "/node/laptop", "", true, false},
	{"NodeService.ExpireNode", tailnet.AreaDevices, "POST", "/node/laptop/expire", "", true, false},
	{"NodeService.SetTags", tailnet.AreaDevices, "POST", "/node/laptop/tags", `{"tags": ["tag:web"]}`, true, false},
	{"NodeService.SetApprovedRoutes", tailnet.AreaRoutes, "POST", "/node/router/approve_routes", `{"routes": ["10.0.0.0/8"], "force": true}`, true, false},
	{"NodeService.ListRoutes", tailnet.AreaRoutes, "GET", "/route", "", false, false},
	{"NodeService.ApproveNode", tailnet.AreaDevices, "POST", "/node/waiting/approve", "", true, false},
	{"NodeService.RejectNode", tailnet.AreaDevices, "POST", "/node/waiting/reject", "", true, false},
	{"NodeService.HoldNode", tailnet.AreaDevices, "POST", "/node/laptop/hold", "", true, false},
	{"NodeService.SetAddress", tailnet.AreaDevices, "POST", "/node/laptop/address", `{"address": "100.64.7.7"}`, true, false},
	{"NodeService.ListAttributes", tailnet.AreaPosture, "GET", "/node/laptop/attribute", "", false, false},
	{"NodeService.SetAttribute", tailnet.AreaPosture, "PUT", "/node/laptop/attribute/custom:tier", `{"value": "silver"}`, true, false},
	{"NodeService.DeleteAttribute", tailnet.AreaPosture, "DELETE", "/node/laptop/attribute/custom:tier", "", true, false},
	{"NodeService.SetKeyExpiry", tailnet.AreaDevices, "POST", "/node/laptop/key_expiry", `{"disabled": true}`, true, false},
	{"NodeService.RegisterNode", tailnet.AreaDevices, "POST", "/node/register?user=bob&key=new", "", true, false},
	{"NodeService.BackfillNodeIPs", tailnet.AreaDevices, "POST", "/node/backfillips?confirmed=true", "", true, true},

	{"PreAuthKeyService.CreatePreAuthKey", tailnet.AreaAuthKeys, "POST", "/preauthkey", `{"user": "bob"}`, true, false},
	{"PreAuthKeyService.ListPreAuthKeys", tailnet.AreaAuthKeys, "GET", "/preauthkey", "", false, false},
	{"PreAuthKeyService.ExpirePreAuthKey", tailnet.AreaAuthKeys, "POST", "/preauthkey/expire", `{"id": "1"}`, true, false},
	{"PreAuthKeyService.DeletePreAuthKey", tailnet.AreaAuthKeys, "DELETE", "/preauthkey?id=1", "", true, false},

	{"ApiKeyService.CreateApiKey", tailnet.AreaAPIKeys, "POST", "/apikey", `{"scopes": ["api_access_tokens:read"]}`, true, false},
	{"ApiKeyService.ListApiKeys", tailnet.AreaAPIKeys, "GET", "/apikey", "", false, false},
	{"ApiKeyService.ExpireApiKey", tailnet.AreaAPIKeys, "POST", "/apikey/expire", `{"id": "1"}`, true, false},
	{"ApiKeyService.DeleteApiKey", tailnet.AreaAPIKeys, "DELETE", "/apikey/-?id=1", "", true, false},

	{"OAuthClientService.CreateOAuthClient", tailnet.AreaOAuth, "POST", "/oauthclient", `{"scopes": ["oauth_keys:read"]}`, true, false},
	{"OAuthClientService.ListOAuthClients", tailnet.AreaOAuth, "GET", "/oauthclient", "", false, false},
	{"OAuthClientService.UpdateOAuthClient", tailnet.AreaOAuth, "PATCH", "/oauthclient/2", `{"description": "for the CI", "updateMask": "description"}`, true, false},
	{"OAuthClientService.DeleteOAuthClient", tailnet.AreaOAuth, "DELETE", "/oauthclient/2", "", true, false},

	{"AuthService.AuthRegister", tailnet.AreaDevices, "POST", "/auth/register", `{"user": "bob", "authId": "new"}`, true, false},
	{"AuthService.AuthApprove", tailnet.AreaDevices, "POST", "/auth/approve", `{"authId": "ssh"}`, true, false},
	{"AuthService.AuthReject", tailnet.AreaDevices, "POST", "/auth/reject", `{"authId": "ssh"}`, true, false},
	{"AuthService.ListLogins", tailnet.AreaDevices, "GET", "/auth", "", false, false},

	{"PolicyService.GetPolicy", tailnet.AreaPolicy, "GET", "/policy", "", false, false},
	{"PolicyService.SetPolicy", tailnet.AreaPolicy, "PUT", "/policy", `{"policy": "{\"grants\": [], \"hosts\": {}}"}`, true, false},
	{"PolicyService.CheckPolicy", tailnet.AreaPolicy, "POST", "/policy/check", `{"policy": "{}"}`, false, false},
	{"PolicyService.ListPolicies", tailnet.AreaPolicy, "GET", "/policy/history", "", false, false},
	{"PolicyService.RollbackPolicy", tailnet.AreaPolicy, "POST", "/policy/rollback", `{"version": "ETAG"}`, true, false},
	{"PolicyService.ExplainPolicy", tailnet.AreaPolicy, "POST", "/policy/explain", `{"source": "laptop", "destination": "router"}`, false, false},
	{"PolicyService.PreviewPolicy", tailnet.AreaPolicy, "POST", "/policy/preview", `{"node": "laptop"}`, false, false},

	{"DNSService.GetDNS", tailnet.AreaDNS, "GET", "/dns", "", false, false},
	{"DNSService.UpdateDNS", tailnet.AreaDNS, "PATCH", "/dns", `{"settings": {"searchDomains": ["corp.example"]}, "updateMask": "searchDomains"}`, true, false},
	{"DNSService.SetSplitDNS", tailnet.AreaDNS, "PUT", "/dns/split/corp.example", `{"nameservers": ["192.0.2.1"]}`, true, false},
	{"DNSService.AddDNSRecord", tailnet.AreaDNS, "POST", "/dns/record", `{"record": {"name": "new.example.com", "value": "192.0.2.9"}}`, true, false},
	{"DNSService.RemoveDNSRecord", tailnet.AreaDNS, "DELETE", "/dns/record?record.name=db.example.com", "", true, false},

	{"SettingsService.GetSettings", tailnet.AreaSettings, "GET", "/settings", "", false, false},
	{"SettingsService.UpdateSettings", tailnet.AreaSettings, "PATCH", "/settings", `{"settings": {"keyExpiry": "86400s"}, "updateMask": "keyExpiry"}`, true, false},

	{"SettingsService.GetContacts", tailnet.AreaAccount, "GET", "/contact", "", false, false},
	{"SettingsService.SetContact", tailnet.AreaAccount, "PUT", "/contact/support", `{"email": "help@example.com"}`, true, false},

	{"DERPService.GetDERPMap", tailnet.AreaDevices, "GET", "/derp", "", false, false},
	{"ConfigService.ReloadConfig", tailnet.AreaSettings, "POST", "/config/reload", "", true, false},
	{"DebugService.GetFleet", tailnet.AreaDevices, "GET", "/debug/fleet", "", false, false},
	{"DebugService.GetNetmap", tailnet.AreaDevices, "GET", "/debug/netmap/laptop", "", false, false},
	{"DebugService.GetLogLevel", tailnet.AreaSettings, "GET", "/debug/log_level", "", false, false},
	{"DebugService.SetLogLevel", tailnet.AreaSettings, "PUT", "/debug/log_level", `{"level": "debug"}`, true, false},

	{"AuditService.ListAuditEntries", tailnet.AreaLogs, "GET", "/audit", "", false, false},
	{"AuditService.TailAuditEntries", tailnet.AreaLogs, "GET", "/audit/tail?after=1", "", false, false},
	{"WebhookService.CreateWebhook", tailnet.AreaWebhooks, "POST", "/webhook", `{"url": "https://example.com/new", "events": ["nodeCreated"]}`, true, false},
	{"WebhookService.GetWebhook", tailnet.AreaWebhooks, "GET", "/webhook/HOOK", "", false, false},
	{"WebhookService.ListWebhooks", tailnet.AreaWebhooks, "GET", "/webhook", "", false, false},
	{"WebhookService.UpdateWebhook", tailnet.AreaWebhooks, "PATCH", "/webhook/HOOK", `{"events": ["userCreated"]}`, true, false},
	{"WebhookService.RotateWebhook", tailnet.AreaWebhooks, "POST", "/webhook/HOOK/rotate", "", true, false},
	{"WebhookService.TestWebhook", tailnet.AreaWebhooks, "POST", "/webhook/HOOK/test", "", true, false},
	{"WebhookService.DeleteWebhook", tailnet.AreaWebhooks, "DELETE", "/webhook/HOOK", "", true, false},

	{"WatchService.Watch", anywhere, "GET", "/watch?kinds=WATCH_KIND_NODE", "", false, false},
}

// waiting are a device and an SSH connection that wait for a person, decided by the model.
type waiting struct{ state *tailnet.State }

func (p *waiting) CompleteLogin(ctx context.Context, a tailnet.Actor, id string, user tailnet.UserID, m tailnet.Method) (n *tailnet.Node, err error) {
	_, err = p.state.Update(ctx, a, func(tx *tailnet.Tx) error {
		n, err = tx.RegisterForUser(device(9, "new"), user, m)
		return err
	})
	return n, err
}

func (p *waiting) RejectLogin(context.Context, tailnet.Actor, string) error {
	return tailnet.Errorf(tailnet.NotFound, "no device waits under this ID")
}

func (p *waiting) DecideSSH(ctx context.Context, a tailnet.Actor, _ string, approve bool) error {
	_, err := p.state.Update(ctx, a, func(tx *tailnet.Tx) error {
		return tx.DecideSSH(1, 2, tx.Snapshot().Node(1).Owner, "root", approve)
	})
	return err
}

func device(n byte, name string) tailnet.Registration {
	return tailnet.Registration{
		Machine: machineKey(n), Key: nodeKey(n), Hostinfo: &tailcfg.Hostinfo{Hostname: name, OS: "linux", IPNVersion: "1.80.0"},
	}
}

const (
	firstPolicy  = `{"grants": []}`
	secondPolicy = `{"grants": [], "groups": {}}`
)

// full is a world in which every operation has something to do.
func full(t testing.TB) *world {
	p, log := &waiting{}, &journal{}
	w := newWorld(t, func(o *api.Options) {
		o.Pending, o.Audit = p, log
		o.Debug.Level = new(slog.LevelVar)
		o.Reload = func(context.Context) (*api.Reloaded, error) { return &api.Reloaded{}, nil }
		o.Debug.Netmap = func(context.Context, tailnet.NodeID) (*api.Netmap, error) { return &api.Netmap{}, nil }
	})
	p.state, log.w = w.state, w
	w.must(func(tx *tailnet.Tx) error {
		alice, err := tx.CreateUser(tailnet.User{Name: "alice", Role: policy.Owner})
		if err != nil {
			return err
		}
		bob, err := tx.CreateUser(tailnet.User{Name: "bob"})
		if err != nil {
			return err
		}
		erin, err := tx.CreateUser(tailnet.User{Name: "erin", Role: policy.Auditor})
		if err != nil {
			return err
		}
		if err := tx.SuspendUser(erin.ID); err != nil {
			return err
		}
		for i, name := range []string{"laptop", "router"} {
			if _, err := tx.RegisterForUser(device(byte(i+1), name), alice.ID, tailnet.ByCLI); err != nil {
				return err
			}
		}
		if err := tx.SetAttribute(1, "custom:tier", tailnet.Attribute{Value: "gold"}); err != nil {
			return err
		}
		if err := tx.SetAdmission(tailnet.Admission{DeviceApproval: true, UserApproval: true}); err != nil {
			return err
		}
		if _, err := tx.LogIn(tailnet.Profile{Identity: tailnet.Identity{Issuer: "https://id.example.com", Subject: "dora"}, Name: "dora"}); err != nil {
			return err
		}
		secret, _, err := tx.CreateAuthKey(tailnet.AuthKeySpec{Owner: bob.ID, Reusable: true, Expires: tx.Now().Add(time.Hour)})
		if err != nil {
			return err
		}
		if _, err := tx.RegisterWithAuthKey(device(3, "waiting"), secret); err != nil {
			return err
		}
		if err := tx.SetDNS(tailnet.DNS{Records: []tailnet.DNSRecord{{Name: "db.example.com", Type: "A", Value: "192.0.2.9"}}}); err != nil {
			return err
		}
		if _, _, err := tx.CreateAPIKey(tailnet.APIKeySpec{Scopes: []string{"dns:read"}, Expires: tx.Now().Add(time.Hour)}); err != nil {
			return err
		}
		if _, _, err := tx.CreateClient(tailnet.ClientSpec{Scopes: []string{"oauth_keys:read"}}); err != nil {
			return err
		}
		_, _, err = tx.CreateWebhook(tailnet.Webhook{URL: "https://example.com/hook", Events: []tailnet.Event{"nodeCreated"}})
		return err
	})
	for _, text := range []string{firstPolicy, secondPolicy} {
		if _, _, err := w.state.PutPolicy(t.Context(), tailnet.SystemActor("test"), text, ""); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// do makes a call; of a stream it takes the first message.
func (w *world) do(h http.Handler, op operation, secret string) answer {
	w.t.Helper()
	snap := w.state.Snapshot()
	past, _, err := w.store.Policies(w.t.Context(), tailnet.Default, 10, 0)
	if err != nil || len(past) == 0 {
		w.t.Fatal(past, err)
	}
	fill := strings.NewReplacer("HOOK", snap.Settings().Webhooks[0].ID, "ETAG", last(past).ETag)
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	r := httptest.NewRequestWithContext(ctx, op.verb, "/api/v1"+fill.Replace(op.path), strings.NewReader(fill.Replace(op.body)))
	r.TLS, r.RemoteAddr = &tls.ConnectionState{HandshakeComplete: true}, elsewhere
	r.Header.Set("Authorization", "Bearer "+secret)
	rec := &impatient{ResponseRecorder: httptest.NewRecorder(), enough: cancel}
	h.ServeHTTP(rec, r)
	return answer{Status: rec.Code, Type: rec.Header().Get("Content-Type"), Body: rec.Body.String(), Header: rec.Header()}
}

// impatient leaves after the first piece of an answer.
type impatient struct {
	*httptest.ResponseRecorder
	enough func()
}

func (i *impatient) Flush() {
	i.ResponseRecorder.Flush()
	i.enough()
}

// methods yields the methods of the contract.
func methods(t *testing.T) map[string]protoreflect.MethodDescriptor {
	out := map[string]protoreflect.MethodDescriptor{}
	protoregistry.GlobalFiles.RangeFilesByPackage(v1.File_heddle_v1_user_proto.Package(), func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				out[fmt.Sprintf("%s.%s", s.Name(), m.Name())] = m
			}
		}
		return true
	})
	if len(out) < 60 {
		t.Fatalf("only %d methods", len(out))
	}
	return out
}

// changesSomething reports whether a method says of itself that it does.
func changesSomething(m protoreflect.MethodDescriptor) bool {
	return m.Options().(*descriptorpb.MethodOptions).GetIdempotencyLevel() != descriptorpb.MethodOptions_NO_SIDE_EFFECTS
}

// The table above has every method of the contract.
func TestOperationsAreComplete(t *testing.T) {
	all := methods(t)
	for _, op := range operations {
		m, ok := all[op.method]
		if !ok {
			t.Errorf("there is no method %s", op.method)
			continue
		}
		if op.changes != changesSomething(m) {
			t.Errorf("%s: the contract says that it changes something: %v", op.method, !op.changes)
		}
		delete(all, op.method)
	}
	for name := range all {
		t.Errorf("no operation for the method %s", name)
	}
}

// A role or key that lacks a right gets nowhere, and one that has it does: every method with
// every role and every scope. Which role has which right is in the file.
func TestPermissions(t *testing.T) {
	var lines []string
	shared := full(t)
	h := shared.rest()
	secrets := map[string]string{}
	specs := map[string]tailnet.APIKeySpec{}
	var scopes []string
	for _, role := range tailnet.Roles {
		specs[string(role)] = tailnet.APIKeySpec{Role: role}
	}
	for _, area := range append([]tailnet.Area{"all"}, tailnet.Areas...) {
		for _, scope := range []string{string(area), string(area) + ":read"} {
			scopes = append(scopes, scope)
			specs[scope] = tailnet.APIKeySpec{Scopes: []string{scope}}
		}
	}
	for name, spec := range specs {
		secrets[name] = shared.key(spec)
	}
	try := func(op operation, name string, may bool) bool {
		t.Helper()
		shared.clock.pass(time.Second) // nobody is in a hurry
		w, handler, secret := shared, h, secrets[name]
		if may && op.changes {
			w = full(t)
			handler, secret = w.rest(), w.key(specs[name])
		}
		a := w.do(handler, op, secret)
		denied := a.Status == http.StatusForbidden
		if denied == may {
			t.Errorf("%s with %s: status %d, and it should be allowed: %v\n%s", op.method, name, a.Status, may, a.Body)
		}
		return !denied
	}
	for _, op := range operations {
		right := tailnet.Right{Area: op.area, Write: op.changes}
		var roles []string
		for _, role := range tailnet.Roles {
			may := tailnet.RoleMay(role, right)
			if op.area == anywhere {
				may = role != policy.Member
			}
			if op.method == "WatchService.Watch" { // of nodes
				may = tailnet.RoleMay(role, tailnet.Read(tailnet.AreaDevices))
			}
			if try(op, string(role), may) {
				roles = append(roles, string(role))
			}
		}
		lines = append(lines, fmt.Sprintf("%-38s %s", op.method, strings.Join(roles, " ")))
		if testing.Short() {
			continue
		}
		for _, scope := range scopes {
			may := op.area == anywhere || tailnet.ScopeMay(scope, right)
			if op.method == "WatchService.Watch" {
				may = tailnet.ScopeMay(scope, tailnet.Read(tailnet.AreaDevices))
			}
			try(op, scope, may)
		}
	}
	file := filepath.Join("testdata", "permissions.txt")
	got := strings.Join(lines, "\n") + "\n"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("-want +got (go test ./api -update writes it):\n%s", diff)
	}
}

// Nothing changes without an entry in the audit log, and what only looks leaves none.
func TestEveryChangeIsOnRecord(t *testing.T) {
	for _, op := range operations {
		t.Run(op.method, func(t *testing.T) {
			w := full(t)
			h, secret := w.rest(), w.key(tailnet.APIKeySpec{Role: policy.Owner})
			before, snap := len(w.store.Audit()), w.state.Snapshot()
			a := w.do(h, op, secret)
			if a.Status != http.StatusOK {
				t.Fatalf("status %d: %s", a.Status, a.Body)
			}
			entries := w.store.Audit()[before:]
			switch {
			case op.elsewhere:
			case op.changes && len(entries) == 0:
				t.Error("nothing is on record")
			case !op.changes && len(entries) > 0:
				t.Errorf("it changed something: %v", entries)
			}
			for _, e := range entries {
				key := w.state.Snapshot().APIKey(3)
				if e.Actor.Kind != tailnet.ByAPIKey && e.Actor.Kind != tailnet.System || e.Actor.Kind == tailnet.ByAPIKey && (key == nil || e.Actor.Name != key.Public || e.Actor.From == "") {
					t.Errorf("%s is on record as done by %+v", e.Action, e.Actor)
				}
				for _, c := range e.Changes {
					if strings.Contains(c.From+c.To, "tskey-") || strings.Contains(a.Body, `"secret"`) && len(c.To) > 40 && strings.Contains(a.Body, c.To) {
						t.Errorf("a secret is on record: %+v", c)
					}
				}
			}
			if op.changes && !op.elsewhere && snap == w.state.Snapshot() {
				t.Error("nothing changed")
			}
		})
	}
}

// lacking is a store whose nodes lack their IPv6 addresses, like those of another server.
type lacking struct{ *tailnettest.Store }

func (l lacking) Load(ctx context.Context, name string) (tailnet.Image, error) {
	img, err := l.Store.Load(ctx, name)
	for _, n := range img.Nodes {
		n.Addrs.V6 = netip.Addr{}
	}
	return img, err
}

func TestBackfill(t *testing.T) {
	w := full(t)
	key := w.key(tailnet.APIKeySpec{Role: policy.Owner})
	state, err := tailnet.Open(t.Context(), lacking{w.store}, tailnet.Options{Now: w.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	run(t, state.Run)
	h, err := api.New(api.Options{State: state, Now: w.clock.now}).REST()
	if err != nil {
		t.Fatal(err)
	}
	a, again := ask(h, "POST", "/api/v1/node/backfillips?confirmed=true", key, ""), ask(h, "POST", "/api/v1/node/backfillips?confirmed=true", key, "")
	if a.Status != 200 || strings.Count(a.Body, "has the addresses 100.64.0.") != 3 || again.Status != 200 || !strings.Contains(again.Body, `"changes":[]`) {
		t.Errorf("%s, then %s", a.Body, again.Body)
	}
	if e := last(w.store.Audit()); e.Action != "node.address" || e.Actor.Kind != tailnet.ByAPIKey {
		t.Errorf("on record is %+v", e)
	}
	seen := map[netip.Addr]bool{}
	for n := range state.Snapshot().Nodes() {
		if !n.Addrs.V6.IsValid() || seen[n.Addrs.V6] {
			t.Errorf("%s has %v", n.Name, n.Addrs)
		}
		seen[n.Addrs.V6] = true
	}
}
