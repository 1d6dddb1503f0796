package policy_test

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"testing"

	"tailscale.com/wgengine/filter"

	"heddle/policy"
)

// recordedPolicies are the texts of the recorded cases.
func recordedPolicies(tb testing.TB) []string {
	tb.Helper()
	f, err := os.Open("testdata/public.jsonl.gz")
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	var out []string
	for dec := json.NewDecoder(z); ; {
		var c struct{ Policy string }
		if err := dec.Decode(&c); err == io.EOF {
			return out
		} else if err != nil {
			tb.Fatal(err)
		}
		out = append(out, c.Policy)
	}
}

// FuzzPolicy: any text is refused with places inside it, or compiles against
// any tailnet to rules that clients accept.
func FuzzPolicy(f *testing.F) {
	for i, p := range recordedPolicies(f) {
		f.Add(p, uint64(i))
	}
	for seed := range uint64(20) {
		f.Add(newWorld(seed).policy(), seed)
	}
	f.Fuzz(func(t *testing.T, text string, seed uint64) {
		doc, err := policy.Parse([]byte(text))
		if err != nil {
			var list policy.Errors
			if !errors.As(err, &list) || len(list) == 0 || len(list) > 100 {
				t.Fatalf("not an Errors: %v", err)
			}
			for _, e := range list {
				if e.Msg == "" || (e.Line > 0) != (e.Column > 0) {
					t.Fatalf("error %+v", e)
				}
				e.Excerpt([]byte(text))
			}
			left, _ := policy.ParseStored([]byte(text))
			_ = policy.Compile(left, newWorld(seed).tailnet(6)).Check()
			return
		}
		w := newWorld(seed)
		tn := w.tailnet(6)
		c := policy.Compile(doc, tn)
		_ = c.Check()
		_ = c.RunTests()
		for _, n := range tn.Nodes {
			if _, err := filter.MatchesFromFilterRules(rules(c, n.ID)); err != nil {
				t.Fatal(err)
			}
			for _, p := range tn.Nodes {
				a, b := c.Class(n.ID), c.Class(p.ID)
				if c.Visible(a, b) != c.Visible(b, a) {
					t.Fatalf("nodes %d and %d do not agree on seeing each other", n.ID, p.ID)
				}
				doc.MayTag(nil, n.Tags, "tag:a")
			}
		}
		dump(t, c, tn)
	})
}
