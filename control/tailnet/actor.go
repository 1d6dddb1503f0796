package tailnet

import (
	"fmt"
	"time"

	"heddle/policy"
)

// ActorKind is what sort of party asks for a change.
type ActorKind string

const (
	System   ActorKind = "system"    // heddle itself: timers, config
	LocalCLI ActorKind = "local-cli" // through the unix socket: whoever may open it
	ByAPIKey ActorKind = "api-key"
	ByNode   ActorKind = "node" // a client, proved by its machine key
	ByUser   ActorKind = "user" // a person who logged in
)

// Actor is who asks for a change and from where. Its rights are checked, and
// its name is kept in the audit log, inside the update.
type Actor struct {
	Kind ActorKind
	Name string      // for the audit log: key's public part, machine key, user name
	Role policy.Role // rights of a user or API key; LocalCLI and System need none
	From string      // remote address; empty for a local party
}

// SystemActor is heddle itself, doing what.
func SystemActor(what string) Actor { return Actor{Kind: System, Name: what} }

func (a Actor) String() string {
	if a.From != "" {
		return fmt.Sprintf("%s %s from %s", a.Kind, a.Name, a.From)
	}
	return fmt.Sprintf("%s %s", a.Kind, a.Name)
}

// Admin reports whether the actor may administer the tailnet.
func (a Actor) Admin() bool {
	switch a.Kind {
	case System, LocalCLI:
		return true
	case ByAPIKey, ByUser:
		return a.Role == policy.Owner || a.Role == policy.Admin
	}
	return false
}

// An AuditEntry tells one change: who, what, when, from where. It is committed
// together with the change.
type AuditEntry struct {
	At      time.Time
	Actor   Actor
	Action  string // "node.create", "routes.approve", …
	Target  string // "node 7 (laptop)"
	Changes []Change
}

// Change is one field before and after, without secrets.
type Change struct {
	Field, From, To string
}
