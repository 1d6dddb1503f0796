// Package typo owns the guess which name a mistyped one was meant to be. It refuses to know what the names are of.
package typo

import "strings"

// Nearest returns the name with the fewest typing errors, "" if none is near. Case does not count.
func Nearest(s string, names []string) string {
	s = strings.ToLower(s)
	best, bound := "", min(3, 1+len(s)/4)+1
	for _, name := range names {
		if max(len(s)-len(name), len(name)-len(s)) >= bound {
			continue // so many are missing or too many
		}
		if d := distance(s, strings.ToLower(name)); d < bound {
			best, bound = name, d
		}
	}
	return best
}

// distance is the number of insertions, deletions, changes and swaps of
// neighbours that lead from a to b, with no letter touched twice.
func distance(a, b string) int {
	const far = 100
	if len(a) > far || len(b) > far {
		return far // strangers' keys can be long, ours are not
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			change := 1
			if a[i] == b[j] {
				change = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+change)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
