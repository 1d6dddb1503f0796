package idp

import (
	"context"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// A Choice is what a person does at the provider.
type Choice struct {
	Login  string // typed where the provider asks who it is
	Cancel bool   // leaves instead
}

var (
	formAction = regexp.MustCompile(`<form[^>]* action="([^"]+)"`)
	abortLink  = regexp.MustCompile(`href="([^"]+/abort)"`)
)

// maxPages is how many pages of the provider there may be: login and consent, and then some.
const maxPages = 5

// Visit opens a URL like a person with a browser, whose client has a cookie jar, and goes through the pages of the provider
// until another site answers. The caller closes the body of that answer. With a client whose CheckRedirect
// stops at that site, it is the redirect there.
func (p *Provider) Visit(ctx context.Context, client *http.Client, from string, c Choice) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	for range maxPages {
		resp, err := client.Do(r)
		if err != nil {
			return nil, err
		}
		if !p.holds(resp.Request.URL) || resp.StatusCode/100 == 3 {
			return resp, nil
		}
		text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		if r, err = c.act(ctx, resp, string(text)); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("the provider shows more than %d pages", maxPages)
}

// holds reports whether a URL is one of the provider's.
func (p *Provider) holds(u *url.URL) bool {
	issuer, err := url.Parse(p.Issuer)
	return err == nil && u.Scheme == issuer.Scheme && u.Host == issuer.Host
}

// act returns the request that a person makes from a page.
func (c Choice) act(ctx context.Context, resp *http.Response, page string) (*http.Request, error) {
	form, abort := formAction.FindStringSubmatch(page), abortLink.FindStringSubmatch(page)
	if resp.StatusCode != http.StatusOK || form == nil || c.Cancel && abort == nil {
		return nil, fmt.Errorf("the provider answers %s: %.1000s", resp.Status, page)
	}
	if c.Cancel {
		to, err := resp.Request.URL.Parse(html.UnescapeString(abort[1]))
		if err != nil {
			return nil, err
		}
		return http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
	}
	to, err := resp.Request.URL.Parse(html.UnescapeString(form[1]))
	if err != nil {
		return nil, err
	}
	values := url.Values{"prompt": {"consent"}}
	if strings.Contains(page, `name="login"`) {
		values = url.Values{"prompt": {"login"}, "login": {c.Login}, "password": {"any"}}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), strings.NewReader(values.Encode()))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r, nil
}
