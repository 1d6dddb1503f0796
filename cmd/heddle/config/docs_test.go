package config

import (
	"bytes"
	"flag"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/config.md anew")

func TestReferenceIsUpToDate(t *testing.T) {
	const path = "../../../docs/config.md"
	if *update {
		if err := os.WriteFile(path, Reference(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, Reference()) {
		t.Errorf("%s is out of date: run go test ./cmd/heddle/config -update", path)
	}
}

func TestEveryKeyIsDocumentedAndUnambiguous(t *testing.T) {
	docs, values, s := comments(), reflect.ValueOf(defaults()).Elem(), configSchema()
	taken := make(map[string]string)
	for _, v := range commandVariables {
		taken[v.name] = "the command line"
	}
	for _, k := range s.keys {
		if docs[k.docName] == "" {
			t.Errorf("%s: the field %s has no comment", k.path, k.docName)
		}
		if takes := k.reload == live || k.reload == restart; takes == k.section {
			t.Errorf("%s: the field %s has the reload tag %q; a key is %s or %s, and a section is neither", k.path, k.docName, k.reload, live, restart)
		}
		if k.section {
			continue
		}
		if k.example == "" && written(values.FieldByIndex(k.field)) == "" {
			t.Errorf("%s: the field %s needs an example tag", k.path, k.docName)
		}
		if k.typ.Kind() == reflect.String && formats[k.format] == nil && !strings.Contains(k.format, "|") {
			t.Errorf("%s: the field %s has the unknown format %q", k.path, k.docName, k.format)
		}
		names := []string{k.variable()}
		if k.secret() {
			names = append(names, k.variable()+"_FILE")
		}
		for _, name := range names {
			if other := taken[name]; other != "" {
				t.Errorf("%s is the variable of %s and of %s", name, k.path, other)
			}
			taken[name] = k.path
		}
	}
	for path := range foreign {
		if s.byPath[path] != nil {
			t.Errorf("%s is a key and yet called foreign", path)
		}
	}
}

func TestExampleMeansTheDefaults(t *testing.T) {
	environ := []string{"HOME=/home/ada"}
	want, err := Parse("", nil, environ)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse("example.yaml", Example(), environ)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(want, got) {
		t.Errorf("the example means %+v, want the defaults %+v", got, want)
	}
}

// A key of the example that is commented out has no blank behind the #.
var commentedOut = regexp.MustCompile(`(?m)^( *)#([a-z0-9_]+: )`)

func TestExampleWithAllKeys(t *testing.T) {
	text := commentedOut.ReplaceAll(Example(), []byte("$1$2"))
	cfg, err := Parse("example.yaml", text, []string{"HOME=/home/ada"})
	if err != nil {
		t.Fatal(err)
	}
	s, values, base := configSchema(), reflect.ValueOf(cfg).Elem(), reflect.ValueOf(defaults()).Elem()
	for _, k := range s.keys {
		if k.section {
			continue
		}
		if cfg.Set[k.path] == "" {
			t.Errorf("%s is not in the example", k.path)
		}
		if k.example == "" && !reflect.DeepEqual(values.FieldByIndex(k.field).Interface(), base.FieldByIndex(k.field).Interface()) {
			t.Errorf("%s is %v in the example, not the default", k.path, values.FieldByIndex(k.field))
		}
	}
}

// TestEveryKeyAsVariable says with variables what the example says in YAML.
func TestEveryKeyAsVariable(t *testing.T) {
	text := commentedOut.ReplaceAll(Example(), []byte("$1$2"))
	want, err := Parse("", text, []string{"HOME=/home/ada"})
	if err != nil {
		t.Fatal(err)
	}
	environ, values := []string{"HOME=/home/ada"}, reflect.ValueOf(defaults()).Elem()
	for _, k := range configSchema().keys {
		if k.section {
			continue
		}
		v := k.example
		if v == "" {
			v = written(values.FieldByIndex(k.field))
		}
		environ = append(environ, k.variable()+"="+v)
	}
	got, err := Parse("", nil, environ)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(slices.Sorted(maps.Keys(want.Set)), slices.Sorted(maps.Keys(got.Set))) {
		t.Errorf("set are %v, want the keys of %v", got.Set, want.Set)
	}
	got.Set = want.Set
	if !reflect.DeepEqual(want, got) {
		t.Errorf("variables mean something else than the file: %+v, want %+v", got, want)
	}
}

func TestDefaultDataDir(t *testing.T) {
	for _, tt := range []struct {
		name    string
		uid     int
		environ map[string]string
		want    string
		problem bool
	}{
		{"nowhere", 1000, nil, "", true},
		{"relative XDG, nowhere", 1000, map[string]string{"XDG_DATA_HOME": "x"}, "", true},
		{"root", 0, map[string]string{"HOME": "/root", "XDG_DATA_HOME": "/x"}, "/var/lib/heddle", false},
		{"home", 1000, map[string]string{"HOME": "/home/ada"}, "/home/ada/.local/share/heddle", false},
		{"relative XDG", 1000, map[string]string{"HOME": "/home/ada", "XDG_DATA_HOME": "x"}, "/home/ada/.local/share/heddle", false},
		{"XDG", 1000, map[string]string{"HOME": "/home/ada", "XDG_DATA_HOME": "/x"}, "/x/heddle", false},
	} {
		c := checker{Config: &Config{}, loader: &loader{environ: tt.environ}}
		if got := c.defaultDataDir(tt.uid); got != tt.want || len(c.problems) > 0 != tt.problem {
			t.Errorf("%s: %q, %v; want %q", tt.name, got, c.problems, tt.want)
		}
	}
}
