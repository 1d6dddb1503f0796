// Package show owns how output looks: tables that fit a terminal, JSON and
// YAML, and text that cannot steer the terminal. It refuses to know what is shown.
package show

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
	"golang.org/x/term"
)

// JSON prints JSON text. Spaces are set anew, because protojson varies its own
// on purpose.
func JSON(w io.Writer, text []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, text, "", "  "); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err := w.Write(b.Bytes())
	return err
}

// YAML prints JSON, which is YAML in another style, as people write YAML.
func YAML(w io.Writer, text []byte) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return err
	}
	plain(&doc)
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return err
	}
	return enc.Close()
}

func plain(n *yaml.Node) {
	if n.Kind != yaml.ScalarNode && len(n.Content) == 0 {
		return // [] and {} have no other form
	}
	n.Style = 0
	for _, c := range n.Content {
		plain(c)
	}
}

// A Table is printed with a heading, in columns that fit the terminal.
type Table struct {
	Whole bool // nothing is cut, even if lines become longer than the terminal's
	// On a narrow terminal the columns Cut become narrower, or all if there are
	// none, then those of Drop are left out, one by one, and at last all that are left become narrower.
	Cut, Drop []string

	head []string
	rows [][]Cell
}

// Cell is one field of a table; the zero Cell is empty.
type Cell struct {
	text  string
	color Color
}

// In returns a text in a colour.
func In(c Color, text string) Cell { return Cell{text, c} }

// Color is an ANSI colour; zero is none.
type Color int

const (
	Red    Color = 31
	Green  Color = 32
	Yellow Color = 33
	Dim    Color = 90
)

// NewTable returns a table with these columns.
func NewTable(head ...string) *Table { return &Table{head: head} }

// Add adds a row of cells, and of values in their usual form.
func (t *Table) Add(fields ...any) {
	row := make([]Cell, len(fields))
	for i, f := range fields {
		switch f := f.(type) {
		case Cell:
			row[i] = f
		default:
			row[i].text = fmt.Sprint(f)
		}
		row[i].text = strings.Map(OneLine, Clean(row[i].text))
	}
	t.rows = append(t.rows, row)
}

// Len returns how many rows there are.
func (t *Table) Len() int { return len(t.rows) }

const (
	gap       = 2 // spaces between columns
	minColumn = 8 // narrower ones are of no use
)

// Print prints the table. Only a terminal has a width and colours.
func (t *Table) Print(w io.Writer) {
	width, colors := terminal(w)
	widths := make([]int, len(t.head))
	for i, h := range t.head {
		widths[i] = length(h)
		for _, row := range t.rows {
			widths[i] = max(widths[i], length(row[i].text))
		}
	}
	if width > 0 && !t.Whole {
		t.shrink(widths, width)
	}
	var b strings.Builder
	line := func(row []Cell) {
		for i, c := range row {
			if widths[i] == 0 {
				continue
			}
			text := fit(c.text, widths[i])
			pad := widths[i] - length(text) + gap
			if colors && c.color != 0 {
				text = fmt.Sprintf("\x1b[%dm%s\x1b[0m", c.color, text)
			}
			b.WriteString(text)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", pad))
			}
		}
		b.WriteByte('\n')
	}
	head := make([]Cell, len(t.head))
	for i, h := range t.head {
		head[i] = Cell{h, Dim}
	}
	line(head)
	for _, row := range t.rows {
		line(row)
	}
	out := bufio.NewWriter(w)
	defer out.Flush() // an error means that nobody reads it
	// Cells that end a line may be empty; nobody wants spaces there.
	for text := range strings.Lines(b.String()) {
		fmt.Fprintln(out, strings.TrimRight(text, " \n"))
	}
}

// shrink makes columns narrower, and then zero for those that are left out,
// until all fit.
func (t *Table) shrink(widths []int, width int) {
	over := func() bool {
		total := -gap
		for _, w := range widths {
			if w > 0 {
				total += w + gap
			}
		}
		return total > width
	}
	narrow := func(may func(column string) bool) {
		for over() {
			widest := -1
			for i, w := range widths {
				if w > minColumn && may(t.head[i]) && (widest < 0 || w > widths[widest]) {
					widest = i
				}
			}
			if widest < 0 {
				return
			}
			widths[widest]--
		}
	}
	narrow(func(column string) bool { return len(t.Cut) == 0 || slices.Contains(t.Cut, column) })
	for _, name := range t.Drop {
		if i := slices.Index(t.head, name); over() && i >= 0 {
			widths[i] = 0
		}
	}
	narrow(func(string) bool { return true })
}

func length(s string) int { return len([]rune(s)) }

// fit cuts s to width characters.
func fit(s string, width int) string {
	if r := []rune(s); len(r) > width {
		return string(r[:max(0, width-1)]) + "…"
	}
	return s
}

// Clean makes text fit to be shown: what a device says of itself must not
// steer the terminal.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// OneLine turns what would end a line or a column into a space.
func OneLine(r rune) rune {
	if r == '\n' || r == '\t' {
		return ' '
	}
	return r
}

// IsTerminal reports whether a person is at the other end of stream, which is a
// reader or a writer.
func IsTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Clear empties the terminal that w is; it does nothing if w is none.
func Clear(w io.Writer) {
	if IsTerminal(w) {
		io.WriteString(w, "\x1b[H\x1b[2J")
	}
}

// terminal returns the width of w and whether to use colours, if w is a terminal.
func terminal(w io.Writer) (width int, colors bool) {
	if !IsTerminal(w) {
		return 0, false
	}
	f := w.(*os.File)
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		width = 0
	}
	return width, os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
