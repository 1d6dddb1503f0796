package syntax

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tailscale/hujson"
)

// The limits of a policy. They are far above what people write and low enough
// that the worst text costs a second, not the server.
const (
	maxText     = 8 << 20 // bytes: 15,000 rules and 500 groups are about 3 MB
	maxNesting  = 64      // the JSON parser below us recurses
	MaxProblems = 100     // reported at once; nobody reads more
	maxExpanded = 100_000 // destinations times ports of one grant
)

// text is a string of the policy and its offset there.
type text struct {
	s   string
	off int
}

// reader walks parsed HuJSON and collects problems.
type reader struct {
	src   []byte
	lines []int // offsets of the line breaks
	errs  []problem
	noted int // problems, also those beyond MaxProblems
}

func newReader(src []byte) *reader {
	r := &reader{src: src}
	for i, b := range src {
		if b == '\n' {
			r.lines = append(r.lines, i)
		}
	}
	return r
}

type problem struct {
	off int // -1: no place
	msg string
}

func (r *reader) fail(off int, format string, args ...any) {
	if r.noted++; len(r.errs) < MaxProblems {
		r.errs = append(r.errs, problem{off, fmt.Sprintf(format, args...)})
	}
}

// result turns the collected problems into an Errors, nil if there are none.
func (r *reader) result() error {
	if len(r.errs) == 0 {
		return nil
	}
	slices.SortStableFunc(r.errs, func(a, b problem) int { return a.off - b.off })
	out := make(Errors, len(r.errs))
	for i, p := range r.errs {
		out[i] = &Error{Msg: p.msg}
		if p.off >= 0 {
			out[i].Line, out[i].Column = r.place(p.off)
		}
	}
	return out
}

// place returns the line and column of an offset; both start at 1.
func (r *reader) place(off int) (line, column int) {
	n, _ := slices.BinarySearch(r.lines, off)
	if n == 0 {
		return 1, off + 1
	}
	return n + 1, off - r.lines[n-1]
}

var syntaxPlace = regexp.MustCompile(`^hujson: line (\d+), column (\d+): (.*)$`)

// parse reads the whole text. Syntax errors end the reading at the first one.
func (r *reader) parse() (*hujson.Value, error) {
	if len(r.src) > maxText {
		return nil, Errors{{Msg: fmt.Sprintf("the policy has %d bytes; more than %d are refused", len(r.src), maxText)}}
	}
	if off := tooDeep(r.src); off >= 0 {
		line, col := r.place(off)
		return nil, Errors{{line, col, fmt.Sprintf("nested more than %d deep", maxNesting)}}
	}
	v, err := hujson.Parse(r.src)
	if err != nil {
		e := &Error{Msg: err.Error()}
		if m := syntaxPlace.FindStringSubmatch(strings.ReplaceAll(e.Msg, "\n", " ")); m != nil {
			e.Line, _ = strconv.Atoi(m[1])
			e.Column, _ = strconv.Atoi(m[2])
			e.Msg = m[3]
		}
		return nil, Errors{e}
	}
	return &v, nil
}

// Standardize returns HuJSON as JSON. Other than the parser below it refuses, with an Errors, what nests so deep that
// reading it would end the process: whoever has a text of anybody's goes this way.
func Standardize(src []byte) ([]byte, error) {
	v, err := newReader(bytes.Clone(src)).parse()
	if err != nil {
		return nil, err
	}
	v.Standardize()
	return v.Pack(), nil
}

// tooDeep returns the offset of the bracket that nests too deep, or -1. It
// runs before the parser, so it reads strings and comments by itself.
func tooDeep(b []byte) int {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case '/':
			end := ""
			if bytes.HasPrefix(b[i:], []byte("//")) {
				end = "\n"
			} else if bytes.HasPrefix(b[i:], []byte("/*")) {
				end = "*/"
				i++ // so that "/*/" does not end what it opens
			} else {
				continue
			}
			n := bytes.Index(b[i+1:], []byte(end))
			if n < 0 {
				return -1
			}
			i += n + len(end)
		case '[', '{':
			if depth++; depth > maxNesting {
				return i
			}
		case ']', '}':
			depth--
		}
	}
	return -1
}

func isNull(v *hujson.Value) bool { return v.Value.Kind() == 'n' }

// members calls fn for every member of an object. Null is an empty object.
func (r *reader) members(v *hujson.Value, what string, fn func(key text, v *hujson.Value)) {
	if isNull(v) {
		return
	}
	o, ok := v.Value.(*hujson.Object)
	if !ok {
		r.fail(v.StartOffset, "%s must be an object", what)
		return
	}
	seen := make(map[string]bool, len(o.Members))
	for i := range o.Members {
		m := &o.Members[i]
		key := text{m.Name.Value.(hujson.Literal).String(), m.Name.StartOffset}
		if seen[key.s] {
			r.fail(key.off, "%s: %q is there twice", what, key.s)
			continue
		}
		seen[key.s] = true
		fn(key, &m.Value)
	}
}

// schema is the set of field names of an object.
type schema struct {
	what  string
	names map[string]string // lower case → name
}

// newSchema takes names, and further spellings of one separated by "|".
func newSchema(what string, names ...string) schema {
	s := schema{what, map[string]string{}}
	for _, n := range names {
		spellings := strings.Split(n, "|")
		for _, one := range spellings {
			s.names[strings.ToLower(one)] = spellings[0]
		}
	}
	return s
}

// fields calls fn for every field of an object. The case of field names does
// not matter, as it does not for the hosted service.
func (r *reader) fields(v *hujson.Value, s schema, fn func(name string, v *hujson.Value)) {
	used := make(map[string]bool, len(s.names))
	r.members(v, s.what, func(key text, v *hujson.Value) {
		name, ok := s.names[key.s]
		if !ok {
			name, ok = s.names[strings.ToLower(key.s)]
		}
		switch {
		case !ok:
			r.fail(key.off, "%s: unknown field %q; the fields are %s", s.what, key.s,
				strings.Join(slices.Compact(slices.Sorted(maps.Values(s.names))), ", "))
		case used[name]:
			r.fail(key.off, "%s: %q repeats the field %q", s.what, key.s, name)
		default:
			used[name] = true
			fn(name, v)
		}
	})
}

// entries is elements; undo is called after every element with a problem.
func (r *reader) entries(v *hujson.Value, what string, fn func(v *hujson.Value), undo func()) {
	r.elements(v, what, func(v *hujson.Value) {
		before := r.noted
		if fn(v); r.noted > before {
			undo()
		}
	})
}

// elements calls fn for every element of a list. Null is an empty list.
func (r *reader) elements(v *hujson.Value, what string, fn func(v *hujson.Value)) {
	if isNull(v) {
		return
	}
	a, ok := v.Value.(*hujson.Array)
	if !ok {
		r.fail(v.StartOffset, "%s must be a list", what)
		return
	}
	for i := range a.Elements {
		fn(&a.Elements[i])
	}
}

// str reads a string; ok is false and a problem noted if it is none.
func (r *reader) str(v *hujson.Value, what string) (text, bool) {
	if v.Value.Kind() != '"' {
		r.fail(v.StartOffset, "%s must be a string", what)
		return text{}, false
	}
	return text{v.Value.(hujson.Literal).String(), v.StartOffset}, true
}

func (r *reader) strs(v *hujson.Value, what string) []text {
	var out []text
	r.elements(v, what, func(v *hujson.Value) {
		if t, ok := r.str(v, "an element of "+what); ok {
			out = append(out, t)
		}
	})
	return out
}

func (r *reader) boolean(v *hujson.Value, what string) bool {
	switch v.Value.Kind() {
	case 't':
		return true
	case 'f', 'n':
	default:
		r.fail(v.StartOffset, "%s must be true or false", what)
	}
	return false
}

// raw returns a value as plain compact JSON.
func (r *reader) raw(v *hujson.Value) []byte {
	c := v.Clone()
	c.Minimize()
	return c.Pack()
}

// scalar reads a string, number or boolean as Go's string, float64 or bool.
func (r *reader) scalar(v *hujson.Value, what string) (any, error) {
	switch v.Value.Kind() {
	case '"':
		return v.Value.(hujson.Literal).String(), nil
	case 't', 'f':
		return v.Value.Kind() == 't', nil
	case '0':
		return v.Value.(hujson.Literal).Float(), nil
	}
	return nil, errors.New(what + " must be a string, a number or a boolean")
}
