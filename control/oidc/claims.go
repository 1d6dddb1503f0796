package oidc

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"heddle/policy"
)

// claims is a JSON object that a provider made. Its names are case-sensitive.
type claims map[string]any

var errNoClaims = errors.New("its claims are no JSON object")

func readClaims(text []byte) (claims, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	var c claims
	if err := dec.Decode(&c); err != nil || c == nil || dec.More() {
		return nil, errNoClaims
	}
	return c, nil
}

// raw returns a claim that is a string as it is; "" for others.
func (c claims) raw(name string) string {
	s, _ := c[name].(string)
	return s
}

// list returns the strings of a claim that is one or a list of them.
func (c claims) list(name string) []string { return stringsOf(c[name]) }

// time returns a claim that is a point in time, in seconds since 1970; zero if it is none.
func (c claims) time(name string) time.Time {
	// The end of the year 9999 is far enough, and fits any integer.
	if f, ok := c[name].(float64); ok && f > 0 && f < 253402300800 {
		return time.Unix(int64(f), 0)
	}
	return time.Time{}
}

// at returns the value at a path: a name, or names of nested objects with dots between them.
// Names that hold dots themselves are found, too; the longer one wins.
func (c claims) at(path string) (v any, ok bool) {
	if v, ok := c[path]; ok {
		return v, true
	}
	for end := strings.LastIndexByte(path, '.'); end > 0; end = strings.LastIndexByte(path[:end], '.') {
		if inner, ok := c[path[:end]].(map[string]any); ok {
			if v, ok := claims(inner).at(path[end+1:]); ok {
				return v, true
			}
		}
	}
	return nil, false
}

// sources are the claims about one person, those of the ID token first.
type sources []claims

func (s sources) at(path string) (any, bool) {
	for _, c := range s {
		if v, ok := c.at(path); ok && path != "" {
			return v, true
		}
	}
	return nil, false
}

// line returns the first claim of the names that holds a line of text, cut to most bytes.
func (s sources) line(most int, names ...string) string {
	for _, name := range names {
		for _, c := range s {
			if text := oneLine(c.raw(name), most); text != "" {
				return text
			}
		}
	}
	return ""
}

// email returns the e-mail address in lower case, and whether the provider calls it verified. What one
// source says of an address does not count for another address of another source.
func (s sources) email() (address string, verified bool) {
	for _, c := range s {
		a := c.raw("email")
		if !isEmail(a) {
			continue
		}
		if a = strings.ToLower(a); address != "" && a != address {
			continue
		}
		address = a
		if v, ok := c["email_verified"]; ok {
			return a, v == true || v == "true" // some providers write a string
		}
	}
	return address, false
}

// picture returns the URL of a picture that a page can show; "" if there is none.
func (s sources) picture() string {
	text := s.line(maxPicture+1, "picture")
	u, err := url.Parse(text)
	if err != nil || len(text) > maxPicture || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return ""
	}
	return text
}

// elsewhere reports whether a claim is said to be kept by another service (OpenID Connect Core
// §5.6.2), which is how some providers say that there are too many groups.
func (s sources) elsewhere(path string) bool {
	return slices.ContainsFunc(s, func(c claims) bool {
		names, _ := c["_claim_names"].(map[string]any)
		_, ok := names[path]
		return ok
	})
}

const (
	maxSubject = 255 // OpenID Connect Core §2
	maxEmail   = 254 // RFC 5321 §4.5.3.1.3 without the brackets
	maxName    = 200
	maxPicture = 2000

	// maxGroups bounds what is kept of the groups of one person; maxGroup is the
	// length of a name.
	maxGroups = 500
	maxGroup  = 200
)

// groupsOf returns the names that v holds, sorted, and whether some were left out. Never nil.
func groupsOf(v any) (names []string, left bool) {
	all := stringsOf(v)
	if object, ok := v.(map[string]any); ok {
		all = slices.Sorted(maps.Keys(object))
	}
	names = []string{}
	for _, name := range all {
		if name == "" || len(name) > maxGroup || oneLine(name, maxGroup) != name {
			left = true
			continue
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names), left
}

// roles are those that a claim can give, the mightiest first. Who is an owner is decided here and
// not by providers.
var roles = []policy.Role{
	policy.Admin, policy.NetworkAdmin, policy.ITAdmin, policy.BillingAdmin, policy.Auditor, policy.Member,
}

// roleOf returns the mightiest role that v names. Of a claim that is absent, or a list that names no role, the
// person is a member: whoever loses a role at the provider loses it here. A single
// name that is no role is returned as well, as it may be a mistake in the setup.
func roleOf(v any) (role policy.Role, unknown string) {
	names := stringsOf(v)
	for _, r := range roles {
		if slices.Contains(names, string(r)) {
			return r, ""
		}
	}
	if s, ok := v.(string); ok && s != "" {
		return policy.Member, s
	}
	return policy.Member, ""
}

// stringsOf returns v if it is a string, or the strings in it if it is a list.
func stringsOf(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var list []string
		for _, item := range v {
			if s, ok := item.(string); ok {
				list = append(list, s)
			}
		}
		return list
	}
	return nil
}

func isSubject(s string) bool {
	return s != "" && len(s) <= maxSubject && oneLine(s, maxSubject) == s
}

// isEmail reports whether s is an address. Two letters count as s and k where upper and lower case
// are the same, and so would make one address another.
func isEmail(s string) bool {
	at := strings.LastIndexByte(s, '@')
	return at > 0 && at < len(s)-1 && len(s) <= maxEmail && oneLine(s, maxEmail) == s && !strings.ContainsAny(s, " \u017f\u212a")
}

// oneLine returns text without what cannot be shown in one line, and at most so many bytes of it.
func oneLine(text string, most int) string {
	text = strings.ToValidUTF8(text, "")
	text = strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, text))
	for len(text) > most {
		_, size := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-size]
	}
	return text
}
