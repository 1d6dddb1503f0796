// Package textdiff owns the comparison of two texts line by line, and the
// unified format in which people and patch read it. It refuses to know what the
// texts are.
package textdiff

import (
	"fmt"
	"slices"
	"strings"
)

const (
	around   = 3    // lines around a change
	maxEdits = 2000 // beyond that two texts count as different throughout: memory grows with the square
)

// Unified returns the differences of two texts in the unified format, "" if
// there are none.
func Unified(fromName, toName, from, to string) string {
	a, b := splitLines(from), splitLines(to)
	edits := diffLines(a, b)
	var out strings.Builder
	for i := 0; i < len(edits); {
		if edits[i].op == ' ' {
			i++
			continue
		}
		start := max(0, i-around)
		end := i // after the last change of the hunk
		for j := i; j < len(edits) && j-end <= 2*around; j++ {
			if edits[j].op != ' ' {
				end = j + 1
			}
		}
		stop := min(len(edits), end+around)
		if out.Len() == 0 {
			fmt.Fprintf(&out, "--- %s\n+++ %s\n", fromName, toName)
		}
		writeHunk(&out, edits[start:stop])
		i = stop
	}
	return out.String()
}

// edit is one line of a comparison: kept, removed or added.
type edit struct {
	op           byte // ' ', '-', '+'
	text         string
	fromNo, toNo int // lines before this one in either text
}

func writeHunk(out *strings.Builder, edits []edit) {
	removed, added := 0, 0
	for _, e := range edits {
		if e.op != '+' {
			removed++
		}
		if e.op != '-' {
			added++
		}
	}
	fmt.Fprintf(out, "@@ -%s +%s @@\n", hunkRange(edits[0].fromNo, removed), hunkRange(edits[0].toNo, added))
	for _, e := range edits {
		out.WriteByte(e.op)
		out.WriteString(strings.TrimSuffix(e.text, "\n"))
		out.WriteByte('\n')
		if !strings.HasSuffix(e.text, "\n") {
			out.WriteString("\\ No newline at end of file\n")
		}
	}
}

// hunkRange is a range of lines; one without lines names the line before it.
func hunkRange(before, n int) string {
	switch n {
	case 0:
		return fmt.Sprintf("%d,0", before)
	case 1:
		return fmt.Sprint(before + 1)
	}
	return fmt.Sprintf("%d,%d", before+1, n)
}

// splitLines returns the lines with their ends.
func splitLines(s string) []string {
	lines := strings.SplitAfter(s, "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}

// diffLines finds a shortest series of edits (Myers, "An O(ND) Difference
// Algorithm and Its Variations", 1986).
func diffLines(a, b []string) []edit {
	same := 0
	for same < len(a) && same < len(b) && a[same] == b[same] {
		same++
	}
	tail := 0
	for tail < len(a)-same && tail < len(b)-same && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	ops := slices.Repeat([]byte{' '}, same)
	ops = append(ops, myers(a[same:len(a)-tail], b[same:len(b)-tail])...)
	ops = append(ops, slices.Repeat([]byte{' '}, tail)...)
	out := make([]edit, len(ops))
	x, y := 0, 0
	for i, op := range ops {
		out[i] = edit{op: op, fromNo: x, toNo: y}
		if op == '+' {
			out[i].text = b[y]
		} else {
			out[i].text = a[x]
			x++
		}
		if op != '-' {
			y++
		}
	}
	return out
}

// myers returns one operation for each line of the edit script.
func myers(a, b []string) []byte {
	most := min(len(a)+len(b), maxEdits)
	v := make([]int, 2*most+3) // furthest x on each diagonal k, at k+most+1
	var trace [][]int
	for d := 0; d <= most; d++ {
		trace = append(trace, slices.Clone(v[most+1-d:most+2+d]))
		for k := -d; k <= d; k += 2 {
			at := k + most + 1
			x := v[at-1] + 1
			if k == -d || k != d && v[at-1] < v[at+1] {
				x = v[at+1]
			}
			for x < len(a) && x-k < len(b) && a[x] == b[x-k] {
				x++
			}
			v[at] = x
			if x >= len(a) && x-k >= len(b) {
				return backtrack(trace, len(a), len(b))
			}
		}
	}
	return append(slices.Repeat([]byte{'-'}, len(a)), slices.Repeat([]byte{'+'}, len(b))...)
}

// backtrack walks from the end to the start. trace[d] is the state before
// round d, of the diagonals -d to d.
func backtrack(trace [][]int, x, y int) []byte {
	var ops []byte
	for d := len(trace) - 1; d >= 0; d-- {
		at := func(k int) int {
			if i := k + d; i >= 0 && i < len(trace[d]) {
				return trace[d][i]
			}
			return 0
		}
		k := x - y
		prev := k - 1
		if k == -d || k != d && at(k-1) < at(k+1) {
			prev = k + 1
		}
		fromX := at(prev)
		fromY := fromX - prev
		if d == 0 {
			fromX, fromY = 0, 0
		}
		for x > fromX && y > fromY {
			ops, x, y = append(ops, ' '), x-1, y-1
		}
		switch {
		case d == 0:
		case prev == k+1:
			ops, y = append(ops, '+'), y-1
		default:
			ops, x = append(ops, '-'), x-1
		}
	}
	slices.Reverse(ops)
	return ops
}
