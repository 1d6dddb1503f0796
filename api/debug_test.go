package api_test

import (
	"testing"

	"heddle/api"
	"heddle/control/tailnet"
	v1 "heddle/proto/heddle/v1"
)

func TestFleet(t *testing.T) {
	var list []api.Stream
	w := newWorld(t, func(o *api.Options) { o.Streams = func() []api.Stream { return list } })
	w.must(func(tx *tailnet.Tx) error { _, err := tx.CreateUser(tailnet.User{Name: "a"}); return err })
	latest := w.state.Snapshot().Version()
	list = []api.Stream{
		{Node: 1, CapVer: 142, Version: latest, BytesSent: 10},
		{Node: 2, CapVer: 113, Version: latest - 1, BytesSent: 20},
		{Node: 3, CapVer: 142},
	}
	c := v1.NewDebugServiceClient(w.local())
	got, err := c.GetFleet(t.Context(), &v1.GetFleetRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got.GetStreams() != 3 || got.GetWaiting() != 1 || got.GetBehind() != 1 || got.GetBytesSent() != 30 || got.GetSnapshot() != latest {
		t.Errorf("%v", got)
	}
	if v := got.GetCapabilityVersions(); len(v) != 2 || v[0].GetVersion() != 113 || v[1].GetStreams() != 2 {
		t.Errorf("capability versions %v", v)
	}
	for i, want := range []tailnet.NodeID{3, 2, 1} { // who waits, who is behind, the others
		if got.GetList()[i].GetNodeId() != uint64(want) {
			t.Errorf("place %d has node %d, want %d", i, got.GetList()[i].GetNodeId(), want)
		}
	}
	if got, err = c.GetFleet(t.Context(), &v1.GetFleetRequest{Limit: 1}); err != nil || len(got.GetList()) != 1 || got.GetStreams() != 3 {
		t.Errorf("limited to one: %v, %v", got, err)
	}
}
