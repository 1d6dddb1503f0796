package span_test

import (
	"testing"
	"time"

	"heddle/cmd/heddle/cli/span"
)

func TestText(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                               "0s",
		400 * time.Millisecond:          "0s",
		59 * time.Second:                "59s",
		-90 * time.Second:               "2m",
		59*time.Minute + 20*time.Second: "59m",
		47 * time.Hour:                  "47h",
		48 * time.Hour:                  "2d",
		180*span.Day - time.Second:      "180d",
		3 * 365 * span.Day:              "3y",
	} {
		if got := span.Text(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90m": 90 * time.Minute, "24h": span.Day, "7d": 7 * span.Day, "2w": 14 * span.Day, "1y": 365 * span.Day,
		"": 0, "w": 0, "0d": 0, "-1h": 0, "1.5d": 0, "99999999999999999999d": 0, "36501d": 0, "1": 0,
	} {
		if got, err := span.Parse(text); got != want || (err != nil) != (want == 0) {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
}
