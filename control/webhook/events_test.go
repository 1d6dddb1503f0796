package webhook

import (
	"context"
	"encoding/json"
	"flag"
	"net/netip"
	"net/url"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"heddle/control/tailnet"
	"heddle/control/tailnet/tailnettest"

	"github.com/google/go-cmp/cmp"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

var update = flag.Bool("update", false, "write testdata/events.json anew")

// kept is what a Sender needs of a store to tell what an entry is.
type kept struct {
	Store
	memory *tailnettest.Store
}

func (k kept) Policy(ctx context.Context, name string, revision int64, etag string) (*tailnet.Policy, error) {
	return k.memory.Policy(ctx, name, revision, etag)
}

// Everything that is an event happens once, and is told as testdata/events.json says.
func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := new(tailnettest.Store)
		state, err := tailnet.Open(t.Context(), memory, tailnet.Options{KeyExpiry: 30 * 24 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go state.Run(ctx)
		defer func() { cancel(); synctest.Wait() }()
		must := func(fn func(*tailnet.Tx) error) {
			t.Helper()
			if _, err := state.Update(ctx, tailnet.Actor{Kind: tailnet.LocalCLI, Name: "root"}, fn); err != nil {
				t.Fatal(err)
			}
		}
		everything(t, must)

		w := &tailnet.Webhook{ID: "w1", Events: []tailnet.Event{"categoryTailnetManagement", "categoryDeviceMisconfigurations"}}
		s := New(Options{State: state, Store: kept{memory: memory}, ServerURL: &url.URL{Scheme: "https", Host: "vpn.test"}})
		var all []event
		for i, e := range memory.Audit() {
			news, err := s.events(ctx, w, &tailnet.AuditRecord{ID: int64(i + 1), AuditEntry: e})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, news...)
		}
		told := map[tailnet.Event]bool{}
		for i := range all {
			told[all[i].Type] = true
			if all[i].Data["nodeID"] != nil {
				all[i].Data["nodeID"] = "STABLE" // random
			}
		}
		for _, list := range tailnet.EventsOf {
			for _, e := range list {
				if never := e == "nodeSigned" || e == "nodeNeedsSignature"; told[e] == never {
					t.Errorf("%s: told: %v", e, told[e])
				}
			}
		}
		got, err := json.MarshalIndent(all, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		const file = "testdata/events.json"
		if *update {
			if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)+"\n"); diff != "" {
			t.Errorf("run with -update if that is meant (-want +got):\n%s", diff)
		}
	})
}

// everything makes every event happen.
func everything(t *testing.T, must func(func(*tailnet.Tx) error)) {
	var alice, bob *tailnet.User
	var secret string
	must(func(tx *tailnet.Tx) (err error) {
		if err := tx.SetDNSPins(tailnet.DNSPins{BaseDomain: "tail.test"}); err != nil {
			return err
		}
		alice, err = tx.CreateUser(tailnet.User{Name: "alice", Role: "owner"})
		return err
	})
	must(func(tx *tailnet.Tx) (err error) {
		bob, err = tx.CreateUser(tailnet.User{Name: "bob", Email: "bob@example.com", Status: tailnet.UserPending})
		return err
	})
	must(func(tx *tailnet.Tx) error { return tx.ApproveUser(bob.ID) })
	must(func(tx *tailnet.Tx) error { return tx.SetRole(bob.ID, "auditor") })
	must(func(tx *tailnet.Tx) error { return tx.SuspendUser(bob.ID) })
	must(func(tx *tailnet.Tx) error { return tx.RestoreUser(bob.ID) })
	must(func(tx *tailnet.Tx) error { return tx.DeleteUser(bob.ID) })
	must(func(tx *tailnet.Tx) error { return tailnettest.SetPolicy(tx, `{"grants": []}`) })

	must(func(tx *tailnet.Tx) (err error) {
		a := tx.Snapshot().Settings().Admission
		a.DeviceApproval = true
		if err := tx.SetAdmission(a); err != nil {
			return err
		}
		secret, _, err = tx.CreateAuthKey(tailnet.AuthKeySpec{Owner: alice.ID, Expires: tx.Now().Add(time.Hour)})
		return err
	})
	must(func(tx *tailnet.Tx) error {
		_, err := tx.RegisterWithAuthKey(tailnet.Registration{
			Machine: key.NewMachine().Public(), Key: key.NewNode().Public(), Hostinfo: &tailcfg.Hostinfo{Hostname: "laptop"}, CapVer: 130,
		}, secret)
		return err
	})
	must(func(tx *tailnet.Tx) error { return tx.ApproveNode(1) })
	must(func(tx *tailnet.Tx) error {
		return tx.Report(1, tailnet.Update{CapVer: 130, Hostinfo: &tailcfg.Hostinfo{Hostname: "laptop", RoutableIPs: prefixes("10.0.0.0/8", "0.0.0.0/0", "::/0")}})
	})
	must(func(tx *tailnet.Tx) error { tx.NoteForwarding(1); return nil })
	time.Sleep(40 * 24 * time.Hour) // its key ends meanwhile
	must(func(tx *tailnet.Tx) error { return tx.DeleteNode(1) })
}

func prefixes(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		out[i] = netip.MustParsePrefix(text)
	}
	return out
}
