package show_test

import (
	"strings"
	"testing"

	"heddle/cmd/heddle/cli/show"
)

func TestTable(t *testing.T) {
	var b strings.Builder
	table := show.NewTable("ID", "NAME", "STATE")
	table.Add(1, "laptop\x1b[31m", show.In(show.Green, "online"))
	table.Add(20, "a\tb\nc", show.Cell{})
	table.Print(&b)
	want := "ID  NAME         STATE\n1   laptop?[31m  online\n20  a b c\n"
	if b.String() != want || table.Len() != 2 {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

func TestYAML(t *testing.T) {
	var b strings.Builder
	if err := show.YAML(&b, []byte(`{"id": "1", "tags": [], "user": {"name": "alice"}}`)); err != nil {
		t.Fatal(err)
	}
	if want := "id: \"1\"\ntags: []\nuser:\n  name: alice\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}
