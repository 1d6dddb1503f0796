package cli_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"heddle/api"
	"heddle/cmd/heddle/cli"
	"heddle/control/tailnet"
	"heddle/db"
	v1 "heddle/proto/heddle/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// commands are the command lines by which each method of the contract is called, in a world where
// they have something to do. HOOK and ETAG stand for a webhook and an earlier policy.
var commands = map[string]string{
	"HealthService.Health":     "health",
	"HealthService.GetVersion": "version --server",

	"UserService.CreateUser":     "users create zoe",
	"UserService.GetUser":        "users show alice",
	"UserService.ListUsers":      "users list",
	"UserService.RenameUser":     "users rename alice alicia",
	"UserService.DeleteUser":     "users delete bob@example.com --yes",
	"UserService.ApproveUser":    "users approve carol@example.com",
	"UserService.SuspendUser":    "users suspend alice",
	"UserService.RestoreUser":    "users restore dan",
	"UserService.SetUserRole":    "users role alice auditor",
	"UserService.LinkIdentity":   "users link alice https://id.example.com 7",
	"UserService.UnlinkIdentity": "users unlink carol@example.com https://id.example.com 2",

	"NodeService.GetNode":           "nodes show laptop",
	"NodeService.ListNodes":         "nodes list",
	"NodeService.RenameNode":        "nodes rename laptop desk",
	"NodeService.DeleteNode":        "nodes delete laptop --yes",
	"NodeService.ExpireNode":        "nodes expire laptop",
	"NodeService.SetTags":           "nodes tag laptop tag:web",
	"NodeService.SetApprovedRoutes": "nodes approve-routes gateway 10.0.0.0/8",
	"NodeService.ListRoutes":        "nodes list-routes",
	"NodeService.ApproveNode":       "nodes approve web31m",
	"NodeService.RejectNode":        "nodes reject pad",
	"NodeService.HoldNode":          "nodes hold laptop",
	"NodeService.SetAddress":        "nodes address laptop 100.64.7.7",
	"NodeService.ListAttributes":    "nodes attributes list laptop",
	"NodeService.SetAttribute":      "nodes attributes set laptop custom:tier gold",
	"NodeService.DeleteAttribute":   "nodes attributes delete laptop custom:tier",
	"NodeService.SetKeyExpiry":      "nodes expiry laptop off",
	"NodeService.RegisterNode":      "nodes register --user alice c0ffee",
	"NodeService.BackfillNodeIPs":   "nodes backfill-ips",

	"PreAuthKeyService.CreatePreAuthKey": "preauthkeys create --user alice",
	"PreAuthKeyService.ListPreAuthKeys":  "preauthkeys list",
	"PreAuthKeyService.ExpirePreAuthKey": "preauthkeys revoke 1",
	"PreAuthKeyService.DeletePreAuthKey": "preauthkeys delete 1 --yes",

	"ApiKeyService.CreateApiKey": "apikeys create",
	"ApiKeyService.ListApiKeys":  "apikeys list",
	"ApiKeyService.ExpireApiKey": "apikeys revoke 1",
	"ApiKeyService.DeleteApiKey": "apikeys delete 1 --yes",

	"OAuthClientService.CreateOAuthClient": "oauth-clients create --scope dns",
	"OAuthClientService.ListOAuthClients":  "oauth-clients list",
	"OAuthClientService.UpdateOAuthClient": "oauth-clients set 2 --scope dns:read",
	"OAuthClientService.DeleteOAuthClient": "oauth-clients delete 2 --yes",

	"AuthService.AuthRegister": "auth register --user alice c0ffee",
	"AuthService.AuthApprove":  "auth approve 55aacc",
	"AuthService.AuthReject":   "auth reject c0ffee",
	"AuthService.ListLogins":   "auth list",

	"PolicyService.GetPolicy":      "policy get",
	"PolicyService.SetPolicy":      "policy set testdata/good.hujson",
	"PolicyService.CheckPolicy":    "policy check testdata/good.hujson",
	"PolicyService.ListPolicies":   "policy history",
	"PolicyService.RollbackPolicy": "policy rollback ETAG",
	"PolicyService.ExplainPolicy":  "policy explain laptop gateway",
	"PolicyService.PreviewPolicy":  "policy preview laptop",

	"DNSService.GetDNS":          "dns show",
	"DNSService.UpdateDNS":       "dns set --nameservers 192.0.2.53",
	"DNSService.SetSplitDNS":     "dns split set corp.example 192.0.2.1",
	"DNSService.AddDNSRecord":    "dns records add new.example.com 192.0.2.9",
	"DNSService.RemoveDNSRecord": "dns records remove db.example.com",

	"SettingsService.GetSettings":    "settings get",
	"SettingsService.UpdateSettings": "settings set key-expiry 90d",

	"SettingsService.GetContacts": "settings contacts",
	"SettingsService.SetContact":  "settings contacts support help@example.com",

	"DERPService.GetDERPMap":   "derp map",
	"DebugService.GetFleet":    "debug fleet",
	"DebugService.GetNetmap":   "debug netmap laptop",
	"DebugService.GetLogLevel": "debug log-level",
	"DebugService.SetLogLevel": "debug log-level debug",

	"AuditService.ListAuditEntries": "audit list",
	"AuditService.TailAuditEntries": "audit tail",

	"WebhookService.CreateWebhook": "webhooks create https://example.com/new",
	"WebhookService.GetWebhook":    "webhooks delete HOOK --yes",
	"WebhookService.ListWebhooks":  "webhooks list",
	"WebhookService.UpdateWebhook": "webhooks set-events HOOK userCreated",
	"WebhookService.RotateWebhook": "webhooks rotate HOOK",
	"WebhookService.TestWebhook":   "webhooks test HOOK",
	"WebhookService.DeleteWebhook": "webhooks delete HOOK --yes",

	"ConfigService.ReloadConfig": "reload",

	"WatchService.Watch": "nodes list --watch",
}

// endless are the methods whose command goes on until it is interrupted, or until somebody else did something.
var endless = []string{"AuditService.TailAuditEntries", "WatchService.Watch", "WebhookService.TestWebhook"}

// raw is a message that is passed on as it is.
type raw struct{ text []byte }

type rawCodec struct{}

func (rawCodec) Name() string                    { return "raw" }
func (rawCodec) Marshal(v any) ([]byte, error)   { return v.(*raw).text, nil }
func (rawCodec) Unmarshal(b []byte, v any) error { v.(*raw).text = slices.Clone(b); return nil }

// relay passes calls on to the world's server, and tells called of each.
func (w *world) relay(called func(method string)) (socket string) {
	w.t.Helper()
	conn, err := grpc.NewClient("unix:"+w.socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	s := grpc.NewServer(grpc.ForceServerCodec(rawCodec{}), grpc.UnknownServiceHandler(func(_ any, from grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(from)
		called(method)
		to, err := conn.NewStream(from.Context(), &grpc.StreamDesc{ServerStreams: true}, method)
		if err != nil {
			return err
		}
		m := new(raw)
		if err := errors.Join(from.RecvMsg(m), to.SendMsg(m), to.CloseSend()); err != nil {
			return err
		}
		for {
			if err := to.RecvMsg(m); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			if err := from.SendMsg(m); err != nil {
				return err
			}
		}
	}))
	dir, err := os.MkdirTemp("", "cli") // t.TempDir can be too long for a socket
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "relay")
	l, err := net.Listen("unix", socket)
	if err != nil {
		w.t.Fatal(err)
	}
	run(w.t, func(ctx context.Context) error {
		defer context.AfterFunc(ctx, s.Stop)()
		return s.Serve(l)
	})
	return socket
}

// full is a world in which every command has something to do.
func full(t *testing.T) *world {
	log, err := db.Open(t.Context(), db.Options{Path: filepath.Join(t.TempDir(), "heddle.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	w := newWorld(t, func(o *api.Options) {
		o.Audit, o.Debug.Level = log, new(slog.LevelVar)
		o.Reload = func(context.Context) (*api.Reloaded, error) { return &api.Reloaded{}, nil }
		o.Debug.Netmap = func(context.Context, tailnet.NodeID) (*api.Netmap, error) {
			return &api.Netmap{CapVer: 142, Full: api.Payload{Wire: []byte("x"), JSON: []byte("{}")}}, nil
		}
	})
	w.populate()
	w.letWait()
	w.must(func(tx *tailnet.Tx) error {
		dan, err := tx.CreateUser(tailnet.User{Name: "dan"})
		if err != nil {
			return err
		}
		if err := tx.SuspendUser(dan.ID); err != nil {
			return err
		}
		if err := tx.HoldNode(3); err != nil {
			return err
		}
		if _, _, err := tx.CreateAPIKey(tailnet.APIKeySpec{Expires: tx.Now().Add(time.Hour)}); err != nil {
			return err
		}
		if _, _, err := tx.CreateClient(tailnet.ClientSpec{Scopes: []string{"dns"}}); err != nil {
			return err
		}
		_, _, err = tx.CreateWebhook(tailnet.Webhook{URL: "https://example.com/hook", Events: []tailnet.Event{"nodeCreated"}})
		return err
	})
	if r := w.heddle("dns", "records", "add", "db.example.com", "192.0.2.9"); r.code != 0 {
		t.Fatal(r.err)
	}
	for _, text := range []string{`{"grants": [], "tagOwners": {"tag:web": []}}`, `{"grants": [], "groups": {}, "tagOwners": {"tag:web": []}}`} {
		if _, _, err := w.state.PutPolicy(t.Context(), admin, text, ""); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// Every method of the contract is called by a command, which works, and whose help says how.
func TestEveryOperationHasACommand(t *testing.T) {
	left := map[string]bool{}
	for method := range commands {
		left[method] = true
	}
	protoregistry.GlobalFiles.RangeFilesByPackage(v1.File_heddle_v1_user_proto.Package(), func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				method := fmt.Sprintf("%s.%s", s.Name(), s.Methods().Get(j).Name())
				if !left[method] {
					t.Errorf("no command for the method %s", method)
				}
				delete(left, method)
			}
		}
		return true
	})
	for method := range left {
		t.Errorf("there is no method %s", method)
	}
	for method, line := range commands {
		t.Run(method, func(t *testing.T) { serves(t, method, line) })
	}
}

// serves checks that a command line calls a method.
func serves(t *testing.T, method, line string) {
	w := full(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	calls := map[string]bool{}
	socket := w.relay(func(name string) {
		mu.Lock()
		defer mu.Unlock()
		name = strings.ReplaceAll(strings.TrimPrefix(name, "/heddle.v1."), "/", ".")
		if calls[name] = true; name == method && slices.Contains(endless, method) {
			cancel()
		}
	})
	past, _, err := w.store.Policies(t.Context(), tailnet.Default, 10, 0)
	if err != nil || len(past) < 2 {
		t.Fatal(past, err)
	}
	line = strings.NewReplacer("HOOK", w.state.Snapshot().Settings().Webhooks[0].ID, "ETAG", past[1].ETag).Replace(line)
	args := strings.Fields(line)
	var out, errs bytes.Buffer
	code := cli.Run(ctx, append([]string{"--socket", socket}, args...), cli.Env{In: strings.NewReader(""), Out: &out, Err: &errs, Now: w.clock.now})
	mu.Lock()
	defer mu.Unlock()
	if !calls[method] {
		t.Errorf("`heddle %s` calls %v, and not %s", line, calls, method)
	}
	if code != 0 && !slices.Contains(endless, method) {
		t.Errorf("`heddle %s`: exit code %d: %s", line, code, errs.String())
	}
	if help := heddle(t, "", append(args, "--help")...); !strings.Contains(help.out, "Examples:\n  heddle "+args[0]) {
		t.Errorf("`heddle %s --help` has no example:\n%s", line, help.out)
	}
}
