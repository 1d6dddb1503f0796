package tailnet

import (
	"fmt"
	"strings"

	"heddle/control/tailnet/typo"
	"heddle/policy"
)

// Bounds of warnings about users: nobody reads more, and each guess at what was
// meant is compared with every user.
const (
	maxUnknown = 100
	maxGuesses = 100_000 // comparisons, about a microsecond each
)

// unknownUsers warns of the users that a policy names and nobody is: people are
// named before they first log in, but names are mistyped too.
func unknownUsers(doc *policy.Doc, users []policy.User) (out policy.Errors) {
	known, logins := make(map[string]bool, len(users)), make([]string, len(users))
	for i, u := range users {
		known[u.Login], logins[i] = true, u.Login
	}
	for _, name := range doc.Users() {
		if known[name.S] {
			continue
		}
		if len(out) == maxUnknown {
			break
		}
		msg := fmt.Sprintf("no user is called %s yet", strings.Trim(fmt.Sprintf("%.100q", name.S), `"`))
		if (len(out)+1)*len(logins) <= maxGuesses {
			if near := typo.Nearest(name.S, logins); near != "" {
				msg += fmt.Sprintf("; did you mean %s?", near)
			}
		}
		out = append(out, &policy.Error{Line: name.Line, Column: name.Column, Msg: msg})
	}
	return out
}
