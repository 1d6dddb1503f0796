package login

import (
	"net/http"

	"heddle/control/check"
	"heddle/control/tailnet"

	"github.com/go-chi/chi/v5"
)

// connection is what a page says of an SSH connection.
type connection struct {
	From, To string
	Account  string // on To
	Asked    string
	State    check.State
}

// serveConnection shows an SSH connection that waits. Its person has to authenticate anew for it, and then
// to decide.
func (p *Pages) serveConnection(w http.ResponseWriter, r *http.Request) {
	id := chi.URLParam(r, "id")
	c, ok := p.connections.SSHCheck(id)
	if !ok {
		p.writeUnknown(w, "ssh")
		return
	}
	then := "ssh/" + id
	v := page{Title: "Confirm an SSH connection", Connection: p.describeConnection(c), Command: "heddle auth approve " + id}
	s, u := p.viewer(r)
	switch {
	case c.State != check.Waiting:
		v.View = "decided"
		v.Title = map[check.State]string{check.Approved: "Connection confirmed", check.Rejected: "Connection refused"}[c.State]
		if v.Title == "" {
			v.Title = "Too late"
		}
	case s == nil || s.fresh != then || r.URL.Query().Has("anew"):
		v.View, v.Ways = "connection", p.ways(then, true)
	case u.ID != c.Ends.Owner:
		p.log.Info("ssh confirmation refused", "user", u.Name, "remote", remote(r), "err", "not the owner of the source")
		p.refuse(w, then, errNotOwner)
		return
	default:
		v.View, v.Viewer, v.Consent = "confirm", p.account(s, u), s.consent(then)
		v.Another = "/" + then + "?anew"
	}
	p.write(w, http.StatusOK, v)
}

var errNotOwner = tailnet.Errorf(tailnet.Denied, "only the owner of the device that connects can confirm this connection; log in as that user")

func (p *Pages) describeConnection(c check.Connection) *connection {
	name := func(id tailnet.NodeID) string {
		if n := p.state.Snapshot().Node(id); n != nil {
			return n.Name
		}
		return "a device that is gone"
	}
	return &connection{From: name(c.Ends.Source), To: name(c.Ends.Dest), Account: c.Ends.Local, Asked: asked(c.Started, p.now()), State: c.State}
}

// decideConnection is the decision of the person before the browser.
func (p *Pages) decideConnection(w http.ResponseWriter, r *http.Request) {
	id := chi.URLParam(r, "id")
	then := "ssh/" + id
	c, ok := p.connections.SSHCheck(id)
	if !ok {
		p.writeUnknown(w, "ssh")
		return
	}
	s, u, err := p.consent(w, r, then)
	switch {
	case err != nil:
	case u.ID != c.Ends.Owner:
		err = errNotOwner
	case s.fresh != then:
		err = tailnet.Errorf(tailnet.Denied, "log in anew to confirm this connection")
	default:
		err = p.connections.DecideSSH(r.Context(), actor(r, u), id, r.PostFormValue("decision") == "approve")
	}
	if err != nil && tailnet.CodeOf(err) != tailnet.Conflict { // decided already: the page tells
		p.log.Info("ssh confirmation refused", "remote", remote(r), "err", err)
		p.refuse(w, then, err)
		return
	}
	http.Redirect(w, r, pageOf(then), http.StatusSeeOther)
}
