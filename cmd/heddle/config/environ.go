package config

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// commandVariables are the HEDDLE_ variables that are no configuration keys.
var commandVariables = []struct{ name, doc string }{
	{"HEDDLE_CONFIG", "The configuration file, like `--config`."},
	{"HEDDLE_SOCKET", "The socket of the server, for the command line; like `--socket`."},
	{"HEDDLE_PROFILE", "The profile that names a remote server, for the command line; like `--profile`. Commands that work on the server's own machine, such as `heddle backup`, refuse it."},
	{"HEDDLE_ADDRESS", "The address of a remote server, for the command line; like `--address`. Commands that work on the server's own machine, such as `heddle backup`, refuse it."},
	{"HEDDLE_API_KEY", "The API key for that server."},
	{"HEDDLE_API_KEY_FILE", "A file that holds the API key."},
	{"HEDDLE_OUTPUT", "The output format of the command line: table, json or yaml; like `--output`."},
	{"HEDDLE_BIN", "Ignored; scripts name the heddle binary with it."},
}

// Kubernetes puts such variables into every container of a namespace that has
// a Service called heddle or heddle-something. A port is told from a mistyped
// key by its value, tcp://10.0.0.1:80.
var (
	kubernetesName = regexp.MustCompile(`^HEDDLE_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)
	kubernetesPort = regexp.MustCompile(`^HEDDLE_([A-Z0-9_]+_)?PORT=(tcp|udp|sctp)://`)
)

// readEnviron reads the HEDDLE_ variables. They win over the file.
func (l *loader) readEnviron() {
	for _, name := range slices.Sorted(maps.Keys(l.environ)) {
		if !strings.HasPrefix(name, prefix) || isCommandVariable(name) {
			continue
		}
		text := l.environ[name]
		v := value{node: &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}, where: name, dir: "."}
		if k := l.schema.byVariable[name]; k != nil {
			l.setVariable(k, v)
			continue
		}
		base, isFile := strings.CutSuffix(name, "_FILE")
		if k := l.schema.byVariable[base]; isFile && k != nil && k.secret() {
			l.setSecretFile(k, k.path, v)
			continue
		}
		if kubernetesName.MatchString(name) || kubernetesPort.MatchString(name+"="+text) {
			continue
		}
		l.problem(shown(name), 0, "", "%s", l.schema.unknownVariable(name))
	}
}

// setVariable sets a key from its variable: plain text for single values, a
// comma-separated list or YAML for lists, YAML for the rest.
func (l *loader) setVariable(k *key, v value) {
	text := strings.TrimSpace(v.node.Value)
	kind := k.typ.Kind()
	switch {
	case kind != reflect.Slice && kind != reflect.Map:
		// as it is
	case strings.HasPrefix(text, "[") || strings.HasPrefix(text, "{"):
		var doc yaml.Node
		if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
			l.problem(v.where, 0, k.path, "not YAML: %s", yamlLine.ReplaceAllString(err.Error(), ""))
			return
		}
		v.node = doc.Content[0]
	case text == "" && kind == reflect.Map:
		v.node = &yaml.Node{Kind: yaml.MappingNode}
	case kind == reflect.Map:
		l.problem(v.where, 0, k.path, "must be written like %s", k.example)
		return
	default:
		v.node = &yaml.Node{Kind: yaml.SequenceNode}
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part != "" {
				v.node.Content = append(v.node.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: part})
			}
		}
	}
	l.set(k, v)
}

func isCommandVariable(name string) bool {
	for _, v := range commandVariables {
		if v.name == name {
			return true
		}
	}
	return false
}
