package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"
	"golang.org/x/term"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Output formats.
const (
	formatTable = "table"
	formatJSON  = "json"
	formatYAML  = "yaml"
)

// show prints an object: as JSON or YAML, or by table.
func (a *app) show(m proto.Message, table func()) error {
	if a.flags.output == formatTable {
		table()
		return nil
	}
	text, err := marshal(m)
	if err != nil {
		return err
	}
	return a.encode(text)
}

// done says what was done, or prints the object that came of it.
func (a *app) done(m proto.Message, format string, args ...any) error {
	return a.show(m, func() { fmt.Fprintln(a.out, clean(fmt.Sprintf(format, args...))) })
}

// showList prints a list: as a JSON or YAML array, or by table. For an empty
// list the hint tells the person what to do, apart from the output.
func showList[M proto.Message](a *app, list []M, hint string, table func()) error {
	if len(list) == 0 && hint != "" {
		a.hint("%s", hint)
	}
	if a.flags.output == formatTable {
		if len(list) > 0 {
			table()
		}
		return nil
	}
	items := make([]json.RawMessage, 0, len(list))
	for _, m := range list {
		text, err := marshal(m)
		if err != nil {
			return err
		}
		items = append(items, text)
	}
	text, err := json.Marshal(items)
	if err != nil {
		return err
	}
	return a.encode(text)
}

// marshal returns the protojson form with all fields.
func marshal(m proto.Message) (json.RawMessage, error) {
	return protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
}

// encode prints JSON text in the wanted format. Spaces are set anew, because
// protojson varies its own on purpose.
func (a *app) encode(text []byte) error {
	if a.flags.output == formatYAML {
		return encodeYAML(a.out, text)
	}
	var b bytes.Buffer
	if err := json.Indent(&b, text, "", "  "); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err := a.out.Write(b.Bytes())
	return err
}

// encodeYAML prints JSON, which is YAML in another style, as people write YAML.
func encodeYAML(w io.Writer, text []byte) error {
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

// A table is printed with a heading, in columns that fit the terminal.
type table struct {
	head  []string
	rows  [][]cell
	whole bool // cut nothing, even if lines become longer than the terminal's
	// On a narrow terminal those of cut become narrower, or all if there are
	// none, and then those of drop are left out, one by one.
	cut, drop []string
}

// cell is one field of a table.
type cell struct {
	text  string
	color color
}

// color is an ANSI colour; zero is none.
type color int

const (
	red    color = 31
	green  color = 32
	yellow color = 33
	dim    color = 90
)

func newTable(head ...string) *table { return &table{head: head} }

// add adds a row of strings and cells.
func (t *table) add(fields ...any) {
	row := make([]cell, len(fields))
	for i, f := range fields {
		switch f := f.(type) {
		case cell:
			row[i] = f
		default:
			row[i].text = fmt.Sprint(f)
		}
		row[i].text = strings.Map(oneLine, clean(row[i].text))
	}
	t.rows = append(t.rows, row)
}

const (
	gap       = 2 // spaces between columns
	minColumn = 8 // narrower ones are of no use
)

// print prints the table. Only a terminal has a width and colours.
func (a *app) print(t *table) {
	width, colors := terminal(a.out)
	widths := make([]int, len(t.head))
	for i, h := range t.head {
		widths[i] = length(h)
		for _, row := range t.rows {
			widths[i] = max(widths[i], length(row[i].text))
		}
	}
	if width > 0 && !t.whole {
		t.shrink(widths, width)
	}
	var b strings.Builder
	line := func(row []cell) {
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
	head := make([]cell, len(t.head))
	for i, h := range t.head {
		head[i] = cell{h, dim}
	}
	line(head)
	for _, row := range t.rows {
		line(row)
	}
	// Cells that end a line may be empty; nobody wants spaces there.
	for text := range strings.Lines(b.String()) {
		fmt.Fprintln(a.out, strings.TrimRight(text, " \n"))
	}
}

// shrink makes columns narrower, and then zero for those that are left out,
// until all fit.
func (t *table) shrink(widths []int, width int) {
	over := func() bool {
		total := -gap
		for _, w := range widths {
			if w > 0 {
				total += w + gap
			}
		}
		return total > width
	}
	for over() {
		widest := -1
		for i, w := range widths {
			if w > minColumn && (len(t.cut) == 0 || slices.Contains(t.cut, t.head[i])) && (widest < 0 || w > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
	}
	for _, name := range t.drop {
		if i := slices.Index(t.head, name); over() && i >= 0 {
			widths[i] = 0
		}
	}
}

func length(s string) int { return len([]rune(s)) }

// fit cuts s to width characters.
func fit(s string, width int) string {
	if r := []rune(s); len(r) > width {
		return string(r[:max(0, width-1)]) + "…"
	}
	return s
}

// clean makes text fit to be shown: what a device says of itself must not
// steer the terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

func oneLine(r rune) rune {
	if r == '\n' || r == '\t' {
		return ' '
	}
	return r
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// terminal returns the width of w and whether to use colours, if w is a terminal.
func terminal(w io.Writer) (width int, colors bool) {
	if !isTerminal(w) {
		return 0, false
	}
	f := w.(*os.File)
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		width = 0
	}
	return width, os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// when is a time in a table.
func when(t *timestamppb.Timestamp, unset string) string {
	if t == nil {
		return unset
	}
	return t.AsTime().Local().Format(time.DateTime)
}

// since is a time in a list, as people count it: 3m ago, in 180d.
func (a *app) since(t *timestamppb.Timestamp, unset string) string {
	if t == nil {
		return unset
	}
	d := t.AsTime().Sub(a.now())
	text := span(d.Abs())
	switch {
	case text == "0s":
		return "now"
	case d < 0:
		return text + " ago"
	}
	return "in " + text
}

// span is a duration in its largest unit.
func span(d time.Duration) string {
	const year = 365 * day
	for _, u := range []struct {
		size, from time.Duration
		name       string
	}{{year, 3 * year, "y"}, {day, 2 * day, "d"}, {time.Hour, time.Hour, "h"}, {time.Minute, time.Minute, "m"}} {
		if n := d.Round(u.size); n >= u.from {
			return fmt.Sprintf("%d%s", n/u.size, u.name)
		}
	}
	return fmt.Sprintf("%ds", d.Round(time.Second)/time.Second)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// or returns s, or - if it is empty.
func or(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
