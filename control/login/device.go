package login

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"heddle/control/pending"
	"heddle/control/tailnet"

	"github.com/go-chi/chi/v5"
	"tailscale.com/tailcfg"
)

// serveDevice shows a device that asks to join, and how it may: by logging in, by consent of who
// is logged in, or by an admin. Later it shows what became of it.
func (p *Pages) serveDevice(w http.ResponseWriter, r *http.Request) {
	id := chi.URLParam(r, "id")
	l, ok := p.devices.Login(id)
	if !ok {
		p.writeUnknown(w, "register")
		return
	}
	s, u := p.viewer(r)
	v := page{Title: "Add a device", State: p.stateOf(l), Device: p.describe(r, l, u), Command: "heddle auth register --user USER " + l.ID}
	switch {
	case !l.Rejected.IsZero():
		v.Title, v.View = "Device turned away", "rejected"
	case l.Done:
		v.Title, v.View = "Device added", "added"
		if v.Device.Waits != "" {
			v.Title = "Almost there"
		}
	case s != nil && !r.URL.Query().Has("anew"):
		v.View, v.Viewer, v.Consent = "consent", p.account(s, u), s.consent(consentTo(l))
		v.Another = "/register/" + id + "?anew"
	default:
		v.View, v.Ways = "device", p.ways("register/"+id, r.URL.Query().Has("anew"))
	}
	p.write(w, http.StatusOK, v)
}

// addDevice is the consent of the person before the browser.
func (p *Pages) addDevice(w http.ResponseWriter, r *http.Request) {
	id := chi.URLParam(r, "id")
	then := "register/" + id
	l, ok := p.devices.Login(id)
	if !ok {
		p.writeUnknown(w, "register")
		return
	}
	_, u, err := p.consent(w, r, consentTo(l))
	if err != nil {
		p.log.Info("consent refused", "remote", remote(r), "err", err)
		p.refuse(w, then, err)
		return
	}
	n, err := p.devices.CompleteLogin(r.Context(), actor(r, u), id, u.ID, tailnet.ByOIDC)
	switch {
	case err == nil:
		p.log.Info("device added", "node", n.Name, "user", u.Name, "waits", n.Pending, "remote", remote(r))
	case tailnet.CodeOf(err) == tailnet.Conflict:
		// A second click, or an admin was faster: the page tells.
	default:
		p.log.Info("login refused", "user", u.Name, "remote", remote(r), "err", err)
		p.refuse(w, then, err)
		return
	}
	http.Redirect(w, r, pageOf(then), http.StatusSeeOther)
}

// consentTo is what a person consents to: the device as the page shows it, which could say something else of
// itself before the click.
func consentTo(l pending.Login) string {
	h := l.Registration.Hostinfo
	return fmt.Sprintf("register/%s %q %q", l.ID, h.Hostname, h.RequestTags)
}

// serveStatus tells the page when there is news.
func (p *Pages) serveStatus(w http.ResponseWriter, r *http.Request) {
	state := "unknown"
	if l, ok := p.devices.Login(chi.URLParam(r, "id")); ok {
		state = p.stateOf(l)
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]string{"state": state}) // an error means that the browser has left
}

// stateOf is what a page waits to see changed.
func (p *Pages) stateOf(l pending.Login) string {
	n := p.state.Snapshot().NodeByKey(l.Registration.Key)
	switch {
	case !l.Rejected.IsZero():
		return "rejected"
	case !l.Done:
		return "waiting"
	case n != nil && n.Pending:
		return "pending"
	}
	return "done"
}

// device is what a page says of a device. It names nobody but the viewer, and holds nothing that
// the person at the device does not know.
type device struct {
	Name, System string
	From         string // the address that it asked from
	Here         bool   // which is the browser's too
	Machine      string // as in the log and in `heddle auth list`
	Asked        string // when it asked first
	Tags         []string
	Change       string // what becomes of the login that it has
	Waits        string // whose approval it waits for, once it was added
	Mine         bool   // it is the viewer's
}

// describe tells of a device; u is nil if nobody is logged in.
func (p *Pages) describe(r *http.Request, l pending.Login, u *tailnet.User) *device {
	host := l.Registration.Hostinfo
	d := &device{
		Name: host.Hostname, System: system(host), From: "unknown",
		Machine: l.Registration.Machine.ShortString(), Asked: asked(l.Started, p.now()), Tags: host.RequestTags,
	}
	if l.From.IsValid() {
		d.From, d.Here = l.From.Unmap().String(), l.From.Unmap() == remote(r)
	}
	snap := p.state.Snapshot()
	if l.Done {
		if n := snap.NodeByKey(l.Registration.Key); n != nil {
			d.Name = n.Name
			d.Mine = u != nil && n.Owner == u.ID
			d.Waits = waitsFor(snap, n)
		}
		return d
	}
	n := snap.NodeByKey(l.Registration.OldKey)
	switch {
	case u == nil || n == nil || n.Machine != l.Registration.Machine:
	case n.Owner == u.ID && len(d.Tags) == 0:
		d.Change = "It is yours already and logs in again: its name and addresses stay."
	case n.Owner == u.ID:
		d.Change = "It is yours now. With the tags it belongs to nobody: its name and addresses stay."
	case n.Owner == 0 && len(d.Tags) == 0:
		d.Change = "It has tags now and belongs to nobody; it becomes yours."
	case n.Owner != 0:
		d.Change = "It is logged in as somebody else now. That login ends, and it joins as a new device."
	}
	return d
}

// waitsFor says whose approval a device waits for; "" if for nobody's.
func waitsFor(snap *tailnet.Snapshot, n *tailnet.Node) string {
	switch owner := snap.User(n.Owner); {
	case !n.Pending:
		return ""
	case owner != nil && owner.Status == tailnet.UserPending:
		return "An administrator has to approve you before your devices can use the network."
	default:
		return "An administrator has to approve the device before it can use the network."
	}
}

// system is a device's operating system as people write it, and its model.
func system(h *tailcfg.Hostinfo) string {
	name := h.OS
	for _, n := range []string{"Linux", "Windows", "Android", "FreeBSD", "OpenBSD", "NetBSD"} {
		if strings.EqualFold(n, h.OS) {
			name = n
		}
	}
	switch {
	case h.Distro != "":
		name += " (" + strings.TrimSpace(h.Distro+" "+h.DistroVersion) + ")"
	case h.OSVersion != "":
		name += " " + h.OSVersion
	}
	if h.DeviceModel != "" {
		name += ", " + h.DeviceModel
	}
	if name == "" {
		return "unknown"
	}
	return name
}

// asked is a time as people read it.
func asked(t, now time.Time) string {
	count := func(n int, unit string) string {
		if n == 1 {
			return "1 " + unit + " ago"
		}
		return fmt.Sprintf("%d %ss ago", n, unit)
	}
	ago := now.Sub(t)
	word := "just now"
	switch {
	case ago >= 24*time.Hour:
		word = count(int(ago/(24*time.Hour)), "day")
	case ago >= time.Hour:
		word = count(int(ago/time.Hour), "hour")
	case ago >= time.Minute:
		word = count(int(ago/time.Minute), "minute")
	}
	return word + t.UTC().Format(" (2 Jan 2006, 15:04 UTC)")
}
