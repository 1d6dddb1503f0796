package tailnet

import (
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A Webhook is a receiver of events. Immutable in a Snapshot.
type Webhook struct {
	ID       string // random
	URL      string
	Provider Provider
	Events   []Event // sorted, without doubles; not empty
	// Secret signs what is sent. It is stored as it is, since each message needs it, and
	// shown once.
	Secret  string
	Creator string // who made it, as the audit log names them
	Created time.Time
	Changed time.Time
}

// Provider is the form that a receiver wants messages in.
type Provider string

const (
	PlainJSON  Provider = "" // events as they are
	Slack      Provider = "slack"
	Mattermost Provider = "mattermost"
	GoogleChat Provider = "googlechat"
	Discord    Provider = "discord"
)

// Providers are all of them.
var Providers = []Provider{PlainJSON, Slack, Mattermost, GoogleChat, Discord}

// An Event is what a webhook can be told of, by the hosted service's name; names that begin with
// category stand for several.
type Event string

// EventsOf are the events of each category.
var EventsOf = map[Event][]Event{
	"categoryTailnetManagement": {
		"nodeCreated", "nodeNeedsApproval", "nodeApproved", "nodeKeyExpiringInOneDay", "nodeKeyExpired", "nodeDeleted",
		"nodeSigned", "nodeNeedsSignature", "policyUpdate", "userCreated", "userNeedsApproval", "userSuspended",
		"userRestored", "userDeleted", "userApproved", "userRoleUpdated",
	},
	"categoryDeviceMisconfigurations": {"subnetIPForwardingNotEnabled", "exitNodeIPForwardingNotEnabled"},
}

// Wants reports whether the webhook is to be told of e. All hear of tests.
func (w *Webhook) Wants(e Event) bool {
	return e == "test" || slices.ContainsFunc(w.Events, func(have Event) bool {
		return have == e || slices.Contains(EventsOf[have], e)
	})
}

const (
	// maxWebhooks bounds those of a tailnet: each has a goroutine and reads the audit log.
	maxWebhooks   = 50
	webhookPrefix = "tskey-webhook-"
)

// Webhook returns the webhook with that ID, or nil.
func (s *Snapshot) Webhook(id string) *Webhook {
	for _, w := range s.settings.Webhooks {
		if w.ID == id {
			return w
		}
	}
	return nil
}

// CreateWebhook adds a webhook: URL, Provider and Events count. The secret is returned once.
func (tx *Tx) CreateWebhook(w Webhook) (secret string, _ *Webhook, err error) {
	if err := tx.may(Write(AreaWebhooks), "create webhooks"); err != nil {
		return "", nil, err
	}
	if len(tx.snap.settings.Webhooks) >= maxWebhooks {
		return "", nil, Errorf(Exhausted, "there are %d webhooks already; delete some", maxWebhooks)
	}
	if err := w.check(); err != nil {
		return "", nil, err
	}
	w.ID, w.Secret = randomText(publicLen), webhookPrefix+randomText(secretLen)
	w.Creator, w.Created, w.Changed = tx.actor.Name, tx.now, tx.now
	tx.putWebhooks(append(slices.Clip(tx.snap.settings.Webhooks), &w))
	tx.audit("webhook.create", w.label(), webhookChanges(&Webhook{}, &w)...)
	return w.Secret, &w, nil
}

// SetWebhookEvents changes what a webhook is told of.
func (tx *Tx) SetWebhookEvents(id string, events []Event) (*Webhook, error) {
	old, err := tx.webhook(id, "change webhooks")
	if err != nil {
		return nil, err
	}
	w := *old
	w.Events, w.Changed = events, tx.now
	if err := w.check(); err != nil {
		return nil, err
	}
	if changes := webhookChanges(old, &w); len(changes) > 0 {
		tx.replaceWebhook(old, &w)
		tx.audit("webhook.set", w.label(), changes...)
	}
	return &w, nil
}

// RotateWebhook gives a webhook a new secret, which is returned once. What is sent from now on
// is signed with it.
func (tx *Tx) RotateWebhook(id string) (secret string, _ *Webhook, err error) {
	old, err := tx.webhook(id, "rotate the secrets of webhooks")
	if err != nil {
		return "", nil, err
	}
	w := *old
	w.Secret, w.Changed = webhookPrefix+randomText(secretLen), tx.now
	tx.replaceWebhook(old, &w)
	tx.audit("webhook.rotate", w.label())
	return w.Secret, &w, nil
}

// TestWebhook has a test event sent, behind all that waits already.
func (tx *Tx) TestWebhook(id string) error {
	w, err := tx.webhook(id, "test webhooks")
	if err != nil {
		return err
	}
	tx.audit("webhook.test", w.label())
	return nil
}

// DeleteWebhook removes a webhook; what waits for it is not sent.
func (tx *Tx) DeleteWebhook(id string) error {
	w, err := tx.webhook(id, "delete webhooks")
	if err != nil {
		return err
	}
	tx.replaceWebhook(w, nil)
	tx.audit("webhook.delete", w.label(), webhookChanges(w, &Webhook{})...)
	return nil
}

func (tx *Tx) webhook(id, what string) (*Webhook, error) {
	if err := tx.may(Write(AreaWebhooks), what); err != nil {
		return nil, err
	}
	w := tx.snap.Webhook(id)
	if w == nil {
		return nil, Errorf(NotFound, "no webhook with ID %.40q; `heddle webhooks list` shows them", id)
	}
	return w, nil
}

// replaceWebhook puts w in the place of old, or nothing if it is nil.
func (tx *Tx) replaceWebhook(old, w *Webhook) {
	var list []*Webhook
	for _, other := range tx.snap.settings.Webhooks {
		switch {
		case other.ID != old.ID:
			list = append(list, other)
		case w != nil:
			list = append(list, w)
		}
	}
	tx.putWebhooks(list)
}

func (tx *Tx) putWebhooks(list []*Webhook) {
	s := *tx.snap.settings
	s.Webhooks = list
	tx.putSettings(s)
}

// label names the webhook in the audit log; WebhookTarget is its inverse.
func (w *Webhook) label() string { return "webhook " + w.ID }

// WebhookTarget returns the ID of the webhook that is the target of an audit entry; "" if it is none.
func WebhookTarget(target string) string {
	id, _ := strings.CutPrefix(target, "webhook ")
	if id == target {
		return ""
	}
	return id
}

// check brings a webhook into canonical form, or says what is wrong. Where the URL
// leads is checked when a connection is made, and each time.
func (w *Webhook) check() error {
	u, err := url.Parse(w.URL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil || len(w.URL) > maxText {
		return Errorf(Invalid, "the URL of a webhook must be like https://example.com/hook, without a user name, and at most %d bytes long", maxText)
	}
	if err := checkText(w.URL); err != nil {
		return err
	}
	if !slices.Contains(Providers, w.Provider) {
		return Errorf(Invalid, "there is no provider %.40q: leave it empty, or say slack, mattermost, googlechat or discord", string(w.Provider))
	}
	for _, e := range w.Events {
		if !knownEvent(e) {
			return Errorf(Invalid, "there is no event %.60q: there are %s", string(e), eventNames())
		}
	}
	w.Events = slices.Compact(slices.Sorted(slices.Values(w.Events)))
	if len(w.Events) == 0 {
		return Errorf(Invalid, "a webhook needs an event, such as nodeCreated, or a category, such as categoryTailnetManagement")
	}
	return nil
}

func knownEvent(e Event) bool {
	for category, events := range EventsOf {
		if e == category || slices.Contains(events, e) {
			return true
		}
	}
	return false
}

// eventNames are all names of events, each category before its own.
func eventNames() string {
	var names []string
	for _, category := range slices.Sorted(maps.Keys(EventsOf)) {
		names = append(names, eventText(append([]Event{category}, EventsOf[category]...)))
	}
	return strings.ReplaceAll(strings.Join(names, ","), ",", ", ")
}

func webhookChanges(old, w *Webhook) []Change {
	var out []Change
	for _, c := range []Change{
		{"url", old.Host(), w.Host()},
		{"provider", string(old.Provider), string(w.Provider)},
		{"events", eventText(old.Events), eventText(w.Events)},
	} {
		if c.From != c.To {
			out = append(out, c)
		}
	}
	return out
}

// Host is what may be shown of a webhook's URL to those who may not change it: the paths of chat
// services are secrets. It is "" if there is no URL.
func (w *Webhook) Host() string {
	u, err := url.Parse(w.URL)
	if err != nil || u.Host == "" {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

func eventText(events []Event) string {
	texts := make([]string, len(events))
	for i, e := range events {
		texts[i] = string(e)
	}
	return strings.Join(texts, ",")
}
