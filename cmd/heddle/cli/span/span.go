// Package span owns lengths of time as people write and read them: 90m, 7d,
// 1y. It refuses to know the time.
package span

import (
	"fmt"
	"strconv"
	"time"
)

// Value is a flag like 90m, 24h, 7d, 2w or 1y.
type Value time.Duration

func (d *Value) Set(s string) error {
	v, err := Parse(s)
	if err != nil {
		return err
	}
	*d = Value(v)
	return nil
}

func (d *Value) Type() string { return "duration" }

func (d *Value) String() string {
	v := time.Duration(*d)
	switch {
	case v == 0:
		return ""
	case v%Day == 0:
		return fmt.Sprintf("%dd", v/Day)
	case v%time.Hour == 0:
		return fmt.Sprintf("%dh", v/time.Hour)
	}
	return v.String()
}

// Day is what people call a day here, whatever clocks are changed in it.
const (
	Day     = 24 * time.Hour
	maxDays = 100 * 365 // as far as time.Duration is safe
)

// Parse understands Go's durations and whole days, weeks and years.
func Parse(s string) (time.Duration, error) {
	units := map[byte]int{'d': 1, 'w': 7, 'y': 365}
	if s != "" && units[s[len(s)-1]] > 0 {
		n, err := strconv.Atoi(s[:len(s)-1])
		days := n * units[s[len(s)-1]]
		if err != nil || n <= 0 || n > maxDays || days > maxDays {
			return 0, fmt.Errorf("%q is not a duration like 90m, 24h, 7d or 1y", s)
		}
		return time.Duration(days) * Day, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is not a duration like 90m, 24h, 7d or 1y", s)
	}
	return d, nil
}

// Text returns a length of time in its largest unit; a sign does not count.
func Text(d time.Duration) string {
	const year = 365 * Day
	d = d.Abs()
	for _, u := range []struct {
		from, size, smaller time.Duration
		name                string
	}{
		{3 * year, year, Day, "y"}, {2 * Day, Day, time.Hour, "d"}, {time.Hour, time.Hour, time.Minute, "h"}, {time.Minute, time.Minute, time.Second, "m"},
	} {
		if d.Round(u.smaller) >= u.from {
			return fmt.Sprintf("%d%s", d.Round(u.size)/u.size, u.name)
		}
	}
	return fmt.Sprintf("%ds", d.Round(time.Second)/time.Second)
}
