package news_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"heddle/api/news"
	"heddle/control/tailnet"
	"heddle/control/tailnet/tailnettest"

	"github.com/google/go-cmp/cmp"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

var now = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func open(t *testing.T) *tailnet.State {
	t.Helper()
	s, err := tailnet.Open(t.Context(), new(tailnettest.Store), tailnet.Options{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func update(t *testing.T, s *tailnet.State, fn func(*tailnet.Tx) error) *tailnet.Snapshot {
	t.Helper()
	snap, err := s.Update(t.Context(), tailnet.SystemActor("test"), fn)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

// A node that takes over a route differs by nothing else, and yet is news.
func TestTakingOver(t *testing.T) {
	s := open(t)
	route := netip.MustParsePrefix("10.0.0.0/8")
	all := update(t, s, func(tx *tailnet.Tx) error {
		u, err := tx.CreateUser(tailnet.User{Name: "alice"})
		if err != nil {
			return err
		}
		for i := range 3 {
			n, err := tx.RegisterForUser(tailnet.Registration{
				Machine: key.NewMachine().Public(), Key: key.NewNode().Public(),
				Hostinfo: &tailcfg.Hostinfo{Hostname: fmt.Sprint("router", i), RoutableIPs: []netip.Prefix{route}},
			}, u.ID, tailnet.ByCLI)
			if err != nil {
				return err
			}
			if err := tx.ApproveRoutes(n.ID, tailnet.RouteEdit{Add: []netip.Prefix{route}}); err != nil {
				return err
			}
			if err := tx.Connect(n.ID); err != nil {
				return err
			}
		}
		return nil
	})
	want := []news.Item{{Kind: news.Nodes, ID: 1}, {Kind: news.Nodes, ID: 2}, {Kind: news.Nodes, ID: 3}}
	if diff := cmp.Diff(want, news.Between(nil, all, news.Nodes)); diff != "" {
		t.Errorf("everything: -want +got:\n%s", diff)
	}
	first := all.Primaries().Of(route)
	after := update(t, s, func(tx *tailnet.Tx) error { return tx.DeleteNode(first) })
	second := after.Primaries().Of(route)
	if first == 0 || second == 0 || first == second {
		t.Fatalf("the route went from %d to %d", first, second)
	}
	got := map[tailnet.NodeID]bool{}
	for _, item := range news.Between(all, after, news.Every) {
		got[tailnet.NodeID(item.ID)] = item.Kind == news.Nodes
	}
	if diff := cmp.Diff(map[tailnet.NodeID]bool{first: true, second: true}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if items := news.Between(after, after, news.Every); len(items) > 0 {
		t.Errorf("between a snapshot and itself: %v", items)
	}
}

// OAuth clients and their tokens are no API keys.
func TestClientsAreNoKeys(t *testing.T) {
	s := open(t)
	var key, client tailnet.APIKeyID
	with := update(t, s, func(tx *tailnet.Tx) error {
		_, k, err := tx.CreateAPIKey(tailnet.APIKeySpec{Expires: tx.Now().Add(time.Hour)})
		if err != nil {
			return err
		}
		_, c, err := tx.CreateClient(tailnet.ClientSpec{Scopes: []string{"dns"}})
		if err != nil {
			return err
		}
		key, client = k.ID, c.ID
		_, _, err = tx.MintToken(c.ID, nil, nil)
		return err
	})
	want := []news.Item{{Kind: news.APIKeys, ID: int64(key)}}
	if diff := cmp.Diff(want, news.Between(nil, with, news.APIKeys)); diff != "" {
		t.Errorf("everything: -want +got:\n%s", diff)
	}
	without := update(t, s, func(tx *tailnet.Tx) error {
		if err := tx.DeleteAPIKey(client); err != nil {
			return err
		}
		return tx.DeleteAPIKey(key)
	})
	if diff := cmp.Diff(want, news.Between(with, without, news.APIKeys)); diff != "" {
		t.Errorf("deleted: -want +got:\n%s", diff)
	}
}

func TestPlacesAreBounded(t *testing.T) {
	s := open(t)
	p := news.NewPlaces()
	var cursors []string
	for i := range 200 {
		snap := update(t, s, func(tx *tailnet.Tx) error {
			_, err := tx.CreateUser(tailnet.User{Name: fmt.Sprint("u", i)})
			return err
		})
		cursors = append(cursors, p.Put(snap, news.Users, now))
	}
	known := 0
	for i, c := range cursors {
		switch snap := p.Get(c, news.Users, now); {
		case snap == nil && i >= 72, snap != nil && i < 72:
			t.Errorf("of 200 places, number %d is known: %v", i, snap != nil)
		case snap != nil:
			known++
		}
	}
	if known != 128 {
		t.Errorf("%d places are known", known)
	}
	newest := cursors[len(cursors)-1]
	for name, snap := range map[string]*tailnet.Snapshot{
		"other kinds":     p.Get(newest, news.Nodes, now),
		"another process": news.NewPlaces().Get(newest, news.Users, now),
		"nonsense":        p.Get(strings.ToLower(newest), news.Users, now),
		"too late":        p.Get(newest, news.Users, now.Add(time.Hour)),
	} {
		if snap != nil {
			t.Errorf("%s: the cursor is good", name)
		}
	}
}
