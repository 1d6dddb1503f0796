package webhook

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"heddle/control/tailnet"
)

// An event is one in the form of the hosted service.
type event struct {
	Timestamp time.Time      `json:"timestamp"`
	Version   int            `json:"version"` // 1
	Type      tailnet.Event  `json:"type"`
	Tailnet   string         `json:"tailnet"` // its domain
	Message   string         `json:"message"` // for people
	Data      map[string]any `json:"data"`
}

// maxPolicy bounds the text of a policy in an event; longer ones are left out.
const maxPolicy = 128 << 10

// events returns what an entry is to a webhook; none if it does not want it.
func (s *Sender) events(ctx context.Context, w *tailnet.Webhook, e *tailnet.AuditRecord) ([]event, error) {
	var out []event
	for _, kind := range kindsOf(w, e) {
		if !w.Wants(kind) {
			continue
		}
		data, message, err := s.describe(ctx, kind, e)
		if err != nil {
			return nil, err
		}
		out = append(out, event{
			Timestamp: e.At.UTC(), Version: 1, Type: kind, Tailnet: s.opts.State.Snapshot().DNS().BaseDomain, Message: message, Data: data,
		})
	}
	return out, nil
}

// actions is the table of the actions of the audit log that are events.
var actions = map[string]tailnet.Event{
	"node.create":       "nodeCreated",
	"node.approve":      "nodeApproved",
	"node.delete":       "nodeDeleted",
	"node.reject":       "nodeDeleted",
	"node.hold":         "nodeNeedsApproval",
	"node.key-expiring": "nodeKeyExpiringInOneDay",
	"node.key-expired":  "nodeKeyExpired",
	"policy.set":        "policyUpdate",
	"user.create":       "userCreated",
	"user.suspend":      "userSuspended",
	"user.restore":      "userRestored",
	"user.delete":       "userDeleted",
	"user.approve":      "userApproved",
	"user.role":         "userRoleUpdated",
}

// kindsOf returns the events that an entry is.
func kindsOf(w *tailnet.Webhook, e *tailnet.AuditRecord) []tailnet.Event {
	var kinds []tailnet.Event
	if kind := actions[e.Action]; kind != "" {
		kinds = append(kinds, kind)
	}
	switch e.Action {
	case "node.create":
		if change(e, "needsApproval").To != "" {
			kinds = append(kinds, "nodeNeedsApproval")
		}
	case "node.expiry": // somebody ended it
		if at, err := time.Parse(time.RFC3339, change(e, "expiry").To); err == nil && !at.After(e.At) {
			kinds = append(kinds, "nodeKeyExpired")
		}
	case "user.create":
		if change(e, "status").To == string(tailnet.UserPending) {
			kinds = append(kinds, "userNeedsApproval")
		}
	case "user.login":
		if c := change(e, "role"); c.From != "" && c.To != "" {
			kinds = append(kinds, "userRoleUpdated")
		}
	case "node.forwarding-off":
		if change(e, "subnet").To != "" {
			kinds = append(kinds, "subnetIPForwardingNotEnabled")
		}
		if change(e, "exitNode").To != "" {
			kinds = append(kinds, "exitNodeIPForwardingNotEnabled")
		}
	case "webhook.test":
		if tailnet.WebhookTarget(e.Target) == w.ID {
			kinds = append(kinds, "test")
		}
	}
	return kinds
}

// change returns the change of a field; the zero Change if it did not change.
func change(e *tailnet.AuditRecord, field string) tailnet.Change {
	for _, c := range e.Changes {
		if c.Field == field {
			return c
		}
	}
	return tailnet.Change{}
}

// value is that of a field after the change or, if it is gone, before.
func value(e *tailnet.AuditRecord, field string) string {
	c := change(e, field)
	if c.To != "" {
		return c.To
	}
	return c.From
}

// describe returns the data of an event, as the hosted service names it, and a sentence for people.
func (s *Sender) describe(ctx context.Context, kind tailnet.Event, e *tailnet.AuditRecord) (map[string]any, string, error) {
	switch {
	case kind == "test":
		return nil, "This is a test event", nil
	case kind == "policyUpdate":
		return s.describePolicy(ctx, e)
	case strings.HasPrefix(string(kind), "user"):
		data, message := s.describeUser(kind, e)
		return data, message, nil
	}
	data, message := s.describeNode(kind, e)
	return data, message, nil
}

// sentences are what people are told; %s is the node or the user.
var sentences = map[tailnet.Event]string{
	"nodeCreated":                    "Node %s was created",
	"nodeNeedsApproval":              "Node %s needs approval",
	"nodeApproved":                   "Node %s was approved",
	"nodeKeyExpiringInOneDay":        "The key of node %s expires in one day",
	"nodeKeyExpired":                 "The key of node %s has expired",
	"nodeDeleted":                    "Node %s was deleted",
	"subnetIPForwardingNotEnabled":   "Node %s offers subnet routes, but does not forward IP packets",
	"exitNodeIPForwardingNotEnabled": "Node %s offers to be an exit node, but does not forward IP packets",
	"userCreated":                    "User %s was created",
	"userNeedsApproval":              "User %s needs approval",
	"userSuspended":                  "User %s was suspended",
	"userRestored":                   "User %s was restored",
	"userDeleted":                    "User %s was deleted",
	"userApproved":                   "User %s was approved",
	"userRoleUpdated":                "The role of user %s was changed",
}

// actor is who did it, for people.
func actor(e *tailnet.AuditRecord) string {
	if e.Actor.Name == "" {
		return string(e.Actor.Kind)
	}
	return e.Actor.Name
}

// describeNode tells of a node from the entry, and of what the entry does not have from the present.
func (s *Sender) describeNode(kind tailnet.Event, e *tailnet.AuditRecord) (map[string]any, string) {
	snap := s.opts.State.Snapshot()
	id, name := split(e.Target, "node ")
	data := map[string]any{
		"deviceName": name + "." + snap.DNS().BaseDomain, "actor": actor(e),
		"url": s.opts.ServerURL.String(),
	}
	owner, expiry := value(e, "owner"), value(e, "expiry")
	if id := value(e, "stableID"); id != "" {
		data["nodeID"] = id
	}
	if n := snap.Node(tailnet.NodeID(id)); n != nil {
		data["nodeID"] = string(n.StableID)
		if owner == "" {
			owner = n.Owner.String()
		}
		if expiry == "" && !n.Expiry.IsZero() {
			expiry = n.Expiry.UTC().Format(time.RFC3339)
		}
	}
	if number, err := strconv.ParseInt(owner, 10, 64); err == nil {
		if u := snap.User(tailnet.UserID(number)); u != nil {
			data["managedBy"] = u.Login()
		}
	}
	if tags := value(e, "tags"); tags != "" {
		data["managedBy"] = tags
	}
	if expiry != "" {
		data["expiration"] = expiry
	}
	return data, fmt.Sprintf(sentences[kind], name)
}

func (s *Sender) describeUser(kind tailnet.Event, e *tailnet.AuditRecord) (map[string]any, string) {
	id, name := split(e.Target, "user ")
	login := name
	if u := s.opts.State.Snapshot().User(tailnet.UserID(id)); u != nil {
		login = u.Login()
	} else if email := value(e, "email"); email != "" {
		login = email
	}
	data := map[string]any{"user": login, "actor": actor(e), "url": s.opts.ServerURL.String()}
	if kind == "userRoleUpdated" {
		c := change(e, "role")
		data["oldRoles"], data["newRoles"] = []string{c.From}, []string{c.To}
	}
	return data, fmt.Sprintf(sentences[kind], name)
}

func (s *Sender) describePolicy(ctx context.Context, e *tailnet.AuditRecord) (map[string]any, string, error) {
	data := map[string]any{"actor": actor(e), "url": s.opts.ServerURL.String()}
	c := change(e, "etag")
	for field, etag := range map[string]string{"oldPolicy": c.From, "newPolicy": c.To} {
		p, err := s.opts.Store.Policy(ctx, tailnet.Default, 0, etag)
		if err != nil {
			return nil, "", err
		}
		if p != nil && etag != "" && len(p.Source) <= maxPolicy {
			data[field] = p.Source
		}
	}
	return data, "The policy was updated by " + actor(e), nil
}

// split takes the label of a node or user apart: "node 7 (laptop)".
func split(label, kind string) (id int64, name string) {
	number, rest, _ := strings.Cut(strings.TrimPrefix(label, kind), " ")
	id, err := strconv.ParseInt(number, 10, 64)
	name = strings.TrimSuffix(strings.TrimPrefix(rest, "("), ")")
	if err != nil || name == "" {
		return id, label
	}
	return id, name
}
