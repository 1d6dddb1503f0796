package metrics_test

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"heddle/cmd/heddle/serve/metrics"
	"heddle/control/controltest"
	"heddle/control/tailnet"
	"heddle/derp"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

var update = flag.Bool("update", false, "write the tables of docs/metrics.md anew")

// family is one number as a scraper sees it.
type family struct {
	name, kind, help string
	labels           []string
	samples          []string // "name{labels} value"
}

// serve runs a control server with one connected device, and returns what a scraper reads.
func serve(t testing.TB) map[string]*family {
	t.Helper()
	m := metrics.New()
	s := controltest.Start(t, controltest.Config{Tailnet: tailnet.Options{Count: m.Writer()}, Delay: m.Delay})
	secret := s.AuthKey(tailnet.AuthKeySpec{Owner: s.User("alice"), Reusable: true})
	stream := s.Client("laptop").Join(secret).MustStream()
	stream.Await(func(n *controltest.Netmap) bool { return n.Self != nil })
	s.Client("phone").Join(secret)
	stream.Await(func(n *controltest.Netmap) bool { return n.Peer("phone") != nil })
	m.Call("OK")
	h := m.Handler(metrics.Sources{
		Version: "v1.2.3", Commit: "0123abc", State: s.State, Control: s.Control.Stats, Maps: s.Maps.Stats,
		Relay: func() derp.RelayStats { return derp.RelayStats{Connections: 3} },
		STUN:  func() derp.STUNStats { return derp.STUNStats{Answered: 4} },
	})
	// The device has the message before the server has counted it.
	for end := time.Now().Add(10 * time.Second); ; {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		if w.Code != 200 {
			t.Fatalf("status %d: %s", w.Code, w.Body)
		}
		if problems, err := promlint.New(strings.NewReader(w.Body.String())).Lint(); err != nil || len(problems) > 0 {
			t.Errorf("what Prometheus' linter says: %v %v", problems, err)
		}
		all := parse(t, w.Body.String())
		if c := all["heddle_map_change_seconds"]; c != nil && !slices.Contains(c.samples, "heddle_map_change_seconds_count 0") || time.Now().After(end) {
			return all
		}
	}
}

var sample = regexp.MustCompile(`^([a-z_]+)(?:\{(.*)\})? \S+$`)

func parse(t testing.TB, text string) map[string]*family {
	t.Helper()
	all := map[string]*family{}
	var f *family
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		line := lines.Text()
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, help, _ := strings.Cut(rest, " ")
			f = &family{name: name, help: help}
			all[name] = f
			continue
		}
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			_, f.kind, _ = strings.Cut(rest, " ")
			continue
		}
		parts := sample.FindStringSubmatch(line)
		if parts == nil {
			if strings.HasPrefix(line, "heddle_") {
				t.Errorf("%q is no sample", line)
			}
			continue
		}
		f.samples = append(f.samples, line)
		for _, l := range regexp.MustCompile(`([a-z_]+)="`).FindAllStringSubmatch(parts[2], -1) {
			if l[1] != "le" && !slices.Contains(f.labels, l[1]) {
				f.labels = append(f.labels, l[1])
			}
		}
	}
	return all
}

func TestWhatIsExported(t *testing.T) {
	all := serve(t)
	for _, want := range []string{
		`heddle_nodes{state="online"} 1`, `heddle_nodes{state="offline"} 1`, `heddle_map_sessions 1`,
		`heddle_map_responses_total{kind="full"} 1`, `heddle_logins_total{result="auth_key"} 2`,
		`heddle_changes_total{action="node.create"} 2`, `heddle_derp_connections 3`, `heddle_stun_packets_total{result="answered"} 4`,
		`heddle_store_trouble 0`, `heddle_queue_length{queue="updates"} 0`, `heddle_api_calls_total{code="OK"} 1`,
	} {
		name := regexp.MustCompile(`^[a-z_]+`).FindString(want)
		if f := all[name]; f == nil || !slices.Contains(f.samples, want) {
			t.Errorf("no sample %q; %s has %q", want, name, cmp.Or(f, &family{}).samples)
		}
	}
	for _, name := range []string{"heddle_map_change_seconds", "heddle_commit_seconds"} {
		if f := all[name]; f == nil || slices.Contains(f.samples, name+"_count 0") {
			t.Errorf("%s has no observation", name)
		}
	}
	if f := all["heddle_build_info"]; f == nil || !strings.Contains(f.samples[0], `version="v1.2.3"`) {
		t.Errorf("build info: %+v", f)
	}
}

// TestDocument compares docs/metrics.md with what is exported.
func TestDocument(t *testing.T) {
	const file, begin, end = "../../../../docs/metrics.md", "<!-- begin: names -->\n", "<!-- end: names -->\n"
	var table strings.Builder
	table.WriteString("| name | type | labels | meaning |\n|---|---|---|---|\n")
	all := serve(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if f := all[name]; strings.HasPrefix(name, "heddle_") {
			fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", name, f.kind, strings.Join(f.labels, ", "), f.help)
		}
	}
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(old), begin)
	have, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no lines %q and %q", file, begin, end)
	}
	if *update {
		if err := os.WriteFile(file, []byte(head+begin+table.String()+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := gocmp.Diff(strings.Split(have, "\n"), strings.Split(table.String(), "\n")); diff != "" {
		t.Errorf("%s is not what is exported; run this test with -update (-document +exported):\n%s", file, diff)
	}
}

// TestDashboard sees to it that the dashboard asks only for what there is.
func TestDashboard(t *testing.T) {
	all := serve(t)
	text, err := os.ReadFile("../../../../deploy/grafana/heddle.json")
	if err != nil {
		t.Fatal(err)
	}
	type panel struct {
		ID      int
		Title   string
		Type    string
		Targets []struct{ Expr string }
	}
	var board struct {
		Title  string
		UID    string
		Panels []panel
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	if board.Title == "" || board.UID == "" || len(board.Panels) == 0 {
		t.Errorf("the dashboard has no title, UID or panels")
	}
	names := regexp.MustCompile(`\b(?:heddle|go|process)_[a-z_]+\b`)
	ids, used := map[int]bool{}, map[string]bool{}
	for _, p := range board.Panels {
		if p.Title == "" || ids[p.ID] {
			t.Errorf("panel %d %q: no title, or an ID that another one has", p.ID, p.Title)
		}
		ids[p.ID] = true
		if len(p.Targets) == 0 && p.Type != "row" {
			t.Errorf("panel %q asks for nothing", p.Title)
		}
		for _, target := range p.Targets {
			found := names.FindAllString(target.Expr, -1)
			if len(found) == 0 {
				t.Errorf("panel %q: %q asks for no number of heddle's", p.Title, target.Expr)
			}
			for _, name := range found {
				f := all[name]
				for _, suffix := range []string{"_bucket", "_sum", "_count"} {
					if h := all[strings.TrimSuffix(name, suffix)]; f == nil && h != nil && h.kind == "histogram" {
						f = h
					}
				}
				if f == nil {
					t.Errorf("panel %q: there is no %s", p.Title, name)
					continue
				}
				used[f.name] = true
				if f.kind == "counter" && !strings.Contains(target.Expr, "rate(") && !strings.Contains(target.Expr, "increase(") {
					t.Errorf("panel %q shows the counter %s without rate or increase", p.Title, name)
				}
			}
		}
	}
	for name := range all {
		if strings.HasPrefix(name, "heddle_") && !used[name] {
			t.Logf("the dashboard does not show %s", name)
		}
	}
}

// BenchmarkHotPath is what counting adds to sending one change to one device.
func BenchmarkHotPath(b *testing.B) {
	m := metrics.New()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.Delay(12 * time.Millisecond)
		}
	})
}

// BenchmarkScrape reads everything of a server without devices.
func BenchmarkScrape(b *testing.B) {
	m := metrics.New()
	s := controltest.Start(b, controltest.Config{Tailnet: tailnet.Options{Count: m.Writer()}})
	h := m.Handler(metrics.Sources{State: s.State, Control: s.Control.Stats, Maps: s.Maps.Stats})
	for b.Loop() {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/metrics", nil))
	}
}
