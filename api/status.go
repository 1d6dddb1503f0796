package api

import (
	"context"
	"maps"
	"runtime"
	"slices"

	"heddle/control/tailnet"
	v1 "heddle/proto/heddle/v1"
)

type auth struct {
	*Server
	v1.UnimplementedAuthServiceServer
}

func (s auth) AuthRegister(ctx context.Context, req *v1.AuthRegisterRequest) (*v1.AuthRegisterResponse, error) {
	n, err := s.admit(ctx, req.GetUser(), req.GetAuthId())
	return &v1.AuthRegisterResponse{Node: n}, err
}

// admit lets the device that waits under id join as user's.
func (s *Server) admit(ctx context.Context, user, id string) (*v1.Node, error) {
	if id == "" || user == "" {
		return nil, tailnet.Errorf(tailnet.Invalid, "give both the user and the ID (the code at the end of the URL) of the device's login page")
	}
	u, err := s.snapshot().ParseUserRef(user)
	if err != nil {
		return nil, err
	}
	if s.opts.Pending == nil {
		return nil, tailnet.Errorf(tailnet.NotFound, "no device waits under this ID")
	}
	n, err := s.opts.Pending.CompleteLogin(ctx, actorOf(ctx), id, u.ID, tailnet.ByCLI)
	if err != nil {
		return nil, err
	}
	return s.protoNode(s.snapshot(), n), nil
}

// maxLogins bounds the devices that a list shows: strangers make them.
const maxLogins = 500

func (s auth) ListLogins(context.Context, *v1.ListLoginsRequest) (*v1.ListLoginsResponse, error) {
	resp := &v1.ListLoginsResponse{}
	if s.opts.Logins == nil {
		return resp, nil
	}
	list, more := s.opts.Logins(maxLogins)
	resp.Omitted = uint32(more)
	for _, l := range list {
		out := &v1.Login{AuthId: l.ID, Kind: "device", Hostname: l.Hostname, Os: l.OS, Machine: l.Machine, StartedAt: timestamp(l.Started)}
		if l.From.IsValid() {
			out.From = l.From.String()
		}
		resp.Logins = append(resp.Logins, out)
	}
	return resp, nil
}

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
			out.Nodes = append(out.Nodes, protoDERPNode(n))
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
