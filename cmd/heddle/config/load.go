package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds the configuration and secret files: far above any real one,
// small enough that naming the wrong file does no harm.
const maxFile = 1 << 20

// Load reads the file at path (none if path is "") and the HEDDLE_ variables
// of environ ("NAME=value", as os.Environ returns them), of which the latter
// win. HOME and XDG_DATA_HOME of environ decide about the default data_dir.
// Relative paths in the file are relative to its directory, those in variables
// to the working directory. Errors are of type *[LoadError].
func Load(path string, environ []string) (*Config, error) {
	var text []byte
	if path != "" {
		var err error
		if text, err = readFile(path); err != nil {
			return nil, &LoadError{path, err}
		}
	}
	cfg, err := Parse(path, text, environ)
	if err != nil {
		return nil, &LoadError{path, err}
	}
	return cfg, nil
}

// Parse is Load for a file whose text is at hand; name is used in messages and
// for relative paths. Errors are of type [Errors].
func Parse(name string, text []byte, environ []string) (*Config, error) {
	l := newLoader(configSchema(), environ)
	l.readYAML(name, text)
	l.readEnviron()
	cfg := defaults()
	l.decode(reflect.ValueOf(cfg).Elem())
	cfg.Set = l.places()
	c := checker{Config: cfg, loader: l}
	c.derive()
	c.check()
	if len(l.problems) > 0 {
		l.problems.sort()
		return nil, l.problems
	}
	return cfg, nil
}

// value is what somebody wrote for one key.
type value struct {
	node  *yaml.Node
	where string // file or variable
	line  int    // 0 for a variable
	dir   string // what relative paths are relative to
}

// raw holds what was written, by key path.
type raw map[string]value

// A loader collects raw values and problems.
type loader struct {
	schema   *schema
	raw      raw
	problems Errors
	environ  map[string]string
}

func newLoader(s *schema, environ []string) *loader {
	l := &loader{schema: s, raw: make(raw), environ: make(map[string]string)}
	for _, e := range environ {
		if name, v, ok := strings.Cut(e, "="); ok {
			l.environ[name] = v
		}
	}
	return l
}

func (l *loader) problem(where string, line int, key, format string, args ...any) {
	l.problems = append(l.problems, Problem{Place: where, Line: line, Key: key, Msg: fmt.Sprintf(format, args...)})
}

func (l *loader) places() map[string]string {
	set := make(map[string]string, len(l.raw))
	for path, v := range l.raw {
		set[path] = place(v.where, v.line)
	}
	return set
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

func (l *loader) readYAML(name string, text []byte) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return
	} else if err != nil {
		m := yamlLine.FindStringSubmatch(err.Error())
		line := 0
		if m != nil {
			line, _ = strconv.Atoi(m[1])
		}
		l.problem(name, line, "", "not YAML: %s", yamlLine.ReplaceAllString(err.Error(), ""))
		return
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		l.problem(name, more.Line, "", "a second document begins: keep everything in one, without ---")
	}
	if len(doc.Content) == 0 {
		return
	}
	root := doc.Content[0]
	switch {
	case isNull(root):
	case root.Kind == yaml.MappingNode:
		l.readMapping(name, root, "")
	default:
		l.problem(name, root.Line, "", "must hold keys with values, like server_url: https://vpn.example.com")
	}
}

func (l *loader) readMapping(file string, n *yaml.Node, parent string) {
	seen := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, node := n.Content[i], n.Content[i+1]
		path := parent + name.Value
		if name.Kind != yaml.ScalarNode {
			l.problem(file, name.Line, strings.TrimSuffix(parent, "."), "a key must be a plain name")
			continue
		}
		if line, ok := seen[path]; ok {
			l.problem(file, name.Line, shown(path), "already set in line %d: remove one", line)
			continue
		}
		seen[path] = name.Line
		v := value{node: node, where: file, line: name.Line, dir: filepath.Dir(file)}
		k := l.schema.byPath[path]
		switch {
		case k == nil:
			l.readUnknown(path, v)
		case k.section && node.Kind == yaml.MappingNode:
			l.readMapping(file, node, path+".")
		case k.section && isNull(node): // all its keys are commented out
		case k.section:
			l.problem(file, node.Line, path, "is a section: put its keys below it, indented")
		case isNull(node):
			l.problem(file, name.Line, path, "has no value: write one or remove the line")
		default:
			l.set(k, v)
		}
	}
}

// readUnknown handles a key of the file that is not in the schema: KEY_file of
// a secret, or a mistake.
func (l *loader) readUnknown(path string, v value) {
	if base, ok := strings.CutSuffix(path, "_file"); ok {
		if k := l.schema.byPath[base]; k != nil && k.secret() {
			l.setSecretFile(k, path, v)
			return
		}
	}
	l.problem(v.where, v.line, shown(path), "%s", l.schema.unknown(path))
}

// set notes the value of a key; a secret can be set in two ways, but only once
// in the file and once in the environment.
func (l *loader) set(k *key, v value) {
	if old, ok := l.raw[k.path]; ok && (old.line == 0) == (v.line == 0) {
		l.problem(v.where, v.line, k.path, "already set by %s: remove one", place(old.where, old.line))
		return
	}
	l.raw[k.path] = v
}

// setSecretFile sets a secret from the file that v names.
func (l *loader) setSecretFile(k *key, path string, v value) {
	secret, err := l.secretIn(v.node, v)
	if err != nil {
		l.problem(v.where, v.line, path, "%v", err)
		return
	}
	v.node = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: secret, Line: v.node.Line}
	l.set(k, v)
}

// secretIn reads the file that n, a part of v, names.
func (l *loader) secretIn(n *yaml.Node, v value) (string, error) {
	file, err := parsePath(n.Value, l.scope(v))
	if n.Kind != yaml.ScalarNode || err != nil {
		return "", errors.New("must be the path of a file that holds the secret")
	}
	text, err := readFile(file)
	if err != nil {
		return "", fmt.Errorf("cannot read the secret: %w", err)
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" {
		return "", fmt.Errorf("the file %s is empty: write the secret into it", file)
	}
	return secret, nil
}

// decode fills dst, of the schema's type, from the raw values.
func (l *loader) decode(dst reflect.Value) {
	for _, path := range slices.Sorted(maps.Keys(l.raw)) {
		k, v := l.schema.byPath[path], l.raw[path]
		d := decoder{loader: l, value: v}
		d.decode(v.node, dst.FieldByIndex(k.field), path, k)
	}
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s is larger than 1 MiB: is this the right file?", path)
	}
	return text, nil
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Tag == "!!null"
}
