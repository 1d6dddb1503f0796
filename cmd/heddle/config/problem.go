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
	Place string // the file or the variable; "" if the key was not set
	Line  int    // in the file; 0 if Place is a variable
	Key   string // the key path as written; "" if the whole file is meant
	Msg   string // what is wrong and what to do; never contains a secret
}

func (p Problem) String() string {
	parts := make([]string, 0, 3)
	if place := place(p.Place, p.Line); place != "" {
		parts = append(parts, place)
	}
	if p.Key != "" {
		parts = append(parts, p.Key)
	}
	return strings.Join(append(parts, p.Msg), ": ")
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
