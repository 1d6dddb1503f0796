// Package login owns what people's browsers see: the page of a device that asks to join, that of an
// SSH connection that has to be confirmed, the way to an identity provider and back,
// the browser's session, and what its person consents to. It refuses to know the client
// protocol, how providers are talked to, and who may do what.
package login

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"time"

	"heddle/control/check"
	"heddle/control/oidc"
	"heddle/control/pending"
	"heddle/control/tailnet"

	"github.com/go-chi/chi/v5"
)

// CallbackPath is where providers send browsers back to.
const CallbackPath = "/oidc/callback"

// Devices are those that ask to join.
type Devices interface {
	// Login returns a login by its ID, also for some time after it was completed or rejected.
	Login(id string) (pending.Login, bool)
	// CompleteLogin admits a device as one of the user's. Errors are NotFound for an ID that waits
	// no more, Conflict for one that was completed, or those of Tx.RegisterForUser.
	CompleteLogin(ctx context.Context, a tailnet.Actor, id string, user tailnet.UserID, m tailnet.Method) (*tailnet.Node, error)
}

// Connections are the SSH connections that a person has to confirm.
type Connections interface {
	// SSHCheck returns a connection by its ID, also for some minutes after it was decided.
	SSHCheck(id string) (check.Connection, bool)
	// DecideSSH lets a connection begin, or refuses it. The error is Denied, NotFound, or
	// Conflict if it was decided already.
	DecideSSH(ctx context.Context, a tailnet.Actor, id string, approve bool) error
}

// Options are what New needs.
type Options struct {
	State       *tailnet.State
	Devices     Devices
	Connections Connections
	Providers   *oidc.Providers  // that of an empty configuration: only admins let devices join
	ServerURL   *url.URL         // where browsers reach the pages; no path
	Now         func() time.Time // nil means time.Now
	Log         *slog.Logger     // nil discards
}

// Pages serves the pages. Make one with New, mount its Routes, and let Run run as long as they are
// served.
type Pages struct {
	state       *tailnet.State
	devices     Devices
	connections Connections
	providers   *oidc.Providers
	sessions    *sessions
	origins     *http.CrossOriginProtection
	now         func() time.Time
	log         *slog.Logger
}

// New returns the pages. It starts nothing.
func New(o Options) *Pages {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &Pages{
		state: o.State, devices: o.Devices, connections: o.Connections, providers: o.Providers,
		sessions: newSessions(o.ServerURL.Scheme == "https", o.Now),
		origins:  http.NewCrossOriginProtection(),
		now:      o.Now, log: o.Log,
	}
	// A reverse proxy may call us by another name. The error is about paths, which the URL has not.
	_ = p.origins.AddTrustedOrigin(o.ServerURL.Scheme + "://" + o.ServerURL.Host)
	return p
}

// Routes mounts the pages. Who may ask how often is the caller's matter.
func (p *Pages) Routes(r chi.Router) {
	r.Get("/", p.serveHome)
	r.Get("/admin", p.serveAdmin)
	r.Get("/admin/*", p.serveAdmin)
	r.Get("/register/{id}", p.serveDevice)
	r.Post("/register/{id}", p.addDevice)
	r.Get("/register/{id}/status", p.serveStatus)
	r.Get("/register/{id}/with/{provider}", p.begin("register"))
	r.Get("/ssh/{id}", p.serveConnection)
	r.Post("/ssh/{id}", p.decideConnection)
	r.Get("/ssh/{id}/with/{provider}", p.begin("ssh"))
	r.Get(CallbackPath, p.finish)
}

// Run ends the sessions of users who are suspended or deleted, for good: a request would only see
// what the user is by then. It returns when ctx ends.
func (p *Pages) Run(ctx context.Context) {
	snap := p.state.Snapshot()
	for {
		select {
		case <-ctx.Done():
			return
		case <-snap.Superseded():
		}
		next := p.state.Snapshot()
		for id := range next.UsersChangedSince(snap) {
			if u := next.User(id); u == nil || u.Status == tailnet.UserSuspended {
				p.sessions.end(id)
			}
		}
		snap = next
	}
}

// subject is what a login is for: a page of ours, as it is kept while the browser is at the provider.
var subject = regexp.MustCompile(`^(register|ssh)/[a-z0-9]{1,64}$`)

// pageOf is the path of a subject; the home page's if it is none.
func pageOf(then string) string {
	if subject.MatchString(then) {
		return "/" + then
	}
	return "/"
}

// begin sends the browser to a provider, for a page of that kind. It is a link and not a form,
// because the policy of the page would have to name every host that a provider forwards a form to.
// So other sites can send browsers here, too: those get to see the page first.
func (p *Pages) begin(kind string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		then := kind + "/" + chi.URLParam(r, "id")
		if !p.waits(kind, chi.URLParam(r, "id")) {
			p.writeUnknown(w, kind)
			return
		}
		if crossSite(r) {
			http.Redirect(w, r, pageOf(then), http.StatusSeeOther)
			return
		}
		if err := p.send(w, r, kind, then); err != nil {
			p.refuse(w, then, err)
		}
	}
}

// send sends the browser on: for an SSH connection its person has to authenticate in any case.
func (p *Pages) send(w http.ResponseWriter, r *http.Request, kind, then string) error {
	provider := chi.URLParam(r, "provider")
	if kind != "ssh" && r.URL.Query().Has("anew") {
		return p.providers.BeginAnother(w, r, provider, then)
	}
	return p.providers.Begin(w, r, provider, then, kind == "ssh")
}

// waits reports whether a person can still decide.
func (p *Pages) waits(kind, id string) bool {
	if kind == "ssh" {
		c, ok := p.connections.SSHCheck(id)
		return ok && c.State == check.Waiting
	}
	l, ok := p.devices.Login(id)
	return ok && l.Rejected.IsZero()
}

// crossSite reports whether the browser says that another site sent it here. Browsers that say nothing are old, or
// reached us without TLS.
func crossSite(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
		return false
	}
	return true
}

// finish takes a browser back from the provider: its person is a user from now on, and
// decides on the page that this was for. A reload leads to the same page, which tells what became of it.
func (p *Pages) finish(w http.ResponseWriter, r *http.Request) {
	l, err := p.providers.Finish(w, r)
	if err != nil {
		p.refuse(w, l.Then, err)
		return
	}
	u, err := p.logIn(r, l)
	if err != nil {
		p.log.Info("login refused", "provider", l.Provider, "issuer", l.Profile.Identity.Issuer, "subject", l.Profile.Identity.Subject,
			"remote", remote(r), "err", err)
		p.refuse(w, l.Then, err)
		return
	}
	if s, _ := p.viewer(r); !l.Again || s == nil || s.identity != l.Profile.Identity {
		fresh := ""
		if l.Fresh {
			fresh = l.Then
		}
		p.sessions.open(w, r, session{user: u.ID, identity: l.Profile.Identity, provider: l.Provider, fresh: fresh})
	}
	http.Redirect(w, r, pageOf(l.Then), http.StatusSeeOther)
}

// logIn returns the user of whom the provider told. Of a login that is told again the first telling may still
// be under way.
func (p *Pages) logIn(r *http.Request, l oidc.Login) (*tailnet.User, error) {
	if u := p.state.Snapshot().UserByIdentity(l.Profile.Identity); l.Again && u != nil && u.Status != tailnet.UserSuspended {
		return u, nil
	}
	name := l.Profile.Email
	if name == "" {
		name = l.Profile.Identity.Subject
	}
	a := tailnet.Actor{Kind: tailnet.ByUser, Name: name, From: remote(r).String(), Reason: "login through " + l.Provider}
	snap, err := p.state.Update(r.Context(), a, func(tx *tailnet.Tx) error {
		_, err := tx.LogIn(l.Profile)
		return err
	})
	if err != nil {
		return nil, err
	}
	u := snap.UserByIdentity(l.Profile.Identity)
	if u == nil {
		return nil, tailnet.Errorf(tailnet.Conflict, "the user was deleted in the same moment; log in again")
	}
	p.log.Info("person logged in", "user", u.Name, "provider", l.Provider,
		"issuer", l.Profile.Identity.Issuer, "subject", l.Profile.Identity.Subject, "remote", remote(r))
	return u, nil
}

// actor is a person in a browser.
func actor(r *http.Request, u *tailnet.User) tailnet.Actor {
	return tailnet.Actor{Kind: tailnet.ByUser, Name: u.Name, User: u.ID, Role: u.Role, From: remote(r).String()}
}

// remote is where a request came from.
func remote(r *http.Request) netip.Addr {
	ap, _ := netip.ParseAddrPort(r.RemoteAddr)
	return ap.Addr().Unmap()
}
