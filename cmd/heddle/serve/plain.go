package serve

import (
	"io"
	"net/http"
	"strings"

	"heddle/cmd/heddle/serve/certs"
)

// plainHandler serves port 80 beside a listener with TLS. Clients bring their control
// connection here first, which is encrypted by itself; devices ask it whether a captive portal
// is in the way; certificate authorities look for their proofs. All else is sent to server_url, never to what
// the request calls its host.
func (s *server) plainHandler(public http.Handler) http.Handler {
	var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/ts2021", r.URL.Path == "/generate_204" && s.relay != nil:
			public.ServeHTTP(w, r)
		case r.Method == http.MethodGet || r.Method == http.MethodHead:
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Header().Set("Location", s.cfg.ServerURL.String()+r.URL.EscapedPath()+query(r))
			w.WriteHeader(http.StatusPermanentRedirect)
			io.WriteString(w, "This server speaks HTTPS: "+s.cfg.ServerURL.String()+"\n")
		default:
			http.Error(w, "this server takes requests by HTTPS: "+s.cfg.ServerURL.String(), http.StatusForbidden)
		}
	})
	if acme, ok := s.sockets.cert.(*certs.ACME); ok {
		h = acme.AnswerHTTP(h)
	}
	return h
}

func query(r *http.Request) string {
	if r.URL.RawQuery == "" {
		return ""
	}
	return "?" + r.URL.RawQuery
}

// pageHeaders gives whatever a browser asks for the headers that narrow what it can be made to do;
// a handler that knows better replaces them. Strict-Transport-Security is for pages only, and
// only where the host's usual port is ours: it is about all ports of the host.
func (s *server) pageHeaders(next http.Handler) http.Handler {
	url := s.cfg.ServerURL
	strict := url.Scheme == "https" && (url.Port() == "" || url.Port() == "443")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		if strings.Contains(r.Header.Get("Accept"), "text/html") {
			h.Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
			h.Set("Referrer-Policy", "no-referrer")
			h.Set("X-Frame-Options", "DENY")
			h.Set("Cross-Origin-Opener-Policy", "same-origin")
			if strict && r.TLS != nil {
				h.Set("Strict-Transport-Security", "max-age=31536000")
			}
		}
		next.ServeHTTP(w, r)
	})
}
