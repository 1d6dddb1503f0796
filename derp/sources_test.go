package derp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"tailscale.com/tailcfg"

	"heddle/derp"
)

// mapServer is a web server whose answer a test can change. Its transport needs
// no network, so it works within a synctest bubble.
type mapServer struct {
	mu     sync.Mutex
	status int
	body   string
	asked  int
}

func (s *mapServer) requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func (s *mapServer) set(status int, body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status, s.body = status, body
}

func (s *mapServer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	w.WriteHeader(s.status)
	fmt.Fprint(w, s.body)
}

func (s *mapServer) RoundTrip(req *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, req)
	return w.Result(), nil
}

// mapJSON is a DERP map with one region, whose node has the given host name.
func mapJSON(id int, host string) string {
	return fmt.Sprintf(`{"Regions": {"%d": {"RegionID": %d, "Nodes": [{"Name": "%da", "RegionID": %d, "HostName": "%s"}]}}, "NewField": 1}`, id, id, id, id, host)
}

// hosts sums a map up: region ID to the host name of its first node.
func hosts(m *tailcfg.DERPMap) map[int]string {
	all := map[int]string{}
	for id, r := range m.Regions {
		all[id] = r.Nodes[0].HostName
	}
	return all
}

// published collects what Run publishes.
type published struct {
	mu   sync.Mutex
	maps []map[int]string
}

func (p *published) add(m *tailcfg.DERPMap) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.maps = append(p.maps, hosts(m))
}

// since returns what was published since it was called last.
func (p *published) since() []map[int]string {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	maps := p.maps
	p.maps = nil
	return maps
}

func (p *published) check(t *testing.T, what string, want ...map[int]string) {
	t.Helper()
	if diff := cmp.Diff(want, p.since()); diff != "" {
		t.Errorf("%s: published (-want +got)\n%s", what, diff)
	}
}

// logText is a log to look at.
type logText struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// take returns what was logged since it was called last.
func (l *logText) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.buf.Reset()
	return l.buf.String()
}

func (l *logText) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// runSources runs s within a synctest bubble.
func runSources(t *testing.T, s *derp.Sources) *published {
	p := &published{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx, p.add) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p
}

func newSources(t *testing.T, cfg derp.SourcesConfig) *derp.Sources {
	t.Helper()
	s, err := derp.NewSources(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var embedded = &derp.Region{Code: "home", HostName: "home.example", IPv4: netip.MustParseAddr("192.0.2.1")}

func TestURLRefreshAndOutage(t *testing.T) {
	cache := filepath.Join(t.TempDir(), "derp.json")
	synctest.Test(t, func(t *testing.T) {
		server := &mapServer{status: 500}
		var log logText
		cfg := derp.SourcesConfig{
			Embedded:  embedded,
			URLs:      []string{"https://user:secret@maps.example/derp"},
			CacheFile: cache,
			Interval:  time.Hour,
			Client:    &http.Client{Transport: server},
			Log:       log.logger(),
		}
		s := newSources(t, cfg)
		if diff := cmp.Diff(map[int]string{999: "home.example"}, hosts(s.Map())); diff != "" {
			t.Error(diff)
		}
		p := runSources(t, s)
		p.check(t, "start", map[int]string{999: "home.example"})

		time.Sleep(15 * time.Minute) // of the bubble's clock
		p.check(t, "outage")
		if err := s.Trouble(); err == nil || !strings.Contains(err.Error(), "maps.example") || strings.Contains(err.Error(), "secret") {
			t.Errorf("of an outage is told %v", err)
		}
		if n := server.requests(); n < 4 || n > 12 {
			t.Errorf("asked %d times in an outage of 15 minutes", n)
		}
		server.set(200, mapJSON(1, "one.example"))
		time.Sleep(time.Hour)
		p.check(t, "end of the outage", map[int]string{1: "one.example", 999: "home.example"})

		before := server.requests()
		time.Sleep(24 * time.Hour)
		p.check(t, "a quiet day")
		if n := server.requests() - before; n < 22 || n > 27 {
			t.Errorf("asked %d times in a day", n)
		}
		for _, bad := range []struct {
			status int
			body   string
		}{
			{404, mapJSON(1, "two.example")},
			{200, "<html>"},
			{200, "{}"},
			{200, "null"},
			{200, mapJSON(0, "two.example")},
			{200, mapJSON(1, "not a host")},
			{200, `{"Regions": {"1": {"RegionID": 1, "Nodes": [null]}}}`},
			{200, mapJSON(1, "two.example") + strings.Repeat(" ", 1<<20)},
		} {
			server.set(bad.status, bad.body)
			time.Sleep(3 * time.Hour)
			p.check(t, fmt.Sprintf("answer %.30s", bad.body))
		}
		server.set(200, mapJSON(1, "two.example"))
		time.Sleep(3 * time.Hour)
		p.check(t, "new content", map[int]string{1: "two.example", 999: "home.example"})
		if err := s.Trouble(); err != nil {
			t.Errorf("after the outage: %v", err)
		}
		if text := log.take(); strings.Contains(text, "secret") {
			t.Errorf("the log tells the password: %s", text)
		}
	})
	if info, err := os.Stat(cache); err != nil || info.Mode() != 0o600 {
		t.Errorf("cache %v, %v", info, err)
	}
	for name, want := range map[string]map[int]string{
		"https://user:secret@maps.example/derp": {1: "two.example"},
		"https://other.example":                 {},
	} {
		s := newSources(t, derp.SourcesConfig{URLs: []string{name}, CacheFile: cache})
		if diff := cmp.Diff(want, hosts(s.Map())); diff != "" {
			t.Errorf("start without network: %s", diff)
		}
	}
	writeFile(t, cache, "rubbish")
	s := newSources(t, derp.SourcesConfig{URLs: []string{"https://other.example"}, CacheFile: cache})
	if diff := cmp.Diff(map[int]string{}, hosts(s.Map())); diff != "" {
		t.Errorf("damaged cache: %s", diff)
	}
}

func TestFilesAreWatched(t *testing.T) {
	file := filepath.Join(t.TempDir(), "derp.yaml")
	writeFile(t, file, yamlMap(900, "one.example"))
	synctest.Test(t, func(t *testing.T) {
		var log logText
		s := newSources(t, derp.SourcesConfig{Files: []string{file}, Log: log.logger()})
		p := runSources(t, s)
		p.check(t, "start", map[int]string{900: "one.example"})
		steps := []struct {
			name   string
			change func() error
			want   []map[int]string
			logged int
		}{
			{"nothing", func() error { return nil }, nil, 0},
			{"rewritten in place", func() error { return os.WriteFile(file, []byte(yamlMap(900, "two.example")), 0o600) }, []map[int]string{{900: "two.example"}}, 0},
			{"same content", func() error { return os.WriteFile(file, []byte(yamlMap(900, "two.example")+"# comment\n"), 0o600) }, nil, 0},
			{"emptied, as editors do", func() error { return os.Truncate(file, 0) }, nil, 1},
			{"wrong", func() error { return os.WriteFile(file, []byte("region: 1\n"), 0o600) }, nil, 1},
			{"gone", func() error { return os.Remove(file) }, nil, 1},
			{"replaced", func() error { return os.WriteFile(file, []byte(yamlMap(901, "three.example")), 0o600) }, []map[int]string{{901: "three.example"}}, 0},
			{"regions taken out", func() error { return os.WriteFile(file, []byte("regions: {}\n"), 0o600) }, []map[int]string{{}}, 0},
		}
		for _, step := range steps {
			if err := step.change(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute) // of the bubble's clock: many looks at the file
			p.check(t, step.name, step.want...)
			text := log.take()
			if n := strings.Count(text, "level=ERROR"); n != step.logged {
				t.Errorf("%s: %d errors logged, want %d:\n%s", step.name, n, step.logged, text)
			}
			if err := s.Trouble(); (err != nil) != (step.logged > 0) {
				t.Errorf("%s: trouble: %v", step.name, err)
			}
		}
	})
}

func yamlMap(id int, host string) string {
	return fmt.Sprintf("regions:\n  %d:\n    nodes: [{name: %da, hostname: %s}]\n", id, id, host)
}

func TestPrecedence(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "1.yaml"), filepath.Join(dir, "2.yaml")
	writeFile(t, first, "homeparams: {regionscore: {1: 2, 2: 2}}\nregions:\n  1: null\n  900:\n    nodes: [{name: a, hostname: first.example}]\n  901:\n    nodes: [{name: b, hostname: first.example}]\n  999:\n    nodes: [{name: c, hostname: first.example}]\n")
	writeFile(t, second, "homeparams: {regionscore: {1: 3}}\nregions:\n  900:\n    nodes: [{name: x, hostname: second.example}]\n  902:\n    nodes: [{name: b, hostname: second.example}]\n")
	synctest.Test(t, func(t *testing.T) {
		server := &mapServer{status: 200, body: `{"Regions": {
			"1": {"RegionID": 1, "Nodes": [{"Name": "1a", "RegionID": 1, "HostName": "url.example"}]},
			"2": {"RegionID": 2, "Nodes": [{"Name": "2a", "RegionID": 2, "HostName": "url.example"}]}}}`}
		var log logText
		s := newSources(t, derp.SourcesConfig{
			Embedded: embedded,
			Files:    []string{first, second},
			URLs:     []string{"https://maps.example/"},
			Client:   &http.Client{Transport: server},
			Log:      log.logger(),
		})
		p := runSources(t, s)
		files := map[int]string{900: "second.example", 902: "second.example", 999: "home.example"}
		all := map[int]string{2: "url.example", 900: "second.example", 902: "second.example", 999: "home.example"}
		maps := p.since()
		if diff := cmp.Diff(all, maps[len(maps)-1]); diff != "" {
			t.Errorf("with the URL: %s", diff)
		}
		if len(maps) == 2 {
			if diff := cmp.Diff(files, maps[0]); diff != "" {
				t.Errorf("at the start: %s", diff)
			}
		}
		text := log.take()
		if want := "region 901 of " + first + " is left out: region 902 of " + second; !strings.Contains(text, want) {
			t.Errorf("%q is not in: %s", want, text)
		}
		if diff := cmp.Diff(map[int]float64{1: 3, 2: 2}, s.Map().HomeParams.RegionScore); diff != "" {
			t.Error(diff)
		}

		renewed := *embedded
		renewed.HostName = "new.example"
		if err := s.SetEmbedded(&renewed); err != nil {
			t.Fatal(err)
		}
		all[999] = "new.example"
		p.check(t, "another embedded region", all)
		if err := s.SetEmbedded(&renewed); err != nil {
			t.Fatal(err)
		}
		p.check(t, "the same embedded region")
		if err := s.SetEmbedded(&derp.Region{}); err == nil {
			t.Error("no error for an embedded region without a host name")
		}
		if err := s.SetEmbedded(nil); err != nil {
			t.Fatal(err)
		}
		all[999] = "first.example"
		p.check(t, "no embedded region", all)
	})
}

// A server that does not answer blocks neither the start nor the end.
func TestSlowURLBlocksNothing(t *testing.T) {
	hang := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer slow.Close()
	defer close(hang)
	fast := httptest.NewServer(&mapServer{status: 200, body: mapJSON(1, "one.example")})
	defer fast.Close()
	s := newSources(t, derp.SourcesConfig{Embedded: embedded, URLs: []string{slow.URL, fast.URL}})
	maps := make(chan map[int]string, 10)
	stop := run(t, "sources", func(ctx context.Context) error {
		return s.Run(ctx, func(m *tailcfg.DERPMap) { maps <- hosts(m) })
	})
	for got := range maps {
		if len(got) == 2 {
			break
		}
	}
	stop()
}

func TestEmbeddedRegion(t *testing.T) {
	pin := "sha256-raw:" + strings.Repeat("0a", 32)
	got, err := derp.Region{
		ID: 900, Code: "home", Name: "Home", HostName: "127.0.0.1", IPv4: netip.MustParseAddr("::ffff:127.0.0.1"), NoIPv6: true,
		DERPPort: 8443, STUNPort: -1, CertName: pin, CanPort80: true,
	}.DERPRegion()
	if err != nil {
		t.Fatal(err)
	}
	want := &tailcfg.DERPRegion{RegionID: 900, RegionCode: "home", RegionName: "Home", Nodes: []*tailcfg.DERPNode{{
		Name: "900a", RegionID: 900, HostName: "127.0.0.1", IPv4: "127.0.0.1", IPv6: "none",
		DERPPort: 8443, STUNPort: -1, CertName: pin, CanPort80: true,
	}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for name, r := range map[string]derp.Region{
		"no host":      {},
		"IPv4 is IPv6": {HostName: "h", IPv4: netip.MustParseAddr("2001:db8::1")},
		"IPv6 is IPv4": {HostName: "h", IPv6: netip.MustParseAddr("192.0.2.1")},
		"port":         {HostName: "h", DERPPort: 70000},
		"pin":          {HostName: "h", CertName: strings.ToUpper(pin[:11]) + pin[11:], STUNPort: -2},
	} {
		if _, err := r.DERPRegion(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestPlan changes what the map is made of, while Run runs.
func TestPlan(t *testing.T) {
	dir := t.TempDir()
	one, two, bad, cache := filepath.Join(dir, "1.yaml"), filepath.Join(dir, "2.yaml"), filepath.Join(dir, "bad.yaml"), filepath.Join(dir, "cache.json")
	writeFile(t, one, yamlMap(900, "one.example"))
	writeFile(t, two, yamlMap(901, "two.example"))
	writeFile(t, bad, "region: 1\n")
	synctest.Test(t, func(t *testing.T) {
		server := &mapServer{status: 200, body: mapJSON(1, "url.example")}
		s := newSources(t, derp.SourcesConfig{
			Embedded: embedded, Files: []string{one}, URLs: []string{"https://old.example/"},
			Interval: time.Hour, CacheFile: cache, Client: &http.Client{Transport: server},
		})
		p := runSources(t, s)
		p.since()
		const home = "home.example"
		check := func(what string, files, urls []string, every time.Duration, want ...map[int]string) {
			t.Helper()
			use, err := s.Plan(t.Context(), files, urls, every)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			p.check(t, what+", only planned")
			use()
			p.check(t, what, want...)
		}
		old := []string{"https://old.example/"}
		check("the same", []string{one}, old, time.Hour)
		check("another file", []string{two}, old, time.Hour, map[int]string{1: "url.example", 901: "two.example", 999: home})
		server.set(200, mapJSON(2, "new.example"))
		asked := server.requests()
		check("another URL", []string{two}, []string{"https://new.example/"}, time.Hour, map[int]string{2: "new.example", 901: "two.example", 999: home})
		if n := server.requests() - asked; n != 1 {
			t.Errorf("a new URL was asked %d times", n)
		}
		asked = server.requests()
		time.Sleep(24 * time.Hour) // of the bubble's clock
		if n := server.requests() - asked; n < 22 || n > 27 {
			t.Errorf("one of two URLs is left, and was asked %d times in a day", n)
		}
		check("more often", []string{two}, []string{"https://new.example/"}, time.Minute)
		asked = server.requests()
		time.Sleep(time.Hour)
		if n := server.requests() - asked; n < 53 || n > 68 {
			t.Errorf("asked %d times in an hour", n)
		}
		// What is followed is the new file, and not the old one.
		writeFile(t, one, yamlMap(900, "unused.example"))
		writeFile(t, two, yamlMap(901, "changed.example"))
		time.Sleep(time.Minute)
		p.check(t, "the files change", map[int]string{2: "new.example", 901: "changed.example", 999: home})

		for _, tt := range []struct {
			name        string
			files, urls []string
			status      int
			url         bool
			want        string
		}{
			{"a file with a mistake", []string{two, bad}, nil, 200, false, bad},
			{"a file that is not there", []string{filepath.Join(dir, "none")}, []string{"https://third.example/"}, 500, false, "no such file"},
			{"a URL that does not answer", nil, []string{"https://third.example/"}, 500, true, "https://third.example/ gives no DERP map: the answer is"},
			{"one of two URLs", nil, []string{"https://new.example/", "https://third.example/"}, 404, true, "third.example"},
		} {
			server.set(tt.status, mapJSON(3, "third.example"))
			use, err := s.Plan(t.Context(), tt.files, tt.urls, time.Hour)
			var far *derp.URLError
			if err == nil || use != nil || !strings.Contains(err.Error(), tt.want) || errors.As(err, &far) != tt.url {
				t.Errorf("%s: %v", tt.name, err)
			}
			p.check(t, tt.name)
		}
		// What is wrong with a source is told as long as that is one.
		writeFile(t, two, "region: 1\n")
		server.set(404, "")
		time.Sleep(time.Hour)
		if err := s.Trouble(); err == nil || !strings.Contains(err.Error(), two) || !strings.Contains(err.Error(), "new.example") {
			t.Errorf("trouble: %v", err)
		}
		// A URL that is there already need not answer.
		check("with a URL that is down", nil, []string{"https://new.example/"}, time.Hour, map[int]string{2: "new.example", 999: home})
		if err := s.Trouble(); err == nil || strings.Contains(err.Error(), two) || !strings.Contains(err.Error(), "new.example") {
			t.Errorf("trouble without the file: %v", err)
		}
		check("nothing", nil, nil, time.Hour, map[int]string{999: home})
		if err := s.Trouble(); err != nil {
			t.Errorf("trouble without sources: %v", err)
		}
		asked = server.requests()
		time.Sleep(24 * time.Hour)
		if n := server.requests() - asked; n != 0 {
			t.Errorf("without URLs %d were asked", n)
		}
	})
	// The cache has what the new URL gave.
	s := newSources(t, derp.SourcesConfig{URLs: []string{"https://new.example/"}, CacheFile: cache})
	if diff := cmp.Diff(map[int]string{2: "new.example"}, hosts(s.Map())); diff != "" {
		t.Errorf("cache: %s", diff)
	}
}

// TestPlanGivesUp: somebody waits for a URL that hangs.
func TestPlanGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := roundTripper(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		s := newSources(t, derp.SourcesConfig{Embedded: embedded, Client: &http.Client{Transport: hang}})
		began := time.Now()
		if _, err := s.Plan(t.Context(), nil, []string{"https://hangs.example/"}, time.Hour); err == nil {
			t.Error("no error")
		}
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestPlansAtOnce is for the race detector.
func TestPlansAtOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "1.yaml")
	writeFile(t, file, yamlMap(900, "one.example"))
	server := &mapServer{status: 200, body: mapJSON(1, "url.example")}
	s := newSources(t, derp.SourcesConfig{Embedded: embedded, Client: &http.Client{Transport: server}})
	stop := run(t, "sources", func(ctx context.Context) error { return s.Run(ctx, func(*tailcfg.DERPMap) {}) })
	var all sync.WaitGroup
	for n := range 4 {
		all.Go(func() {
			for i := range 20 {
				use, err := s.Plan(t.Context(), []string{file}[:i%2], []string{fmt.Sprintf("https://%d.example/", (n+i)%3)}, time.Minute)
				if err != nil {
					t.Error(err)
					return
				}
				use()
				s.Map()
			}
		})
	}
	all.Wait()
	stop()
}
