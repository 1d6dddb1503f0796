package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Problem is one mistake in the configuration.
type Problem struct {
	Place  string `json:"place"`   // the file or the variable; "" if the key was not set
	Line   int    `json:"line"`    // in the file; 0 if Place is a variable
	Column int    `json:"column"`  // 0 if it does not matter
	Key    string `json:"key"`     // the key path as written; "" if the whole file is meant
	Msg    string `json:"message"` // what is wrong and what to do; never contains a secret
}

func (p Problem) String() string {
	parts := make([]string, 0, 3)
	if place := place(p.Place, p.Line); place != "" {
		if p.Column > 0 {
			place += ":" + strconv.Itoa(p.Column)
		}
		parts = append(parts, place)
	}
	if p.Key != "" {
		parts = append(parts, p.Key)
	}
	return strings.Join(append(parts, p.Msg), ": ")
}

// Reason is String without the key.
func (p Problem) Reason() string {
	p.Key = ""
	return p.String()
}

// Errors are all mistakes: those of the file by line, then those of the
// variables, then those of defaults that do not go together.
type Errors []Problem

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, p := range e {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// LoadError is why a configuration cannot be used: Err is an [Errors], or what
// the system said about the file.
type LoadError struct {
	Path string // "" if there is no file
	Err  error
}

func (e *LoadError) Error() string {
	all, ok := e.Err.(Errors)
	if !ok {
		return fmt.Sprintf("cannot read the configuration: %v", e.Err)
	}
	what := "the configuration"
	if e.Path != "" {
		what += " " + e.Path
	}
	if len(all) == 1 {
		return what + " has a problem:\n" + all.Error()
	}
	return fmt.Sprintf("%s has %d problems:\n%s", what, len(all), all.Error())
}

func (e *LoadError) Unwrap() error { return e.Err }

func (e Errors) sort() {
	group := func(p Problem) int {
		switch {
		case p.Line > 0:
			return 0
		case p.Place != "":
			return 1
		}
		return 2
	}
	slices.SortStableFunc(e, func(a, b Problem) int {
		return cmp.Or(group(a)-group(b), a.Line-b.Line)
	})
}

func place(where string, line int) string {
	if line == 0 {
		return where
	}
	return where + ":" + strconv.Itoa(line)
}

// shown makes a key that somebody wrote fit for a message.
func shown(key string) string {
	for _, r := range key {
		if r <= ' ' || r > '~' {
			return fmt.Sprintf("%.60q", key)
		}
	}
	if len(key) > 60 {
		return key[:60] + "…"
	}
	return key
}
