package zones

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/libdns/libdns"
)

// CloudflareAPI is where Cloudflare serves its API.
const CloudflareAPI = "https://api.cloudflare.com/client/v4"

const (
	// firstPause is that before the second try; it doubles.
	firstPause = time.Second
	// maxPause bounds what Retry-After may ask for: beyond that the caller's own next attempt is soon enough.
	maxPause = 30 * time.Second
	// maxAnswer bounds an answer; a full page of records is far smaller.
	maxAnswer = 4 << 20
	// zonesPerPage and recordsPerPage are what the API allows at most, or less.
	zonesPerPage, recordsPerPage = 50, 100
)

// Numbers of errors that the API's documentation lists.
const (
	thereAlready   = 81057 // such a record
	sameThere      = 81058 // an identical one
	recordGone     = 81044
	badHeader      = 6003 // Authorization does not look like a token
	invalidToken   = 9109
	cannotUseToken = 10000
)

// Cloudflare writes into zones at Cloudflare. It makes the four calls that this takes itself: the library of
// the makers is generated for all of their products, 800,000 lines and 11 MB of program to wrap the same requests. (Route 53 is
// another matter: Amazon's library knows the many places that credentials come from.)
type Cloudflare struct {
	token string
	api   string
	http  *http.Client
}

// NewCloudflare takes an API token with the rights Zone:Read and DNS:Edit. api is the URL of
// the API, client makes the requests; "" and nil are Cloudflare's and one of its own.
func NewCloudflare(token, api string, client *http.Client) *Cloudflare {
	if client == nil {
		client = &http.Client{}
	}
	return &Cloudflare{token, cmp.Or(api, CloudflareAPI), client}
}

// cloudflareZone is a zone as the API has it.
type cloudflareZone struct {
	ID          string   `json:"id"`
	Name        string   `json:"name"`
	Status      string   `json:"status"` // active, once the domain is delegated to Cloudflare
	NameServers []string `json:"name_servers"`
}

// cloudflareRecord is a record as the API has it.
type cloudflareRecord struct {
	ID      string `json:"id,omitempty"`
	Type    string `json:"type"`
	Name    string `json:"name"`    // absolute, without the final dot
	Content string `json:"content"` // of a TXT record in quotes, or as it was sent
	TTL     int    `json:"ttl"`     // seconds
}

// ListZones returns all that the token may see.
func (c *Cloudflare) ListZones(ctx context.Context) ([]libdns.Zone, error) {
	found, err := pages[cloudflareZone](ctx, c, "/zones", url.Values{"per_page": {strconv.Itoa(zonesPerPage)}})
	if err != nil {
		return nil, fmt.Errorf("cannot list the zones at Cloudflare: %w", err)
	}
	var names []libdns.Zone
	for _, z := range found {
		names = append(names, libdns.Zone{Name: z.Name})
	}
	return names, nil
}

// zone finds a zone by its name. Several accounts may have one of that name, of which one is in use.
func (c *Cloudflare) zone(ctx context.Context, name string) (*cloudflareZone, error) {
	name = canonical(name)
	found, err := pages[cloudflareZone](ctx, c, "/zones", url.Values{"name": {name}, "per_page": {strconv.Itoa(zonesPerPage)}})
	if err != nil {
		return nil, fmt.Errorf("cannot look for the zone %s at Cloudflare: %w", name, err)
	}
	found = slices.DeleteFunc(found, func(z cloudflareZone) bool { return canonical(z.Name) != name })
	active := slices.IndexFunc(found, func(z cloudflareZone) bool { return z.Status == "active" })
	switch {
	case len(found) == 0:
		return nil, fmt.Errorf("Cloudflare shows no zone %s to this token: give it the rights Zone:Read and DNS:Edit for that zone", name)
	case active < 0:
		return nil, fmt.Errorf("the zone %s at Cloudflare is %s: let its domain's registrar delegate it to Cloudflare's name servers", name, found[0].Status)
	}
	return &found[active], nil
}

// AppendRecords adds TXT records. One that is there already is no error: a try whose answer was lost may have made it.
func (c *Cloudflare) AppendRecords(ctx context.Context, zone string, recs []libdns.Record) ([]libdns.Record, error) {
	z, err := c.zone(ctx, zone)
	if err != nil {
		return nil, err
	}
	return each(zone, recs, func(t text) (bool, error) {
		record := cloudflareRecord{Type: "TXT", Name: t.name, Content: t.quoted(), TTL: int(t.ttl / time.Second)}
		err := c.call(ctx, http.MethodPost, "/zones/"+url.PathEscape(z.ID)+"/dns_records", record, nil)
		if told(err, thereAlready, sameThere) {
			err = nil
		}
		if err != nil {
			return false, fmt.Errorf("cannot write the record %s at Cloudflare: %w", t.name, err)
		}
		return true, nil
	})
}

// DeleteRecords removes TXT records of just these values, whatever their TTL.
func (c *Cloudflare) DeleteRecords(ctx context.Context, zone string, recs []libdns.Record) ([]libdns.Record, error) {
	z, err := c.zone(ctx, zone)
	if err != nil {
		return nil, err
	}
	path := "/zones/" + url.PathEscape(z.ID) + "/dns_records"
	return each(zone, recs, func(t text) (did bool, err error) {
		there, err := pages[cloudflareRecord](ctx, c, path, url.Values{"type": {"TXT"}, "name": {t.name}, "per_page": {strconv.Itoa(recordsPerPage)}})
		for _, r := range there {
			if err != nil || r.Type != "TXT" || canonical(r.Name) != t.name || r.Content != t.quoted() && r.Content != t.value {
				continue
			}
			if err = c.call(ctx, http.MethodDelete, path+"/"+url.PathEscape(r.ID), nil, nil); told(err, recordGone) {
				err = nil
			}
			did = true
		}
		if err != nil {
			return false, fmt.Errorf("cannot remove the record %s at Cloudflare: %w", t.name, err)
		}
		return did, nil
	})
}

// NameServers returns those that Cloudflare gave the zone; none if it does not tell.
func (c *Cloudflare) NameServers(ctx context.Context, zone string) (all []string) {
	z, err := c.zone(ctx, zone)
	if err != nil {
		return nil
	}
	for _, host := range z.NameServers {
		all = append(all, net.JoinHostPort(host, "53"))
	}
	return all
}

// pages gets a whole list.
func pages[T any](ctx context.Context, c *Cloudflare, path string, query url.Values) (all []T, err error) {
	for page := 1; page <= maxPages; page++ {
		query.Set("page", strconv.Itoa(page))
		var part struct {
			Result []T `json:"result"`
			Info   struct {
				Pages int `json:"total_pages"`
			} `json:"result_info"`
		}
		if err := c.call(ctx, http.MethodGet, path+"?"+query.Encode(), nil, &part); err != nil {
			return nil, err
		}
		all = append(all, part.Result...)
		if page >= part.Info.Pages {
			return all, nil
		}
	}
	return nil, fmt.Errorf("the list has more than %d pages: use a token for fewer zones, or set tls.acme.dns.zone", maxPages)
}

// apiError is what the API tells of an error.
type apiError struct {
	status int
	codes  []int
	text   string
}

func (e *apiError) Error() string {
	said := fmt.Sprintf("it answers %d %s", e.status, http.StatusText(e.status))
	if e.text != "" {
		said += ": " + e.text
	}
	switch {
	case e.status == http.StatusUnauthorized || e.status == http.StatusForbidden || told(e, badHeader, invalidToken, cannotUseToken):
		said += ": check tls.acme.dns.token, which needs the rights Zone:Read and DNS:Edit for the zone, must not have expired and be allowed from here"
	case e.status == http.StatusTooManyRequests:
		said += ": too many requests were made for this account; heddle tries again later"
	}
	return said
}

// told reports whether err is the API's, with one of the numbers.
func told(err error, codes ...int) bool {
	var e *apiError
	return errors.As(err, &e) && slices.ContainsFunc(e.codes, func(code int) bool { return slices.Contains(codes, code) })
}

// call makes a request, again if that may help, and decodes the answer into result unless it is nil.
func (c *Cloudflare) call(ctx context.Context, method, path string, body, result any) error {
	for n, pause := 1, firstPause; ; n, pause = n+1, 2*pause {
		after, err := c.try(ctx, method, path, body, result)
		if err == nil || after < 0 || n == tries || ctx.Err() != nil {
			return err
		}
		wait := time.NewTimer(min(max(pause, after), maxPause))
		select {
		case <-ctx.Done():
			wait.Stop()
			return err
		case <-wait.C:
		}
	}
}

// again are the statuses after which a request is made once more: too many of them, or a server in trouble.
// 520 to 524 are Cloudflare's own for servers behind it, among them those of its API.
func again(status int) bool {
	return status == http.StatusTooManyRequests || status >= 500 && status != http.StatusNotImplemented
}

// try makes a request once. After an error, the request may be made again no sooner than after; never if that is negative.
func (c *Cloudflare) try(ctx context.Context, method, path string, body, result any) (after time.Duration, err error) {
	const never = -1
	ctx, cancel := context.WithTimeout(ctx, answerIn)
	defer cancel()
	var sent io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return never, err
		}
		sent = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.api+path, sent)
	if err != nil {
		return never, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "heddle")
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return 0, err
	}
	var head struct {
		Success bool           `json:"success"`
		Errors  []errorMessage `json:"errors"`
	}
	unreadable := json.Unmarshal(answer, &head)
	if unreadable == nil && head.Success && resp.StatusCode/100 == 2 {
		if result == nil {
			return never, nil
		}
		return never, json.Unmarshal(answer, result)
	}
	e := &apiError{status: resp.StatusCode}
	e.add(head.Errors)
	if unreadable != nil {
		e.text = fmt.Sprintf("that is not what the API sends, but %.80q: is there a proxy in between?", answer)
	}
	if !again(resp.StatusCode) {
		return never, e
	}
	seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	return time.Duration(max(seconds, 0)) * time.Second, e
}

// errorMessage is one of the API's errors. Its causes say more than itself.
type errorMessage struct {
	Code    int            `json:"code"`
	Message string         `json:"message"`
	Chain   []errorMessage `json:"error_chain"`
}

// maxErrors bounds how many errors are passed on, and maxErrorText the length of each.
const maxErrors, maxErrorText = 5, 200

func (e *apiError) add(all []errorMessage) {
	for _, m := range all {
		if len(e.codes) == maxErrors {
			return
		}
		e.codes = append(e.codes, m.Code)
		if e.text != "" {
			e.text += "; "
		}
		e.text += fmt.Sprintf("%.*s (%d)", maxErrorText, m.Message, m.Code)
		e.add(m.Chain)
	}
}
