package control

import (
	"context"
	"errors"
	"net/url"
	"path"
	"slices"
	"strings"

	"heddle/control/pending"
	"heddle/control/tailnet"
	"heddle/control/tailnet/site"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// register serves /machine/register. A refusal that the person at the device can
// act on must be a 200 with an Error: clients show nothing of other answers.
func (s *Server) register(ctx context.Context, c *call, req *tailcfg.RegisterRequest) error {
	k := req.NodeKey // req does not outlive a wait for a person
	resp, err := s.login(ctx, c, req)
	switch code := tailnet.CodeOf(err); {
	case err == nil:
	case gone(ctx, err), errors.Is(err, errBusy), errors.Is(err, errTooOften):
		return err
	case code == tailnet.Internal, code == tailnet.Unavailable:
		return err
	case errors.Is(err, tailnet.ErrStaleKey):
		resp = &tailcfg.RegisterResponse{NodeKeyExpired: true}
	default:
		s.counts.logins[loginRefused].Add(1)
		if s.throttle.told.allow("login" + c.cause()) {
			s.log.Info("login refused", "machine", c.machine.ShortString(), "node_key", k.ShortString(), "remote", c.conn.Remote(), "err", err)
		}
		resp = &tailcfg.RegisterResponse{Error: tailnet.Message(err)}
	}
	writeJSON(c.w, resp)
	return nil
}

// login decides what becomes of a registration.
func (s *Server) login(ctx context.Context, c *call, req *tailcfg.RegisterRequest) (*tailcfg.RegisterResponse, error) {
	if err := tooOld(req.Version, req.Hostinfo); err != nil {
		return nil, err
	}
	if req.NodeKey.IsZero() {
		return nil, tailnet.Errorf(tailnet.Invalid, "the request has no node key")
	}
	if !req.Expiry.IsZero() {
		return s.endLogin(ctx, c, req)
	}
	if resp, err := s.knownKey(ctx, c, req); resp != nil || err != nil {
		return resp, err
	}
	switch {
	case req.Followup != "":
		return s.followUp(ctx, c, req)
	case req.Auth != nil && req.Auth.AuthKey != "":
		return s.loginWithAuthKey(ctx, c, req)
	}
	return s.sendToPage(c, registration(c, req))
}

// endLogin serves a request that sets an expiry. One in the past (clients send
// 1970) is a logout, which succeeds for unknown nodes too: else the client could never forget
// its profile.
func (s *Server) endLogin(ctx context.Context, c *call, req *tailcfg.RegisterRequest) (*tailcfg.RegisterResponse, error) {
	out := !req.Expiry.After(s.now())
	if n := c.snap.NodeByKey(req.NodeKey); out && (n == nil || n.Machine != c.machine) {
		return &tailcfg.RegisterResponse{NodeKeyExpired: true}, nil // without troubling the writer
	}
	if c.known && !s.throttle.changes.allow(c.machine) {
		return nil, errTooOften
	}
	snap, err := s.state.Update(ctx, c.actor(), func(tx *tailnet.Tx) error {
		if out {
			return tx.Logout(c.machine, req.NodeKey)
		}
		return tx.ShortenExpiry(c.machine, req.NodeKey, req.Expiry)
	})
	if err != nil {
		return nil, err
	}
	if out {
		return &tailcfg.RegisterResponse{NodeKeyExpired: true}, nil
	}
	return s.welcome(snap, c.machine, req.NodeKey)
}

// knownKey answers for a node key that is, or was, good. Clients ask again
// with the same key at each start, often with an auth key that was used up
// long ago, and when an answer got lost: that must neither need nor use the auth key.
// It returns nil if the key has still to be admitted.
func (s *Server) knownKey(ctx context.Context, c *call, req *tailcfg.RegisterRequest) (*tailcfg.RegisterResponse, error) {
	n := c.snap.NodeByKey(req.NodeKey)
	if n == nil {
		grave := c.snap.Tombstone(req.NodeKey)
		if grave != nil && grave.Machine != c.machine {
			return nil, errOtherMachine(req.NodeKey)
		}
		if grave != nil {
			// The client makes a new key and asks again with that.
			return &tailcfg.RegisterResponse{NodeKeyExpired: true}, nil
		}
		return nil, nil
	}
	if n.Machine != c.machine {
		return nil, errOtherMachine(req.NodeKey)
	}
	if s.expired(n) {
		if req.Auth == nil && req.Followup == "" {
			return &tailcfg.RegisterResponse{NodeKeyExpired: true}, nil
		}
		return nil, nil
	}
	snap, err := s.followTags(ctx, c, req, n)
	if err != nil {
		return nil, err
	}
	return s.welcome(snap, c.machine, req.NodeKey)
}

// followTags takes over tags that `tailscale up --advertise-tags` asks for: it
// registers again with the same key. Tags that the policy does not allow are an error, which
// that command shows, and leave the node as it is.
func (s *Server) followTags(ctx context.Context, c *call, req *tailcfg.RegisterRequest, n *tailnet.Node) (*tailnet.Snapshot, error) {
	if req.Hostinfo == nil {
		return c.snap, nil
	}
	tags := tailnet.CleanHostinfo(req.Hostinfo).RequestTags
	if slices.Equal(tags, n.Report.Hostinfo.RequestTags) {
		return c.snap, nil
	}
	if !s.throttle.changes.allow(c.machine) {
		return nil, errTooOften
	}
	return s.state.Update(ctx, c.actor(), func(tx *tailnet.Tx) error {
		old := tx.Snapshot().Node(n.ID)
		if old == nil || old.Status.Expired {
			return nil
		}
		err := tx.Report(n.ID, tailnet.Update{
			Disco: old.Report.Disco, Endpoints: old.Report.Endpoints, Hostinfo: req.Hostinfo, CapVer: req.Version,
		})
		if err == nil && tx.Snapshot().Node(n.ID).Status.Expired {
			return tailnet.Errorf(tailnet.Denied, "requested tags %s are not permitted: the policy's tagOwners must name the owner of the device; the device keeps what it has", strings.Join(tags, ", "))
		}
		return err
	})
}

func registration(c *call, req *tailcfg.RegisterRequest) tailnet.Registration {
	return tailnet.Registration{
		Machine: c.machine, Key: req.NodeKey, OldKey: req.OldNodeKey,
		Hostinfo: req.Hostinfo, CapVer: req.Version, Ephemeral: req.Ephemeral,
	}
}

func (s *Server) loginWithAuthKey(ctx context.Context, c *call, req *tailcfg.RegisterRequest) (*tailcfg.RegisterResponse, error) {
	// Strangers who guess do not get as far as the writer.
	if err := s.state.CheckAuthKey(ctx, req.Auth.AuthKey); err != nil {
		return nil, err
	}
	if c.known && !s.throttle.changes.allow(c.machine) {
		return nil, errTooOften
	}
	if err := s.hub.logins.enter(ctx); err != nil {
		return nil, err
	}
	defer s.hub.logins.leave()
	snap, err := s.state.Update(ctx, c.actor(), func(tx *tailnet.Tx) error {
		_, err := tx.RegisterWithAuthKey(registration(c, req), req.Auth.AuthKey)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.counts.logins[loginAuthKey].Add(1)
	return s.welcome(snap, c.machine, req.NodeKey)
}

// sendToPage sends the device's person to a page. The device goes on with
// its old key, if it has one, until somebody has approved the new.
func (s *Server) sendToPage(c *call, r tailnet.Registration) (*tailcfg.RegisterResponse, error) {
	l, fresh, err := s.pending.Start(r, c.conn.Remote())
	switch {
	case tailnet.CodeOf(err) == tailnet.Exhausted:
		return nil, errBusy
	case err != nil:
		return nil, err
	}
	if fresh {
		s.counts.logins[loginWaits].Add(1)
	}
	if fresh && s.throttle.logins.allow(site.Of(c.conn.Remote())) {
		s.log.Info("login waits for approval", "hostname", l.Registration.Hostinfo.Hostname, "machine", c.machine.ShortString(), "remote", c.conn.Remote())
	}
	return &tailcfg.RegisterResponse{AuthURL: s.url.JoinPath("register", l.ID).String()}, nil
}

// followUp waits until the login behind the page that the device was sent to
// is decided. One that is not known any more gets a new page instead of an error, which would
// end the login. A wait may take days, so it holds nothing of the request.
func (s *Server) followUp(ctx context.Context, c *call, req *tailcfg.RegisterRequest) (*tailcfg.RegisterResponse, error) {
	u, err := url.Parse(req.Followup)
	if err != nil {
		return nil, tailnet.Errorf(tailnet.Invalid, "the request follows up on what is not a URL")
	}
	r := registration(c, req)
	if w := s.pending.Join(path.Base(u.Path), c.machine, req.NodeKey); w != nil {
		r.Hostinfo, c.snap = nil, nil
		*req = tailcfg.RegisterRequest{}
		if r, err = w.Wait(ctx); err != nil {
			return nil, err
		}
	}
	c.snap = s.state.Snapshot()
	if n := c.snap.NodeByKey(r.Key); n != nil && n.Machine == c.machine && !s.expired(n) {
		return s.welcome(c.snap, c.machine, r.Key)
	}
	return s.sendToPage(c, r)
}

// welcome tells a device as whom it is logged in.
func (s *Server) welcome(snap *tailnet.Snapshot, m key.MachinePublic, k key.NodePublic) (*tailcfg.RegisterResponse, error) {
	n := snap.NodeByKey(k)
	if n == nil || n.Machine != m || s.expired(n) {
		// It was removed or its tags were refused between the update and now.
		return &tailcfg.RegisterResponse{NodeKeyExpired: true}, nil
	}
	user := tailcfg.User{ID: tailcfg.UserID(tailnet.TaggedDevices), DisplayName: "Tagged Devices"}
	login := tailcfg.Login{LoginName: "tagged-devices", DisplayName: "Tagged Devices"}
	if u := snap.User(n.Owner); u != nil {
		user = tailcfg.User{ID: tailcfg.UserID(u.ID), DisplayName: u.Title(), ProfilePicURL: u.PictureURL, Created: u.Created}
		login = tailcfg.Login{LoginName: u.Login(), DisplayName: u.Title(), ProfilePicURL: u.PictureURL}
	}
	login.ID = tailcfg.LoginID(user.ID)
	return &tailcfg.RegisterResponse{User: user, Login: login, MachineAuthorized: !n.Pending}, nil
}

// Logins returns the logins that wait, the newest first and at most most of
// them, and how many there are more.
func (s *Server) Logins(most int) (list []pending.Login, more int) { return s.pending.List(most) }

// Login returns one login by its ID, also for some time after it was completed or rejected.
func (s *Server) Login(id string) (pending.Login, bool) { return s.pending.Get(id) }

// RejectLogin turns away the device that waits under an ID, and tells it. Errors are NotFound for an ID
// that waits no more, Conflict for one that was decided, and Denied.
func (s *Server) RejectLogin(ctx context.Context, a tailnet.Actor, id string) error {
	return s.pending.Reject(id, func(r tailnet.Registration) error {
		_, err := s.state.Update(ctx, a, func(tx *tailnet.Tx) error {
			return tx.Record(tailnet.Write(tailnet.AreaDevices), "reject devices", "login.reject", "device "+r.Hostinfo.Hostname,
				tailnet.Change{Field: "machine", From: r.Machine.ShortString()})
		})
		return err
	})
}

// CompleteLogin admits the device that waits under a pending login's ID, as one of the user's. The device
// learns it at once. Errors are NotFound for an ID that waits no more,
// Conflict for one that was completed, or those of Tx.RegisterForUser.
func (s *Server) CompleteLogin(ctx context.Context, a tailnet.Actor, id string, user tailnet.UserID, m tailnet.Method) (*tailnet.Node, error) {
	var n *tailnet.Node
	err := s.pending.Complete(id, func(r tailnet.Registration) error {
		snap, err := s.state.Update(ctx, a, func(tx *tailnet.Tx) error {
			_, err := tx.RegisterForUser(r, user, m)
			return err
		})
		if err != nil {
			return err
		}
		n = snap.NodeByKey(r.Key)
		s.counts.logins[loginApproved].Add(1)
		return nil
	})
	if err == nil && n == nil {
		err = tailnet.Errorf(tailnet.Conflict, "the device was approved and removed again in the same moment")
	}
	return n, err
}
