package syntax

import (
	"fmt"
	"strings"
)

// Error is one problem of a policy. Line and Column start at 1 and count
// bytes; they are 0 if the problem has no place in the text.
type Error struct {
	Line, Column int
	Msg          string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Msg
	}
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Msg)
}

// Excerpt returns the line of src that the error is about with a caret under
// its place, or "" if it has none. Both lines end in a newline.
func (e *Error) Excerpt(src []byte) string {
	lines := strings.Split(string(src), "\n")
	if e.Line < 1 || e.Line > len(lines) {
		return ""
	}
	const width = 160 // of a line that is shown; policies made by machines have one long line
	line := strings.TrimRight(lines[e.Line-1], "\r")
	col := min(max(e.Column-1, 0), len(line))
	start := 0
	if col > width*3/4 {
		start = col - width/2
	}
	shown := strings.ToValidUTF8(line[start:min(len(line), start+width)], "?")
	pad := strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(line[start:col], "?"))
	return shown + "\n" + pad + "^\n"
}

// Errors are all problems of a policy, in the order of the text; never empty.
type Errors []*Error

func (e Errors) Error() string {
	var b strings.Builder
	for i, one := range e {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(one.Error())
	}
	return b.String()
}

// Unwrap lets errors.As find the first *Error.
func (e Errors) Unwrap() []error {
	out := make([]error, len(e))
	for i, one := range e {
		out[i] = one
	}
	return out
}

// OrNil avoids an error value that holds an empty list.
func (e Errors) OrNil() error {
	if len(e) == 0 {
		return nil
	}
	return e
}
