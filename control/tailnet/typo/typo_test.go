package typo_test

import (
	"strings"
	"testing"

	"heddle/control/tailnet/typo"
)

func TestNearest(t *testing.T) {
	names := []string{"me@", "alice@", "bob@example.com"}
	for s, want := range map[string]string{
		"alise@":                  "alice@",
		"ALICE@":                  "alice@",
		"alcie@":                  "alice@", // neighbours that were swapped are one error
		"bob@exampel.co":          "bob@example.com",
		"carol@":                  "",
		"":                        "",
		strings.Repeat("a", 5000): "",
	} {
		if got := typo.Nearest(s, names); got != want {
			t.Errorf("%.20q: %q, want %q", s, got, want)
		}
	}
}
