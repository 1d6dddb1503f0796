package serve

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		c := &clock{newest: start}
		tell := func(now time.Time, want string) {
			t.Helper()
			fine, err := c.health(now)
			if want == "" {
				if err != nil || !strings.HasPrefix(fine, now.UTC().Format(time.RFC3339)) {
					t.Errorf("at %v: %q, %v; want no trouble", now, fine, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("at %v: %q, %v; want trouble with %q", now, fine, err, want)
			}
		}
		tell(start, "")
		time.Sleep(time.Hour)
		tell(time.Now(), "")
		tell(start.Round(0).Add(-2*time.Minute), "before the last change")
		c.stepped, c.step = time.Now(), 10*time.Minute
		tell(time.Now(), "it was set by 10m")
		time.Sleep(2 * time.Hour)
		tell(time.Now(), "")
	})
}
