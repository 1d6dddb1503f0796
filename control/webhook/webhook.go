// Package webhook owns the delivery of events to the receivers that admins name. The audit log
// is its queue: what is to be told was committed with the change, and each webhook has a
// position in it, so that a receiver that is down loses nothing as long as entries are kept, and
// delays neither changes nor other receivers. Events come at least once, and in order.
//
// It refuses to know who may have a webhook, and what entries mean to anybody else.
package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"heddle/control/tailnet"
)

// Store is where the audit log, the policies and the positions are.
type Store interface {
	Audit(ctx context.Context, name string, q tailnet.AuditQuery) (page []tailnet.AuditRecord, next int64, err error)
	Policy(ctx context.Context, name string, revision int64, etag string) (*tailnet.Policy, error)
	// ClaimWebhook makes this server the one that delivers to a webhook until a time, unless another one
	// that shares the store does. It returns the number of the last entry that the webhook needs
	// no more; zero if there is none yet. MoveWebhook keeps that, and fails if the claim was lost.
	ClaimWebhook(ctx context.Context, name, webhook string, until time.Time) (position int64, mine bool, err error)
	MoveWebhook(ctx context.Context, name, webhook string, position int64) error
	ForgetWebhook(ctx context.Context, name, webhook string) error
}

const (
	// attemptTime bounds one attempt, from the look-up of the name to the answer.
	attemptTime = 15 * time.Second
	// firstRetry is the pause after a failure; it doubles up to maxRetry.
	firstRetry = time.Second
	maxRetry   = 5 * time.Minute
	// page is how many entries are read at a time, and maxEvents how many events one message has at most.
	page      = 100
	maxEvents = 20
	// breath is the least time between two looks at the log, however much changes.
	breath = 200 * time.Millisecond
	// claimTime is how long a claim holds: longer than an attempt. After it another server goes on if
	// this one is dead. claimTick is how often one that has no claim asks again.
	claimTime = 4 * attemptTime
	claimTick = 10 * time.Second
	// moveTimeout bounds how long a server that stops waits until it is noted what a receiver has.
	moveTimeout = 2 * time.Second
)

// Options are what a Sender needs.
type Options struct {
	State     *tailnet.State
	Store     Store
	ServerURL *url.URL
	// Allow are the networks that receivers may be in although they are not public.
	Allow []netip.Prefix
	Log   *slog.Logger     // nil discards
	Now   func() time.Time // nil means time.Now
}

// Sender delivers events while its Run runs.
type Sender struct {
	opts   Options
	log    *slog.Logger
	now    func() time.Time
	client *http.Client

	mu      sync.Mutex
	reports map[string]*Delivery // by ID of the webhook
}

// Delivery is how the receiver of a webhook does.
type Delivery struct {
	Tried     time.Time // latest attempt; zero if there was none
	Err       string    // why it failed, for people; "" if it did not
	Retry     time.Time // when the next is due; zero if nothing failed
	Delivered int64     // events that it took
	Failed    int64     // attempts that failed
	Position  int64     // number of the latest audit entry that is dealt with
}

// New returns a Sender. It starts nothing.
func New(o Options) *Sender {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Sender{opts: o, log: o.Log, now: o.Now, client: newClient(o.Allow), reports: map[string]*Delivery{}}
}

// Delivery returns how the receiver of a webhook does since the Sender was made.
func (s *Sender) Delivery(id string) Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.reports[id]; d != nil {
		return *d
	}
	return Delivery{}
}

// Deliveries returns the same for all webhooks.
func (s *Sender) Deliveries() map[string]Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]Delivery, len(s.reports))
	for id, d := range s.reports {
		out[id] = *d
	}
	return out
}

func (s *Sender) note(id string, change func(*Delivery)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.reports[id]
	if d == nil {
		d = &Delivery{}
		s.reports[id] = d
	}
	change(d)
}

// Run delivers until ctx ends.
func (s *Sender) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	stop := map[string]context.CancelFunc{}
	defer func() {
		for _, cancel := range stop {
			cancel()
		}
	}()
	for {
		snap := s.opts.State.Snapshot()
		for _, w := range snap.Settings().Webhooks {
			if stop[w.ID] == nil {
				own, cancel := context.WithCancel(ctx)
				stop[w.ID] = cancel
				running.Go(func() { s.serve(own, w.ID) })
			}
		}
		for id, cancel := range stop {
			if snap.Webhook(id) == nil {
				cancel()
				delete(stop, id)
				running.Go(func() { s.forget(ctx, id) })
			}
		}
		select {
		case <-snap.Superseded():
		case <-ctx.Done():
			return nil
		}
		if !s.rest(ctx, breath) {
			return nil
		}
	}
}

// forget drops what is kept of a webhook that was deleted.
func (s *Sender) forget(ctx context.Context, id string) {
	s.mu.Lock()
	delete(s.reports, id)
	s.mu.Unlock()
	if err := s.opts.Store.ForgetWebhook(ctx, tailnet.Default, id); err != nil && ctx.Err() == nil {
		s.log.Warn("the position of a deleted webhook cannot be forgotten", "webhook", id, "err", err)
	}
}

// rest waits for d; false if ctx ends first.
func (s *Sender) rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// serve delivers to one receiver until ctx ends.
func (s *Sender) serve(ctx context.Context, id string) {
	pause := firstRetry
	var done int64 // the newest entry when all was dealt with: most of what changes leaves none
	for ctx.Err() == nil {
		snap := s.opts.State.Snapshot() // what changes from now on supersedes it
		w := snap.Webhook(id)
		if w == nil {
			return
		}
		newest, more := s.latest(ctx), false
		var err error
		if newest == 0 || newest != done {
			more, err = s.round(ctx, w)
		}
		if ctx.Err() != nil {
			return
		}
		if err == errNotMine {
			if !s.rest(ctx, claimTick) {
				return
			}
			continue
		}
		if err != nil {
			wait := pause - pause/8 + rand.N(pause/4) // so that receivers that went down together are not hit together
			s.note(id, func(d *Delivery) { d.Retry = s.now().Add(wait) })
			pause = min(2*pause, maxRetry)
			if !s.restUnlessTested(ctx, id, wait) {
				return
			}
			continue
		}
		pause = firstRetry
		if more {
			continue
		}
		done = newest
		select {
		case <-snap.Superseded():
		case <-ctx.Done():
			return
		}
		if !s.rest(ctx, breath) {
			return
		}
	}
}

// restUnlessTested waits for d, but not longer than until somebody asks for a test: whoever does
// so has mended something.
func (s *Sender) restUnlessTested(ctx context.Context, id string, d time.Duration) bool {
	end := time.NewTimer(d)
	defer end.Stop()
	for seen := s.latest(ctx); ; {
		snap := s.opts.State.Snapshot()
		asked := tailnet.AuditQuery{Oldest: true, After: seen, Action: "webhook.test", Target: "webhook " + id, Limit: 1}
		if found, _, err := s.opts.Store.Audit(ctx, tailnet.Default, asked); err == nil && len(found) > 0 {
			return true
		}
		select {
		case <-snap.Superseded():
		case <-end.C:
			return true
		case <-ctx.Done():
			return false
		}
		if !s.rest(ctx, breath) {
			return false
		}
	}
}

// latest returns the number of the newest entry; zero if that is not known.
func (s *Sender) latest(ctx context.Context) int64 {
	found, _, err := s.opts.Store.Audit(ctx, tailnet.Default, tailnet.AuditQuery{Limit: 1})
	if err != nil || len(found) == 0 {
		return 0
	}
	return found[0].ID
}

// errNotMine is that another server delivers to a webhook.
var errNotMine = errors.New("another server delivers")

// claim makes this server the one that delivers, and returns where the webhook is.
func (s *Sender) claim(ctx context.Context, w *tailnet.Webhook) (position int64, err error) {
	position, mine, err := s.opts.Store.ClaimWebhook(ctx, tailnet.Default, w.ID, s.now().Add(claimTime))
	switch {
	case err != nil:
		return 0, err
	case !mine:
		return 0, errNotMine
	case position == 0:
		return s.begin(ctx, w)
	}
	return position, nil
}

// round delivers what there is, a page at most. more is whether there is more.
func (s *Sender) round(ctx context.Context, w *tailnet.Webhook) (more bool, err error) {
	defer func() {
		if err != nil && err != errNotMine && ctx.Err() == nil {
			s.failed(w, err)
		}
	}()
	position, err := s.claim(ctx, w)
	if err != nil {
		return false, err
	}
	s.note(w.ID, func(d *Delivery) { d.Position = position })
	entries, next, err := s.opts.Store.Audit(ctx, tailnet.Default, tailnet.AuditQuery{Oldest: true, After: position, Limit: page})
	if err != nil || len(entries) == 0 {
		return false, err
	}
	var batch []event
	for i := range entries {
		e := &entries[i]
		news, err := s.events(ctx, w, e)
		if err != nil {
			return false, err
		}
		batch = append(batch, news...)
		if last := i == len(entries)-1; len(batch) < maxEvents && !last {
			continue
		}
		if err := s.deliver(ctx, w, batch, e.ID); err != nil {
			return false, err
		}
		batch = nil
	}
	return next > 0, nil
}

// deliver sends events, if there are any, and moves the webhook on.
func (s *Sender) deliver(ctx context.Context, w *tailnet.Webhook, batch []event, to int64) error {
	if len(batch) > 0 {
		if _, err := s.claim(ctx, w); err != nil { // the message before may have taken its time
			return err
		}
		if err := s.post(ctx, w, batch); err != nil {
			return err
		}
		// The receiver has it: a server that stops now must not tell it again.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), moveTimeout)
		defer cancel()
	}
	if err := s.opts.Store.MoveWebhook(ctx, tailnet.Default, w.ID, to); err != nil {
		return err
	}
	if len(batch) > 0 {
		s.delivered(w, len(batch))
	}
	s.note(w.ID, func(d *Delivery) { d.Position = to })
	return nil
}

// begin returns where a new webhook is: it begins with what follows its own creation.
func (s *Sender) begin(ctx context.Context, w *tailnet.Webhook) (int64, error) {
	made, _, err := s.opts.Store.Audit(ctx, tailnet.Default, tailnet.AuditQuery{Action: "webhook.create", Target: "webhook " + w.ID, Limit: 1})
	if err != nil {
		return 0, err
	}
	if len(made) == 0 {
		// Its creation is forgotten already, and so is what it missed.
		made, _, err = s.opts.Store.Audit(ctx, tailnet.Default, tailnet.AuditQuery{Limit: 1})
		if err != nil || len(made) == 0 {
			return 0, errors.Join(err, errors.New("the audit log is empty"))
		}
	}
	return made[0].ID, s.opts.Store.MoveWebhook(ctx, tailnet.Default, w.ID, made[0].ID)
}

func (s *Sender) delivered(w *tailnet.Webhook, n int) {
	var ended bool
	s.note(w.ID, func(d *Delivery) {
		ended = d.Err != ""
		d.Tried, d.Err, d.Retry = s.now(), "", time.Time{}
		d.Delivered += int64(n)
	})
	if ended {
		s.log.Info("a webhook's receiver works again", "webhook", w.ID, "host", host(w))
	}
}

func (s *Sender) failed(w *tailnet.Webhook, err error) {
	why := explain(err)
	var known bool
	s.note(w.ID, func(d *Delivery) {
		known = d.Err == why
		d.Tried, d.Err = s.now(), why
		d.Failed++
	})
	if !known {
		s.log.Warn("a webhook's receiver does not take events; they are kept and tried again", "webhook", w.ID, "host", host(w), "err", why)
	}
}

// host is what may be logged of where a webhook leads: the paths of chat services are secrets.
func host(w *tailnet.Webhook) string {
	u, err := url.Parse(w.URL)
	if err != nil {
		return ""
	}
	return u.Host
}

// post sends events in one message. Any answer but 2xx is an error; redirects are not followed.
func (s *Sender) post(ctx context.Context, w *tailnet.Webhook, events []event) error {
	body, err := message(w.Provider, events)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
	if err != nil {
		return errors.New("its URL cannot be used")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "heddle")
	req.Header.Set(SignatureHeader, Sign(w.Secret, s.now(), body))
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	// What it says is not kept: whoever names a receiver must not read what machines that only this
	// server can reach answer.
	io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
	resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("it answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	return nil
}

// message is what a provider wants.
func message(p tailnet.Provider, events []event) ([]byte, error) {
	if p == tailnet.PlainJSON {
		return json.Marshal(events)
	}
	var text bytes.Buffer
	for i, e := range events {
		if i > 0 {
			text.WriteByte('\n')
		}
		text.WriteString(e.Message)
	}
	most := 4000
	if p == tailnet.Discord {
		most = 1900 // it refuses more than 2000 characters
	}
	short := text.String()
	if r := []rune(short); len(r) > most {
		short = string(r[:most]) + "…"
	}
	// Names are people's to choose, and must not call anybody.
	switch p {
	case tailnet.Discord:
		return json.Marshal(map[string]any{"content": short, "allowed_mentions": map[string]any{"parse": []string{}}})
	case tailnet.GoogleChat: // which knows no way to escape
		short = strings.NewReplacer("<", "‹", ">", "›").Replace(short)
	default: // https://docs.slack.dev/messaging/formatting-message-text
		short = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(short)
	}
	return json.Marshal(map[string]string{"text": short})
}
