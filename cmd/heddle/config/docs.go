package config

import (
	"cmp"
	_ "embed"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"time"
)

// source is where the comments of the keys stand.
//
//go:embed config.go
var source []byte

// comments returns the comments of all struct fields by "Type.Field", as
// paragraphs of one line each.
func comments() map[string]string {
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", source, parser.ParseComments)
	if err != nil {
		panic(err) // it has been compiled into this very program
	}
	out := make(map[string]string)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if st, ok := spec.Type.(*ast.StructType); ok {
			for _, f := range st.Fields.List {
				for _, name := range f.Names {
					out[spec.Name.Name+"."+name.Name] = strings.Join(strings.Fields(f.Doc.Text()), " ")
				}
			}
		}
		return true
	})
	return out
}

const exampleHead = `# The configuration of heddle. Every line that is commented out shows the
# default, or an example where the default is empty or depends on the machine:
# remove the first # of a line to set the key.
#
# Every key can also be set by a variable, which wins over this file: HEDDLE_ and
# the key in capitals with _ for dots, so dns.base_domain is
# HEDDLE_DNS_BASE_DOMAIN. Lists are separated by commas there.
#
# Relative paths are relative to the directory of this file. Durations are
# written like 90s, 30m, 12h or 180d.
`

// Example returns a commented configuration file that means the defaults.
func Example() []byte {
	docs, values := comments(), reflect.ValueOf(defaults()).Elem()
	var b strings.Builder
	b.WriteString(exampleHead)
	for _, k := range configSchema().keys {
		indent := strings.Repeat("  ", strings.Count(k.path, "."))
		text, line := docs[k.docName], k.name()+":"
		if !k.section {
			line = "#" + line + " " + cmp.Or(k.example, written(values.FieldByIndex(k.field)))
		}
		if k.example != "" {
			text += " Default: " + defaultText(k, values) + "."
		}
		b.WriteString("\n")
		for _, comment := range wrap(text, 78-len(indent)) {
			fmt.Fprintf(&b, "%s# %s\n", indent, comment)
		}
		fmt.Fprintf(&b, "%s%s\n", indent, line)
	}
	return []byte(b.String())
}

// defaultText is the default of a key for people.
func defaultText(k *key, values reflect.Value) string {
	if k.def != "" {
		return k.def
	}
	if k.example != "" {
		return "none"
	}
	return written(values.FieldByIndex(k.field))
}

// written returns a value as it is written in the file.
func written(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		return writtenDuration(x)
	case fs.FileMode:
		return fmt.Sprintf("%04o", x)
	case slog.Level:
		return strings.ToLower(x.String())
	case netip.Prefix, Allocation, DNSProvider, bool, int:
		return fmt.Sprint(x)
	case string:
		if strings.HasPrefix(x, ":") || x == "" {
			return fmt.Sprintf("%q", x)
		}
		return x
	}
	return "" // keys of the other types have an example tag; a test holds that
}

func writtenDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d != 0 && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func wrap(text string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

const referenceHead = `<!-- Generated from cmd/heddle/config; run go test ./cmd/heddle/config -update -->

# Configuration

` + "`heddle serve --config FILE`" + ` reads a YAML file; without one, or for whatever it leaves out, the defaults below hold.
` + "`heddle config example`" + ` prints a commented file to start from, ` + "`heddle config check`" + ` reports all mistakes
at once, each with its line, and looks at the files that the configuration names.

* An unknown key or variable is an error. So is an empty value, unless ` + "`\"\"`" + ` is said to mean something.
* A variable wins over the file. Lists are separated by commas in variables (` + "`HEDDLE_DERP_FILES=a.yaml,b.yaml`" + `);
  lists and maps can also be given as YAML or JSON (` + "`HEDDLE_DNS_NAMESERVERS_SPLIT='{corp.example.com: [10.0.0.53]}'`" + `).
* Relative paths are relative to the directory of the file, in variables to the working directory. ` + "`~/`" + ` is the home
  directory.
* Durations are a number and a unit: ` + "`90s`, `30m`, `12h`, `180d`" + `.
* A secret key can also be given as a file that holds it: ` + "`KEY_file`" + ` in the configuration, ` + "`HEDDLE_…_FILE`" + ` as variable.

## Changes while the server runs

` + "`systemctl reload heddle`, `heddle reload`" + ` and SIGHUP have the server read its configuration and the files that it names. Variables
stay as they were at its start. Clients stay connected, and get what concerns them at once.

* What changed in keys that are marked **live** below is in force then; changes of those marked **restart** wait for
  ` + "`systemctl restart heddle`" + `, and are named each time until that.
* A configuration that cannot be used changes nothing, no key and no file: not one with a mistake anywhere, and neither one whose
  policy is refused, whose certificate does not go with its key, or whose new ` + "`derp.urls`" + ` do not answer within 10 seconds. A
  certificate that has expired, is not valid yet or is for another name than that of ` + "`server_url`" + ` is refused while the one in use is good.
* ` + "`heddle reload`" + ` tells what was applied, what needs a restart, and what is wrong; with ` + "`-o json`" + ` as ` + "`applied`, `needsRestart`" + `
  and ` + "`failed`" + `. It exits with 0 if the configuration is in force, with 4 if some of it needs a restart, and with 2 if it is refused. The
  log tells the same, also after SIGHUP.
* ` + "`tls.cert_file` and `tls.key_file`" + ` need a restart if TLS is turned on or off, and together with ` + "`server_url`" + `.
* ` + "`heddle reload`" + ` finds the server by the configuration: after a change of ` + "`data_dir` or `unix_socket`" + ` restart the server instead, or name the
  socket that it still has (` + "`heddle reload --socket OLD`" + `).
* The first of ` + "`trusted_proxies`" + ` needs a restart; more of them, others, or none do not.
* What is told about DNS: a key that is set in the configuration wins, and ` + "`heddle dns`" + ` refuses to change it. Once it is
  removed there, what ` + "`heddle dns`" + ` set last is in force again. ` + "`dns.extra_records`" + ` and the file are added to the records of ` + "`heddle dns`" + `.
* Without ` + "`policy.path`" + ` the policy that was in force stays, and ` + "`heddle policy set`" + ` may change it.
* Whoever is just logging in at a provider of ` + "`oidc.providers`" + ` goes on by its new rules, and begins anew if it is gone, or has
  another issuer or client ID now. Whoever is logged in stays so.
* The files that the configuration names for certificates, the policy, relays and DNS records are followed all the time as well, without a reload.
`

// Reference returns docs/config.md.
func Reference() []byte {
	docs, values := comments(), reflect.ValueOf(defaults()).Elem()
	var b strings.Builder
	b.WriteString(referenceHead)
	const table = "\n| key | variable | default | change | meaning |\n|---|---|---|---|---|\n"
	b.WriteString("\n## Server\n" + table)
	for _, k := range configSchema().keys {
		if k.section {
			fmt.Fprintf(&b, "\n## %s\n\n%s\n%s", k.path, docs[k.docName], table)
			continue
		}
		meaning := docs[k.docName]
		if k.example != "" {
			meaning += " Example: `" + k.example + "`."
		}
		if k.secret() {
			meaning += " A secret: also `" + k.path + "_file`."
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s | %s |\n",
			k.path, k.variable(), cell(defaultText(k, values), k), k.reload, strings.ReplaceAll(meaning, "|", `\|`))
	}
	for _, k := range configSchema().keys {
		if k.typ.Kind() == reflect.Slice && isSection(k.typ.Elem()) {
			b.WriteString(elements(k, docs))
		}
	}
	b.WriteString("\n## Other variables\n\nThese are no keys; the command line reads them.\n\n| variable | meaning |\n|---|---|\n")
	for _, v := range commandVariables {
		fmt.Fprintf(&b, "| `%s` | %s |\n", v.name, v.doc)
	}
	b.WriteString("\nWhat Kubernetes sets for a Service called heddle (`HEDDLE_SERVICE_HOST`, `HEDDLE_PORT` …) is ignored.\n")
	return []byte(b.String())
}

// elements is the reference of a list whose elements have keys.
func elements(list *key, docs map[string]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n## Elements of %s\n\n| key | default | meaning |\n|---|---|---|\n", list.path)
	for _, k := range newSchema(list.typ.Elem()).keys {
		meaning := docs[k.docName]
		if k.example != "" {
			meaning += " Example: `" + k.example + "`."
		}
		if k.secret() {
			meaning += " A secret: also `" + k.path + "_file`."
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", k.path, cmp.Or(k.def, "must be set"), strings.ReplaceAll(meaning, "|", `\|`))
	}
	return b.String()
}

// cell shows a default: a value as code, words as they are.
func cell(text string, k *key) string {
	if k.def != "" || text == "none" {
		return strings.ReplaceAll(text, "|", `\|`)
	}
	return "`" + text + "`"
}
