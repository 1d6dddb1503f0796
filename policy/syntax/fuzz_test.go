package syntax_test

import (
	"errors"
	"strings"
	"testing"

	"heddle/policy/syntax"
)

// FuzzParse: any text gives a policy, or errors that lie inside it and can be
// shown; one with errors is never open.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		`{}`, `[]`, "// c\n{/* d */ \"acls\": [{\"action\": \"accept\", \"src\": [\"*\"], \"dst\": [\"*:22,80-90\"],},],}",
		`{"groups": {"group:a": ["a@b.c"]}, "hosts": {"h": "10.0.0.0/8"}, "tagOwners": {"tag:x": ["group:a", "tag:x"]}}`,
		`{"ipsets": {"ipset:a": ["add 10.0.0.0/8", "remove ipset:b"], "ipset:b": ["10.0.0.1-10.0.0.9", "host:h", "ipset:a"]}}`,
		`{"postures": {"posture:p": ["node:os IN ['a', \"b\", 1, true]", "custom:x NOT  SET", "node:tsVersion>='1.2'"]}, "defaultSrcPosture": ["posture:p"]}`,
		`{"tagOwners": {"tag:x": []}, "grants": [{"src": ["a@"], "dst": ["tag:x"], "ip": ["tcp:80", "icmp:*"], "app": {"a.b/c": [{"d": null}]}, "via": ["tag:x"]}]}`,
		`{"ssh": [{"action": "check", "checkPeriod": "1h", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["localpart:*@b.c", "root"], "recorder": "tag:r"}]}`,
		`{"nodeAttrs": [{"target": ["*"], "attr": ["x"], "app": {"a/b": [1]}, "ipPool": ["100.64.0.0/16"]}], "autoApprovers": {"routes": {"::/0": ["a@b.c"]}, "services": {"svc:s": []}}}`,
		`{"tests": [{"src": "a@b.c", "proto": "tcp", "accept": ["[::1]:1"], "srcPostureAttrs": {"node:os": "x"}}], "sshTests": [{"dst": ["1.2.3.4"], "check": ["r"]}]}`,
		`{"attrConfig": {"custom:x": {"type": "bool", "allowSetByNode": true, "broadcastToPeers": ["tag:x"]}, "custom:": {"type": 1}}}`,
		`{"derpMap": {"Regions": {"1": null, "900": {"RegionID": 900}}}, "OneCGNATRoute": "mac-never", "disableIPv4": true}`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := syntax.Parse([]byte(text))
		if err == nil {
			if p == nil {
				t.Fatal("neither policy nor error")
			}
			return
		}
		var list syntax.Errors
		if !errors.As(err, &list) || len(list) == 0 || len(list) > syntax.MaxProblems {
			t.Fatalf("not an Errors: %v", err)
		}
		lines := 1 + strings.Count(text, "\n")
		for i, e := range list {
			if e.Msg == "" || e.Line > lines || (e.Line > 0) != (e.Column > 0) {
				t.Fatalf("error %+v of %d lines", e, lines)
			}
			if e.Line > 0 && !strings.HasSuffix(e.Excerpt([]byte(text)), "^\n") {
				t.Fatalf("error %+v has no excerpt", e)
			}
			if i > 0 && list[i-1].Line > e.Line {
				t.Fatalf("errors out of order: %v", err)
			}
		}
	})
}
