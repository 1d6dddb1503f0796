// Package dnsapi owns servers that answer like the APIs of DNS providers, as far as TXT records
// go, and that refuse what the real ones refuse. It is for tests only, and refuses to know who asks.
package dnsapi

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Server answers for one provider.
type Server interface {
	http.Handler
	// Values are those of the TXT records under a name, in quotes as the API has them.
	Values(name string) []string
}

// trouble makes a server fail now and then. It is safe for concurrent use.
type trouble struct {
	mu    sync.Mutex
	after int
	next  []http.HandlerFunc
}

// Fail has requests answered by others, one each, from now on but for the first few. A nil one serves its request, and
// then loses the answer. What was said before is forgotten.
func (t *trouble) Fail(after int, by ...http.HandlerFunc) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.after, t.next = after, by
}

// strikes reports whether the request is answered here.
func (t *trouble) strikes(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) bool {
	t.mu.Lock()
	t.after--
	if t.after >= 0 || len(t.next) == 0 {
		t.mu.Unlock()
		return false
	}
	by := t.next[0]
	t.next = t.next[1:]
	t.mu.Unlock()
	if by == nil {
		serve(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}
	by(w, r)
	return true
}

// Client is a client whose requests a server answers without a network, for tests with a clock of their own. It gives up
// after ten seconds.
func Client(h http.Handler) *http.Client {
	return &http.Client{Transport: direct{h}, Timeout: 10 * time.Second}
}

type direct struct{ http.Handler }

// RoundTrip implements http.RoundTripper.
func (d direct) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	w := httptest.NewRecorder()
	defer func() {
		if lost := recover(); lost != nil {
			resp, err = nil, http.ErrServerClosed
		}
	}()
	d.ServeHTTP(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

// Hang answers nothing until the client gives up.
func Hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// Say answers with a status and a body of no API's.
func Say(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		w.Write([]byte(body))
	}
}

// within reports whether a name lies in a zone; both end without a dot.
func within(name, zone string) bool { return name == zone || strings.HasSuffix(name, "."+zone) }

// labels is a name as the parts that it is ordered by, the last label first.
func labels(name string) []string {
	all := strings.Split(strings.TrimSuffix(name, "."), ".")
	slices.Reverse(all)
	return all
}
