package structure

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// A rule says what a package of ours may import of ours, and which packages of
// others it must never import.
type rule struct {
	ours  []string
	never []string
}

var (
	storage = []string{"gorm.io/", "github.com/glebarez/", "github.com/jackc/", "database/sql"}
	wire    = []string{"net/http", "google.golang.org/grpc"}
	clock   = []string{"os", "net", "log", "log/slog", "sync"} // and what comes with them
	domain  = []string{"policy", "control/tailnet"}
)

// table is the package table of docs/architecture.md. A package that is not
// in it fails the test: add a row there and here.
var table = map[string]rule{
	"policy":                      {[]string{"policy/packet", "policy/posture", "policy/prefixes", "policy/syntax"}, slices.Concat(storage, wire, clock)},
	"policy/syntax":               {nil, slices.Concat(storage, wire, clock)},
	"policy/conformance":          {[]string{"policy"}, slices.Concat(storage, wire)},
	"policy/posture":              {[]string{"policy/syntax"}, slices.Concat(storage, wire, clock)},
	"policy/packet":               {[]string{"policy/syntax"}, slices.Concat(storage, wire, clock)},
	"policy/matches":              {[]string{"policy", "policy/syntax"}, slices.Concat(storage, wire, clock)},
	"policy/prefixes":             {nil, slices.Concat(storage, wire, clock)},
	"policy/impact":               {[]string{"policy"}, slices.Concat(storage, wire, clock)},
	"control/tailnet":             {[]string{"control/tailnet/typo", "policy"}, slices.Concat(storage, wire)},
	"control/tailnet/tailnettest": {[]string{"control/tailnet"}, slices.Concat(storage, wire)},
	"control/tailnet/httpcode":    {[]string{"control/tailnet"}, slices.Concat(storage, []string{"google.golang.org/grpc"})},
	"control/tailnet/site":        {nil, slices.Concat(storage, wire)},
	"control/tailnet/typo":        {nil, slices.Concat(storage, wire, clock)},
	"control/netmap":              {append([]string{"control/netmap/cache"}, domain...), slices.Concat(storage, wire, []string{"os", "net"})},
	"control/netmap/cache":        {nil, slices.Concat(storage, wire)},
	"control/h2":                  {nil, slices.Concat(storage, []string{"google.golang.org/grpc"})},
	"control/noise":               {[]string{"control/h2", "control/tailnet/site"}, slices.Concat(storage, []string{"google.golang.org/grpc"})},
	"control/webhook":             {[]string{"control/tailnet"}, slices.Concat(storage, []string{"google.golang.org/grpc"})},
	"control/pending":             {append([]string{"control/tailnet/site"}, domain...), slices.Concat(storage, wire)},
	"control/idtoken":             {domain, slices.Concat(storage, []string{"google.golang.org/grpc"})},
	"control/check":               {domain, slices.Concat(storage, wire)},
	"control/oidc":                {append([]string{"control/tailnet/site"}, domain...), slices.Concat(storage, []string{"google.golang.org/grpc"})},
	"control/login":               {append([]string{"control/check", "control/oidc", "control/pending", "control/tailnet/httpcode"}, domain...), slices.Concat(storage, []string{"google.golang.org/grpc"})},
	"control":                     {append([]string{"control/check", "control/idtoken", "control/login", "control/netmap", "control/noise", "control/oidc", "control/pending", "control/tailnet/httpcode", "control/tailnet/site"}, domain...), slices.Concat(storage, []string{"google.golang.org/grpc"})},
	"control/controltest":         {append([]string{"control", "control/check", "control/idtoken", "control/netmap", "control/noise", "control/oidc", "control/pending", "control/tailnet/tailnettest"}, domain...), slices.Concat(storage, []string{"google.golang.org/grpc"})},
	"db":                          {append([]string{"db/dirlock"}, domain...), wire},
	"db/dirlock":                  {[]string{"control/tailnet"}, slices.Concat(storage, wire)},
	"db/headscale":                {[]string{"control/tailnet"}, wire},
	"db/pgserver":                 {nil, wire},
	"derp":                        {[]string{"control/tailnet/site"}, slices.Concat(storage, []string{"google.golang.org/grpc"})},
	"proto":                       {nil, nil},
	"proto/heddle/v1":             {nil, storage},
	"api":                         {append([]string{"api/callers", "api/hosted", "api/explain", "api/news", "api/rest", "api/wire", "proto/heddle/v1"}, domain...), storage},
	"api/callers":                 {append([]string{"control/tailnet/site"}, domain...), storage},
	"api/explain":                 {append([]string{"proto/heddle/v1", "policy/impact"}, domain...), storage},
	"api/wire":                    {append([]string{"proto/heddle/v1"}, domain...), slices.Concat(storage, wire)},
	"api/news":                    {[]string{"control/tailnet"}, slices.Concat(storage, wire)},
	"api/hosted":                  {append([]string{"api/callers", "control/tailnet/httpcode", "policy/matches", "policy/syntax"}, domain...), storage},
	"api/rest":                    {[]string{"proto/heddle/v1"}, storage},
	"cmd/heddle":                  {[]string{"*"}, storage},
	"cmd/heddle/cli":              {[]string{"*"}, storage},
	"cmd/heddle/cli/complete":     {[]string{"proto/heddle/v1"}, storage},
	"cmd/heddle/cli/dial":         {[]string{"cmd/heddle/config"}, storage},
	"cmd/heddle/cli/doctor":       {[]string{"cmd/heddle/archive", "cmd/heddle/cli/dial", "cmd/heddle/cli/show", "cmd/heddle/config", "control/tailnet", "db", "proto/heddle/v1"}, storage},
	"cmd/heddle/cli/habits":       {nil, slices.Concat(storage, wire)},
	"cmd/heddle/cli/keys":         {[]string{"cmd/heddle/cli/complete", "cmd/heddle/cli/habits", "cmd/heddle/cli/people", "cmd/heddle/cli/show", "cmd/heddle/cli/span", "proto/heddle/v1"}, storage},
	"cmd/heddle/cli/audit":        {[]string{"cmd/heddle/cli/show", "cmd/heddle/cli/span", "proto/heddle/v1"}, storage},
	"cmd/heddle/cli/inspect":      {[]string{"cmd/heddle/cli/complete", "cmd/heddle/cli/show", "proto/heddle/v1"}, storage},
	"cmd/heddle/cli/webhooks":     {[]string{"cmd/heddle/cli/show", "proto/heddle/v1"}, storage},
	"cmd/heddle/cli/fleet":        {[]string{"cmd/heddle/cli/show", "proto/heddle/v1"}, storage},
	"cmd/heddle/cli/people":       {[]string{"cmd/heddle/cli/complete", "cmd/heddle/cli/habits", "cmd/heddle/cli/show", "cmd/heddle/cli/span", "proto/heddle/v1"}, storage},
	"cmd/heddle/cli/profile":      {[]string{"cmd/heddle/cli/show"}, storage},
	"cmd/heddle/cli/reload":       {[]string{"cmd/heddle/config", "proto/heddle/v1"}, storage},
	"cmd/heddle/cli/show":         {nil, slices.Concat(storage, wire)},
	"cmd/heddle/cli/span":         {nil, slices.Concat(storage, wire, clock)},
	"cmd/heddle/archive":          {[]string{"cmd/heddle/config", "control/tailnet", "db", "db/dirlock"}, slices.Concat(storage, wire)},
	"cmd/heddle/cli/backup":       {[]string{"cmd/heddle/archive", "cmd/heddle/config", "control/tailnet", "db"}, append([]string{"net/http"}, storage...)},
	"cmd/heddle/headscale":        {[]string{"cmd/heddle/archive", "cmd/heddle/config", "control/tailnet", "db", "db/headscale", "policy"}, slices.Concat(storage, wire)},
	"cmd/heddle/cli/headscale":    {[]string{"cmd/heddle/config", "cmd/heddle/headscale", "control/tailnet"}, append([]string{"net/http"}, storage...)},
	"cmd/heddle/config":           {[]string{"control/tailnet/typo"}, slices.Concat(storage, wire)},
	"cmd/heddle/textdiff":         {nil, slices.Concat(storage, wire, clock)},
	"cmd/heddle/serve":            {[]string{"*"}, storage},
	"cmd/heddle/serve/certs":      {nil, slices.Concat(storage, []string{"google.golang.org/grpc"})},
	"cmd/heddle/serve/zones":      {nil, slices.Concat(storage, []string{"google.golang.org/grpc"})},
	"cmd/heddle/serve/metrics":    {[]string{"control", "control/netmap", "control/tailnet", "derp"}, storage},
	"cmd/heddle/serve/systemd":    {nil, slices.Concat(storage, wire)},
	"cmd/demo":                    {[]string{"*"}, storage},
	"integration":                 {[]string{"proto/heddle/v1", "integration/lab", "integration/stock"}, storage},
	"integration/browser":         {[]string{"integration/lab"}, storage},
	"integration/fleet/readers":   {nil, slices.Concat(storage, []string{"google.golang.org/grpc"})},
	"integration/idp":             {nil, slices.Concat(storage, []string{"google.golang.org/grpc"})},
	"integration/dnsapi":          {nil, slices.Concat(storage, []string{"google.golang.org/grpc"})},
	"integration/lab":             {nil, storage},
	"integration/pebble":          {nil, storage},
	"integration/stock":           {[]string{"integration/lab"}, storage},
	"integration/crash":           {nil, nil},
	"integration/structure":       {nil, nil},
}

// Budgets of rule 17, and the exceptions that stand for a reason.
const (
	maxFile     = 600
	maxFunction = 80
	maxPackage  = 3000
	maxFields   = 15
	maxMain     = 60
)

var exceptions = map[string]string{
	"package control/tailnet: lines": "the deep module: the rules of one writer share its draft, and would only pass it around",
}

// top is what the root of the project holds, besides what is hidden.
var top = []string{
	"Dockerfile", "README.md", "api", "cmd", "control", "db", "deploy", "derp", "docs", "go.mod", "go.sum", "integration", "policy", "proto",
}

func TestTopLevel(t *testing.T) {
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && !slices.Contains(top, e.Name()) {
			t.Errorf("%s does not belong into the root of the project", e.Name())
		}
	}
}

type pkg struct {
	dir     string
	files   map[string]*ast.File
	tests   map[string]*ast.File
	fset    *token.FileSet
	lines   int
	docs    int
	content map[string]int
}

func load(t *testing.T) []*pkg {
	t.Helper()
	byDir := map[string]*pkg{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && rel != "." || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(path) != ".go" {
			return nil
		}
		p := byDir[filepath.Dir(rel)]
		if p == nil {
			p = &pkg{dir: filepath.ToSlash(filepath.Dir(rel)), files: map[string]*ast.File{}, tests: map[string]*ast.File{}, fset: token.NewFileSet(), content: map[string]int{}}
			byDir[filepath.Dir(rel)] = p
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(p.fset, rel, src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, "_test.go") {
			p.tests[rel] = f
			return nil
		}
		p.files[rel] = f
		if ast.IsGenerated(f) {
			return nil
		}
		n := strings.Count(string(src), "\n")
		p.content[rel] = n
		p.lines += n
		if f.Doc != nil {
			p.docs++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var out []*pkg
	for _, p := range byDir {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *pkg) int { return strings.Compare(a.dir, b.dir) })
	return out
}

func TestImportsGoOneWay(t *testing.T) {
	for _, p := range load(t) {
		r, known := table[p.dir]
		if !known {
			t.Errorf("package %s is not in the package table; add a row here and in docs/architecture.md, with what it owns", p.dir)
			continue
		}
		for name, f := range p.files {
			for _, spec := range f.Imports {
				path := strings.Trim(spec.Path.Value, `"`)
				if ours, ok := strings.CutPrefix(path, "heddle/"); ok {
					if !slices.Contains(r.ours, "*") && !slices.Contains(r.ours, ours) {
						t.Errorf("%s imports %s: %s may import only %v of ours", name, ours, p.dir, r.ours)
					}
					continue
				}
				for _, bad := range r.never {
					if path == bad || strings.HasSuffix(bad, "/") && strings.HasPrefix(path, bad) || bad == "google.golang.org/grpc" && strings.HasPrefix(path, bad) {
						t.Errorf("%s imports %s: %s must never", name, path, p.dir)
					}
				}
			}
		}
	}
}

func TestOneCommentAPackage(t *testing.T) {
	for _, p := range load(t) {
		if len(p.content) > 0 && p.docs != 1 {
			t.Errorf("package %s has %d package comments; want exactly one, that says what it owns and what it refuses to know", p.dir, p.docs)
		}
	}
}

func TestBudgets(t *testing.T) {
	used := map[string]bool{}
	over := func(what string, n, most int) {
		if n <= most {
			return
		}
		if _, ok := exceptions[what]; ok {
			used[what] = true
			return
		}
		t.Errorf("%s: %d, the budget is %d", what, n, most)
	}
	for _, p := range load(t) {
		over("package "+p.dir+": lines", p.lines, maxPackage)
		for name, n := range p.content {
			most := maxFile
			if filepath.Base(name) == "main.go" {
				most = maxMain
			}
			over("file "+name+": lines", n, most)
			for _, d := range p.files[name].Decls {
				if fn, ok := d.(*ast.FuncDecl); ok {
					lines := p.fset.Position(fn.End()).Line - p.fset.Position(fn.Pos()).Line + 1
					over(fmt.Sprintf("function %s.%s: lines", p.dir, fn.Name.Name), lines, maxFunction)
				}
			}
			ast.Inspect(p.files[name], func(n ast.Node) bool {
				if ts, ok := n.(*ast.TypeSpec); ok {
					if st, ok := ts.Type.(*ast.StructType); ok {
						over(fmt.Sprintf("struct %s.%s: fields", p.dir, ts.Name.Name), st.Fields.NumFields(), maxFields)
					}
				}
				return true
			})
		}
	}
	for what := range exceptions {
		if !used[what] {
			t.Errorf("the exception for %q is not needed any more; remove it", what)
		}
	}
}

func TestNoGoAtTheRoot(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "*.go"))
	if err != nil || len(files) > 0 {
		t.Errorf("Go files at the root: %v %v", files, err)
	}
}

// TestWordsThatMustNotBe finds leftovers.
func TestNoLeftovers(t *testing.T) {
	for _, p := range load(t) {
		for name, f := range p.files {
			if p.dir == "integration/structure" {
				continue
			}
			for _, c := range f.Comments {
				for _, word := range []string{"TO" + "DO", "FIX" + "ME", "XX" + "X"} {
					if strings.Contains(c.Text(), word) {
						t.Errorf("%s: %s in a comment: do it, or file it", name, word)
					}
				}
			}
		}
	}
}
