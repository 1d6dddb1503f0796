package tailnet_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"heddle/control/tailnet"
)

var update = flag.Bool("update", false, "write the table of rights into docs/people.md")

// The table in the documentation is the one that counts.
func TestRightsInDocs(t *testing.T) {
	const file, begin, end = "../../docs/people.md", "-update -->\n", "<!-- /rights -->"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(text), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", file)
	}
	want := head + begin + rightsTable() + end + tail
	if want == string(text) {
		return
	}
	if !*update {
		t.Fatalf("the table in %s is not that of the roles; -update writes it:\n%s", file, rightsTable())
	}
	if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

func rightsTable() string {
	var b strings.Builder
	b.WriteString("| area |")
	for _, role := range tailnet.Roles {
		fmt.Fprintf(&b, " %s |", role)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(tailnet.Roles)) + "\n")
	for _, area := range tailnet.Areas {
		fmt.Fprintf(&b, "| `%s` |", area)
		for _, role := range tailnet.Roles {
			may := ""
			switch {
			case tailnet.RoleMay(role, tailnet.Write(area)):
				may = "change"
			case tailnet.RoleMay(role, tailnet.Read(area)):
				may = "read"
			}
			fmt.Fprintf(&b, " %s |", may)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
