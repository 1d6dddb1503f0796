package dnsapi

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Cloudflare answers like version 4 of Cloudflare's API, below the path /client/v4.
type Cloudflare struct {
	trouble
	Token   string
	Zones   []CloudflareZone
	Changed func(name string, values []string) // is told what the name servers say of a name; may be nil

	mu      sync.Mutex
	records []cloudflareRecord
	ids     int
}

// CloudflareZone is a zone as the API shows it.
type CloudflareZone struct {
	ID          string   `json:"id"`
	Name        string   `json:"name"`
	Status      string   `json:"status"`
	Type        string   `json:"type"`
	NameServers []string `json:"name_servers"`
}

type cloudflareRecord struct {
	ID      string `json:"id"`
	Type    string `json:"type"`
	Name    string `json:"name"`
	Content string `json:"content"`
	TTL     int    `json:"ttl"`
	zone    string
}

// Put makes a record, as somebody else would.
func (c *Cloudflare) Put(zone, name, content string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(cloudflareRecord{Type: "TXT", Name: name, Content: content, TTL: 300, zone: zone})
}

func (c *Cloudflare) put(r cloudflareRecord) cloudflareRecord {
	c.ids++
	r.ID = fmt.Sprintf("%032x", c.ids)
	c.records = append(c.records, r)
	c.tell(r.Name)
	return r
}

func (c *Cloudflare) tell(name string) {
	if c.Changed != nil {
		c.Changed(name, c.values(name))
	}
}

// Values implements Server.
func (c *Cloudflare) Values(name string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.values(name)
}

func (c *Cloudflare) values(name string) (all []string) {
	for _, r := range c.records {
		if r.Name == name {
			all = append(all, r.Content)
		}
	}
	return all
}

// cloudflareError is an error of the API.
type cloudflareError struct {
	status  int
	Code    int               `json:"code"`
	Message string            `json:"message"`
	Chain   []cloudflareError `json:"error_chain,omitempty"`
}

// ServeHTTP implements http.Handler.
func (c *Cloudflare) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !c.strikes(w, r, c.serve) {
		c.serve(w, r)
	}
}

func (c *Cloudflare) serve(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	result, info, err := c.answer(r)
	answer := map[string]any{"success": err == nil, "errors": []any{}, "messages": []any{}, "result": result}
	if info != nil {
		answer["result_info"] = info
	}
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		answer["errors"] = []any{err}
		w.WriteHeader(err.status)
	}
	json.NewEncoder(w).Encode(answer)
}

// pageInfo tells where in a list a page is.
type pageInfo struct {
	Page       int `json:"page"`
	PerPage    int `json:"per_page"`
	Count      int `json:"count"`
	TotalCount int `json:"total_count"`
	TotalPages int `json:"total_pages"`
}

func (c *Cloudflare) answer(r *http.Request) (any, *pageInfo, *cloudflareError) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case !ok || len(token) < 10:
		return nil, nil, &cloudflareError{400, 6003, "Invalid request headers", []cloudflareError{{0, 6111, "Invalid format for Authorization header", nil}}}
	case token != c.Token:
		return nil, nil, &cloudflareError{403, 9109, "Invalid access token", nil}
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/client/v4/zones")
	parts := strings.Split(path, "/") // "", zone, dns_records, record
	switch at := fmt.Sprint(r.Method, " ", len(parts)); {
	case ok && at == "GET 1":
		return list(r.URL.Query(), 50, []string{"name"}, c.Zones, func(z CloudflareZone, q url.Values) bool {
			return q.Get("name") == "" || q.Get("name") == z.Name
		})
	case ok && len(parts) >= 3 && parts[2] == "dns_records":
		i := slices.IndexFunc(c.Zones, func(z CloudflareZone) bool { return z.ID == parts[1] })
		if i < 0 {
			break
		}
		zone := c.Zones[i]
		switch at {
		case "GET 3":
			return list(r.URL.Query(), 5000, []string{"type", "name"}, c.records, func(r cloudflareRecord, q url.Values) bool {
				return r.zone == zone.Name && (q.Get("type") == "" || q.Get("type") == r.Type) && (q.Get("name") == "" || q.Get("name") == r.Name)
			})
		case "POST 3":
			return c.create(r, zone)
		case "DELETE 4":
			return c.remove(zone, parts[3])
		}
	}
	return nil, nil, &cloudflareError{404, 7003, "Could not route to " + r.URL.Path + ", perhaps your object identifier is invalid?", nil}
}

// list is a page of what fits a query, which must hold nothing else.
func list[T any](q url.Values, most int, known []string, all []T, fits func(T, url.Values) bool) (any, *pageInfo, *cloudflareError) {
	info := &pageInfo{Page: 1, PerPage: 20}
	for name, to := range map[string]*int{"page": &info.Page, "per_page": &info.PerPage} {
		if text := q.Get(name); text != "" {
			*to, _ = strconv.Atoi(text)
		}
		q.Del(name)
	}
	if info.Page < 1 || info.PerPage < 5 || info.PerPage > most {
		return nil, nil, &cloudflareError{400, 1004, "Page or per_page is out of range", nil}
	}
	for name := range q {
		if !slices.Contains(known, name) {
			return nil, nil, &cloudflareError{400, 1001, "Unknown parameter " + name, nil}
		}
	}
	part := []T{}
	for _, one := range all {
		if !fits(one, q) {
			continue
		}
		if info.TotalCount++; info.TotalCount > (info.Page-1)*info.PerPage && len(part) < info.PerPage {
			part = append(part, one)
		}
	}
	info.Count, info.TotalPages = len(part), (info.TotalCount+info.PerPage-1)/info.PerPage
	return part, info, nil
}

func (c *Cloudflare) create(r *http.Request, zone CloudflareZone) (any, *pageInfo, *cloudflareError) {
	var record cloudflareRecord
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&record); kind != "application/json" || err != nil || record.ID != "" {
		return nil, nil, &cloudflareError{400, 9207, "Request body is invalid.", nil}
	}
	quoted := len(record.Content) > 2 && record.Content[0] == '"' && record.Content[len(record.Content)-1] == '"'
	switch {
	case record.Type != "TXT" || !quoted:
		return nil, nil, &cloudflareError{400, 9005, "Content for TXT record is invalid: it must be a quoted string.", nil}
	case !within(record.Name, zone.Name):
		return nil, nil, &cloudflareError{400, 9000, "DNS name is invalid: it does not lie in the zone.", nil}
	case record.TTL != 1 && (record.TTL < 60 || record.TTL > 86400):
		return nil, nil, &cloudflareError{400, 9021, "Invalid TTL. Must be between 60 and 86,400 seconds, or 1 for Automatic.", nil}
	case slices.Contains(c.values(record.Name), record.Content):
		return nil, nil, &cloudflareError{400, 81058, "An identical record already exists.", nil}
	}
	record.zone = zone.Name
	return c.put(record), nil, nil
}

func (c *Cloudflare) remove(zone CloudflareZone, id string) (any, *pageInfo, *cloudflareError) {
	i := slices.IndexFunc(c.records, func(r cloudflareRecord) bool { return r.ID == id && r.zone == zone.Name })
	if i < 0 {
		return nil, nil, &cloudflareError{404, 81044, "Record does not exist.", nil}
	}
	name := c.records[i].Name
	c.records = slices.Delete(c.records, i, i+1)
	c.tell(name)
	return map[string]string{"id": id}, nil, nil
}
