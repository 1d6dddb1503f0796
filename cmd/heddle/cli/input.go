package cli

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// confirmer is the flag --yes of a command that deletes.
type confirmer struct {
	app *app
	yes bool
}

func (a *app) confirmer(cmd *cobra.Command) *confirmer {
	c := &confirmer{app: a}
	cmd.Flags().BoolVarP(&c.yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&c.yes, "force", false, "")
	cmd.Flags().MarkHidden("force") // what headscale calls it
	return c
}

// possible says no if somebody would have to be asked and nobody is there.
func (c *confirmer) possible() error {
	if f, ok := c.app.in.(*os.File); c.yes || ok && term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return usagef("this deletes something, and there is no terminal to ask: add --yes if you mean it")
}

// ask asks, unless --yes answers; anything but a yes is an error.
func (c *confirmer) ask(format string, args ...any) error {
	if c.yes {
		return nil
	}
	fmt.Fprintf(c.app.err, "%s [y/N] ", clean(fmt.Sprintf(format, args...)))
	answer, err := bufio.NewReader(io.LimitReader(c.app.in, 64)).ReadString('\n')
	if err != nil && err != io.EOF {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return fmt.Errorf("nothing was deleted")
}

// durationValue is a flag like 90m, 24h, 7d, 2w or 1y.
type durationValue time.Duration

func (d *durationValue) Set(s string) error {
	v, err := parseDuration(s)
	if err != nil {
		return err
	}
	*d = durationValue(v)
	return nil
}

func (d *durationValue) Type() string { return "duration" }

func (d *durationValue) String() string {
	v := time.Duration(*d)
	switch {
	case v == 0:
		return ""
	case v%day == 0:
		return fmt.Sprintf("%dd", v/day)
	case v%time.Hour == 0:
		return fmt.Sprintf("%dh", v/time.Hour)
	}
	return v.String()
}

const (
	day     = 24 * time.Hour
	maxDays = 100 * 365 // as far as time.Duration is safe
)

// parseDuration understands Go's durations and whole days, weeks and years.
func parseDuration(s string) (time.Duration, error) {
	units := map[byte]int{'d': 1, 'w': 7, 'y': 365}
	if s != "" && units[s[len(s)-1]] > 0 {
		n, err := strconv.Atoi(s[:len(s)-1])
		days := n * units[s[len(s)-1]]
		if err != nil || n <= 0 || n > maxDays || days > maxDays {
			return 0, fmt.Errorf("%q is not a duration like 90m, 24h, 7d or 1y", s)
		}
		return time.Duration(days) * day, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is not a duration like 90m, 24h, 7d or 1y", s)
	}
	return d, nil
}

// readBounded reads a file, or in if it is called "-", of at most limit bytes.
func readBounded(name string, in io.Reader, limit int64) ([]byte, error) {
	r := in
	if name != "-" || in == nil {
		f, err := os.Open(name)
		if err != nil {
			return nil, inputError{err}
		}
		defer f.Close()
		r = f
	}
	text, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return text, nil
}

// splitList splits what people give as A,B or as several arguments.
func splitList(args []string) []string {
	var out []string
	for _, arg := range args {
		for s := range strings.SplitSeq(arg, ",") {
			if s = strings.TrimSpace(s); s != "" {
				out = append(out, s)
			}
		}
	}
	return out
}
