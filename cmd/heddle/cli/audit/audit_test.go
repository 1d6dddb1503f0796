package audit

import (
	"testing"
	"time"

	v1 "heddle/proto/heddle/v1"

	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestMoment(t *testing.T) {
	now := time.Date(2026, 2, 3, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"90m":                       now.Add(-90 * time.Minute),
		"7d":                        now.Add(-7 * 24 * time.Hour),
		"2026-01-31T12:00:00Z":      time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC),
		"2026-01-31T12:00:00+01:00": time.Date(2026, 1, 31, 11, 0, 0, 0, time.UTC),
		"2026-01-31":                time.Date(2026, 1, 31, 0, 0, 0, 0, time.Local),
		"2026-01-31 10:00:00":       time.Date(2026, 1, 31, 10, 0, 0, 0, time.Local),
	} {
		if got, err := moment(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, bad := range []string{"yesterday", "-7d", "2026-13-01", "12:00"} {
		if got, err := moment(bad, now); err == nil {
			t.Errorf("%q: %v, want an error", bad, got)
		}
	}
}

// What a device says of itself cannot steer a terminal, and an entry is one line.
func TestLine(t *testing.T) {
	e := &v1.AuditEntry{
		At: timestamppb.New(time.Date(2026, 2, 3, 12, 0, 0, 0, time.Local)), Action: "node.rename", Target: "node 7 (a)",
		Actor: &v1.AuditActor{Kind: "user", Name: "zoë", From: "192.0.2.1"}, Reason: "be\ncause\x1b[2J",
		Changes: []*v1.AuditChange{{Field: "name", From: "a", To: "b"}, {Field: "tags", To: "tag:x"}, {Field: "owner", From: "1"}},
	}
	const want = "2026-02-03 12:00:00  user zoë  node.rename  node 7 (a)  from 192.0.2.1  name: a → b; tags: tag:x; owner: was 1  because: be cause?[2J"
	if got := lineOf(e); got != want {
		t.Errorf("%q\nwant %q", got, want)
	}
}
