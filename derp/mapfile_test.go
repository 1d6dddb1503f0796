package derp_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"tailscale.com/tailcfg"

	"heddle/derp"
)

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// readMap returns what Sources make of one file.
func readMap(t *testing.T, text string) (*tailcfg.DERPMap, error) {
	t.Helper()
	t.Chdir(t.TempDir())
	writeFile(t, "derp.yaml", text)
	s, err := derp.NewSources(derp.SourcesConfig{Files: []string{"derp.yaml"}})
	if err != nil {
		return nil, err
	}
	return s.Map(), nil
}

func TestMapFile(t *testing.T) {
	one := &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{900: {
		RegionID: 900, RegionCode: "home", RegionName: "My home",
		Nodes: []*tailcfg.DERPNode{
			{Name: "900a", RegionID: 900, HostName: "relay.example", IPv4: "198.51.100.1", IPv6: "2001:db8::1", CanPort80: true},
			{Name: "900b", RegionID: 900, HostName: "stun.example", STUNPort: 1234, STUNOnly: true},
		},
	}}}
	tests := []struct {
		name, text string
		want       *tailcfg.DERPMap
	}{
		{"YAML as people write it", `
# relays of our own
regions:
  900:
    regionid: 900
    regioncode: home
    regionname: My home
    nodes:
      - name: 900a
        regionid: 900
        hostname: relay.example
        ipv4: 198.51.100.1
        ipv6: "2001:db8::1"
        stunport: 0
        canport80: true
      - {name: 900b, regionid: 900, hostname: stun.example, stunport: 1234, stunonly: true, derpport: 0, certname: , ipv6: null}
  901: null # removes a region that a URL gave
`, one},
		{"IDs left out, keys in any case", `
Regions:
  900:
    RegionCode: home
    RegionName: My home
    Nodes:
    - {Name: 900a, HostName: relay.example, IPv4: 198.51.100.1, IPv6: '2001:db8::1', CanPort80: true}
    - {Name: 900b, HostName: stun.example, STUNPort: 1234, STUNOnly: true}
`, one},
		{"JSON with tabs", "{\n\t\"Regions\": {\n\t\t\"900\":\t{\n\t\t\t\"RegionID\": 900, \"RegionCode\": \"home\", \"RegionName\": \"My home\",\n" +
			"\t\t\t\"Nodes\": [\n\t\t\t\t{\"Name\": \"900a\", \"RegionID\": 900, \"HostName\": \"relay.example\", \"IPv4\": \"198.51.100.1\", \"IPv6\": \"2001:db8::1\", \"CanPort80\": true},\n" +
			"\t\t\t\t{\"Name\": \"900b\", \"RegionID\": 900, \"HostName\": \"stun.example\", \"STUNPort\": 1234, \"STUNOnly\": true}\n\t\t\t]\n\t\t}\n\t}\n}\n", one},
		{"everything else", `
omitDefaultRegions: true
homeParams: {regionScore: {900: 0.5}}
regions:
  900:
    latitude: 52.5
    longitude: -13
    avoid: true
    nomeasurenohome: true
    nodes:
    - name: a
      hostname: 192.0.2.1
      ipv6: none
      stunport: -1
      derpport: 8443
      insecurefortests: true
      stuntestip: 127.0.0.1
      certname: sha256-raw:00000000000000000000000000000000000000000000000000000000000000aa
`, &tailcfg.DERPMap{
			OmitDefaultRegions: true,
			HomeParams:         &tailcfg.DERPHomeParams{RegionScore: map[int]float64{900: 0.5}},
			Regions: map[int]*tailcfg.DERPRegion{900: {
				RegionID: 900, Latitude: 52.5, Longitude: -13, Avoid: true, NoMeasureNoHome: true,
				Nodes: []*tailcfg.DERPNode{{
					Name: "a", RegionID: 900, HostName: "192.0.2.1", IPv6: "none", STUNPort: -1, DERPPort: 8443,
					InsecureForTests: true, STUNTestIP: "127.0.0.1",
					CertName: "sha256-raw:00000000000000000000000000000000000000000000000000000000000000aa",
				}},
			}},
		}},
		{"no regions", "regions: {}", &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readMap(t, tt.text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMapFileErrors(t *testing.T) {
	region := func(node string) string {
		return "regions:\n  900:\n    nodes:\n    - " + node + "\n"
	}
	tests := []struct {
		name, text string
		want       []string // one per line of the error, each a part of it
	}{
		{"empty", "", []string{"derp.yaml: the file is empty"}},
		{"only a comment", "# nothing\n", []string{"the file is empty"}},
		{"two documents", "regions: {}\n---\nregions: {}\n", []string{"one document only"}},
		{"no YAML", "regions:\n  900: [\n", []string{"derp.yaml: line"}},
		{"no object", "- regions\n", []string{"line 1: expected keys and values, found a list"}},
		{"unknown keys", "regions:\n  900:\n    regioncod: x\n    nodes:\n    - name: a\n      hostname: h\n      stunprot: 5\nother: 1\n", []string{
			`derp.yaml: line 3: unknown key "regioncod"; the keys here are: avoid, latitude, longitude, nodes, nomeasurenohome, regioncode, regionid, regionname`,
			`derp.yaml: line 7: unknown key "stunprot"`,
			`derp.yaml: line 8: unknown key "other"; the keys here are: homeparams, omitdefaultregions, regions`,
		}},
		{"key twice", "regions: {}\nRegions: {}\n", []string{`line 2: key "Regions" stands here twice`}},
		{"region twice", "regions:\n  900: null\n  900: null\n", []string{`line 3: key "900" stands here twice`}},
		{"region ID is text", "regions:\n  home: null\n", []string{`line 2: "home" is not a region ID`}},
		{"region ID 0", "regions:\n  0:\n    nodes: [{name: a, hostname: h}]\n", []string{"line 3: region 0: the region ID must be positive"}},
		{"region IDs differ", "regions:\n  900:\n    regionid: 901\n    nodes: [{name: a, hostname: h}]\n", []string{"line 3: region 900: its RegionID is 901"}},
		{"nodes missing", "regions:\n  900:\n    regioncode: x\n", []string{"line 3: region 900: it has no node that relays"}},
		{"nodes is no list", "regions:\n  900:\n    nodes: {name: a}\n", []string{"line 3: expected a list of nodes, found keys and values"}},
		{"node's region differs", region("{name: a, hostname: h, regionid: 901}"), []string{"line 3: region 900: node a: its RegionID is 901"}},
		{"node name missing", region("{hostname: h}"), []string{"region 900: node 1: it has no name"}},
		{"host missing", region("{name: a}"), []string{`node a: host name "" is not a host name`}},
		{"host is a URL", region("{name: a, hostname: 'https://h/'}"), []string{`host name "https://h/" is not a host name`}},
		{"IPv4 is IPv6", region("{name: a, hostname: h, ipv4: '2001:db8::1'}"), []string{"neither an IPv4 address nor none"}},
		{"IPv6 is a word", region("{name: a, hostname: h, ipv6: yes}"), []string{"neither an IPv6 address nor none"}},
		{"ports", region("{name: a, hostname: h, stunport: 65536, derpport: -1}"), []string{"STUN port 65536 is neither a port nor -1 (no STUN); region 900: node a: DERP port -1 is not a port"}},
		{"port is text", region("{name: a, hostname: h, stunport: many}"), []string{`line 4: expected a whole number, found "many"`}},
		{"bool is text", region("{name: a, hostname: h, stunonly: yes}"), []string{`line 4: expected true or false, found "yes"`}},
		{"text is a list", region("{name: [a], hostname: h}"), []string{"line 4: expected text, found a list"}},
		{"pin", region("{name: a, hostname: h, certname: 'sha256-raw:ABC'}"), []string{"is not sha256-raw: and 64 lower-case hex digits"}},
		{"latitude", "regions:\n  900:\n    latitude: nan\n    nodes: [{name: a, hostname: h}]\n", []string{"no place on earth"}},
		{"alias", "x: &x {}\nregions: *x\n", []string{`line 1: unknown key "x"`, "line 2: expected keys and values, found a YAML alias"}},
		{"names twice in a region", "regions:\n  900:\n    nodes: [{name: a, hostname: h}, {name: a, hostname: h}]\n", []string{`line 3: region 900: it has two nodes named "a"`}},
		{"names twice", "regions:\n  900:\n    nodes: [{name: a, hostname: h}]\n  901:\n    nodes: [{name: a, hostname: h}]\n", []string{`regions 900 and 901 both have a node named "a"`}},
		{"score", "homeparams: {regionscore: {900: 0}}\nregions: {}\n", []string{"region score 0 of region 900"}},
		{"many", "regions:\n" + strings.Repeat("  x: 1\n", 1000), strings.Split(strings.Repeat("derp.yaml: line \n", 19)+"derp.yaml: line ", "\n")},
		{"too long", "# " + strings.Repeat("x", 1<<20), []string{"has more than 1048576 bytes"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := readMap(t, tt.text)
			if err == nil {
				t.Fatal("no error")
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(tt.want) {
				t.Fatalf("%d lines, want %d: %v", len(lines), len(tt.want), err)
			}
			for i, want := range tt.want {
				if !strings.Contains(lines[i], want) {
					t.Errorf("line %q lacks %q", lines[i], want)
				}
			}
		})
	}
}

func TestSourcesStartErrors(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	writeFile(t, bad, "region: {}")
	_, err := derp.NewSources(derp.SourcesConfig{
		Files:    []string{bad, filepath.Join(dir, "missing.yaml"), dir},
		URLs:     []string{"ftp://example/", "https://", "::"},
		Embedded: &derp.Region{ID: -1},
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"bad.yaml: line 1: unknown key", "missing.yaml", "not a regular file", `"ftp://example/" is not`, `"https://" is not`, `"::" is not`, "embedded region: region -1"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}
