package api

import (
	"context"
	"maps"
	"runtime"
	"slices"

	"heddle/api/wire"
	v1 "heddle/proto/heddle/v1"
)

type derp struct {
	*Server
	v1.UnimplementedDERPServiceServer
}

func (s derp) GetDERPMap(context.Context, *v1.GetDERPMapRequest) (*v1.GetDERPMapResponse, error) {
	resp := &v1.GetDERPMapResponse{}
	regions := s.snapshot().DERPMap().Regions
	for _, id := range slices.Sorted(maps.Keys(regions)) {
		r := regions[id]
		out := &v1.DERPRegion{Id: uint32(r.RegionID), Code: r.RegionCode, Name: r.RegionName}
		for _, n := range r.Nodes {
			out.Nodes = append(out.Nodes, wire.DERPNode(n))
		}
		resp.Regions = append(resp.Regions, out)
	}
	return resp, nil
}

type healthOf struct {
	*Server
	v1.UnimplementedHealthServiceServer
}

func (s healthOf) Health(ctx context.Context, _ *v1.HealthRequest) (*v1.HealthResponse, error) {
	resp := &v1.HealthResponse{Ok: true, DatabaseConnectivity: true}
	if s.opts.Health == nil {
		return resp, nil
	}
	for _, p := range s.opts.Health(ctx) {
		resp.Parts = append(resp.Parts, &v1.HealthPart{Name: p.Name, Ok: p.OK, Message: p.Message})
		resp.Ok = resp.Ok && p.OK
		if p.Name == "database" {
			resp.DatabaseConnectivity = p.OK
		}
	}
	return resp, nil
}

func (s healthOf) GetVersion(context.Context, *v1.GetVersionRequest) (*v1.GetVersionResponse, error) {
	v := s.opts.Version
	return &v1.GetVersionResponse{Version: v.Version, Commit: v.Commit, GoVersion: runtime.Version(), MinClientVersion: v.MinClient}, nil
}
