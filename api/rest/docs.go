package rest

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strings"
)

const docsPath = Prefix + "/docs"

// What is generated of the contract, and what shows it. All of it is public, like
// the contract itself: it is the same on every server.
var (
	//go:embed heddle.swagger.json
	openAPI []byte
	//go:embed docs.html
	docsPage string
	//go:embed docs.css
	docsStyle []byte
)

// page is a document that needs no API key.
type page struct {
	contentType string
	body        []byte
}

// documents returns the pages by their paths.
func documents() (map[string]page, error) {
	var doc document
	if err := json.Unmarshal(openAPI, &doc); err != nil {
		return nil, fmt.Errorf("OpenAPI document: %w", err)
	}
	t, err := template.New("docs").Parse(docsPage)
	if err != nil {
		return nil, err
	}
	var html bytes.Buffer
	if err := t.Execute(&html, doc.view()); err != nil {
		return nil, err
	}
	return map[string]page{
		Prefix + "/openapi.json": {"application/json", openAPI},
		docsPath:                 {"text/html; charset=utf-8", html.Bytes()},
		docsPath + ".css":        {"text/css; charset=utf-8", docsStyle},
	}, nil
}

func (p page) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		unrouted(r.Context(), nil, nil, w, r, http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Content-Type", p.contentType)
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	w.Header().Set("Cache-Control", "max-age=300")
	_, _ = w.Write(p.body) // the client is gone
}

// document is what the page shows of an OpenAPI document, version 2.
type document struct {
	Info        struct{ Title, Version, Description string }
	Tags        []tag
	Paths       map[string]map[string]operation
	Definitions map[string]schema
}

type tag struct{ Name, Description string }

type operation struct {
	Summary, Description string
	OperationID          string `json:"operationId"`
	Parameters           []parameter
	Responses            map[string]struct {
		Schema schema
	}
	Tags []string
}

type parameter struct {
	Name, In, Description, Type, Format string
	Required                            bool
	Schema                              schema
}

type schema struct {
	Ref                              string `json:"$ref"`
	Title, Description, Type, Format string
	Properties                       map[string]schema
	Items                            *schema
	AdditionalProperties             *schema
	Enum                             []string
}

// view is the document in the order of the page.
type view struct {
	Title, Version, Description string
	Services                    []service
	Messages                    []message
	Errors                      []kindView
}

type service struct {
	Name, Description string
	Calls             []callView
}

type callView struct {
	ID, Method, Path string
	Short, Text      string  // the first sentence, and the rest
	Fields           []field // of the URL
	Body, Answer     field
}

type message struct {
	Name, Text string
	Fields     []field
	Values     []string // of an enum
}

type field struct {
	Name, In, Type, Ref, Text string
}

type kindView struct {
	Status      int
	Code, Means string
}

func (d document) view() view {
	out := view{Title: d.Info.Title, Version: d.Info.Version, Description: d.Info.Description}
	byName := map[string]*service{}
	slices.SortFunc(d.Tags, func(a, b tag) int { return strings.Compare(a.Name, b.Name) })
	for _, t := range d.Tags {
		out.Services = append(out.Services, service{Name: t.Name, Description: t.Description})
	}
	for i := range out.Services {
		byName[out.Services[i].Name] = &out.Services[i]
	}
	for _, path := range slices.Sorted(maps.Keys(d.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(d.Paths[path])) {
			op := d.Paths[path][method]
			if s := byName[strings.Join(op.Tags, "")]; s != nil {
				s.Calls = append(s.Calls, op.view(strings.ToUpper(method), path))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Definitions)) {
		def := d.Definitions[name]
		m := message{Name: name, Text: join(def.Title, def.Description), Values: def.Enum}
		for _, f := range slices.Sorted(maps.Keys(def.Properties)) {
			m.Fields = append(m.Fields, def.Properties[f].field(f))
		}
		out.Messages = append(out.Messages, m)
	}
	for _, k := range kinds {
		if k.means != "" {
			out.Errors = append(out.Errors, kindView{k.status, k.code, k.means})
		}
	}
	for _, k := range []kind{methodNotAllowed, contentTooLarge} {
		out.Errors = append(out.Errors, kindView{k.status, k.code, k.means})
	}
	slices.SortFunc(out.Errors, func(a, b kindView) int { return cmp.Compare(a.Status, b.Status) })
	return out
}

func (op operation) view(method, path string) callView {
	out := callView{ID: op.OperationID, Method: method, Path: path}
	out.Short, out.Text, _ = strings.Cut(join(op.Summary, op.Description), ". ")
	out.Short = strings.TrimSuffix(out.Short, ".")
	for _, p := range op.Parameters {
		if p.In == "body" {
			out.Body = p.Schema.field("")
			continue
		}
		out.Fields = append(out.Fields, field{Name: p.Name, In: p.In, Type: cmp.Or(p.Format, p.Type), Text: p.Description})
	}
	out.Answer = op.Responses["200"].Schema.field("")
	return out
}

func (s schema) field(name string) field {
	f := field{Name: name, Text: join(s.Title, s.Description)}
	f.Type, f.Ref = s.name()
	return f
}

// name is the type in words, and the definition that it refers to, if any.
func (s schema) name() (text, ref string) {
	switch {
	case s.Ref != "":
		_, ref, _ = strings.Cut(s.Ref, "#/definitions/")
		return ref, ref
	case s.Type == "array" && s.Items != nil:
		text, ref = s.Items.name()
		return "list of " + text, ref
	case s.AdditionalProperties != nil:
		text, ref = s.AdditionalProperties.name()
		return "map of " + text, ref
	case s.Type == "string" && (s.Format == "int64" || s.Format == "uint64"):
		return "number as text", ""
	}
	return cmp.Or(s.Format, s.Type), ""
}

// join puts together what the generator split at the first full stop.
func join(title, rest string) string {
	if title == "" || rest == "" {
		return title + rest
	}
	return strings.TrimSuffix(title, ".") + ". " + rest
}
