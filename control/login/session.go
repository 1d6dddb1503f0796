package login

import (
	"container/list"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"sync"
	"time"

	"heddle/control/tailnet"
)

// Bounds on sessions. Only people whom a provider vouches for have any, but one of them may log in
// as often as they like.
const (
	sessionLife = time.Hour
	maxSessions = 10_000 // about 3 MB; beyond it the oldest ends
	maxPerUser  = 16     // so that nobody ends those of others
)

// A session is a browser whose person is logged in.
type session struct {
	user     tailnet.UserID
	identity tailnet.Identity // by which the person logged in; it must be the user's still
	provider string
	// fresh is what the person authenticated anew for, "ssh/ID"; "" if a session at the provider sufficed.
	fresh string

	hash  [32]byte // of the cookie's value, which is not kept
	key   [32]byte // of its consents
	ends  time.Time
	place *list.Element
}

// consent is what a form of ours says to prove that this browser was shown it, for this subject.
func (s *session) consent(subject string) string {
	mac := hmac.New(sha256.New, s.key[:])
	mac.Write([]byte(subject))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// sessions are those of all browsers. They are kept in memory only: after a restart people log in again, if
// they have anything left to do here.
type sessions struct {
	secure bool
	now    func() time.Time

	mu     sync.Mutex
	byHash map[[32]byte]*session
	order  *list.List // of *session, oldest first
}

func newSessions(secure bool, now func() time.Time) *sessions {
	return &sessions{secure: secure, now: now, byHash: map[[32]byte]*session{}, order: list.New()}
}

// cookie is the session's cookie. The provider sends the browser back from another site, so it cannot be
// a strict one: lax cookies come with links, and not with forms of other sites.
func (t *sessions) cookie(value string) *http.Cookie {
	c := &http.Cookie{
		Name: "heddle-session", Value: value, Path: "/", MaxAge: int(sessionLife.Seconds()),
		HttpOnly: true, Secure: t.secure, SameSite: http.SameSiteLaxMode,
	}
	if t.secure {
		c.Name = "__Host-" + c.Name // no other host of the domain can set it
	}
	return c
}

// open begins a session in the browser, and ends the one that it had.
func (t *sessions) open(w http.ResponseWriter, r *http.Request, s session) {
	value := rand.Text() + rand.Text() // 260 bits
	s.hash = sha256.Sum256([]byte(value))
	rand.Read(s.key[:]) // never fails
	old, had := t.hashIn(r)
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	s.ends = now.Add(sessionLife)
	mine, oldest := 0, (*session)(nil)
	for el := t.order.Front(); el != nil; {
		o := el.Value.(*session)
		el = el.Next()
		switch {
		case !now.Before(o.ends), had && o.hash == old:
			t.dropLocked(o)
		case o.user == s.user:
			if mine++; oldest == nil {
				oldest = o
			}
		}
	}
	switch {
	case mine >= maxPerUser:
		t.dropLocked(oldest)
	case len(t.byHash) >= maxSessions:
		t.dropLocked(t.order.Front().Value.(*session))
	}
	s.place = t.order.PushBack(&s)
	t.byHash[s.hash] = &s
	http.SetCookie(w, t.cookie(value))
}

// of returns the session of the browser that sent r; nil if it has none. The session does not change.
func (t *sessions) of(r *http.Request) *session {
	hash, ok := t.hashIn(r)
	if !ok {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.byHash[hash]
	if s == nil || !t.now().Before(s.ends) {
		return nil
	}
	return s
}

// hashIn is that of the cookie that came with r. Looking secrets up by their hash tells nothing of
// them by the time that it takes.
func (t *sessions) hashIn(r *http.Request) (hash [32]byte, ok bool) {
	c, err := r.Cookie(t.cookie("").Name)
	if err != nil {
		return hash, false
	}
	return sha256.Sum256([]byte(c.Value)), true
}

// end ends all sessions of a user.
func (t *sessions) end(user tailnet.UserID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for el := t.order.Front(); el != nil; {
		s := el.Value.(*session)
		el = el.Next()
		if s.user == user {
			t.dropLocked(s)
		}
	}
}

func (t *sessions) dropLocked(s *session) {
	t.order.Remove(s.place)
	delete(t.byHash, s.hash)
}

// viewer returns the session of the browser that sent r and its user; nil if there is none, or
// if the user is not what they were.
func (p *Pages) viewer(r *http.Request) (*session, *tailnet.User) {
	s := p.sessions.of(r)
	if s == nil {
		return nil, nil
	}
	u := p.state.Snapshot().UserByIdentity(s.identity)
	if u == nil || u.ID != s.user || u.Status == tailnet.UserSuspended {
		return nil, nil
	}
	return s, u
}

// maxForm bounds our forms: a token and a button.
const maxForm = 4 << 10

// consent checks that the person before the browser was shown a form of ours for the subject and sent
// it. The error is for them.
func (p *Pages) consent(w http.ResponseWriter, r *http.Request, subject string) (*session, *tailnet.User, error) {
	if err := p.origins.Check(r); err != nil {
		return nil, nil, &tailnet.Error{Code: tailnet.Denied, Msg: "another web site asked for this, not you; nothing was changed", Err: err}
	}
	s, u := p.viewer(r)
	if s == nil {
		return nil, nil, tailnet.Errorf(tailnet.Denied, "you are not logged in any more; log in again")
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if !hmac.Equal([]byte(r.PostFormValue("consent")), []byte(s.consent(subject))) {
		return nil, nil, tailnet.Errorf(tailnet.Denied, "this form was for another login; open the link again and go on from there")
	}
	return s, u, nil
}
