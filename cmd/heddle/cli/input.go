package cli

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"heddle/cmd/heddle/cli/show"

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
	fmt.Fprintf(c.app.err, "%s [y/N] ", show.Clean(fmt.Sprintf(format, args...)))
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
