package api

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"

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

// Debug is what operators may look at and turn besides. Nil fields are what the
// server does not have.
type Debug struct {
	// Netmap returns what a node would be sent. NotFound if there is no such node.
	Netmap func(context.Context, tailnet.NodeID) (*Netmap, error)
	// Level is that of the log.
	Level *slog.LevelVar
	// Called is told the gRPC code of each call that was answered.
	Called func(code string)
}

// Netmap is what a node would be sent.
type Netmap struct {
	Connected      bool
	CapVer         int
	Snapshot, Sent uint64  // versions: of what is shown, and of what the node was sent last (zero: nothing)
	Full, Delta    Payload // Delta is zero if there is nothing new
}

// Payload is a message of a map stream.
type Payload struct {
	Wire []byte // before encryption
	JSON []byte
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

// GetNetmap shows what a node is sent, which is what whoever may read devices can see.
func (s debugOf) GetNetmap(ctx context.Context, req *v1.GetNetmapRequest) (*v1.GetNetmapResponse, error) {
	n, err := s.snapshot().ParseNodeRef(req.GetNode())
	if err != nil {
		return nil, err
	}
	if s.opts.Debug.Netmap == nil {
		return nil, tailnet.Errorf(tailnet.Unavailable, "this server has no maps to show")
	}
	m, err := s.opts.Debug.Netmap(ctx, n.ID)
	if err != nil {
		return nil, err
	}
	resp := &v1.GetNetmapResponse{
		NodeId: uint64(n.ID), Connected: m.Connected, CapabilityVersion: uint32(m.CapVer), Snapshot: m.Snapshot, Sent: m.Sent,
		Full: &v1.NetmapMessage{Wire: m.Full.Wire, Json: string(m.Full.JSON)},
	}
	if len(m.Delta.Wire) > 0 {
		resp.Delta = &v1.NetmapMessage{Wire: m.Delta.Wire, Json: string(m.Delta.JSON)}
	}
	return resp, nil
}

func (s debugOf) GetLogLevel(context.Context, *v1.GetLogLevelRequest) (*v1.GetLogLevelResponse, error) {
	level, err := s.level()
	if err != nil {
		return nil, err
	}
	return &v1.GetLogLevelResponse{Level: levelText(level.Level())}, nil
}

// SetLogLevel is put on record, because a log that is off hides what follows.
func (s debugOf) SetLogLevel(ctx context.Context, req *v1.SetLogLevelRequest) (*v1.SetLogLevelResponse, error) {
	level, err := s.level()
	if err != nil {
		return nil, err
	}
	wanted, ok := levels[strings.ToLower(req.GetLevel())]
	if !ok {
		return nil, tailnet.Errorf(tailnet.Invalid, "there is no log level %.20q: say debug, info, warn or error", req.GetLevel())
	}
	old := level.Level()
	_, err = s.update(ctx, func(tx *tailnet.Tx) error {
		return tx.Record(tailnet.Write(tailnet.AreaSettings), "change the log level", "log.level", "server",
			tailnet.Change{Field: "level", From: levelText(old), To: levelText(wanted)})
	})
	if err != nil {
		return nil, err
	}
	level.Set(wanted)
	return &v1.SetLogLevelResponse{Previous: levelText(old)}, nil
}

func (s debugOf) level() (*slog.LevelVar, error) {
	if s.opts.Debug.Level == nil {
		return nil, tailnet.Errorf(tailnet.Unavailable, "the log level of this server cannot be changed while it runs")
	}
	return s.opts.Debug.Level, nil
}

var levels = map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}

func levelText(l slog.Level) string { return strings.ToLower(l.String()) }
