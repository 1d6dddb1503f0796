package oidc

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"heddle/control/tailnet"
	"heddle/policy"

	"github.com/google/go-cmp/cmp"
)

func mustRead(t *testing.T, text string) claims {
	t.Helper()
	c, err := readClaims([]byte(text))
	if err != nil {
		t.Fatal(text, err)
	}
	return c
}

func TestClaimPaths(t *testing.T) {
	c := mustRead(t, `{
		"groups": ["a"],
		"https://example.com/groups": ["b"],
		"realm_access": {"roles": ["c"]},
		"resource_access": {"my.client": {"roles": ["d"]}, "my": {"client": {"roles": ["e"]}}},
		"a": {"b": ["f"], "c": ["x"]},
		"a.b": ["g"],
		"x": "y"
	}`)
	for path, want := range map[string][]string{
		"groups":                          {"a"},
		"https://example.com/groups":      {"b"},
		"realm_access.roles":              {"c"},
		"resource_access.my.client.roles": {"d"}, // the longer name wins
		"a.b":                             {"g"},
		"a.c":                             {"x"},
		"x":                               {"y"},
		"x.y":                             nil,
		"realm_access.":                   nil,
		".roles":                          nil,
		".":                               nil,
		"":                                nil,
		"GROUPS":                          nil,
	} {
		v, ok := sources{c}.at(path)
		if got := stringsOf(v); !slices.Equal(got, want) || ok != (want != nil) {
			t.Errorf("%q is %q, %v; want %q", path, got, ok, want)
		}
	}
}

func TestGroups(t *testing.T) {
	for _, tt := range []struct {
		text string
		want []string
		left bool
	}{
		{`null`, []string{}, false},
		{`[]`, []string{}, false},
		{`"dev"`, []string{"dev"}, false},
		{`["ops", "dev", "ops"]`, []string{"dev", "ops"}, false},
		{`["ops", 7, null, ["x"]]`, []string{"ops"}, false},
		{`{"admin": {"1": "example.com"}, "viewer": {}}`, []string{"admin", "viewer"}, false},
		{`["", "a\nb", "ok", "` + strings.Repeat("x", 201) + `"]`, []string{"ok"}, true},
		{`["Größe", "a b"]`, []string{"Größe", "a b"}, false},
		{`7`, []string{}, false},
	} {
		var v any
		if err := json.Unmarshal([]byte(tt.text), &v); err != nil {
			t.Fatal(err)
		}
		if got, left := groupsOf(v); !cmp.Equal(got, tt.want) || left != tt.left {
			t.Errorf("%.50s gives %q, %v; want %q, %v", tt.text, got, left, tt.want, tt.left)
		}
	}
}

func TestRoles(t *testing.T) {
	for _, tt := range []struct {
		text    string
		want    policy.Role
		unknown string
	}{
		{`"admin"`, policy.Admin, ""},
		{`"emperor"`, policy.Member, "emperor"},
		{`"Admin"`, policy.Member, "Admin"},
		{`"owner"`, policy.Member, "owner"},
		{`["owner", "auditor"]`, policy.Auditor, ""},
		{`""`, policy.Member, ""},
		{`["auditor", "network-admin", "x"]`, policy.NetworkAdmin, ""},
		{`["offline_access"]`, policy.Member, ""},
		{`[]`, policy.Member, ""},
		{`null`, policy.Member, ""},
		{`7`, policy.Member, ""},
		{`{"admin": 1}`, policy.Member, ""},
	} {
		var v any
		if err := json.Unmarshal([]byte(tt.text), &v); err != nil {
			t.Fatal(err)
		}
		if got, unknown := roleOf(v); got != tt.want || unknown != tt.unknown {
			t.Errorf("%s gives %q, %q; want %q, %q", tt.text, got, unknown, tt.want, tt.unknown)
		}
	}
}

func TestEmail(t *testing.T) {
	for _, tt := range []struct {
		token, userinfo string
		want            string
		verified        bool
	}{
		{`{"email":"Ann@Example.COM","email_verified":true}`, `{}`, "ann@example.com", true},
		{`{"email":"ann@example.com","email_verified":"true"}`, `{}`, "ann@example.com", true},
		{`{"email":"ann@example.com","email_verified":"yes"}`, `{}`, "ann@example.com", false},
		{`{"email":"ann@example.com","email_verified":1}`, `{}`, "ann@example.com", false},
		{`{"email":"ann@example.com"}`, `{}`, "ann@example.com", false},
		{`{"email":"ann@example.com"}`, `{"email":"ann@example.com","email_verified":true}`, "ann@example.com", true},
		{`{"email":"ann@example.com"}`, `{"email_verified":true}`, "ann@example.com", false},
		{`{"email":"ann@example.com"}`, `{"email":"eve@example.com","email_verified":true}`, "ann@example.com", false},
		{`{"email":"ann@example.com","email_verified":false}`, `{"email":"ann@example.com","email_verified":true}`, "ann@example.com", false},
		{`{"email_verified":true}`, `{"email":"ann@example.com"}`, "ann@example.com", false},
		{`{"email":"bo\u017fs@example.com","email_verified":true}`, `{}`, "", false},
		{`{"email":"fran\u212a@example.com","email_verified":true}`, `{}`, "", false},
		{`{}`, `{"email":"ann@example.com","email_verified":true}`, "ann@example.com", true},
		{`{"EMAIL":"ann@example.com","email_verified":true}`, `{}`, "", false},
		{`{"email":["ann@example.com"],"email_verified":true}`, `{}`, "", false},
		{`{"email":"ann","email_verified":true}`, `{}`, "", false},
		{`{"email":"@example.com","email_verified":true}`, `{}`, "", false},
		{`{"email":"ann@","email_verified":true}`, `{}`, "", false},
		{`{"email":"ann@example.com\n","email_verified":true}`, `{}`, "", false},
		{`{"email":"ann eve@example.com","email_verified":true}`, `{}`, "", false},
		{`{"email":"` + strings.Repeat("a", 250) + `@example.com","email_verified":true}`, `{}`, "", false},
	} {
		s := sources{mustRead(t, tt.token), mustRead(t, tt.userinfo)}
		if got, verified := s.email(); got != tt.want || verified != tt.verified {
			t.Errorf("%.80s and %s give %q, %v; want %q, %v", tt.token, tt.userinfo, got, verified, tt.want, tt.verified)
		}
	}
}

// TestProfile looks at what is kept of odd claims.
func TestProfile(t *testing.T) {
	groups := make([]string, 600)
	for i := range groups {
		groups[i] = fmt.Sprintf("g%03d", i)
	}
	many, err := json.Marshal(groups)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, text string
		allow      Allow
		want       tailnet.Profile
		log        string
	}{
		{"nothing", `{}`, Allow{}, tailnet.Profile{Groups: []string{}}, ""},
		{"one line of text", `{"name":" Ann\u202e\n\u0000 Arbor ","preferred_username":"` + strings.Repeat("ä", 150) + `"}`, Allow{},
			tailnet.Profile{Name: strings.Repeat("ä", 100), DisplayName: "Ann Arbor", Groups: []string{}}, ""},
		{"nickname", `{"nickname":"annie"}`, Allow{}, tailnet.Profile{Name: "annie", Groups: []string{}}, ""},
		{"picture of a script", `{"picture":"javascript:alert(1)"}`, Allow{}, tailnet.Profile{Groups: []string{}}, ""},
		{"picture in the claim", `{"picture":"data:image/png;base64,AAAA"}`, Allow{}, tailnet.Profile{Groups: []string{}}, ""},
		{"picture without TLS", `{"picture":"http://example.com/a.png"}`, Allow{}, tailnet.Profile{Groups: []string{}}, ""},
		{"picture", `{"picture":"https://example.com/a.png?s=1"}`, Allow{}, tailnet.Profile{PictureURL: "https://example.com/a.png?s=1", Groups: []string{}}, ""},
		{"too many groups, the last of which may join", `{"groups":` + string(many) + `}`, Allow{Groups: []string{"g599"}}, tailnet.Profile{Groups: groups[:500]}, "some groups of a person are left out"},
		{"groups elsewhere", `{"_claim_names":{"groups":"src1"}}`, Allow{}, tailnet.Profile{}, "keeps the groups of a person elsewhere"},
		{"unknown role", `{"role":"emperor"}`, Allow{}, tailnet.Profile{Groups: []string{}}, "role=emperor"},
		{"role", `{"role":"auditor"}`, Allow{}, tailnet.Profile{Role: policy.Auditor, Groups: []string{}}, ""},
	} {
		var log strings.Builder
		p := &provider{Config: Config{Name: "corp", Issuer: "https://idp.example", Allow: tt.allow, Claims: Claims{Groups: "groups", Role: "role"}}}
		got, err := p.profile(sources{mustRead(t, tt.text)}, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		tt.want.Identity.Issuer, tt.want.Provider = "https://idp.example", "corp"
		if tt.want.Role == "" {
			tt.want.Role = policy.Member
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
		if !strings.Contains(log.String(), tt.log) || (log.Len() > 0) != (tt.log != "") {
			t.Errorf("%s: logged %s", tt.name, &log)
		}
	}
}

// FuzzClaims holds that whatever a provider says, what is kept of it can be shown and has bounds.
func FuzzClaims(f *testing.F) {
	for _, text := range []string{
		`{}`, `null`, `[]`, `{"email":"a@b","email_verified":true,"groups":["x"],"a":{"b":["owner"]}}`,
		`{"groups":{"x":1},"a.b":"admin","name":"\ud800","picture":"https://x/%zz","exp":1e300,"aud":["a",1]}`,
		`{"a":{"b":{"a":{"b":"member"}}},"_claim_names":{"groups":"s"}}`,
	} {
		f.Add([]byte(text), "a.b")
	}
	f.Fuzz(func(t *testing.T, text []byte, path string) {
		c, err := readClaims(text)
		if err != nil {
			return
		}
		p := &provider{Config: Config{AllowUnverifiedEmail: true, Claims: Claims{Groups: "groups", Role: path}}}
		p.lacks(c)
		checkTimes(c, time.Unix(1e9, 0))
		checkFresh(c, &flow{fresh: true})
		c.list("aud")
		got, err := p.profile(sources{c, c}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err) // there are no rules
		}
		for _, s := range append([]string{got.Email, got.Name, got.DisplayName, got.PictureURL}, got.Groups...) {
			if len(s) > maxPicture || !utf8.ValidString(s) || oneLine(s, maxPicture) != s {
				t.Errorf("%q is kept", s)
			}
		}
		if len(got.Groups) > maxGroups || !slices.IsSorted(got.Groups) {
			t.Errorf("the groups are %q", got.Groups)
		}
		if got.Role != "" && !slices.Contains(roles, got.Role) {
			t.Errorf("the role is %q", got.Role)
		}
	})
}
