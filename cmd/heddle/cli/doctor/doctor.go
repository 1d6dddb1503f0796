// Package doctor owns `heddle doctor`: it looks at a deployment from inside the
// machine and through its public URL, as a device does, and says what is wrong and
// what to do. It refuses to mend anything, and to know how the server does its work.
package doctor

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"sync"
	"time"

	"heddle/cmd/heddle/cli/dial"
	"heddle/cmd/heddle/cli/show"
	"heddle/cmd/heddle/config"

	"github.com/spf13/cobra"
)

// Verdict is what became of one look.
type Verdict string

const (
	Fine    Verdict = "fine"
	Warning Verdict = "warning" // works, and yet not as it should
	Broken  Verdict = "broken"
	Skipped Verdict = "skipped" // could not be looked at
)

// Finding is what the doctor found out about one thing.
type Finding struct {
	Name    string  `json:"name"`
	Verdict Verdict `json:"verdict"`
	Reason  string  `json:"reason"`
	Next    string  `json:"next"` // what to do; empty if there is nothing to do
}

// patience bounds one step towards the network; a device would not wait longer either.
const patience = 5 * time.Second

// Command is `doctor`, for the root of the command line: it finds the flags there.
func Command() *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong with this server, from inside and through its public URL",
		Long: `Look for what is wrong with this server, from inside and through its public URL.

On the server's machine it reads the configuration, looks at the data directory, the
limits and the running server, and then goes the way of a device: DNS, certificate,
control connection, relay, STUN. Elsewhere, --url looks from the outside alone; do that
too, since some firewalls only show there.

The exit code is 1 if something is broken.`,
		Example: "  heddle doctor --config /etc/heddle/config.yaml\n  heddle doctor --url https://vpn.example.com\n  heddle doctor -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			flag := func(name string) string { text, _ := cmd.Flags().GetString(name); return text }
			path := cmp.Or(flag("config"), os.Getenv("HEDDLE_CONFIG"))
			e := &exam{now: time.Now, server: sync.OnceValues(func() (*dial.Conn, error) {
				return dial.New(dial.Target{Config: path, Socket: flag("socket")})
			})}
			if err := e.trust(flag("ca-file")); err != nil {
				return err
			}
			if from != "" {
				u, err := url.Parse(from)
				if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
					return &dial.Error{Kind: dial.Usage, Msg: fmt.Sprintf("--url %q: write the server's URL, like https://vpn.example.com", from)}
				}
				e.url = u
			} else {
				e.inside(cmd.Context(), path)
			}
			if e.url != nil {
				e.outside(cmd.Context())
			}
			return e.tell(cmd.OutOrStdout(), flag("output"))
		},
	}
	cmd.Flags().StringVar(&from, "url", "", "look at the server with this `URL`, from the outside alone")
	return cmd
}

// exam is one look at a deployment.
type exam struct {
	now    func() time.Time
	server func() (*dial.Conn, error)
	roots  *x509.CertPool // nil: those of the system

	cfg *config.Config // nil from outside
	url *url.URL       // nil if it is not known
	// distrusted is set once the certificate was found to be bad, so that what else
	// there is can be looked at all the same.
	distrusted bool
	// ailing is why the server has no good certificate, as it says itself; empty if it has not said so.
	ailing string

	findings []Finding
}

// trust reads further roots.
func (e *exam) trust(caFile string) error {
	if caFile == "" {
		return nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return err
	}
	if e.roots, err = x509.SystemCertPool(); err != nil {
		e.roots = x509.NewCertPool()
	}
	if !e.roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s holds no certificate in PEM form", caFile)
	}
	return nil
}

func (e *exam) add(v Verdict, name, next, format string, args ...any) {
	e.findings = append(e.findings, Finding{name, v, fmt.Sprintf(format, args...), next})
}

func (e *exam) fine(name, format string, args ...any) { e.add(Fine, name, "", format, args...) }

func (e *exam) broken(name, next, format string, args ...any) {
	e.add(Broken, name, next, format, args...)
}

func (e *exam) warn(name, next, format string, args ...any) {
	e.add(Warning, name, next, format, args...)
}

func (e *exam) skip(name, format string, args ...any) { e.add(Skipped, name, "", format, args...) }

var colors = map[Verdict]show.Color{Fine: show.Green, Warning: show.Yellow, Broken: show.Red}

// tell prints the findings. The error says that something is broken.
func (e *exam) tell(out io.Writer, format string) error {
	broken := 0
	for _, f := range e.findings {
		if f.Verdict == Broken {
			broken++
		}
	}
	text, err := json.Marshal(e.findings)
	if err != nil {
		return err
	}
	switch format {
	case "json":
		err = show.JSON(out, text)
	case "yaml":
		err = show.YAML(out, text)
	default:
		table := show.NewTable("LOOKED AT", "VERDICT", "REASON")
		table.Whole = true
		for _, f := range e.findings {
			table.Add(f.Name, show.In(colors[f.Verdict], string(f.Verdict)), f.Reason)
			if f.Next != "" {
				table.Add("", "", "→ "+f.Next)
			}
		}
		table.Print(out)
	}
	if err != nil {
		return err
	}
	if broken > 0 {
		return fmt.Errorf("%d of %d things are broken", broken, len(e.findings))
	}
	return nil
}

// within gives one step its time.
func within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, patience)
}
