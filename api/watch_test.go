package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"heddle/control/tailnet"
	v1 "heddle/proto/heddle/v1"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// watcher receives one stream and keeps what it tells of.
type watcher struct {
	t      *testing.T
	stream grpc.ServerStreamingClient[v1.WatchResponse]
	stop   func()
	cursor string
	things map[string]string
}

func watchOn(t *testing.T, ctx context.Context, conn *grpc.ClientConn, cursor string, kinds ...v1.WatchKind) *watcher {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	t.Cleanup(cancel)
	s, err := v1.NewWatchServiceClient(conn).Watch(ctx, &v1.WatchRequest{Kinds: kinds, Cursor: cursor})
	if err != nil {
		t.Fatal(err)
	}
	return &watcher{t: t, stream: s, stop: cancel, things: map[string]string{}}
}

// next receives up to a cursor, and reports whether everything began anew.
func (w *watcher) next() (reset bool) {
	w.t.Helper()
	for {
		m, err := w.stream.Recv()
		if err != nil {
			w.t.Fatal(err)
		}
		if m.GetReset_() {
			reset, w.things = true, map[string]string{}
		}
		if n := len(m.GetChanges()); n > 500 {
			w.t.Errorf("%d changes in one message", n)
		}
		for _, c := range m.GetChanges() {
			switch x := c.GetThing().(type) {
			case *v1.Change_Node:
				w.things[fmt.Sprint("node ", x.Node.GetId())] = x.Node.GetGivenName()
			case *v1.Change_User:
				w.things[fmt.Sprint("user ", x.User.GetId())] = x.User.GetName()
			case *v1.Change_PreAuthKey:
				w.things[fmt.Sprint("auth key ", x.PreAuthKey.GetId())] = x.PreAuthKey.GetState()
			case *v1.Change_ApiKey:
				w.things[fmt.Sprint("API key ", x.ApiKey.GetId())] = x.ApiKey.GetState()
			case *v1.Change_OauthClient:
				w.things[fmt.Sprint("OAuth client ", x.OauthClient.GetId())] = strings.Join(x.OauthClient.GetScopes(), " ")
			case *v1.Change_Policy:
				w.things["policy"] = x.Policy.GetEtag()[:4]
			case *v1.Change_Gone:
				names := map[v1.WatchKind]string{
					v1.WatchKind_WATCH_KIND_NODE: "node", v1.WatchKind_WATCH_KIND_USER: "user",
					v1.WatchKind_WATCH_KIND_PRE_AUTH_KEY: "auth key", v1.WatchKind_WATCH_KIND_API_KEY: "API key",
					v1.WatchKind_WATCH_KIND_OAUTH_CLIENT: "OAuth client",
				}
				name := fmt.Sprint(names[x.Gone.GetKind()], " ", x.Gone.GetId())
				if _, had := w.things[name]; !had {
					w.t.Errorf("%s is gone and never was", name)
				}
				delete(w.things, name)
			}
		}
		if w.cursor = m.GetCursor(); w.cursor != "" {
			return reset
		}
	}
}

func (w *watcher) want(things map[string]string) {
	w.t.Helper()
	if diff := cmp.Diff(things, w.things); diff != "" {
		w.t.Errorf("-want +got:\n%s", diff)
	}
}

func TestWatch(t *testing.T) {
	w := furnished(t)
	conn := w.local()
	a := watchOn(t, t.Context(), conn, "")
	if !a.next() {
		t.Error("the first message does not say that it is everything")
	}
	all := map[string]string{
		"node 1": "laptop", "node 2": "router", "user 1": "alice", "user 2": "bob", "auth key 1": "valid",
		"policy": w.state.Snapshot().Policy().ETag[:4],
	}
	a.want(all)

	w.must(func(tx *tailnet.Tx) error { return tx.RenameNode(1, "desk") })
	if all["node 1"] = "desk"; a.next() {
		t.Error("a change is no reason to begin anew")
	}
	a.want(all)
	if _, _, err := w.state.PutPolicy(t.Context(), tailnet.SystemActor("test"), `{"grants": []}`, ""); err != nil {
		t.Fatal(err)
	}
	all["policy"] = w.state.Snapshot().Policy().ETag[:4]
	a.next()
	a.want(all)
	a.stop()

	// What happens while nobody watches is told to who comes back, and no more.
	w.must(func(tx *tailnet.Tx) error { return tx.DeleteNode(2) })
	w.must(func(tx *tailnet.Tx) error { return tx.RevokeAuthKey(1) })
	w.must(func(tx *tailnet.Tx) error { return tx.DeleteUser(2) })
	b := watchOn(t, t.Context(), conn, a.cursor)
	b.things = map[string]string{"node 2": "router", "user 2": "bob"}
	if b.next() {
		t.Error("the server has forgotten the cursor")
	}
	b.want(map[string]string{"auth key 1": "revoked"})
	b.stop()

	// Who cannot go on begins anew: with a cursor of another stream, of nobody, or when it is too old.
	now := map[string]string{"node 1": "desk", "user 1": "alice", "auth key 1": "revoked", "policy": all["policy"]}
	for _, cursor := range []string{"", "x", strings.Replace(b.cursor, "-63-", "-1-", 1), strings.Repeat("9", 1000)} {
		c := watchOn(t, t.Context(), conn, cursor)
		if !c.next() {
			t.Errorf("cursor %.20q was good", cursor)
		}
		c.want(now)
		c.stop()
	}
	w.clock.pass(tailnet.TombstoneLife)
	if !watchOn(t, t.Context(), conn, b.cursor).next() {
		t.Error("a cursor of last month was good")
	}
}

// A long list comes in pieces.
func TestWatchLongLists(t *testing.T) {
	w := newWorld(t)
	w.must(func(tx *tailnet.Tx) error {
		for i := range 1200 {
			if _, err := tx.CreateUser(tailnet.User{Name: fmt.Sprint("u", i)}); err != nil {
				return err
			}
		}
		return nil
	})
	a := watchOn(t, t.Context(), w.local(), "", v1.WatchKind_WATCH_KIND_USER)
	if !a.next() || len(a.things) != 1200 {
		t.Errorf("%d things", len(a.things))
	}
}

func TestWhoMayWatch(t *testing.T) {
	w := newWorld(t)
	conn := w.remote(true, elsewhere)
	key := "Bearer " + w.key(tailnet.APIKeySpec{Scopes: []string{"devices:core:read"}})
	for _, kinds := range [][]v1.WatchKind{nil, {v1.WatchKind_WATCH_KIND_USER}, {v1.WatchKind_WATCH_KIND_NODE, v1.WatchKind_WATCH_KIND_API_KEY}} {
		_, err := watchOn(t, with(t, key), conn, "", kinds...).stream.Recv()
		wantCode(t, err, codes.PermissionDenied, "may not watch")
	}
	_, err := watchOn(t, with(t, key), conn, "", 77).stream.Recv()
	wantCode(t, err, codes.InvalidArgument, "77")

	// A key that is revoked ends its streams.
	a := watchOn(t, with(t, key), conn, "", v1.WatchKind_WATCH_KIND_NODE)
	a.next()
	w.must(func(tx *tailnet.Tx) error { return tx.RevokeAPIKey(1) })
	if m, err := a.stream.Recv(); err == nil {
		t.Errorf("a revoked key still hears %v", m)
	} else {
		wantCode(t, err, codes.Unauthenticated, "does not work any more")
	}
}

// Streams are counted, and those that ended do not count.
func TestWatchersAreBounded(t *testing.T) {
	w := kept(t)
	var all []*watcher
	var refused error
	for i := 0; refused == nil && i < 300; {
		conn := w.local()
		for range 60 { // of the 64 that one connection may have
			a := watchOn(t, t.Context(), conn, "", v1.WatchKind_WATCH_KIND_POLICY)
			if _, refused = a.stream.Recv(); refused != nil {
				break
			}
			all = append(all, a)
			i++
		}
	}
	wantCode(t, refused, codes.ResourceExhausted, "later")
	if len(all) != 256 {
		t.Errorf("%d programs could watch", len(all))
	}
	tail, err := v1.NewAuditServiceClient(w.local()).TailAuditEntries(t.Context(), &v1.TailAuditEntriesRequest{})
	if err == nil {
		_, err = tail.Recv() // these look at every change, too
	}
	wantCode(t, err, codes.ResourceExhausted, "later")
	for _, a := range all {
		a.stop()
	}
	for _, a := range all {
		for err := error(nil); err == nil; {
			_, err = a.stream.Recv()
		}
	}
	conn := w.local()
	for range 1000 { // the server ends them in its own time
		a := watchOn(t, t.Context(), conn, "", v1.WatchKind_WATCH_KIND_POLICY)
		if _, refused = a.stream.Recv(); refused == nil {
			return
		}
	}
	t.Error(refused)
}

// patient notes deadlines, and leaves after the first piece of an answer.
type patient struct {
	impatient
	write time.Time
}

func (p *patient) SetReadDeadline(time.Time) error    { return nil }
func (p *patient) SetWriteDeadline(t time.Time) error { p.write = t; return nil }

// Between its messages a stream has no deadline, or HTTP/2 would end it there.
func TestRESTWatchHasTime(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := httptest.NewRequestWithContext(ctx, "GET", "/api/v1/watch", nil)
	r.RemoteAddr = "127.0.0.1:1"
	r.Header.Set("Authorization", "Bearer "+w.key(tailnet.APIKeySpec{}))
	rec := &patient{impatient: impatient{httptest.NewRecorder(), cancel}, write: w.clock.now()}
	w.rest().ServeHTTP(rec, r)
	if !strings.Contains(rec.Body.String(), `"reset":`) || !rec.write.IsZero() {
		t.Errorf("a deadline at %v after %s", rec.write, rec.Body)
	}
}

// Over REST the news are lines of JSON.
func TestRESTWatch(t *testing.T) {
	w := furnished(t)
	srv := httptest.NewServer(w.rest())
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	open := func(query string) *http.Response {
		t.Helper()
		r, _ := http.NewRequestWithContext(ctx, "GET", srv.URL+"/api/v1/watch?"+query, nil)
		r.Header.Set("Authorization", "Bearer "+w.key(tailnet.APIKeySpec{}))
		resp, err := srv.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	resp := open("kinds=WATCH_KIND_USER&kinds=WATCH_KIND_POLICY")
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Fatal(resp.Status, resp.Header)
	}
	lines := bufio.NewScanner(resp.Body)
	line := func() (m struct {
		Result struct {
			Reset   bool
			Cursor  string
			Changes []map[string]struct{ Name string }
		}
	}) {
		t.Helper()
		if !lines.Scan() {
			t.Fatal("the stream ended", lines.Err())
		}
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			t.Fatal(err, lines.Text())
		}
		return m
	}
	if m := line(); !m.Result.Reset || len(m.Result.Changes) != 3 || m.Result.Cursor == "" {
		t.Errorf("%+v", m)
	}
	w.must(func(tx *tailnet.Tx) error { return tx.RenameUser(2, "robert") })
	if m := line(); m.Result.Reset || len(m.Result.Changes) != 1 || m.Result.Changes[0]["user"].Name != "robert" {
		t.Errorf("%+v", m)
	}
	for _, query := range []string{"kinds=NOPE", "kind=WATCH_KIND_USER", "kinds=99"} {
		if resp := open(query); resp.StatusCode != 400 || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %s", query, resp.Status)
		}
	}
}

// OAuth clients are no API keys, and their tokens are nobody's business.
func TestWatchClients(t *testing.T) {
	w := newWorld(t)
	conn := w.local()
	keys := watchOn(t, t.Context(), conn, "", v1.WatchKind_WATCH_KIND_API_KEY)
	clients := watchOn(t, t.Context(), conn, "", v1.WatchKind_WATCH_KIND_OAUTH_CLIENT)
	keys.next()
	clients.next()
	var client *tailnet.APIKey
	w.must(func(tx *tailnet.Tx) (err error) {
		_, client, err = tx.CreateClient(tailnet.ClientSpec{Scopes: []string{"dns"}})
		return err
	})
	clients.next()
	clients.want(map[string]string{"OAuth client 1": "dns"})
	w.must(func(tx *tailnet.Tx) error {
		if _, _, err := tx.MintToken(client.ID, nil, nil); err != nil {
			return err
		}
		return tx.EditClient(client.ID, tailnet.ClientSpec{Scopes: []string{"dns:read"}})
	})
	clients.next()
	clients.want(map[string]string{"OAuth client 1": "dns:read"})
	w.must(func(tx *tailnet.Tx) error {
		if _, _, err := tx.MintToken(client.ID, nil, nil); err != nil {
			return err
		}
		_, _, err := tx.CreateAPIKey(tailnet.APIKeySpec{Expires: tx.Now().Add(time.Hour)})
		return err
	})
	keys.next()
	keys.want(map[string]string{"API key 4": "valid"})
	w.must(func(tx *tailnet.Tx) error { return tx.DeleteAPIKey(client.ID) })
	for len(clients.things) > 0 {
		clients.next()
	}
	all := watchOn(t, t.Context(), conn, "")
	all.next()
	all.want(map[string]string{"API key 4": "valid", "policy": w.state.Snapshot().Policy().ETag[:4]})
}
