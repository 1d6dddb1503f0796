package control

import (
	"crypto/rand"
	_ "embed"
	"html/template"
	"net/http"
	"net/netip"

	"heddle/control/pending"

	"github.com/go-chi/chi/v5"
)

//go:embed page.html
var pageSource string

var pageTemplate = template.Must(template.New("page").Parse(pageSource))

// page is what the person at a device sees. It names no user and holds nothing
// that the person does not know, except the ID, which is in its URL too.
type page struct {
	Nonce    string
	ID       string
	Hostname string
	OS       string
	From     string
	Machine  string // as in the log and in `heddle auth list`
	Command  string
	State    string // "waiting", "done", "unknown" or "home"
}

// servePage shows a device that waits to be approved, and how to approve it.
func (s *Server) servePage(w http.ResponseWriter, r *http.Request) {
	if !s.pageAllowed(w, r) {
		return
	}
	p := page{Nonce: rand.Text(), ID: chi.URLParam(r, "id"), State: "unknown"}
	if l, ok := s.pending.Get(p.ID); ok {
		host := l.Registration.Hostinfo
		p.State, p.Hostname, p.OS = "waiting", host.Hostname, host.OS
		p.Machine, p.From = l.Registration.Machine.ShortString(), "unknown"
		if l.From.IsValid() {
			p.From = l.From.String()
		}
		p.Command = "heddle auth register --user USER " + l.ID
		if l.Done {
			p.State = "done"
		}
	}
	status := http.StatusOK
	if p.State == "unknown" {
		status = http.StatusNotFound
	}
	s.writePage(w, status, p)
}

// serveHome answers whoever opens the server's URL in a browser.
func (s *Server) serveHome(w http.ResponseWriter, r *http.Request) {
	if s.pageAllowed(w, r) {
		s.writePage(w, http.StatusOK, page{Nonce: rand.Text(), State: "home"})
	}
}

func (s *Server) writePage(w http.ResponseWriter, status int, p page) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; connect-src 'self'; style-src 'nonce-"+p.Nonce+"'; script-src 'nonce-"+p.Nonce+
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer") // the ID is in the URL
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if err := pageTemplate.Execute(w, p); err != nil {
		s.log.Debug("page not delivered", "err", err)
	}
}

// servePageStatus tells the page when to stop waiting.
func (s *Server) servePageStatus(w http.ResponseWriter, r *http.Request) {
	if !s.pageAllowed(w, r) {
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	l, ok := s.pending.Get(chi.URLParam(r, "id"))
	state := "waiting"
	switch {
	case !ok:
		state = "unknown"
	case l.Done:
		state = "done"
	}
	writeJSON(w, map[string]string{"state": state})
}

func (s *Server) pageAllowed(w http.ResponseWriter, r *http.Request) bool {
	ap, _ := netip.ParseAddrPort(r.RemoteAddr)
	if s.throttle.pages.allow(pending.Group(ap.Addr())) {
		return true
	}
	w.Header().Set("Retry-After", "60")
	http.Error(w, "too many requests from your address; wait a minute", http.StatusTooManyRequests)
	return false
}
