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
	Kind   ActorKind
	Name   string      // for the audit log: key's public part, machine key, user name
	User   UserID      // the user behind a login or an API key, who must have the rights too; zero if there is none
	Role   policy.Role // rights of a user or API key; LocalCLI and System need none
	Scopes []string    // rights of an API key that has scopes instead of a role
	Tags   []string    // to which a key with scopes is limited; nil if it is not
	From   string      // remote address; empty for a local party
	Reason string      // why, in the words of whoever asks; "" if they gave none
}

// SystemActor is heddle itself, doing what.
func SystemActor(what string) Actor { return Actor{Kind: System, Name: what} }

func (a Actor) String() string {
	if a.From != "" {
		return fmt.Sprintf("%s %s from %s", a.Kind, a.Name, a.From)
	}
	return fmt.Sprintf("%s %s", a.Kind, a.Name)
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
