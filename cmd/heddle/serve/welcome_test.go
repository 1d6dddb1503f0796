package serve

import (
	"bytes"
	"strings"
	"testing"

	"heddle/control/tailnet"
)

// TestInvitation: what is printed can be pasted, whoever is there already.
func TestInvitation(t *testing.T) {
	r := newReloadable(t)
	var out bytes.Buffer
	r.Out, r.Command = &out, "heddle"
	see := func(create bool, want string) {
		t.Helper()
		out.Reset()
		r.invite(r.state.Snapshot())
		if text := out.String(); strings.Contains(text, "users create") != create || !strings.Contains(text, want) {
			t.Errorf("making a user is told: want %v; want %q in:%s", create, want, text)
		}
	}
	see(true, "heddle users create me\n    heddle preauthkeys create --user me\n")
	for _, u := range []tailnet.User{{Name: "one", Status: tailnet.UserSuspended}, {Name: "two"}, {Name: "three"}} {
		if err := r.update(t.Context(), "test", func(tx *tailnet.Tx) error { _, err := tx.CreateUser(u); return err }); err != nil {
			t.Fatal(err)
		}
	}
	see(false, "a key for the user two (it is shown once):\n    heddle preauthkeys create --user 2\n")
}
