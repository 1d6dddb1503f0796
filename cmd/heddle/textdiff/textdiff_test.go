package textdiff

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func TestUnified(t *testing.T) {
	for _, c := range []struct{ name, from, to, want string }{
		{"equal", "a\nb\n", "a\nb\n", ""},
		{"both empty", "", "", ""},
		{"from nothing", "", "a\n", "--- x\n+++ y\n@@ -0,0 +1 @@\n+a\n"},
		{"to nothing", "a\nb\n", "", "--- x\n+++ y\n@@ -1,2 +0,0 @@\n-a\n-b\n"},
		{"one line", "a\nb\nc\n", "a\nB\nc\n", "--- x\n+++ y\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n"},
		{"no newline at the end", "a\nb", "a\nb\n", "--- x\n+++ y\n@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+b\n"},
		{"two hunks", "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n", "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n",
			"--- x\n+++ y\n@@ -1,3 +1,4 @@\n+0\n 1\n 2\n 3\n@@ -7,4 +8,3 @@\n 7\n 8\n 9\n-10\n"},
	} {
		if got := Unified("x", "y", c.from, c.to); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
}

// The edits of any two texts lead from one to the other.
func TestDiffLines(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	text := func(lines, kinds int) []string {
		out := make([]string, rnd.IntN(lines))
		for i := range out {
			out[i] = string(rune('a'+rnd.IntN(kinds))) + "\n"
		}
		return out
	}
	check := func(a, b []string) int {
		t.Helper()
		var from, to strings.Builder
		changes := 0
		for _, e := range diffLines(a, b) {
			if e.op != '+' {
				from.WriteString(e.text)
			}
			if e.op != '-' {
				to.WriteString(e.text)
			}
			if e.op != ' ' {
				changes++
			}
		}
		if from.String() != strings.Join(a, "") || to.String() != strings.Join(b, "") {
			t.Fatalf("%q to %q gives %q to %q", a, b, from.String(), to.String())
		}
		return changes
	}
	for range 3000 {
		a, b := text(12, 3), text(12, 3)
		if got, want := check(a, b), len(a)+len(b)-2*common(a, b); got != want {
			t.Fatalf("%q to %q in %d edits, %d are enough", a, b, got, want)
		}
	}
	check(text(9000, 20), text(9000, 20)) // more edits than it looks for
}

// common returns the length of the longest common subsequence.
func common(a, b []string) int {
	best := make([][]int, len(a)+1)
	for i := range best {
		best[i] = make([]int, len(b)+1)
	}
	for i, x := range a {
		for j, y := range b {
			best[i+1][j+1] = max(best[i][j+1], best[i+1][j])
			if x == y {
				best[i+1][j+1] = best[i][j] + 1
			}
		}
	}
	return best[len(a)][len(b)]
}
