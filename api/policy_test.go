package api_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"heddle/api"
	"heddle/control/tailnet"
	"heddle/policy"
	v1 "heddle/proto/heddle/v1"

	"google.golang.org/grpc/codes"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

func newPolicyWorld(t *testing.T, edit ...func(*api.Options)) (*world, v1.PolicyServiceClient) {
	t.Helper()
	w := newWorld(t, edit...)
	return w, v1.NewPolicyServiceClient(w.local())
}

// join adds a node of a user.
func (w *world) join(u tailnet.UserID, name string, routes ...string) tailnet.NodeID {
	w.t.Helper()
	var id tailnet.NodeID
	w.must(func(tx *tailnet.Tx) error {
		h := &tailcfg.Hostinfo{Hostname: name, OS: "linux"}
		for _, r := range routes {
			h.RoutableIPs = append(h.RoutableIPs, netip.MustParsePrefix(r))
		}
		n, err := tx.RegisterForUser(tailnet.Registration{Machine: key.NewMachine().Public(), Key: key.NewNode().Public(), Hostinfo: h}, u, tailnet.ByCLI)
		if err == nil {
			id = n.ID
		}
		return err
	})
	return id
}

func (w *world) user(name string) tailnet.UserID {
	w.t.Helper()
	var id tailnet.UserID
	w.must(func(tx *tailnet.Tx) error {
		u, err := tx.CreateUser(tailnet.User{Name: name})
		if err == nil {
			id = u.ID
		}
		return err
	})
	return id
}

func TestPolicyHistory(t *testing.T) {
	w, c := newPolicyWorld(t)
	ctx := t.Context()
	if list, err := c.ListPolicies(ctx, &v1.ListPoliciesRequest{}); err != nil || len(list.GetVersions()) > 0 {
		t.Fatal(list, err)
	}
	_, err := c.RollbackPolicy(ctx, &v1.RollbackPolicyRequest{Version: "1"})
	wantCode(t, err, codes.NotFound, `"1"`)
	_, err = c.RollbackPolicy(ctx, &v1.RollbackPolicyRequest{})
	wantCode(t, err, codes.InvalidArgument, "which policy")

	var revisions, etags []string
	for i := range 5 {
		w.user(fmt.Sprint("u", i)) // commits between the policies leave gaps
		set, err := c.SetPolicy(ctx, &v1.SetPolicyRequest{Policy: fmt.Sprintf(`{"acls": []} /* %d */`, i)})
		if err != nil {
			t.Fatal(err)
		}
		revisions, etags = append(revisions, fmt.Sprint(set.GetRevision())), append(etags, set.GetEtag())
	}
	var got []string
	for token := ""; ; {
		list, err := c.ListPolicies(ctx, &v1.ListPoliciesRequest{PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range list.GetVersions() {
			got = append(got, fmt.Sprint(v.GetRevision()))
			if v.GetCurrent() != (len(got) == 1) || v.GetUpdatedAt() == nil || v.GetUpdatedBy() == "" || v.GetSize() == 0 {
				t.Errorf("%v", v)
			}
		}
		if token = list.GetNextPageToken(); token == "" {
			break
		}
	}
	if want := []string{revisions[4], revisions[3], revisions[2], revisions[1], revisions[0]}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("history %v, want %v", got, want)
	}
	_, err = c.ListPolicies(ctx, &v1.ListPoliciesRequest{PageToken: "!"})
	wantCode(t, err, codes.InvalidArgument, "page_token")

	for _, ref := range []string{revisions[1], etags[1], etags[1][:8]} {
		old, err := c.GetPolicy(ctx, &v1.GetPolicyRequest{Version: ref})
		if err != nil || old.GetPolicy() != `{"acls": []} /* 1 */` || fmt.Sprint(old.GetRevision()) != revisions[1] {
			t.Errorf("%s: %v, %v", ref, old, err)
		}
	}
	for _, ref := range []string{"0", "-1", "1", "99", "999999999999999999999", etags[1][:7], strings.Repeat("0", 64), "%"} {
		_, err := c.GetPolicy(ctx, &v1.GetPolicyRequest{Version: ref})
		wantCode(t, err, codes.NotFound, "heddle policy history")
	}
	_, err = c.RollbackPolicy(ctx, &v1.RollbackPolicyRequest{Version: revisions[1], IfMatch: etags[2]})
	wantCode(t, err, codes.Aborted, "changed")
	back, err := c.RollbackPolicy(ctx, &v1.RollbackPolicyRequest{Version: revisions[1], IfMatch: etags[4]})
	if err != nil || back.GetEtag() != etags[1] || fmt.Sprint(back.GetFromRevision()) != revisions[1] || fmt.Sprint(back.GetRevision()) == revisions[1] {
		t.Errorf("%v, %v", back, err)
	}
	if src := w.state.Snapshot().Policy().Source; src != `{"acls": []} /* 1 */` {
		t.Errorf("in force is %s", src)
	}
}

// An earlier policy is checked like a new one.
func TestRollbackToWhatFailsNow(t *testing.T) {
	w, c := newPolicyWorld(t)
	alice := w.user("alice@example.com")
	n := w.join(alice, "laptop")
	old, err := c.SetPolicy(t.Context(), &v1.SetPolicyRequest{Policy: `{"acls": [{"action": "accept", "src": ["alice@example.com"], "dst": ["alice@example.com:22"]}],
		"tests": [{"src": "alice@example.com", "accept": ["100.64.0.1:22"]}]}`})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.SetPolicy(t.Context(), &v1.SetPolicyRequest{Policy: "{}"}); err != nil {
		t.Fatal(err)
	}
	w.must(func(tx *tailnet.Tx) error { return tx.SetTags(n, []string{"tag:x"}) })
	_, err = c.RollbackPolicy(t.Context(), &v1.RollbackPolicyRequest{Version: fmt.Sprint(old.GetRevision())})
	wantCode(t, err, codes.InvalidArgument, "line 2, column")
}

func TestDryRun(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice@example.com")
	w.join(alice, "laptop")
	w.join(alice, "gateway", "10.0.0.0/8")
	auditor := with(t, "Bearer "+w.key(tailnet.APIKeySpec{Role: policy.Auditor}))
	remote := v1.NewPolicyServiceClient(w.remote(true, "203.0.113.1:1"))
	req := &v1.SetPolicyRequest{DryRun: true, Policy: `{"acls": [{"action": "accept", "src": ["alice@example.com"], "dst": ["*:22"]}],
		"autoApprovers": {"routes": {"10.0.0.0/8": ["alice@example.com"]}}, "nodeAttrs": [{"target": ["*"], "attr": ["x"]}]}`}
	before := w.state.Snapshot()
	resp, err := remote.SetPolicy(auditor, req)
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, ch := range resp.GetImpact().GetChanges() {
		got += fmt.Sprintln(ch.GetSources().GetNames(), ch.GetDestinations().GetNames(), ch.GetGained(), ch.GetLost())
	}
	want := "[laptop gateway] [laptop] [] [0-21,23-65535]\n[laptop gateway] [gateway] [22 at 10.0.0.0/8] [0-21,23-65535]\n"
	if got != want || fmt.Sprint(resp.GetImpact().GetApprovals()) != "[gateway 10.0.0.0/8]" || resp.GetImpact().GetCapabilities().GetCount() != 2 {
		t.Errorf("%v\n%swant\n%s", resp.GetImpact(), got, want)
	}
	if w.state.Snapshot().Policy() != before.Policy() || resp.GetRevision() != 0 {
		t.Error("a dry run changed something")
	}
	req.IfMatch = "abc"
	_, err = remote.SetPolicy(auditor, req)
	wantCode(t, err, codes.Aborted, "changed")
	req.IfMatch, req.DryRun = "", false
	_, err = remote.SetPolicy(auditor, req)
	wantCode(t, err, codes.PermissionDenied, "admin")
}

func TestPolicyFromFile(t *testing.T) {
	var refused error
	_, c := newPolicyWorld(t, func(o *api.Options) {
		file := &api.PolicyFile{Path: "/etc/p.hujson", Refused: func() ([]byte, error) { return []byte("{\n]"), refused }}
		o.PolicyFile = func() *api.PolicyFile { return file }
	})
	get := func() *v1.GetPolicyResponse {
		t.Helper()
		resp, err := c.GetPolicy(t.Context(), &v1.GetPolicyRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	if p := get(); p.GetFile() != "/etc/p.hujson" || p.GetRefused() != nil {
		t.Errorf("%v", p)
	}
	_, refused = policy.Parse([]byte("{\n]"))
	if r := get().GetRefused(); len(r.GetProblems()) != 1 || r.GetProblems()[0].GetExcerpt() != "]\n^\n" || !strings.Contains(r.GetMessage(), "/etc/p.hujson") {
		t.Errorf("%v", r)
	}
	refused = tailnet.Errorf(tailnet.Unavailable, "it cannot be read: gone")
	if r := get().GetRefused(); len(r.GetProblems()) != 0 || !strings.Contains(r.GetMessage(), "gone") {
		t.Errorf("%v", r)
	}
	_, err := c.RollbackPolicy(t.Context(), &v1.RollbackPolicyRequest{Version: "1"})
	wantCode(t, err, codes.FailedPrecondition, "/etc/p.hujson")
	if _, err := c.SetPolicy(t.Context(), &v1.SetPolicyRequest{Policy: "{}", DryRun: true}); err != nil {
		t.Error(err)
	}
}

func TestExplain(t *testing.T) {
	w, c := newPolicyWorld(t)
	alice, bob := w.user("alice@example.com"), w.user("bob@example.com")
	w.join(alice, "laptop")
	gateway := w.join(bob, "gateway", "10.1.0.0/16", "0.0.0.0/0", "::/0")
	w.must(func(tx *tailnet.Tx) error {
		return tx.ApproveRoutes(gateway, tailnet.RouteEdit{Add: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("0.0.0.0/0")}})
	})
	const source = `{
	"grants": [{"src": ["autogroup:member"], "dst": ["autogroup:internet"], "ip": ["tcp:443"]}],
	"ACLs": [
		{"action": "accept", "src": ["alice@example.com"], "dst": ["bob@example.com:22"]}, {"action": "accept", "src": ["alice@example.com"], "dst": ["bob@example.com:*"]},
		// the office
		{"action": "accept", "src": ["alice@example.com"], "dst": ["10.1.2.0/24:80"]},
		{"action": "accept", "src": ["10.1.0.0/16"], "dst": ["alice@example.com:8080"]},
	]}`
	for _, req := range []struct {
		src, dst string
		port     uint32
		proto    string
		allowed  bool
		lines    string
		via      string
	}{
		{"laptop", "gateway", 22, "", true, "[4]", "[gateway]"},
		{"1", "2", 22, "tcp", true, "[4]", "[gateway]"},
		{"100.64.0.1", "100.64.0.2", 23, "udp", true, "[4]", "[gateway]"},
		{"fd7a:115c:a1e0::1", "gateway", 22, "", true, "[4]", "[gateway]"},
		{"alice@example.com", "bob@example.com", 0, "", true, "[4]", "[gateway]"},
		{"gateway", "laptop", 22, "", false, "[]", "[laptop]"},
		{"laptop", "10.1.2.3", 80, "", true, "[6]", "[gateway]"},
		{"laptop", "10.1.3.3", 80, "", false, "[]", "[gateway]"},
		{"10.1.2.3", "laptop", 8080, "", true, "[7]", "[laptop]"},
		{"10.1.2.3", "laptop", 0, "icmp", true, "[7]", "[laptop]"},
		{"laptop", "198.51.100.1", 443, "", true, "[2]", "[gateway]"},
		{"laptop", "198.51.100.1", 80, "", false, "[]", "[gateway]"},
		{"laptop", "192.168.7.7", 443, "", false, "[]", "[gateway]"},
	} {
		resp, err := c.ExplainPolicy(t.Context(), &v1.ExplainPolicyRequest{
			Source: req.src, Destination: req.dst, Port: req.port, Protocol: req.proto, Policy: source,
		})
		if err != nil || len(resp.GetFlows()) != 1 {
			t.Errorf("%v: %v, %v", req, resp, err)
			continue
		}
		f := resp.GetFlows()[0]
		var lines []uint32
		for _, r := range f.GetRules() {
			lines = append(lines, r.GetLine())
			if !strings.HasPrefix(r.GetText(), `{"`) || strings.Contains(r.GetText(), "office") {
				t.Errorf("%v: the rule is %s", req, r.GetText())
			}
		}
		if resp.GetAllowed() != req.allowed || f.GetAllowed() != req.allowed || fmt.Sprint(lines) != req.lines || fmt.Sprint(f.GetVia()) != req.via ||
			(len(f.GetEntries()) > 0) != req.allowed {
			t.Errorf("%v: %v", req, resp)
		}
	}
	for _, bad := range []struct {
		req  *v1.ExplainPolicyRequest
		code codes.Code
		want string
	}{
		{&v1.ExplainPolicyRequest{Destination: "laptop"}, codes.NotFound, `no node, user or tag ""`},
		{&v1.ExplainPolicyRequest{Source: "laptop", Destination: "tag:none"}, codes.NotFound, "no node belongs to tag:none"},
		{&v1.ExplainPolicyRequest{Source: "laptop", Destination: "gateway", Port: 70000}, codes.InvalidArgument, "70000"},
		{&v1.ExplainPolicyRequest{Source: "laptop", Destination: "gateway", Protocol: "udp"}, codes.InvalidArgument, "port"},
		{&v1.ExplainPolicyRequest{Source: "laptop", Destination: "gateway", Protocol: "gre", Port: 1}, codes.InvalidArgument, "no ports"},
		{&v1.ExplainPolicyRequest{Source: "10.1.2.3", Destination: "fd7a:115c:a1e0::1"}, codes.InvalidArgument, "family"},
		{&v1.ExplainPolicyRequest{Source: "laptop", Destination: "100.64.0.1"}, codes.InvalidArgument, "same node"},
		{&v1.ExplainPolicyRequest{Source: "laptop", Destination: "gateway", Policy: "{"}, codes.InvalidArgument, "line 1"},
	} {
		_, err := c.ExplainPolicy(t.Context(), bad.req)
		wantCode(t, err, bad.code, bad.want)
	}
}

// Answers about many nodes stay small.
func TestPolicyAnswersAreBounded(t *testing.T) {
	w, c := newPolicyWorld(t)
	alice, bob := w.user("alice@example.com"), w.user("bob@example.com")
	for i := range 60 {
		w.join(alice, fmt.Sprint("a", i))
		w.join(bob, fmt.Sprint("b", i))
	}
	ctx := t.Context()
	_, err := c.ExplainPolicy(ctx, &v1.ExplainPolicyRequest{Source: "alice@example.com", Destination: "bob@example.com"})
	wantCode(t, err, codes.InvalidArgument, "3600 pairs")
	resp, err := c.ExplainPolicy(ctx, &v1.ExplainPolicyRequest{Source: "alice@example.com", Destination: "b1", Port: 1})
	if err != nil || len(resp.GetFlows()) != 50 || resp.GetOmitted() != 10 || !resp.GetAllowed() {
		t.Errorf("%d flows, %d omitted, %v", len(resp.GetFlows()), resp.GetOmitted(), err)
	}
	var rules []string
	for i := range 1500 {
		rules = append(rules, fmt.Sprintf(`{"action": "accept", "src": ["10.0.%d.%d"], "dst": ["a1:%d"]}`, i/250, i%250, i+1))
	}
	many := `{"hosts": {"a1": "100.64.0.3"}, "acls": [` + strings.Join(rules, ",") + `]}`
	p, err := c.PreviewPolicy(ctx, &v1.PreviewPolicyRequest{Node: "a1", Policy: many})
	if err != nil || len(p.GetFilter()) != 1000 || p.GetFilterCount() != 1500 {
		t.Errorf("%d of %d rules, %v", len(p.GetFilter()), p.GetFilterCount(), err)
	}
	dry, err := c.SetPolicy(ctx, &v1.SetPolicyRequest{Policy: `{"acls": []}`, DryRun: true})
	if err != nil || len(dry.GetImpact().GetChanges()) != 1 {
		t.Fatalf("%v, %v", dry.GetImpact(), err)
	}
	if s := dry.GetImpact().GetChanges()[0].GetSources(); s.GetCount() != 120 || len(s.GetNames()) != 10 {
		t.Errorf("%v", s)
	}
	// 1,000 rules of 301 sources each: what is not listed is counted.
	var hosts []string
	for i := range 300 {
		hosts = append(hosts, fmt.Sprintf(`"10.%d.%d.1"`, i/250, i%250))
	}
	rules = nil
	for i := range 1000 {
		rules = append(rules, fmt.Sprintf(`{"action": "accept", "src": ["group-%d", %s], "dst": ["a1:%d"]}`, i, strings.Join(hosts, ","), i+1))
	}
	wide := `{"hosts": {"a1": "100.64.0.3"`
	for i := range 1000 {
		wide += fmt.Sprintf(`, "group-%d": "10.9.%d.%d"`, i, i/250, i%250)
	}
	wide += `}, "acls": [` + strings.Join(rules, ",") + `]}`
	p, err = c.PreviewPolicy(ctx, &v1.PreviewPolicyRequest{Node: "a1", Policy: wide})
	listed := 0
	for _, r := range p.GetFilter() {
		listed += len(r.GetSources()) + len(r.GetDestinations())
	}
	if err != nil || listed != 200_000 || p.GetFilterCount() != 1000 || len(p.GetFilter()) >= 1000 {
		t.Errorf("%d texts in %d of %d rules, %v", listed, len(p.GetFilter()), p.GetFilterCount(), err)
	}
	_, err = c.PreviewPolicy(ctx, &v1.PreviewPolicyRequest{Node: "nobody"})
	wantCode(t, err, codes.NotFound, "nobody")
}

func TestHistoryThatFails(t *testing.T) {
	_, c := newPolicyWorld(t, func(o *api.Options) { o.History = brokenHistory{} })
	_, err := c.ListPolicies(t.Context(), &v1.ListPoliciesRequest{})
	wantCode(t, err, codes.Internal, "log")
	_, err = c.GetPolicy(t.Context(), &v1.GetPolicyRequest{Version: "3"})
	wantCode(t, err, codes.Internal, "log")
}

type brokenHistory struct{}

func (brokenHistory) Policy(context.Context, string, int64, string) (*tailnet.Policy, error) {
	return nil, errors.New("disk on fire at " + time.Now().String())
}

func (brokenHistory) Policies(context.Context, string, int, int64) ([]tailnet.PolicyVersion, int64, error) {
	return nil, 0, errors.New("disk on fire at " + time.Now().String())
}
