package hosted

import (
	"context"
	"fmt"
	"strings"
	"time"

	"heddle/control/tailnet"
)

// AuditLog is the log of changes. It is a part of package db, whose documentation says what the
// parameters mean.
type AuditLog interface {
	Audit(ctx context.Context, name string, q tailnet.AuditQuery) (page []tailnet.AuditRecord, next int64, err error)
}

// maxLogs bounds an answer: who wants more asks for a shorter time, and is told so, since nothing in the
// form of this wire says that there is more.
const maxLogs = 10_000

type logEntry struct {
	EventTime    time.Time `json:"eventTime"`
	Type         string    `json:"type"`
	DeferredAt   time.Time `json:"deferredAt"`
	EventGroupID string    `json:"eventGroupID"`
	Origin       string    `json:"origin"`
	Actor        logActor  `json:"actor"`
	Target       logTarget `json:"target"`
	Action       string    `json:"action"`
	Old          any       `json:"old,omitempty"`
	New          any       `json:"new,omitempty"`
	Details      string    `json:"actionDetails,omitempty"`
}

type logActor struct {
	ID          string `json:"id"`
	Type        string `json:"type"`
	LoginName   string `json:"loginName"`
	DisplayName string `json:"displayName"`
}

type logTarget struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Type     string `json:"type"`
	Property string `json:"property,omitempty"`
}

// listLogs tells what was changed between two times, oldest first.
func (s *Server) listLogs(c *call) (any, error) {
	q := c.URL.Query()
	query := tailnet.AuditQuery{Oldest: true, Actor: q.Get("actor"), Target: q.Get("target"), Action: q.Get("event")}
	for name, into := range map[string]*time.Time{"start": &query.Since, "end": &query.Until} {
		if q.Get(name) == "" {
			return nil, tailnet.Errorf(tailnet.Invalid, "%s is missing: a time such as 2030-01-02T15:04:05Z", name)
		}
		var err error
		if *into, err = time.Parse(time.RFC3339, q.Get(name)); err != nil {
			return nil, tailnet.Errorf(tailnet.Invalid, "%s=%.40s is no time such as 2030-01-02T15:04:05Z", name, q.Get(name))
		}
	}
	logs := []logEntry{}
	for {
		page, next, err := s.Audit.Audit(c.Context(), tailnet.Default, query)
		if err != nil {
			return nil, err
		}
		for _, r := range page {
			logs = append(logs, entriesOf(c.snapshot(), &r)...)
		}
		if next == 0 {
			break
		}
		if len(logs) >= maxLogs {
			return nil, tailnet.Errorf(tailnet.Invalid, "there are more than %d changes in this time: ask for a shorter one, such as up to end=%s",
				maxLogs, logs[len(logs)-1].EventTime.Format(time.RFC3339Nano))
		}
		query.After = next
	}
	return struct {
		Logs    []logEntry `json:"logs"` // first: some read the list as it comes
		Version string     `json:"version"`
		Tailnet string     `json:"tailnet"`
	}{logs, "1.1", c.snapshot().DNS().BaseDomain}, nil
}

// verbs are the actions of the hosted service by the last part of ours; anything else is an update.
var verbs = map[string]string{
	"create": "CREATE", "delete": "DELETE", "login": "LOGIN", "logout": "LOGOUT", "approve": "APPROVE", "suspend": "SUSPEND",
	"restore": "RESTORE", "revoke": "REVOKE", "reject": "DELETE",
}

var targetTypes = map[string]string{
	"node": "NODE", "routes": "NODE", "ssh": "NODE", "client": "API_KEY", "user": "USER", "authkey": "API_KEY", "apikey": "API_KEY", "webhook": "WEBHOOK_ENDPOINT",
}

var origins = map[tailnet.ActorKind]string{
	tailnet.System: "CONTROL", tailnet.LocalCLI: "CONTROL", tailnet.ByAPIKey: "CONFIG_API", tailnet.ByNode: "NODE", tailnet.ByUser: "IDENTITY_PROVIDER",
}

// entriesOf makes one entry of each field that changed, as the hosted service does.
func entriesOf(s *tailnet.Snapshot, r *tailnet.AuditRecord) []logEntry {
	area, verb, _ := strings.Cut(r.Action, ".")
	e := logEntry{
		EventTime: r.At.UTC(), Type: "CONFIG", EventGroupID: fmt.Sprintf("%d-%d", r.Seq, r.ID), Origin: origins[r.Actor.Kind],
		Actor: logActor{ID: r.Actor.Name, Type: "AUTOMATED_WORKER", LoginName: r.Actor.Name, DisplayName: r.Actor.Name}, Details: r.Actor.Reason,
		Target: logTarget{Name: r.Target, Type: targetTypes[area]}, Action: verbs[verb],
	}
	if e.Target.Type == "" {
		e.Target.Type = "TAILNET"
	}
	if e.Action == "" {
		e.Action = "UPDATE"
	}
	if fields := strings.Fields(r.Target); len(fields) > 1 {
		e.Target.ID = strings.Trim(fields[len(fields)-2], "()")
	}
	switch u := s.User(r.Actor.User); {
	case u != nil:
		e.Actor = logActor{u.ID.String(), "USER", u.Login(), u.Title()}
	case r.Actor.Kind == tailnet.ByNode:
		e.Actor.Type = "NODE"
	case r.Actor.Kind == tailnet.ByAPIKey:
		e.Actor.Type = "OAUTH_CLIENT"
	}
	if len(r.Changes) == 0 {
		return []logEntry{e}
	}
	var out []logEntry
	for _, ch := range r.Changes {
		one := e
		one.Target.Property, one.Old, one.New = ch.Field, ch.From, ch.To
		out = append(out, one)
	}
	return out
}
