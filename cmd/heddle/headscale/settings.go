package headscale

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"heddle/control/tailnet"

	"go.yaml.in/yaml/v3"
)

// settings are headscale's configuration. Keys are paths with dots, in lower case.
type settings struct {
	file   string // "" if there is none
	values map[string]any
	used   map[string]bool // what was asked for
}

func readSettings(path string) (*settings, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, &tailnet.Error{Code: tailnet.NotFound, Msg: fmt.Sprintf("headscale's configuration: %v", err), Err: err}
	}
	s := &settings{file: path, used: map[string]bool{}}
	if err := yaml.Unmarshal(text, &s.values); err != nil {
		return nil, &tailnet.Error{Code: tailnet.Invalid, Msg: fmt.Sprintf("%s is not headscale's configuration: %v", path, err), Err: err}
	}
	s.values = lower(s.values)
	if s.values["noise"] == nil && s.values["database"] == nil && s.values["server_url"] == nil {
		return nil, tailnet.Errorf(tailnet.Invalid, "%s is not headscale's configuration: it has neither noise nor database nor server_url", path)
	}
	return s, nil
}

// lower makes keys comparable: headscale takes them in any case.
func lower(in map[string]any) map[string]any {
	out := make(map[string]any, len(in))
	for k, v := range in {
		if inner, ok := v.(map[string]any); ok {
			v = lower(inner)
		}
		out[strings.ToLower(k)] = v
	}
	return out
}

func (s *settings) none() bool { return s.file == "" }

// get returns nil for what is not set.
func (s *settings) get(key string) any {
	if s.used != nil {
		s.used[key] = true
	}
	var at any = s.values
	for part := range strings.SplitSeq(key, ".") {
		inner, ok := at.(map[string]any)
		if !ok {
			return nil
		}
		at = inner[part]
	}
	return at
}

// text is "" for what is not set.
func (s *settings) text(key string) string {
	if v := s.get(key); v != nil {
		return strings.TrimSpace(fmt.Sprint(v))
	}
	return ""
}

func (s *settings) truth(key string) bool { return strings.EqualFold(s.text(key), "true") }

// list takes a single text for a list of one, as headscale does.
func (s *settings) list(key string) []string {
	switch v := s.get(key).(type) {
	case []any:
		out := make([]string, len(v))
		for i, e := range v {
			out[i] = fmt.Sprint(e)
		}
		return out
	case string:
		if v != "" {
			return []string{v}
		}
	}
	return nil
}

func (s *settings) table(key string) map[string]any {
	t, _ := s.get(key).(map[string]any)
	return t
}

// path is a file; relative ones are relative to the configuration.
func (s *settings) path(key string) string {
	p := s.text(key)
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(filepath.Dir(s.file), p)
}

// rest returns the keys that are set and were never asked for, in order.
func (s *settings) rest() []string {
	var out []string
	var walk func(prefix string, v any)
	walk = func(prefix string, v any) {
		inner, ok := v.(map[string]any)
		switch {
		case s.used[prefix]:
		case ok && len(inner) > 0:
			for _, k := range slices.Sorted(maps.Keys(inner)) {
				walk(strings.TrimPrefix(prefix+"."+k, "."), inner[k])
			}
		case v != nil && v != "" && prefix != "":
			out = append(out, prefix)
		}
	}
	walk("", any(s.values))
	return out
}
