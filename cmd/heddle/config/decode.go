package config

import (
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A decoder turns one raw value into a real one.
type decoder struct {
	*loader
	value value
}

func (l *loader) scope(v value) scope { return scope{dir: v.dir, home: l.environ["HOME"]} }

func (d decoder) failf(n *yaml.Node, path, format string, args ...any) {
	line := n.Line
	if d.value.line == 0 { // the node stands in a variable
		line = 0
	}
	d.problem(d.value.where, line, path, format, args...)
}

// decode sets dst from n. What a single value must be like stands in k.
func (d decoder) decode(n *yaml.Node, dst reflect.Value, path string, k *key) {
	switch kind := dst.Kind(); {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.failf(n, path, "YAML aliases are not supported: write the value out")
	case isNull(n):
		d.failf(n, path, "has no value: write one or remove it")
	case kind == reflect.Slice:
		d.decodeList(n, dst, path, k)
	case kind == reflect.Map:
		d.decodeMap(n, dst, path, k)
	case isSection(dst.Type()):
		d.decodeStruct(n, dst, path)
	case n.Kind != yaml.ScalarNode:
		d.failf(n, path, "must be a single value")
	default:
		if err := parse(n.Value, dst, k, d.scope(d.value)); err != nil {
			d.failf(n, path, "%v", err)
		}
	}
}

func (d decoder) decodeList(n *yaml.Node, dst reflect.Value, path string, k *key) {
	if n.Kind != yaml.SequenceNode {
		d.failf(n, path, "must be a list: write it in [ ], or as lines that begin with a dash")
		return
	}
	list := reflect.MakeSlice(dst.Type(), len(n.Content), len(n.Content))
	seen := make(map[string]int)
	for i, item := range n.Content {
		before := len(d.problems)
		d.decode(item, list.Index(i), fmt.Sprintf("%s[%d]", path, i), k)
		if len(d.problems) > before {
			continue
		}
		text := fmt.Sprint(list.Index(i).Interface())
		if first, ok := seen[text]; ok {
			d.failf(item, fmt.Sprintf("%s[%d]", path, i), "the same as number %d of the list: remove one", first+1)
		} else {
			seen[text] = i
		}
	}
	dst.Set(list)
}

// decodeMap decodes a map. Keys of lists are domains, those of single values names.
func (d decoder) decodeMap(n *yaml.Node, dst reflect.Value, path string, k *key) {
	if n.Kind != yaml.MappingNode {
		d.failf(n, path, "must be written like %s", k.example)
		return
	}
	m := reflect.MakeMapWithSize(dst.Type(), len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, item := n.Content[i], n.Content[i+1]
		parse := parseDomain
		if dst.Type().Elem().Kind() == reflect.String {
			parse = parseParameter
		}
		domain, err := parse(name.Value, scope{})
		if name.Kind != yaml.ScalarNode || err != nil {
			d.failf(name, path, "%v", err)
			continue
		}
		at := path + "[" + domain + "]"
		if m.MapIndex(reflect.ValueOf(domain)).IsValid() {
			d.failf(name, at, "already set: remove one")
			continue
		}
		v := reflect.New(dst.Type().Elem()).Elem()
		d.decode(item, v, at, k)
		m.SetMapIndex(reflect.ValueOf(domain), v)
	}
	dst.Set(m)
}

// decodeStruct decodes an element of a list that has keys of its own. All but those whose tag says a default
// must be there.
func (d decoder) decodeStruct(n *yaml.Node, dst reflect.Value, path string) {
	s := newSchema(dst.Type())
	if n.Kind != yaml.MappingNode {
		var names []string
		for _, k := range s.keys {
			if k.def == "" {
				names = append(names, k.path+": …")
			}
		}
		d.failf(n, path, "must be written like {%s}", strings.Join(names, ", "))
		return
	}
	seen := make(map[string]bool)
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, item := n.Content[i], n.Content[i+1]
		at := path + "." + shown(name.Value)
		k := s.byPath[name.Value]
		if base, ok := strings.CutSuffix(name.Value, "_file"); ok && k == nil && s.byPath[base] != nil && s.byPath[base].secret() {
			k = s.byPath[base]
			secret, err := d.secretIn(item, d.value)
			if err != nil {
				d.failf(name, at, "%v", err)
				seen[k.path] = true
				continue
			}
			item = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: secret, Line: item.Line}
		}
		switch {
		case k == nil:
			d.failf(name, at, "%s", s.unknown(name.Value))
		case seen[k.path]:
			d.failf(name, at, "already set: remove one")
		default:
			seen[k.path] = true
			d.decode(item, dst.FieldByIndex(k.field), at, k)
		}
	}
	for _, k := range s.keys {
		if !seen[k.path] && k.def == "" {
			d.failf(n, path, "%s is missing", k.path)
		}
	}
}
