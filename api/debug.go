package api

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"heddle/control/tailnet"
	v1 "heddle/proto/heddle/v1"
)

// Stream is the map stream of a connected device.
type Stream struct {
	Node      tailnet.NodeID
	CapVer    int
	Version   uint64 // of the snapshot that it was sent last; zero if it waits for its first map
	BytesSent uint64
}

type debugOf struct {
	*Server
	v1.UnimplementedDebugServiceServer
}

// GetFleet sums up the streams and lists those that are furthest behind.
func (s debugOf) GetFleet(_ context.Context, req *v1.GetFleetRequest) (*v1.GetFleetResponse, error) {
	snap := s.snapshot()
	resp := &v1.GetFleetResponse{Snapshot: snap.Version()}
	if s.opts.Streams == nil {
		return resp, nil
	}
	versions := map[int]uint32{}
	for _, st := range s.opts.Streams() {
		out := &v1.FleetStream{NodeId: uint64(st.Node), CapabilityVersion: uint32(st.CapVer), BytesSent: st.BytesSent, Waiting: st.Version == 0}
		if n := snap.Node(st.Node); n != nil {
			out.Name = n.Name
		}
		if st.Version > 0 && st.Version < snap.Version() {
			out.Lag = snap.Version() - st.Version
			resp.Behind++
		}
		if out.Waiting {
			resp.Waiting++
		}
		versions[st.CapVer]++
		resp.Streams++
		resp.BytesSent += st.BytesSent
		resp.List = append(resp.List, out)
	}
	for _, v := range slices.Sorted(maps.Keys(versions)) {
		resp.CapabilityVersions = append(resp.CapabilityVersions, &v1.CapabilityCount{Version: uint32(v), Streams: versions[v]})
	}
	slices.SortFunc(resp.List, func(a, b *v1.FleetStream) int {
		if a.Waiting != b.Waiting {
			if a.Waiting {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.Lag, a.Lag), cmp.Compare(b.BytesSent, a.BytesSent), cmp.Compare(a.NodeId, b.NodeId))
	})
	const usual, most = 20, 1000
	resp.List = resp.List[:min(len(resp.List), int(min(cmp.Or(req.GetLimit(), usual), most)))]
	return resp, nil
}
