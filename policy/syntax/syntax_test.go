package syntax_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"heddle/policy/syntax"
)

// TestRejected has, per element of the language, texts that must be refused
// with a message at the right place. "§" marks the place and is not part of
// the text.
func TestRejected(t *testing.T) {
	const tags = `"tagOwners": {"tag:a": ["ann@example.com"]},`
	for _, c := range []struct{ name, text, want string }{
		{"empty", ``, "unexpected EOF"},
		{"not an object", `§[]`, "policy must be an object"},
		{"null", `§null`, "policy must be an object"},
		{"syntax", "{\n  \"acls\": [§}\n}", "invalid character"},
		{"second value", `{} §{}`, "after top-level value"},
		{"unknown section", `{§"acl": []}`, `unknown field "acl"; the fields are OneCGNATRoute, acls,`},
		{"repeated section", `{"acls": [], §"ACLs": []}`, `"ACLs" repeats the field "acls"`},
		{"same key twice", `{"hosts": {"a": "10.0.0.1", §"a": "10.0.0.2"}}`, `"a" is there twice`},
		{"wrong type", `{"acls": §{}}`, "acls must be a list"},

		{"group name", `{"groups": {§"admins": []}}`, "group names start with 'group:'"},
		{"group in group", `{"groups": {"group:a": [§"group:b"]}}`, "groups in groups are not allowed"},
		{"tag in group", `{"groups": {"group:a": [§"tag:b"]}}`, `"tag:b" is not a user`},
		{"number in group", `{"groups": {"group:a": [§1]}}`, "must be a string"},
		{"host value", `{"hosts": {"a": §"b"}}`, `"b" is not an address or a CIDR`},
		{"host range", `{"hosts": {"a": §"10.0.0.1-10.0.0.9"}}`, `is not an address or a CIDR`},
		{"host name is an address", `{"hosts": {§"10.0.0.1": "10.0.0.2"}}`, "an address cannot be the name"},
		{"host name with a colon", `{"hosts": {§"a:b": "10.0.0.2"}}`, "plain word"},
		{"ipset name", `{"ipsets": {§"x": []}}`, "names start with 'ipset:'"},
		{"ipset element", `{"ipsets": {"ipset:x": [§"tag:a"]}}`, `"tag:a" is not an address`},
		{"ipset circle", `{"ipsets": {"ipset:x": ["ipset:y"], "ipset:y": [§"ipset:x"]}}`, "goes in a circle"},
		{"tag name without prefix", `{"tagOwners": {§"a": []}}`, "tags start with 'tag:'"},
		{"tag name starts with a digit", `{"tagOwners": {§"tag:1": []}}`, "must start with a letter"},
		{"tag name of another script", `{"tagOwners": {§"tag:сервер": []}}`, "must start with a letter"},
		{"tag name with a dot", `{"tagOwners": {§"tag:a.b": []}}`, "letters, digits and '-' only"},
		{"tag owner is not defined", `{"tagOwners": {"tag:a": [§"tag:b"]}}`, `tag not found: "tag:b"`},
		{"tag owner is a host", `{"hosts": {"h": "10.0.0.1"}, "tagOwners": {"tag:a": [§"h"]}}`, `"h" is not valid here`},

		{"attrConfig name", `{"attrConfig": {§"tier": {}}}`, `attributes are called custom:NAME`},
		{"attrConfig of a node attribute", `{"attrConfig": {§"node:os": {"allowSetByNode": true}}}`, `attributes are called custom:NAME`},
		{"attrConfig with a hyphen", `{"attrConfig": {§"custom:my-tier": {}}}`, `letters, digits and _`},
		{"attrConfig type", `{"attrConfig": {"custom:tier": {"type": §"int"}}}`, `"int" is not "string", "bool" or "number"`},
		{"attrConfig flag", `{"attrConfig": {"custom:tier": {"allowSetByNode": §"yes"}}}`, `must be true or false`},
		{"attrConfig unknown field", `{"attrConfig": {"custom:tier": {§"allowSet": true}}}`, `the fields are allowSetByNode, broadcastToPeers, type`},
		{"attrConfig list", `{"attrConfig": §[]}`, `attrConfig must be an object`},

		{"acl without action", `{"acls": [§{"src": ["*"], "dst": ["*:*"]}]}`, `needs "action": "accept"`},
		{"acl deny", `{"acls": [{"action": §"deny", "src": ["*"], "dst": ["*:*"]}]}`, `action="deny" is not supported`},
		{"acl unknown field", `{"acls": [{"action": "accept", §"sorce": ["*"]}]}`, `acl: unknown field "sorce"; the fields are action, dst, proto, src, srcPosture`},
		{"acl src tag", `{"acls": [{"action": "accept", "src": [§"tag:x"], "dst": ["*:*"]}]}`, `src: tag not found: "tag:x"`},
		{"acl src self", `{"acls": [{"action": "accept", "src": [§"autogroup:self"], "dst": ["*:*"]}]}`, `"autogroup:self" is not valid here`},
		{"acl src internet", `{"acls": [{"action": "accept", "src": [§"autogroup:internet"], "dst": ["*:*"]}]}`, `"autogroup:internet" is not valid here`},
		{"acl dst danger-all", `{"acls": [{"action": "accept", "src": ["*"], "dst": [§"autogroup:danger-all:*"]}]}`, `"autogroup:danger-all" is not valid here`},
		{"acl unknown autogroup", `{"acls": [{"action": "accept", "src": [§"autogroup:all"], "dst": ["*:*"]}]}`, `unknown autogroup "autogroup:all"`},
		{"acl shared", `{"acls": [{"action": "accept", "src": [§"autogroup:shared"], "dst": ["*:*"]}]}`, `not supported by this server: it has no sharing`},
		{"acl service", `{"acls": [{"action": "accept", "src": ["*"], "dst": [§"svc:web:443"]}]}`, `"svc:web": services are not supported`},
		{"acl domain", `{"acls": [{"action": "accept", "src": [§"user:*@"], "dst": ["*:*"]}]}`, `the domain is missing`},
		{"acl user", `{"acls": [{"action": "accept", "src": [§"@example.com"], "dst": ["*:*"]}]}`, `invalid address`},
		{"acl unknown host", `{"acls": [{"action": "accept", "src": [§"nohost"], "dst": ["*:*"]}]}`, `"nohost": invalid address`},
		{"acl bad cidr", `{"acls": [{"action": "accept", "src": [§"10.0.0.0/33"], "dst": ["*:*"]}]}`, `invalid address`},
		{"acl empty selector", `{"acls": [{"action": "accept", "src": [§""], "dst": ["*:*"]}]}`, `empty selector`},
		{"acl dst without port", `{"acls": [{"action": "accept", "src": ["*"], "dst": [§"10.0.0.1"]}]}`, `"10.0.0.1" has no port; write "10.0.0.1:*"`},
		{"acl named port", `{"acls": [{"action": "accept", "src": ["*"], "dst": [§"10.0.0.1:ssh"]}]}`, `port range "ssh": invalid first integer`},
		{"acl port 0", `{"acls": [{"action": "accept", "src": ["*"], "dst": [§"10.0.0.1:0"]}]}`, `invalid first integer`},
		{"acl port too high", `{"acls": [{"action": "accept", "src": ["*"], "dst": [§"10.0.0.1:1-65536"]}]}`, `invalid last integer`},
		{"acl inverted range", `{"acls": [{"action": "accept", "src": ["*"], "dst": [§"10.0.0.1:9-8"]}]}`, `ends before it starts`},
		{"acl proto", `{"acls": [{"action": "accept", "proto": §"quic", "src": ["*"], "dst": ["*:*"]}]}`, `proto "quic" is neither`},
		{"acl port of icmp", `{"acls": [{"action": "accept", "proto": "icmp", "src": ["*"], "dst": [§"*:80"]}]}`, `no ports; write "*:*"`},
		{"acl self from a tag", `{` + tags + ` "acls": [{"action": "accept", "src": [§"tag:a"], "dst": ["autogroup:self:*"]}]}`, "autogroup:self can only be used with"},
		{"acl posture", `{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"], "srcPosture": [§"posture:x"]}]}`, `posture not found: "posture:x"`},

		{"grant without ip and app", `{"grants": [§{"src": ["*"], "dst": ["*"]}]}`, "ip and app can not both be empty"},
		{"grant empty app", `{"grants": [§{"src": ["*"], "dst": ["*"], "app": {}}]}`, "ip and app can not both be empty"},
		{"grant all of IPv4", `{"grants": [{"src": ["*"], "dst": [§"0.0.0.0/0"], "ip": ["*"]}]}`, `use "*" or "autogroup:internet"`},
		{"grant app on internet", `{"grants": [{"src": ["*"], "dst": [§"autogroup:internet"], "app": {"a.com/b": []}}]}`, `app can not be granted on the internet`},
		{"grant bare proto", `{"grants": [{"src": ["*"], "dst": ["*"], "ip": [§"icmp"]}]}`, `port range "icmp": invalid first integer`},
		{"grant empty proto", `{"grants": [{"src": ["*"], "dst": ["*"], "ip": [§":80"]}]}`, `the protocol is missing`},
		{"grant port 0", `{"grants": [{"src": ["*"], "dst": ["*"], "ip": [§"tcp:0"]}]}`, `invalid first integer`},
		{"grant capability URL", `{"grants": [{"src": ["*"], "dst": ["*"], "app": {§"https://a.com/b": []}}]}`, `{domain}/{path}`},
		{"grant capability without path", `{"grants": [{"src": ["*"], "dst": ["*"], "app": {§"a.com": []}}]}`, `{domain}/{path}`},
		{"grant reserved capability", `{"grants": [{"src": ["*"], "dst": ["*"], "app": {§"tailscale.com/cap/relay-target": []}}]}`, `must not be in the tailscale.com domain`},
		{"grant capability value", `{"grants": [{"src": ["*"], "dst": ["*"], "app": {"a.com/b": §"x"}}]}`, `must be a list`},
		{"grant via user", `{"grants": [{"src": ["*"], "dst": ["10.0.0.0/8"], "ip": ["*"], "via": [§"ann@example.com"]}]}`, `via: "ann@example.com" is not valid here`},
		{"grant via unknown", `{"grants": [{"src": ["*"], "dst": ["10.0.0.0/8"], "ip": ["*"], "via": [§"tag:x"]}]}`, `tag not found`},
		{"grant self from anyone", `{"grants": [{"src": [§"*"], "dst": ["autogroup:self"], "ip": ["*"]}]}`, "autogroup:self can only be used with"},

		{"ssh action", `{` + tags + `"ssh": [{"action": §"Accept", "src": ["autogroup:member"], "dst": ["tag:a"], "users": ["root"]}]}`, `"Accept" is not a valid action`},
		{"ssh without action", `{` + tags + `"ssh": [§{"src": ["autogroup:member"], "dst": ["tag:a"], "users": ["root"]}]}`, `needs an action`},
		{"ssh without users", `{` + tags + `"ssh": [§{"action": "accept", "src": ["autogroup:member"], "dst": ["tag:a"]}]}`, `users must be specified`},
		{"ssh any login", `{` + tags + `"ssh": [{"action": "accept", "src": ["autogroup:member"], "dst": ["tag:a"], "users": [§"*"]}]}`, `user "*" is not valid`},
		{"ssh empty login", `{` + tags + `"ssh": [{"action": "accept", "src": ["autogroup:member"], "dst": ["tag:a"], "users": [§" "]}]}`, `user " " is not valid`},
		{"ssh localpart", `{` + tags + `"ssh": [{"action": "accept", "src": ["autogroup:member"], "dst": ["tag:a"], "users": [§"localpart:*@"]}]}`, `the domain is missing`},
		{"ssh src any", `{` + tags + `"ssh": [{"action": "accept", "src": [§"*"], "dst": ["tag:a"], "users": ["root"]}]}`, `"*" is not valid here`},
		{"ssh dst host", `{"hosts": {"h": "100.64.0.1"}, "ssh": [{"action": "accept", "src": ["autogroup:member"], "dst": [§"h"], "users": ["root"]}]}`, `"h" is not valid here; ssh rules go to`},
		{"ssh to another user", `{"ssh": [{"action": "accept", "src": [§"ann@example.com"], "dst": ["bob@example.com"], "users": ["root"]}]}`, `the source must be the same user`},
		{"ssh self from a tag", `{` + tags + `"ssh": [{"action": "accept", "src": [§"tag:a"], "dst": ["autogroup:self"], "users": ["root"]}]}`, `autogroup:self can only`},
		{"ssh period", `{` + tags + `"ssh": [{"action": "check", "checkPeriod": §"abc", "src": ["autogroup:member"], "dst": ["tag:a"], "users": ["root"]}]}`, `invalid duration "abc"`},
		{"ssh period too long", `{` + tags + `"ssh": [{"action": "check", "checkPeriod": §"169h", "src": ["autogroup:member"], "dst": ["tag:a"], "users": ["root"]}]}`, `not between 0 and 168h`},
		{"ssh negative period", `{` + tags + `"ssh": [{"action": "check", "checkPeriod": §"-1s", "src": ["autogroup:member"], "dst": ["tag:a"], "users": ["root"]}]}`, `not between`},
		{"ssh env", `{` + tags + `"ssh": [{"action": "accept", "acceptEnv": [§""], "src": ["autogroup:member"], "dst": ["tag:a"], "users": ["root"]}]}`, `acceptEnv`},
		{"ssh recorder", `{"ssh": [{"action": "accept", "recorder": [§"tag:rec"], "src": ["autogroup:member"], "dst": [], "users": ["root"]}]}`, `recorder: tag not found`},
		{"ssh enforce without recorder", `{"ssh": [§{"action": "accept", "enforceRecorder": true, "src": [], "dst": [], "users": ["root"]}]}`, `enforceRecorder needs a recorder`},

		{"approver prefix", `{"autoApprovers": {"routes": {§"10.0.0.1": []}}}`, `is not a CIDR`},
		{"approver tag", `{"autoApprovers": {"exitNode": [§"tag:x"]}}`, `tag not found`},
		{"approver address", `{"autoApprovers": {"exitNode": [§"10.0.0.1"]}}`, `is not valid here`},
		{"approver service", `{"autoApprovers": {"services": {§"web": []}}}`, `services are named svc:NAME`},
		{"attr target", `{"nodeAttrs": [{"target": [§"%x%"], "attr": ["a"]}]}`, `"%x%": invalid address`},
		{"attr self", `{"nodeAttrs": [{"target": [§"autogroup:self"], "attr": ["a"]}]}`, `is not valid here`},
		{"attr empty", `{"nodeAttrs": [{"target": ["*"], "attr": [§""]}]}`, `an empty string`},
		{"attr pool", `{"nodeAttrs": [{"target": ["*"], "ipPool": [§"10.0.0.0/8"]}]}`, `is not inside 100.64.0.0/10`},
		{"posture name", `{"postures": {§"x": ["node:os == 'linux'"]}}`, `names start with 'posture:'`},
		{"posture attribute", `{"postures": {"posture:x": [§"falcon:zta > 5"]}}`, `the attribute "falcon:zta" is not supported by this server`},
		{"posture operator", `{"postures": {"posture:x": [§"node:os ~ 'linux'"]}}`, `no operator after "node:os"`},
		{"posture value", `{"postures": {"posture:x": [§"node:os == linux"]}}`, `"linux" is not a quoted string`},
		{"posture list", `{"postures": {"posture:x": [§"node:os IN 'linux'"]}}`, `IN needs a list`},
		{"posture open string", `{"postures": {"posture:x": [§"node:os == 'linux"]}}`, `does not end`},
		{"posture empty", `{"postures": {§"posture:x": []}}`, `has no condition`},
		{"derp region", `{"derpMap": §{"Regions": {"900": {"RegionID": 901}}}}`, `region 900 has the RegionID 901`},
		{"derp type", `{"derpMap": §{"Regions": 1}}`, `derpMap`},
		{"cgnat", `{"OneCGNATRoute": §"always"}`, `"always" is not "mac-always"`},
		{"boolean", `{"randomizeClientPort": §"yes"}`, `must be true or false`},
		{"test field", `{"tests": [{"src": "a@b.c", §"acept": []}]}`, `unknown field "acept"`},

		{"in a comment's neighbourhood", "// first\n{ /* x */\n\t\"acls\": [\n\t\t{\"action\": §\"deny\"}, // no\n\t],\n}", `action="deny"`},
	} {
		before, after, marked := strings.Cut(c.text, "§")
		text := before + after
		_, err := syntax.Parse([]byte(text))
		var list syntax.Errors
		if !errors.As(err, &list) || len(list) == 0 {
			t.Errorf("%s: %v, want an error with %q", c.name, err, c.want)
			continue
		}
		e := list[0]
		if !strings.Contains(e.Msg, c.want) {
			t.Errorf("%s: %q, want %q", c.name, e.Msg, c.want)
		}
		line, column := 1+strings.Count(before, "\n"), len(before)-strings.LastIndexByte(before, '\n')
		if marked && (e.Line != line || e.Column != column) {
			t.Errorf("%s: at %d:%d, want %d:%d", c.name, e.Line, e.Column, line, column)
		}
		var first *syntax.Error
		if !errors.As(err, &first) || first != e {
			t.Errorf("%s: errors.As does not find the first error", c.name)
		}
	}
}

func TestByteOrderMark(t *testing.T) {
	if _, err := syntax.Parse([]byte("\ufeff{}")); err != nil {
		t.Error(err)
	}
}

func TestAllErrorsAtOnce(t *testing.T) {
	const text = `{
  "groups": {"admins": ["ann@example.com"]},
  "acls": [
    {"action": "deny", "src": ["tag:x", "tag:y"], "dst": ["host:x"]},
    {"action": "accept", "src": ["*"], "dst": ["*:*"], "proto": "what"},
  ],
  "ssh": [{"users": ["*"]}],
}`
	_, err := syntax.Parse([]byte(text))
	var list syntax.Errors
	if !errors.As(err, &list) {
		t.Fatal(err)
	}
	var got []string
	for _, e := range list {
		got = append(got, e.Error())
	}
	want := []string{"line 2, column 14: ", "line 4, column 16: ", "line 4, column 32: ", "line 4, column 41: ", "line 4, column 59: ", "line 5, column 65: ",
		"line 7, column 11: ", "line 7, column 22: "}
	if len(got) != len(want) {
		t.Fatalf("%d errors:\n%s", len(got), strings.Join(got, "\n"))
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("error %d: %s, want %s", i, got[i], want[i])
		}
	}
	if got, want := list[1].Excerpt([]byte(text)), "    {\"action\": \"deny\", \"src\": [\"tag:x\", \"tag:y\"], \"dst\": [\"host:x\"]},\n               ^\n"; got != want {
		t.Errorf("excerpt\n%s, want\n%s", got, want)
	}
}

func TestExcerpt(t *testing.T) {
	for _, c := range []struct {
		line, column int
		text, want   string
	}{
		{0, 0, "{}", ""},
		{3, 1, "{}", ""},
		{1, 1, "", "\n^\n"},
		{1, 99, "{}", "{}\n  ^\n"},
		{2, 3, "{\r\n\t\tx\r\n}", "\t\tx\n\t\t^\n"},
		{1, 301, strings.Repeat("-", 300) + "x" + strings.Repeat("-", 300), strings.Repeat("-", 80) + "x" + strings.Repeat("-", 79) + "\n" + strings.Repeat(" ", 80) + "^\n"},
		{1, 3, "\xff\xfex", "?x\n ^\n"},
	} {
		e := &syntax.Error{Line: c.line, Column: c.column}
		if got := e.Excerpt([]byte(c.text)); got != c.want {
			t.Errorf("%d:%d of %q: %q, want %q", c.line, c.column, c.text, got, c.want)
		}
	}
}

// TestLimits: hostile texts cost little and are refused with the limit.
func TestLimits(t *testing.T) {
	elements := func(n int, one string) string { return strings.TrimSuffix(strings.Repeat(one+",", n), ",") }
	for _, c := range []struct{ name, text, want string }{
		{"size", "{" + strings.Repeat(" ", 9<<20) + "}", "more than 8388608 are refused"},
		{"nesting", strings.Repeat("[", 5<<20), "nested more than 64 deep"},
		{"nesting after strings and comments", `{"[[": "\"[", /* [[ */ // [[` + "\n" + `"acls": ` + strings.Repeat("[", 64), "nested more than 64 deep"},
		{"destinations times ports", `{"grants": [{"src": ["*"], "dst": [` + elements(1000, `"10.0.0.1"`) + `], "ip": [` + elements(1000, `"80"`) + `]}]}`,
			"more than 100000 combinations"},
		{"ipsets", `{"ipsets": {"ipset:a": [` + elements(1000, `"10.0.0.1-10.255.255.254"`) + `], "ipset:b": [` + elements(9000, `"ipset:a"`) + `]}}`,
			"more than 20000 prefixes"},
		{"ipset removals", `{"ipsets": {"ipset:a": [` + elements(9000, `"10.0.0.1-10.0.0.2", "remove 10.0.0.1"`) + `]}}`, "or 1000 removals"},
		{"ipsets of ranges", `{"ipsets": {"ipset:a": [` + elements(9000, `"::1-ffff::fffe"`) + `]}}`, "more than 20000 prefixes"},
		{"errors", `{"acls": [` + elements(10000, `1`) + `]}`, "must be an object"},
	} {
		_, err := syntax.Parse([]byte(c.text))
		var list syntax.Errors
		if !errors.As(err, &list) || !strings.Contains(list[0].Msg, c.want) {
			t.Errorf("%s: %.200v, want %s", c.name, err, c.want)
		}
		if len(list) > 100 {
			t.Errorf("%s: %d errors", c.name, len(list))
		}
	}
}

// TestStandardize: JSON comes of any HuJSON but one that nobody can read.
func TestStandardize(t *testing.T) {
	src := []byte("[ // tests\n{\"src\": \"a\",},]")
	before := string(src)
	got, err := syntax.Standardize(src)
	if err != nil || !json.Valid(got) || string(src) != before {
		t.Errorf("%q, %v; the text is %q now", got, err, src)
	}
	for _, bad := range []string{"", "[", strings.Repeat("[", 4<<20)} {
		var list syntax.Errors
		if _, err := syntax.Standardize([]byte(bad)); !errors.As(err, &list) {
			t.Errorf("%.10s: %.100v", bad, err)
		}
	}
}

func TestAttrConfig(t *testing.T) {
	p, err := syntax.Parse([]byte(`{"attrConfig": {
		"custom:tier": {"type": "number", "allowSetByNode": true, "broadcastToPeers": []},
		"custom:x": {},
		"custom:y": {"broadcastToPeers": ["tag:a"]},
	}}`))
	if err != nil {
		t.Fatal(err)
	}
	if c := p.Customs["custom:tier"]; c != (syntax.Custom{Type: "number", SetByNode: true}) || p.Customs["custom:x"].SetByNode || len(p.Customs) != 3 {
		t.Errorf("%+v", p.Customs)
	}
	if len(p.Features) != 1 || p.Features[0].Name != syntax.FeatureBroadcast || p.Features[0].Line != 4 {
		t.Errorf("%+v", p.Features)
	}
}
