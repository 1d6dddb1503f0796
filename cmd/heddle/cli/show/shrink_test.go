package show

import (
	"strings"
	"testing"
)

func TestTablesFit(t *testing.T) {
	wide := strings.Repeat("x", 63)
	for _, c := range []struct {
		name      string
		row       []any
		cut, drop []string
		want      []int
	}{
		{"what fits is left alone", []any{"1", "laptop", "alice"}, []string{"OWNER"}, []string{"OWNER"}, []int{2, 6, 5}},
		{"first those that may be cut", []any{"1", "laptop", wide + wide}, []string{"OWNER"}, []string{"OWNER"}, []int{2, 6, 68}},
		{"then some are left out", []any{"1", wide + "0123456789", wide}, []string{"OWNER"}, []string{"OWNER"}, []int{2, 73, 0}},
		{"at last the others are cut", []any{"1", wide + wide, wide}, []string{"OWNER"}, []string{"OWNER"}, []int{2, 76, 0}},
	} {
		table := NewTable("ID", "NAME", "OWNER")
		table.Cut, table.Drop = c.cut, c.drop
		table.Add(c.row...)
		widths := make([]int, 3)
		for i, h := range table.head {
			widths[i] = max(length(h), length(table.rows[0][i].text))
		}
		table.shrink(widths, 80)
		for i := range widths {
			if widths[i] != c.want[i] {
				t.Errorf("%s: widths %v, want %v", c.name, widths, c.want)
				break
			}
		}
	}
}
