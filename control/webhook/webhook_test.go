package webhook_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"heddle/control/tailnet"
	"heddle/control/webhook"
	"heddle/db"
)

// TestMain is the receiver if it is told so: a process of its own, which can be killed.
func TestMain(m *testing.M) {
	if addr := os.Getenv("HEDDLE_TEST_RECEIVER"); addr != "" {
		receive(addr)
		return
	}
	os.Exit(m.Run())
}

// receive prints each body that it took. What it does is the last path of a PUT: ok, 500, redirect, hang.
func receive(addr string) {
	var mode atomic.Value
	mode.Store(os.Getenv("HEDDLE_TEST_MODE"))
	l, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Println("cannot listen:", err)
		os.Exit(1)
	}
	fmt.Println("ready")
	http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			mode.Store(strings.TrimPrefix(r.URL.Path, "/"))
			return
		}
		body, _ := io.ReadAll(r.Body)
		switch mode.Load() {
		case "500":
			http.Error(w, "secret of the receiver", http.StatusInternalServerError)
			return
		case "redirect":
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
			return
		case "hang":
			<-r.Context().Done()
			return
		}
		line, _ := json.Marshal(map[string]any{
			"body": string(body), "signature": r.Header.Get(webhook.SignatureHeader), "type": r.Header.Get("Content-Type"), "path": r.URL.Path,
		})
		fmt.Println(string(line))
	}))
}

// receiver is such a process, seen from outside.
type receiver struct {
	t     *testing.T
	addr  string
	cmd   *exec.Cmd
	lines chan string
}

// newReceiver reserves an address; nobody listens there yet.
func newReceiver(t *testing.T) *receiver {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := &receiver{t: t, addr: l.Addr().String(), lines: make(chan string, 1000)}
	t.Cleanup(r.kill)
	return r
}

func (r *receiver) url() string { return "http://" + r.addr + "/hook" }

func (r *receiver) start(mode string) {
	r.t.Helper()
	r.cmd = exec.Command(os.Args[0])
	r.cmd.Env = append(os.Environ(), "HEDDLE_TEST_RECEIVER="+r.addr, "HEDDLE_TEST_MODE="+mode)
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		r.t.Fatalf("the receiver says %q", lines.Text())
	}
	go func() {
		for lines.Scan() {
			r.lines <- lines.Text()
		}
	}()
}

func (r *receiver) kill() {
	if r.cmd != nil {
		r.cmd.Process.Kill()
		r.cmd.Wait()
		r.cmd = nil
	}
}

func (r *receiver) become(mode string) {
	r.t.Helper()
	req, _ := http.NewRequest(http.MethodPut, "http://"+r.addr+"/"+mode, nil)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	resp.Body.Close()
}

// event is what receivers read.
type event struct {
	Timestamp time.Time
	Version   int
	Type      string
	Tailnet   string
	Message   string
	Data      map[string]any
}

type delivered struct{ Body, Signature, Type, Path string }

// next returns the events of the next message, whose signature must be right.
func (r *receiver) next(secret string) []event {
	r.t.Helper()
	var d delivered
	select {
	case line := <-r.lines:
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			r.t.Fatalf("%q: %v", line, err)
		}
	case <-time.After(30 * time.Second):
		r.t.Fatal("nothing arrives")
	}
	stamp, _, _ := strings.Cut(strings.TrimPrefix(d.Signature, "t="), ",")
	var unix int64
	fmt.Sscan(stamp, &unix)
	if want := webhook.Sign(secret, time.Unix(unix, 0), []byte(d.Body)); d.Signature != want || d.Type != "application/json" || d.Path != "/hook" {
		r.t.Fatalf("signature %q, want %q; type %q, path %q", d.Signature, want, d.Type, d.Path)
	}
	var events []event
	if err := json.Unmarshal([]byte(d.Body), &events); err != nil {
		r.t.Fatalf("%s: %v", d.Body, err)
	}
	return events
}

// collect returns the events that arrive, until there are n.
func (r *receiver) collect(secret string, n int) []event {
	r.t.Helper()
	var all []event
	for len(all) < n {
		all = append(all, r.next(secret)...)
	}
	return all
}

// world is a tailnet with its database and a sender.
type world struct {
	t      *testing.T
	store  *db.DB
	state  *tailnet.State
	sender *webhook.Sender
	stop   func()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	store, err := db.Open(t.Context(), db.Options{Path: filepath.Join(t.TempDir(), "heddle.db")})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: store}
	w.state, err = tailnet.Open(t.Context(), store, tailnet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.state.Run(ctx) }()
	t.Cleanup(func() {
		w.pause()
		cancel()
		<-done
		store.Close()
	})
	w.must(func(tx *tailnet.Tx) error { return tx.SetDNSPins(tailnet.DNSPins{BaseDomain: "tail.test"}) })
	return w
}

// deliver starts a sender, as a start of the server does.
func (w *world) deliver() {
	w.sender = webhook.New(webhook.Options{
		State: w.state, Store: w.store, ServerURL: &url.URL{Scheme: "https", Host: "vpn.test"},
		Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	sender := w.sender
	go func() { done <- sender.Run(ctx) }()
	w.stop = func() { cancel(); <-done }
}

func (w *world) pause() {
	if w.stop != nil {
		w.stop()
		w.stop = nil
	}
}

func (w *world) must(fn func(*tailnet.Tx) error) {
	w.t.Helper()
	if _, err := w.state.Update(w.t.Context(), tailnet.Actor{Kind: tailnet.LocalCLI, Name: "root"}, fn); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) hook(r *receiver, events ...tailnet.Event) (id, secret string) {
	w.t.Helper()
	w.must(func(tx *tailnet.Tx) error {
		s, h, err := tx.CreateWebhook(tailnet.Webhook{URL: r.url(), Events: events})
		if err == nil {
			id, secret = h.ID, s
		}
		return err
	})
	return id, secret
}

func (w *world) user(name string) {
	w.t.Helper()
	w.must(func(tx *tailnet.Tx) error { _, err := tx.CreateUser(tailnet.User{Name: name}); return err })
}

// await waits for what a delivery is to be.
func (w *world) await(id, what string, cond func(webhook.Delivery) bool) {
	w.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	end := time.After(60 * time.Second)
	for {
		if cond(w.sender.Delivery(id)) {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			w.t.Fatalf("%s: %+v", what, w.sender.Delivery(id))
		}
	}
}

// A receiver that is down, that fails and that comes back gets everything, once, in order.
func TestReceiverComesBack(t *testing.T) {
	w, r := newWorld(t), newReceiver(t)
	w.user("before")
	id, secret := w.hook(r, "userCreated")
	w.deliver()
	const many = 45 // more than a message has
	for i := range many {
		w.user(fmt.Sprintf("u%d", i))
		w.must(func(tx *tailnet.Tx) error { return tx.SetDNS(tailnet.DNS{MagicDNS: i%2 == 0}) }) // not wanted
	}
	w.await(id, "down", func(d webhook.Delivery) bool {
		return d.Failed >= 1 && strings.Contains(d.Err, "connection refused") && !d.Retry.IsZero()
	})
	r.start("500")
	w.await(id, "answers 500", func(d webhook.Delivery) bool { return d.Err == "it answered 500 Internal Server Error" })
	r.become("redirect")
	w.await(id, "redirects", func(d webhook.Delivery) bool { return d.Err == "it answered 307 Temporary Redirect" })
	r.become("ok")
	for i, e := range r.collect(secret, many) {
		if want := fmt.Sprintf("User u%d was created", i); e.Message != want || e.Type != "userCreated" || e.Version != 1 || e.Tailnet != "tail.test" ||
			e.Data["user"] != fmt.Sprintf("u%d@", i) || e.Data["actor"] != "root" || e.Timestamp.IsZero() {
			t.Fatalf("event %d is %+v, want %q", i, e, want)
		}
	}
	w.await(id, "works again", func(d webhook.Delivery) bool { return d.Err == "" && d.Delivered == many && d.Retry.IsZero() })

	// What happens while the server is stopped is told after its start, and nothing twice.
	w.pause()
	w.user("late")
	w.deliver()
	if got := r.next(secret); len(got) != 1 || got[0].Message != "User late was created" {
		t.Errorf("after a restart: %+v", got)
	}
	w.await(id, "taken note of", func(d webhook.Delivery) bool { return d.Delivered == 1 && d.Err == "" }) // or it is told again

	// Whoever mended a receiver need not wait for the next attempt.
	r.kill()
	w.user("last")
	w.await(id, "down again", func(d webhook.Delivery) bool { return d.Failed >= 1 })
	r.start("ok")
	w.must(func(tx *tailnet.Tx) error { return tx.TestWebhook(id) })
	if got := r.collect(secret, 2); got[0].Message != "User last was created" || got[1].Type != "test" || got[1].Data != nil {
		t.Errorf("a test: %+v", got)
	}

	w.must(func(tx *tailnet.Tx) error { return tx.DeleteWebhook(id) })
	w.await(id, "forgotten", func(d webhook.Delivery) bool {
		return d == webhook.Delivery{}
	})
}

// A receiver that hangs keeps neither another one nor changes waiting.
func TestReceiverHangs(t *testing.T) {
	w, slow, quick := newWorld(t), newReceiver(t), newReceiver(t)
	slow.start("hang")
	quick.start("ok")
	slowID, slowSecret := w.hook(slow, "userCreated")
	_, quickSecret := w.hook(quick, "categoryTailnetManagement")
	w.deliver()
	for i := range 10 {
		w.user(fmt.Sprintf("u%d", i))
	}
	quick.collect(quickSecret, 10)
	if d := w.sender.Delivery(slowID); d.Delivered != 0 || d.Failed != 0 {
		t.Errorf("the slow one: %+v", d)
	}
	slow.kill()
	slow.start("ok")
	slow.collect(slowSecret, 10)
}

// Where events may not go, they do not go.
func TestPrivateAddresses(t *testing.T) {
	w, r := newWorld(t), newReceiver(t)
	r.start("ok")
	var id string
	w.must(func(tx *tailnet.Tx) error {
		_, h, err := tx.CreateWebhook(tailnet.Webhook{URL: strings.Replace(r.url(), "127.0.0.1", "[::1]", 1), Events: []tailnet.Event{"userCreated"}})
		id = h.ID
		return err
	})
	w.deliver()
	w.user("a")
	w.await(id, "refused", func(d webhook.Delivery) bool {
		return strings.Contains(d.Err, "::1 is not public") && strings.Contains(d.Err, "webhooks.allowed_networks")
	})
}
