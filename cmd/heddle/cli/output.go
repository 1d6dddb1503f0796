package cli

import (
	"encoding/json"
	"fmt"
	"time"

	"heddle/cmd/heddle/cli/show"
	"heddle/cmd/heddle/cli/span"

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
	return a.show(m, func() { fmt.Fprintln(a.out, show.Clean(fmt.Sprintf(format, args...))) })
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

// all returns the items of all pages that get returns.
func all[T any](get func(token string) ([]T, string, error)) ([]T, error) {
	var out []T
	for token := ""; ; {
		items, next, err := get(token)
		if err != nil {
			return nil, err
		}
		out = append(out, items...)
		if next == "" {
			return out, nil
		}
		token = next
	}
}

// marshal returns the protojson form with all fields.
func marshal(m proto.Message) (json.RawMessage, error) {
	return protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
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
	text := span.Text(d)
	switch {
	case text == "0s":
		return "now"
	case d < 0:
		return text + " ago"
	}
	return "in " + text
}

// encode prints JSON text in the wanted format.
func (a *app) encode(text []byte) error {
	if a.flags.output == formatYAML {
		return show.YAML(a.out, text)
	}
	return show.JSON(a.out, text)
}

func (a *app) print(t *show.Table) { t.Print(a.out) }

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
