package conformance_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"heddle/policy/conformance"
)

// recorded is the case file, without what only the full checker can compare.
type recorded struct {
	ID       string
	Optional bool
	Policy   string
	Tailnet  json.RawMessage
	Expect   struct {
		Error *string
		Nodes map[string]struct {
			Peers map[string]struct{ Routes []netip.Prefix }
		}
		Auto map[string][]netip.Prefix `json:"auto_approved_routes"`
	}
}

func cases(t testing.TB) []recorded {
	t.Helper()
	f, err := os.Open("../testdata/public.jsonl.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var out []recorded
	for dec := json.NewDecoder(z); ; {
		var c recorded
		if err := dec.Decode(&c); err == io.EOF {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
}

func documents(t testing.TB, cs []recorded) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, c := range cs {
		line, err := json.Marshal(map[string]any{"id": c.ID, "policy": c.Policy, "tailnet": c.Tailnet})
		if err != nil {
			t.Fatal(err)
		}
		b.Write(append(line, '\n'))
	}
	return b.Bytes()
}

type got struct {
	ID    string
	Error *string
	Nodes map[string]struct {
		Peers map[string]struct{ Routes []netip.Prefix }
	}
	Auto map[string][]netip.Prefix `json:"auto_approved_routes"`
}

// TestRecorded compares what can be compared without evaluating filters:
// acceptance, peers, routes, approvals. TestChecker does all of it.
func TestRecorded(t *testing.T) {
	cs := cases(t)
	if len(cs) != 303 {
		t.Fatalf("%d cases", len(cs))
	}
	var out bytes.Buffer
	if err := conformance.Run(bytes.NewReader(documents(t, cs)), &out); err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(&out)
	for _, c := range cs {
		var g got
		if err := dec.Decode(&g); err != nil {
			t.Fatalf("%s: %v", c.ID, err)
		}
		if g.ID != c.ID {
			t.Fatalf("%s answered as %s", c.ID, g.ID)
		}
		if (g.Error != nil) != (c.Expect.Error != nil) {
			t.Errorf("%s: error %v, want %v", c.ID, show(g.Error), show(c.Expect.Error))
			continue
		}
		for name, want := range c.Expect.Nodes {
			have := g.Nodes[name]
			if diff := cmp.Diff(routes(want.Peers), routes(have.Peers)); diff != "" {
				t.Errorf("%s: peers of %s (-want +got):\n%s", c.ID, name, diff)
			}
		}
		for name, want := range c.Expect.Auto {
			if diff := cmp.Diff(set(want), set(g.Auto[name])); diff != "" {
				t.Errorf("%s: approved routes of %s (-want +got):\n%s", c.ID, name, diff)
			}
		}
	}
}

func show(s *string) string {
	if s == nil {
		return "none"
	}
	return *s
}

func set(ps []netip.Prefix) map[string]bool {
	out := map[string]bool{}
	for _, p := range ps {
		out[p.String()] = true
	}
	return out
}

func routes(peers map[string]struct{ Routes []netip.Prefix }) map[string]map[string]bool {
	out := map[string]map[string]bool{}
	for name, p := range peers {
		out[name] = set(p.Routes)
	}
	return out
}

// TestChecker runs the checker of the data set on this very test binary.
func TestChecker(t *testing.T) {
	if os.Getenv("POLICY_COMPILE") == "1" {
		if err := conformance.Run(os.Stdin, os.Stdout); err != nil {
			t.Fatal(err)
		}
		os.Exit(0)
	}
	dir, err := filepath.Abs("../../../shared/conformance")
	if err != nil {
		t.Fatal(err)
	}
	checker := filepath.Join(dir, "check.py")
	if _, err := os.Stat(checker); err != nil {
		t.Skipf("SKIPPED: the full comparison needs %s: %v", checker, err)
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skipf("SKIPPED: the full comparison needs python3: %v", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, checker, "-v", filepath.Join(dir, "public.jsonl.gz"), self, "-test.run=^TestChecker$")
	cmd.Env = append(os.Environ(), "POLICY_COMPILE=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte(" passed, 0 failed\n")) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestTransport(t *testing.T) {
	for _, c := range []struct {
		name, in, out string
		bad           bool
	}{
		{"not json", "{\n", `{"error":"not a document: unexpected end of JSON input"}` + "\n", true},
		{"a bad address", `{"id":"x","policy":"{}","tailnet":{"nodes":[{"ipv4":"nope"}]}}`,
			`{"id":"x","error":"not a document: ParseAddr(\"nope\"): unable to parse IP"}` + "\n", true},
		{"nothing", "", "", false},
		{"empty lines", "\n  \n\n", "", false},
		{"no final newline", `{"policy":"{}"}`, `{"error":null}` + "\n", false},
		{"rejected", `{"id":"r","policy":"{\"acls\": 1}"}`, `{"id":"r","error":"line 1, column 10: acls must be a list"}` + "\n", false},
		{"node", `{"id":"n","policy":"{}","tailnet":{"nodes":[{"id":1,"name":"a","ipv4":"100.64.0.1","later":1}]}}`,
			`{"id":"n","error":null,"nodes":{"a":{"packet_filter":[{"SrcIPs":["100.64.0.0-100.115.91.255","100.115.94.0-100.127.255.255","fd7a:115c:a1e0::/48"],` +
				`"DstPorts":[{"IP":"*","Ports":{"First":0,"Last":65535}}]}],"cap_map":null,"addresses":["100.64.0.1/32"],"peers":{}}}}` + "\n", false},
	} {
		var out bytes.Buffer
		err := conformance.Run(strings.NewReader(c.in), &out)
		if (err != nil) != c.bad {
			t.Errorf("%s: %v", c.name, err)
		}
		if diff := cmp.Diff(c.out, out.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}
