package oidc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// maxAnswer bounds what is read of any answer of a provider: discovery
	// documents and keys take 10 KB, the claims of a person in thousands of groups 200 KB.
	maxAnswer = 256 << 10

	// patience is how long one request to a provider may take, people wait for it.
	patience = 10 * time.Second

	// maxRedirects is enough for a provider that moved.
	maxRedirects = 3
)

var errLarge = fmt.Errorf("the answer is larger than %d KB", maxAnswer>>10)

// newClient returns the client for all requests to providers. base nil is the default.
func newClient(base http.RoundTripper) *http.Client {
	if base == nil {
		base = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: patience / 2}).DialContext,
			TLSHandshakeTimeout:    patience / 2,
			ForceAttemptHTTP2:      true,
			MaxIdleConnsPerHost:    2,
			IdleConnTimeout:        time.Minute,
			MaxResponseHeaderBytes: 64 << 10,
		}
	}
	return &http.Client{Transport: bounded{base}, CheckRedirect: checkRedirect, Timeout: patience}
}

// checkRedirect keeps secrets where they were meant to go: a request that carries some in its
// body does not follow, and none leaves TLS.
func checkRedirect(r *http.Request, via []*http.Request) error {
	switch {
	case via[0].Method != http.MethodGet:
		return errors.New("a redirect, which this endpoint must not answer with")
	case len(via) > maxRedirects:
		return errors.New("too many redirects")
	case via[0].URL.Scheme == "https" && r.URL.Scheme != "https":
		return errors.New("a redirect from https to another scheme")
	}
	return nil
}

// bounded refuses to read more than maxAnswer of any answer.
type bounded struct{ base http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &boundedBody{resp.Body, maxAnswer}
	return resp, nil
}

type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left+1)])
	if n > b.left {
		return 0, errLarge
	}
	b.left -= n
	return n, err
}

// endpoint checks a URL that a provider names: absolute, and not less protected than its issuer.
func endpoint(issuer, name, text string) error {
	u, err := url.Parse(text)
	switch {
	case text == "":
		return fmt.Errorf("its configuration names no %s", name)
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.Fragment != "" || u.User != nil:
		return fmt.Errorf("its %s %.100q is no URL that can be used", name, text)
	case u.Scheme == "http" && strings.HasPrefix(issuer, "https:"):
		return fmt.Errorf("its %s %.100q is not https", name, text)
	}
	return nil
}

// clipped is an error with a text that is fit for a line of the log: strangers' bodies can stand in it.
func clipped(err error) error {
	const most = 400
	if text := err.Error(); len(text) > most {
		return errors.New(text[:most] + "…")
	}
	return err
}

// apart returns a context that outlives the request that it comes from: what was begun with a
// provider is finished even if the browser has gone, since a code can be redeemed only once.
func apart(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 2*patience)
}

// backoff is how long a provider is left alone after so many failures in a row, at least one: people try
// again by hand, so never long.
func backoff(failures int) time.Duration {
	return time.Second << min(failures-1, 3)
}
