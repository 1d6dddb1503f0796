package login

import (
	"bytes"
	"crypto/rand"
	_ "embed"
	"html/template"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"heddle/control/tailnet"
	"heddle/control/tailnet/httpcode"
)

//go:embed page.html
var pageSource string

var pages = template.Must(template.New("page").Parse(pageSource))

// page is what a page shows. View names its template; what the view does not show may be zero.
type page struct {
	View  string
	Title string
	Nonce string

	Device     *device
	State      string // of the device: the page is loaded again when it changes
	Connection *connection
	Command    string // by which an admin decides
	Ways       []way  // to log in; none if only an admin can decide
	Viewer     *account
	Consent    string // for the form
	Another    string // path at which to log in as somebody else
	Kind       string // of an unknown link
	Message    string // of a refusal
	Back       string // path at which to go on from a refusal; "" if there is none
}

// way is a provider to log in at.
type way struct {
	Label string
	Path  string
	Down  bool // it did not answer the last time
}

// account is who is logged in.
type account struct {
	Title, Login string
	Provider     string // its label
	Waits        bool   // for an admin's approval
}

func (p *Pages) account(s *session, u *tailnet.User) *account {
	a := &account{Title: u.Title(), Login: u.Login(), Provider: s.provider, Waits: u.Status == tailnet.UserPending}
	for _, info := range p.providers.List() {
		if info.Name == s.provider && info.Label != "" {
			a.Provider = info.Label
		}
	}
	return a
}

// ways are those to log in for a subject; anew if a session at the provider must not suffice.
func (p *Pages) ways(subject string, anew bool) []way {
	var out []way
	for _, info := range p.providers.List() {
		w := way{Label: info.Label, Path: "/" + subject + "/with/" + info.Name, Down: p.providers.Trouble(info.Name) != nil}
		if w.Label == "" {
			w.Label = info.Name
		}
		if anew {
			w.Path += "?anew"
		}
		out = append(out, w)
	}
	return out
}

// serveHome answers whoever opens the server's URL in a browser.
func (p *Pages) serveHome(w http.ResponseWriter, r *http.Request) {
	p.write(w, http.StatusOK, page{View: "home", Title: "heddle runs here"})
}

// serveAdmin answers whom a client sent to the administrators' console: `tailscale up` does, on a
// device that waits for approval, and so do menus of the apps.
func (p *Pages) serveAdmin(w http.ResponseWriter, r *http.Request) {
	p.write(w, http.StatusOK, page{View: "admin", Title: "Administration"})
}

// writeUnknown answers a link that leads nowhere, or nowhere any more.
func (p *Pages) writeUnknown(w http.ResponseWriter, kind string) {
	p.write(w, http.StatusNotFound, page{View: "unknown", Title: "This link is not valid", Kind: kind})
}

// refuse tells why something is not done, and how to go on. then is the subject that it was for,
// "" if that is not known.
func (p *Pages) refuse(w http.ResponseWriter, then string, err error) {
	v := page{View: "refused", Title: "That did not work", Message: sentence(tailnet.Message(err))}
	status := httpcode.Of(err)
	if status == http.StatusInternalServerError {
		p.log.Error("login page failed", "err", err)
	}
	if status == http.StatusServiceUnavailable {
		v.Title = "Logging in is not possible just now"
		w.Header().Set("Retry-After", "30")
	}
	if subject.MatchString(then) {
		v.Back = "/" + then + "?anew"
	}
	p.write(w, status, v)
}

// sentence makes a sentence of a message. A first word that is not just letters is a name.
func sentence(text string) string {
	word, _, _ := strings.Cut(text, " ")
	first, size := utf8.DecodeRuneInString(text)
	if !strings.ContainsFunc(word, func(c rune) bool { return !unicode.IsLetter(c) }) {
		text = string(unicode.ToUpper(first)) + text[size:]
	}
	return strings.TrimSuffix(text, ".") + "."
}

// write sends a page, of which nothing may be kept, framed, or extended by what it shows.
func (p *Pages) write(w http.ResponseWriter, status int, v page) {
	v.Nonce = rand.Text()
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, v.View, v); err != nil {
		p.log.Error("login page failed", "err", err)
		http.Error(w, "internal error; the server's log has more", http.StatusInternalServerError)
		return
	}
	forms := "'none'"
	if v.Consent != "" {
		forms = "'self'"
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; connect-src 'self'; style-src 'nonce-"+v.Nonce+"'; script-src 'nonce-"+v.Nonce+
		"'; base-uri 'none'; form-action "+forms+"; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	// The ID is in the URL, so no other site may see that. Without any referrer, forms would come with
	// the origin "null".
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(b.Bytes()) // an error means that the browser has left
}
