package api_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"heddle/api"
	"heddle/control/tailnet"
	"heddle/db"
	"heddle/policy"
	v1 "heddle/proto/heddle/v1"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// kept is a world whose changes are in a real database.
func kept(t *testing.T, edit ...func(*api.Options)) *world {
	t.Helper()
	store, err := db.Open(t.Context(), db.Options{Path: filepath.Join(t.TempDir(), "heddle.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	w := &world{t: t}
	w.clock.pass(time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC).Sub(time.Unix(0, 0)))
	if w.state, err = tailnet.Open(t.Context(), store, tailnet.Options{Now: w.clock.now}); err != nil {
		t.Fatal(err)
	}
	run(t, w.state.Run)
	o := api.Options{State: w.state, Now: w.clock.now, Audit: store, Log: slog.New(slog.DiscardHandler)}
	for _, e := range edit {
		e(&o)
	}
	w.api = api.New(o)
	return w
}

func TestAuditLog(t *testing.T) {
	w := kept(t)
	conn := w.local()
	c := v1.NewAuditServiceClient(conn)
	because := metadata.AppendToOutgoingContext(t.Context(), "heddle-reason-bin", "Zoë left\n"+strings.Repeat("x", 2000))
	if err := createUser(because, conn, "alice"); err != nil {
		t.Fatal(err)
	}
	w.clock.pass(time.Hour)
	if _, err := v1.NewUserServiceClient(conn).RenameUser(t.Context(), &v1.RenameUserRequest{User: "alice", NewName: "bob"}); err != nil {
		t.Fatal(err)
	}
	resp, err := c.ListAuditEntries(t.Context(), &v1.ListAuditEntriesRequest{PageSize: 1})
	if err != nil || len(resp.GetEntries()) != 1 || resp.GetNextPageToken() == "" {
		t.Fatalf("%v, %v", resp, err)
	}
	e := resp.GetEntries()[0]
	if ch := e.GetChanges(); e.GetAction() != "user.rename" || e.GetTarget() != "user 1 (bob)" || len(ch) != 1 || ch[0].GetField() != "name" || ch[0].GetFrom() != "alice" || ch[0].GetTo() != "bob" {
		t.Errorf("%v", e)
	}
	if a := e.GetActor(); a.GetKind() != "local-cli" || a.GetName() == "" || a.GetFrom() != "" || e.GetReason() != "" || !e.GetAt().AsTime().Equal(w.clock.now()) {
		t.Errorf("%v", e)
	}
	resp, err = c.ListAuditEntries(t.Context(), &v1.ListAuditEntriesRequest{PageToken: resp.GetNextPageToken()})
	if err != nil || len(resp.GetEntries()) != 1 || resp.GetNextPageToken() != "" {
		t.Fatalf("%v, %v", resp, err)
	}
	if reason := resp.GetEntries()[0].GetReason(); !strings.HasPrefix(reason, "Zoë left x") || len(reason) > 510 {
		t.Errorf("reason %q", reason)
	}
	resp, err = c.ListAuditEntries(t.Context(), &v1.ListAuditEntriesRequest{Filter: &v1.AuditFilter{
		Action: "user", Actor: "LOCAL", Target: "ALICE", Until: timestamppb.New(w.clock.now()),
	}})
	if err != nil || len(resp.GetEntries()) != 1 || resp.GetEntries()[0].GetAction() != "user.create" {
		t.Errorf("filtered: %v, %v", resp, err)
	}
	_, err = c.ListAuditEntries(t.Context(), &v1.ListAuditEntriesRequest{PageToken: "!"})
	wantCode(t, err, codes.InvalidArgument, "page_token")
	_, err = c.ListAuditEntries(t.Context(), &v1.ListAuditEntriesRequest{Filter: &v1.AuditFilter{Since: &timestamppb.Timestamp{Nanos: -1}}})
	wantCode(t, err, codes.InvalidArgument, "since")
}

func TestAuditTail(t *testing.T) {
	w := kept(t)
	w.must(func(tx *tailnet.Tx) error { _, err := tx.CreateUser(tailnet.User{Name: "old"}); return err })
	secret := w.key(tailnet.APIKeySpec{Role: policy.Auditor})
	c := v1.NewAuditServiceClient(w.remote(true, elsewhere))
	ctx, cancel := context.WithTimeout(with(t, "Bearer "+secret), time.Minute)
	defer cancel()
	all, err := c.TailAuditEntries(ctx, &v1.TailAuditEntriesRequest{After: 1, Filter: &v1.AuditFilter{Action: "user"}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		w.must(func(tx *tailnet.Tx) error {
			_, err := tx.CreateUser(tailnet.User{Name: fmt.Sprintf("u%d", i)})
			return err
		})
	}
	for i := range 5 {
		resp, err := all.Recv()
		if want := fmt.Sprintf("(u%d)", i); err != nil || !strings.Contains(resp.GetEntry().GetTarget(), want) {
			t.Fatalf("%v, %v; want %s", resp, err, want)
		}
	}
	// A key that is revoked hears no more.
	w.must(func(tx *tailnet.Tx) error { return tx.RevokeAPIKey(1) })
	if resp, err := all.Recv(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("after the key was revoked: %v, %v", resp, err)
	} else {
		wantCode(t, err, codes.Unauthenticated, "does not work any more")
	}
}

func TestLogLevel(t *testing.T) {
	level := new(slog.LevelVar)
	w := kept(t, func(o *api.Options) { o.Debug.Level = level })
	auditor := with(t, "Bearer "+w.key(tailnet.APIKeySpec{Role: policy.Auditor}))
	c, remote := v1.NewDebugServiceClient(w.local()), v1.NewDebugServiceClient(w.remote(true, elsewhere))
	resp, err := c.SetLogLevel(t.Context(), &v1.SetLogLevelRequest{Level: "debug"})
	if err != nil || resp.GetPrevious() != "info" || level.Level() != slog.LevelDebug {
		t.Errorf("%v, %v, level %v", resp, err, level)
	}
	for _, bad := range []string{"", "loud", "INFO+3", "info-1"} {
		_, err := c.SetLogLevel(t.Context(), &v1.SetLogLevelRequest{Level: bad})
		wantCode(t, err, codes.InvalidArgument, "debug, info, warn or error")
	}
	_, err = remote.SetLogLevel(auditor, &v1.SetLogLevelRequest{Level: "error"})
	wantCode(t, err, codes.PermissionDenied, "log level")
	if got, err := remote.GetLogLevel(auditor, &v1.GetLogLevelRequest{}); err != nil || got.GetLevel() != "debug" {
		t.Errorf("%v, %v", got, err)
	}
	log, err := v1.NewAuditServiceClient(w.local()).ListAuditEntries(t.Context(), &v1.ListAuditEntriesRequest{Filter: &v1.AuditFilter{Action: "log.level"}})
	if err != nil || len(log.GetEntries()) != 1 || log.GetEntries()[0].GetChanges()[0].GetTo() != "debug" {
		t.Errorf("%v, %v", log, err)
	}
}

func TestWebhooks(t *testing.T) {
	w := kept(t, func(o *api.Options) {
		o.Deliveries = func(string) api.Delivery { return api.Delivery{Tried: time.Unix(7, 0), Err: "down", Failed: 3} }
	})
	auditor := with(t, "Bearer "+w.key(tailnet.APIKeySpec{Role: policy.Auditor}))
	c, remote := v1.NewWebhookServiceClient(w.local()), v1.NewWebhookServiceClient(w.remote(true, elsewhere))
	made, err := c.CreateWebhook(t.Context(), &v1.CreateWebhookRequest{Url: "https://hooks.example/services/secret", Events: []string{"policyUpdate", "nodeCreated", "policyUpdate"}})
	if err != nil {
		t.Fatal(err)
	}
	id, secrets := made.GetWebhook().GetId(), []string{made.GetSecret()}
	if got := strings.Join(made.GetWebhook().GetEvents(), " "); got != "nodeCreated policyUpdate" || !strings.HasPrefix(made.GetSecret(), "tskey-webhook-") {
		t.Errorf("%v", made)
	}
	for _, bad := range []*v1.CreateWebhookRequest{
		{Url: "ftp://hooks.example", Events: []string{"nodeCreated"}},
		{Url: "https://user:pw@hooks.example", Events: []string{"nodeCreated"}},
		{Url: "https:///x", Events: []string{"nodeCreated"}},
		{Url: "https://hooks.example", Events: []string{"nodeMade"}},
		{Url: "https://hooks.example"},
		{Url: "https://hooks.example", Events: []string{"nodeCreated"}, Provider: "pager"},
		{Url: "https://hooks.example/" + strings.Repeat("x", 300), Events: []string{"nodeCreated"}},
	} {
		_, err := c.CreateWebhook(t.Context(), bad)
		wantCode(t, err, codes.InvalidArgument, "")
	}
	_, err = remote.CreateWebhook(auditor, &v1.CreateWebhookRequest{Url: "https://hooks.example", Events: []string{"nodeCreated"}})
	wantCode(t, err, codes.PermissionDenied, "create webhooks")

	// Whoever may only read sees neither secrets nor paths.
	seen, err := remote.ListWebhooks(auditor, &v1.ListWebhooksRequest{})
	if err != nil || len(seen.GetWebhooks()) != 1 || seen.GetWebhooks()[0].GetUrl() != "https://hooks.example" {
		t.Errorf("%v, %v", seen, err)
	}
	got, err := c.GetWebhook(t.Context(), &v1.GetWebhookRequest{Id: id})
	if d := got.GetWebhook().GetDelivery(); err != nil || got.GetWebhook().GetUrl() != "https://hooks.example/services/secret" || d.GetError() != "down" || d.GetOk() || d.GetFailed() != 3 {
		t.Errorf("%v, %v", got, err)
	}

	set, err := c.UpdateWebhook(t.Context(), &v1.UpdateWebhookRequest{Id: id, Events: []string{"categoryTailnetManagement"}})
	if err != nil || set.GetWebhook().GetEvents()[0] != "categoryTailnetManagement" {
		t.Errorf("%v, %v", set, err)
	}
	fresh, err := c.RotateWebhook(t.Context(), &v1.RotateWebhookRequest{Id: id})
	if err != nil || fresh.GetSecret() == secrets[0] {
		t.Errorf("%v, %v", fresh, err)
	}
	secrets = append(secrets, fresh.GetSecret())
	if _, err := c.TestWebhook(t.Context(), &v1.TestWebhookRequest{Id: id}); err != nil {
		t.Error(err)
	}
	if _, err := c.DeleteWebhook(t.Context(), &v1.DeleteWebhookRequest{Id: id}); err != nil {
		t.Error(err)
	}
	_, err = c.TestWebhook(t.Context(), &v1.TestWebhookRequest{Id: id})
	wantCode(t, err, codes.NotFound, "webhook")

	log, err := v1.NewAuditServiceClient(w.local()).ListAuditEntries(t.Context(), &v1.ListAuditEntriesRequest{Filter: &v1.AuditFilter{Action: "webhook"}})
	var actions []string
	for _, e := range log.GetEntries() {
		actions = append(actions, e.GetAction())
	}
	if want := "webhook.delete webhook.test webhook.rotate webhook.set webhook.create"; err != nil || strings.Join(actions, " ") != want {
		t.Errorf("%v, %v", actions, err)
	}
	for _, secret := range append(secrets, "services/secret") {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the audit log has %q", secret)
		}
	}
}
