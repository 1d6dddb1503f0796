package policy_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"heddle/policy"
)

// crowd is a tailnet of 200 users, nodes of them, and a policy with a rule per line.
func crowd(t *testing.T, nodes int, rule func(i int) string, rules int, rest string) *policy.Compiled {
	t.Helper()
	var in policy.Tailnet
	for u := range 200 {
		in.Users = append(in.Users, policy.User{ID: policy.UserID(u + 1), Login: fmt.Sprintf("u%d@x.test", u)})
	}
	for n := range nodes {
		in.Nodes = append(in.Nodes, policy.Node{ID: policy.NodeID(n + 1), User: policy.UserID(n%200 + 1), IPv4: netip.AddrFrom4([4]byte{100, 64, byte(n >> 8), byte(n)})})
	}
	var lines []string
	for i := range rules {
		lines = append(lines, rule(i))
	}
	doc, err := policy.Parse([]byte("{\"acls\": [" + strings.Join(lines, ",") + "],\n" + rest + "}"))
	if err != nil {
		t.Fatal(err)
	}
	return policy.Compile(doc, in)
}

// TestTestsOfACrowd: nodes that are alike are tested once, so that tests of
// many nodes and rules fit into the work that they may cost.
func TestTestsOfACrowd(t *testing.T) {
	var hosts, tests []string
	for a := range 50 {
		hosts = append(hosts, fmt.Sprintf(`"100.64.0.%d:9"`, a+1))
	}
	for range 50 {
		tests = append(tests, fmt.Sprintf(`{"src": "autogroup:member", "deny": [%s]}`, strings.Join(hosts, ",")))
	}
	rule := func(i int) string {
		return fmt.Sprintf(`{"action": "accept", "src": ["u%d@x.test"], "dst": ["u%d@x.test:%d"]}`, i%200, (i*7)%200, i+10)
	}
	if err := crowd(t, 2000, rule, 1000, `"tests": [`+strings.Join(tests, ",")+"]").RunTests(); err != nil {
		t.Error(err)
	}
	// One of 2,000 nodes is different, and found.
	hole := func(int) string {
		return `{"action": "accept", "src": ["100.64.7.100"], "dst": ["u9@x.test:9"]}`
	}
	err := crowd(t, 2000, hole, 1, `"tests": [{"src": "autogroup:member", "deny": ["100.64.0.8:9"]}, {"src": "autogroup:member", "deny": ["u9@x.test:9"]}]`).RunTests()
	var all policy.Errors
	if !errors.As(err, &all) || len(all) != 1 || !strings.Contains(all[0].Msg, "autogroup:member (node 1893) may reach u9@x.test:9 (node 10)") {
		t.Error(err)
	}
}

func TestTestsThatAreTooMuchWork(t *testing.T) {
	many := strings.TrimSuffix(strings.Repeat(`"u199@x.test:9",`, 8000), ",")
	rule := func(i int) string {
		return fmt.Sprintf(`{"action": "accept", "src": ["u%d@x.test", "*"], "dst": ["u%d@x.test:9"]}`, i%200, i%200)
	}
	logins := strings.TrimSuffix(strings.Repeat(`"root",`, 20000), ",")
	var sshRules []string
	for i := range 500 {
		sshRules = append(sshRules, fmt.Sprintf(`{"action": "accept", "src": ["u%d@x.test"], "dst": ["tag:x"], "users": ["ubuntu"]}`, i%200))
	}
	for _, c := range []struct{ name, rest string }{
		{"access", `"tests": [{"src": "u1@x.test", "accept": ["u1@x.test:9"]},` + "\n" + `{"src": "autogroup:member", "deny": ["u1@x.test:10"], "accept": [` + many + "]},\n" +
			`{"src": "u1@x.test", "deny": ["u1@x.test:9"]}]`},
		{"ssh", `"tagOwners": {"tag:x": []}, "ssh": [` + strings.Join(sshRules, ",") + `], "sshTests": [{"src": "u1@x.test", "dst": ["tag:x"], "deny": ["root"]},` + "\n" +
			`{"src": "autogroup:member", "dst": ["tag:x"], "deny": [` + logins + `]}]`},
	} {
		err := crowd(t, 400, rule, 1000, c.rest).RunTests()
		var all policy.Errors
		if !errors.As(err, &all) || len(all) != 1 || all[0].Line != 3 || !strings.Contains(all[0].Msg, "too many nodes with too many rules") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
