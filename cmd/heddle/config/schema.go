package config

import (
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"sync"
)

// A key is one entry of the configuration language: a value, or a section
// that holds further keys.
type key struct {
	path    string // "dns.base_domain"
	field   []int  // where the value is, for reflect's FieldByIndex
	typ     reflect.Type
	format  string // tag: what a string must be
	off     bool   // "" is a value
	def     string // tag: the default in words
	example string // tag
	docName string // "DNS.BaseDomain", for its comment
	section bool
	reload  string // tag: what a change takes, "live" or "restart"
	fixes   bool   // tag: setting it matters, even to the default
}

// prefix is what all variables of heddle begin with.
const prefix = "HEDDLE_"

// variable is the name of the key in the environment.
func (k *key) variable() string {
	return prefix + strings.ToUpper(strings.ReplaceAll(k.path, ".", "_"))
}

func (k *key) secret() bool { return k.typ == reflect.TypeFor[Secret]() }

// name is the last part of the path.
func (k *key) name() string { return k.path[strings.LastIndexByte(k.path, '.')+1:] }

// A schema is the language that a struct type defines by its tags.
type schema struct {
	keys       []*key // a section comes before its keys
	byPath     map[string]*key
	byVariable map[string]*key // without sections
}

var configSchema = sync.OnceValue(func() *schema { return newSchema(reflect.TypeFor[Config]()) })

func newSchema(t reflect.Type) *schema {
	s := &schema{byPath: make(map[string]*key), byVariable: make(map[string]*key)}
	s.add(t, "", nil)
	for _, k := range s.keys {
		s.byPath[k.path] = k
		if !k.section {
			s.byVariable[k.variable()] = k
		}
	}
	return s
}

// add adds the keys of t, those that have a value before the sections: what
// stands below a heading belongs to it.
func (s *schema) add(t reflect.Type, parent string, index []int) {
	var sections []*key
	for i := range t.NumField() {
		f := t.Field(i)
		name, ok := f.Tag.Lookup("key")
		if !ok {
			continue
		}
		at := append(append([]int(nil), index...), i)
		if name == ",inline" {
			s.add(f.Type, parent, at)
			continue
		}
		k := &key{
			path:    parent + name,
			field:   at,
			typ:     f.Type,
			def:     f.Tag.Get("default"),
			example: f.Tag.Get("example"),
			docName: t.Name() + "." + f.Name,
			section: isSection(f.Type),
		}
		k.format, k.off = strings.CutSuffix(f.Tag.Get("format"), ",off")
		k.reload, k.fixes = strings.CutSuffix(f.Tag.Get("reload"), ",fixes")
		if k.section {
			sections = append(sections, k)
		} else {
			s.keys = append(s.keys, k)
		}
	}
	for _, k := range sections {
		s.keys = append(s.keys, k)
		s.add(k.typ, k.path+".", k.field)
	}
}

func isSection(t reflect.Type) bool {
	if t.Kind() != reflect.Struct {
		return false
	}
	switch t {
	case reflect.TypeFor[netip.Addr](), reflect.TypeFor[netip.Prefix](), reflect.TypeFor[url.URL](), reflect.TypeFor[Secret]():
		return false
	}
	return true
}
