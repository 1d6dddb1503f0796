package api

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"heddle/api/wire"
	"heddle/control/tailnet"
	v1 "heddle/proto/heddle/v1"
)

// Pending is what waits for a person: devices that want to join, and SSH connections that have to
// be confirmed. All errors are NotFound for an ID under which nothing (or something else) waits, Conflict
// if it was decided already, or what the tailnet has against it.
type Pending interface {
	// CompleteLogin admits the device that waits under id as a node of user and
	// lets its client know.
	CompleteLogin(ctx context.Context, actor tailnet.Actor, id string, user tailnet.UserID, m tailnet.Method) (*tailnet.Node, error)
	// RejectLogin turns the device away that waits under id.
	RejectLogin(ctx context.Context, actor tailnet.Actor, id string) error
	// DecideSSH lets an SSH connection begin that waits under id, or refuses it.
	DecideSSH(ctx context.Context, actor tailnet.Actor, id string, approve bool) error
}

// Login is a device that waits for approval, or an SSH connection that waits to be confirmed.
type Login struct {
	ID           string
	Hostname, OS string // as the device says
	Machine      string // short form of its key
	From         netip.Addr
	Started      time.Time
	SSH          *SSHLogin // nil for a device, which alone has what stands above but ID and Started
}

// SSHLogin is what an SSH connection is about.
type SSHLogin struct {
	Source, Dest tailnet.NodeID
	User         string // whom it asks for on the destination
}

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
	return wire.Node(s.snapshot(), n, s.opts.Now()), nil
}

var errNothingWaits = tailnet.Errorf(tailnet.NotFound, "nothing waits under this ID (any more); `heddle auth list` shows what does")

func (s auth) AuthApprove(ctx context.Context, req *v1.AuthApproveRequest) (*v1.AuthApproveResponse, error) {
	if s.opts.Pending == nil {
		return nil, errNothingWaits
	}
	err := s.opts.Pending.DecideSSH(ctx, actorOf(ctx), req.GetAuthId(), true)
	if tailnet.CodeOf(err) == tailnet.NotFound {
		err = errNothingWaits
		if s.isDevice(req.GetAuthId()) {
			err = tailnet.Errorf(tailnet.Conflict, "a device waits under this ID, and somebody must be named whose it will be: `heddle auth register --user USER %s`", req.GetAuthId())
		}
	}
	return &v1.AuthApproveResponse{}, err
}

// isDevice reports whether a device waits under id, and not for too long.
func (s *Server) isDevice(id string) bool {
	if s.opts.Logins == nil {
		return false
	}
	list, _ := s.opts.Logins(maxLogins)
	return slices.ContainsFunc(list, func(l Login) bool { return l.ID == id && l.SSH == nil })
}

func (s auth) AuthReject(ctx context.Context, req *v1.AuthRejectRequest) (*v1.AuthRejectResponse, error) {
	if s.opts.Pending == nil {
		return nil, errNothingWaits
	}
	err := s.opts.Pending.RejectLogin(ctx, actorOf(ctx), req.GetAuthId())
	if tailnet.CodeOf(err) == tailnet.NotFound {
		err = s.opts.Pending.DecideSSH(ctx, actorOf(ctx), req.GetAuthId(), false)
	}
	if tailnet.CodeOf(err) == tailnet.NotFound {
		err = errNothingWaits
	}
	return &v1.AuthRejectResponse{}, err
}

// maxLogins bounds what a list shows: strangers make most of it.
const maxLogins = 500

func (s auth) ListLogins(ctx context.Context, _ *v1.ListLoginsRequest) (*v1.ListLoginsResponse, error) {
	resp := &v1.ListLoginsResponse{}
	if s.opts.Logins == nil {
		return resp, nil
	}
	list, more := s.opts.Logins(maxLogins)
	resp.Omitted = uint32(more)
	decides := s.snapshot().Can(actorOf(ctx), tailnet.Write(tailnet.AreaDevices))
	for _, l := range list {
		if !decides {
			l.ID = "" // whoever knows it can add the device on its page, as their own
		}
		resp.Logins = append(resp.Logins, s.protoLogin(l))
	}
	return resp, nil
}

func (s *Server) protoLogin(l Login) *v1.Login {
	out := &v1.Login{AuthId: l.ID, Kind: "device", Hostname: l.Hostname, Os: l.OS, Machine: l.Machine, StartedAt: wire.Time(l.Started)}
	if l.From.IsValid() {
		out.From = l.From.String()
	}
	if l.SSH != nil {
		out.Kind, out.SshUser = "ssh", l.SSH.User
		out.SourceNodeId, out.DestinationNodeId = uint64(l.SSH.Source), uint64(l.SSH.Dest)
		if n := s.snapshot().Node(l.SSH.Source); n != nil {
			out.Hostname, out.Os = n.Name, n.Report.Hostinfo.OS
		}
	}
	return out
}
