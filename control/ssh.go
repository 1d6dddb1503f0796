package control

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"heddle/control/check"
	"heddle/control/noise"
	"heddle/control/tailnet"
	"heddle/policy"

	"github.com/go-chi/chi/v5"
	"tailscale.com/tailcfg"
)

// maxSSHLogin bounds the user name of an SSH connection, which whoever connects may choose.
const maxSSHLogin = 256

// SSHCheckURL is where clients ask about SSH connections that a person must confirm. They fill
// in the variables (tailcfg.SSHAction.HoldAndDelegate) and ask through Noise, for which they
// need no host but open another connection for each: so it is the one that they know.
func SSHCheckURL(server *url.URL) string {
	return "https://" + server.Host + "/machine/ssh/action?src=$SRC_NODE_ID&dst=$DST_NODE_ID&login=$SSH_USER"
}

func (s *Server) sshRoutes(r chi.Router) {
	r.Get("/machine/ssh/action", s.serveSSHAction)
	r.Get("/machine/ssh/action/{id}", s.serveSSHWait)
}

// serveSSHAction says what a node is to do with an SSH connection to itself.
func (s *Server) serveSSHAction(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	snap := s.state.Snapshot()
	dst := s.sshNode(w, r, snap, q.Get("dst"))
	if dst == nil {
		return
	}
	login := q.Get("login")
	src, verdict := sshVerdict(snap, q.Get("src"), dst, login)
	switch {
	case src == nil || len(login) > maxSSHLogin || !verdict.Allowed:
		writeJSON(w, refuseSSH("the tailnet's policy does not allow this connection"))
	case !verdict.Check || s.checks.Confirmed(endsOf(src, dst, verdict), verdict.Period):
		writeJSON(w, verdict.Action)
	default:
		s.askPerson(w, src, dst, login, verdict)
	}
}

// askPerson sends the person at the source to a page, and the node to wait for the answer.
func (s *Server) askPerson(w http.ResponseWriter, src, dst *tailnet.Node, login string, v policy.SSHVerdict) {
	c, err := s.checks.Ask(endsOf(src, dst, v), login)
	if err != nil {
		writeJSON(w, refuseSSH(tailnet.Message(err)))
		return
	}
	s.log.Info("ssh connection waits for a person", "id", c.ID, "source", src.Name, "dest", dst.Name, "login", login)
	page := s.url.JoinPath("ssh", c.ID).String()
	writeJSON(w, tailcfg.SSHAction{
		Message:         "# This connection must be confirmed. Open\n#\n#     " + page + "\n#\n# or let an administrator run: heddle auth approve " + c.ID + "\n",
		HoldAndDelegate: "https://" + s.url.Host + "/machine/ssh/action/" + c.ID + "?dst=" + dst.ID.String(),
	})
}

// serveSSHWait answers when the person has.
func (s *Server) serveSSHWait(w http.ResponseWriter, r *http.Request) {
	dst := s.sshNode(w, r, s.state.Snapshot(), r.URL.Query().Get("dst"))
	if dst == nil {
		return
	}
	c, err := s.checks.Wait(r.Context(), chi.URLParam(r, "id"), dst.ID)
	switch {
	case r.Context().Err() != nil: // the client asks again
	case err != nil:
		writeJSON(w, refuseSSH("the server no longer knows this connection; connect again"))
	default:
		writeJSON(w, s.sshAnswer(c))
	}
}

// sshAnswer is what became of a connection. The policy and the nodes may have changed while it waited.
func (s *Server) sshAnswer(c check.Connection) *tailcfg.SSHAction {
	snap := s.state.Snapshot()
	switch c.State {
	case check.Rejected:
		return refuseSSH("the connection was rejected")
	case check.Expired:
		return refuseSSH("nobody confirmed the connection in time; connect again")
	}
	dst := snap.Node(c.Ends.Dest)
	if dst == nil {
		return refuseSSH("this device was removed")
	}
	src, verdict := sshVerdict(snap, c.Ends.Source.String(), dst, c.Login)
	if src == nil || endsOf(src, dst, verdict) != c.Ends || !verdict.Allowed {
		return refuseSSH("the tailnet's policy does not allow this connection any more")
	}
	return verdict.Action
}

// sshNode returns the node that asks if it is the destination, or answers the request.
func (s *Server) sshNode(w http.ResponseWriter, r *http.Request, snap *tailnet.Snapshot, id string) *tailnet.Node {
	n := nodeOf(snap, id)
	if n == nil || n.Machine != noise.FromContext(r.Context()).Peer() || s.expired(n) {
		http.Error(w, "only the destination of a connection may ask about it", http.StatusForbidden)
		return nil
	}
	return n
}

func nodeOf(snap *tailnet.Snapshot, id string) *tailnet.Node {
	n, _ := strconv.ParseInt(id, 10, 64) // nobody has the ID 0
	return snap.Node(tailnet.NodeID(n))
}

// sshVerdict asks the policy; src is nil if there is no such node any more.
func sshVerdict(snap *tailnet.Snapshot, id string, dst *tailnet.Node, login string) (src *tailnet.Node, v policy.SSHVerdict) {
	if src = nodeOf(snap, id); src == nil || src.Status.Expired {
		return nil, v
	}
	return src, snap.Policy().Compiled.SSHConnection(policy.NodeID(src.ID), policy.NodeID(dst.ID), login)
}

func endsOf(src, dst *tailnet.Node, v policy.SSHVerdict) check.Ends {
	return check.Ends{Source: src.ID, Dest: dst.ID, SourceKey: src.Key, Owner: src.Owner, Local: v.LocalUser}
}

func refuseSSH(why string) *tailcfg.SSHAction {
	return &tailcfg.SSHAction{Reject: true, Message: "heddle: " + why + "\n"}
}

// SSHChecks returns the SSH connections that wait for a person, oldest first.
func (s *Server) SSHChecks() []check.Connection { return s.checks.List() }

// SSHCheck returns one of them, also for some minutes after it was decided.
func (s *Server) SSHCheck(id string) (check.Connection, bool) { return s.checks.Get(id) }

// DecideSSH approves or rejects an SSH connection that waits: the owner of its source may, who
// must just have logged in, and admins. Errors are those of check.Table.Decide and Denied.
func (s *Server) DecideSSH(ctx context.Context, a tailnet.Actor, id string, approve bool) error {
	c, ok := s.checks.Get(id)
	if !ok || c.State != check.Waiting {
		return s.checks.Decide(id, approve) // which says why not
	}
	_, err := s.state.Update(ctx, a, func(tx *tailnet.Tx) error {
		return tx.DecideSSH(c.Ends.Source, c.Ends.Dest, c.Ends.Owner, c.Login, approve)
	})
	if err != nil {
		return err
	}
	return s.checks.Decide(id, approve)
}
