package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"heddle/cmd/heddle/config"
	"heddle/policy"

	"github.com/spf13/cobra"
)

func (a *app) configCommand() *cobra.Command {
	check := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Say what is wrong with the configuration",
		Long: `Says what is wrong with the configuration and with the files that it names:
whether they can be read, whether the certificate fits, whether the policy is
good. It asks no server, and changes nothing.`,
		Example: "  heddle config check /etc/heddle/config.yaml\n  heddle config check --config config.yaml -o json",
		Args:    args(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := ConfigPath(cmd)
			if len(args) == 1 {
				path = args[0]
			}
			return a.checkConfig(path)
		},
	}
	example := &cobra.Command{
		Use:     "example",
		Short:   "Print a configuration file with all keys and what they mean",
		Example: "  heddle config example > config.yaml",
		Args:    args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			_, err := a.out.Write(config.Example())
			return err
		},
	}
	return group("config", "The server's configuration", check, example)
}

// configReport is what `config check` prints as JSON.
type configReport struct {
	File      string           `json:"file"` // empty if there is none
	OK        bool             `json:"ok"`
	ServerURL string           `json:"serverUrl"` // empty if it is not known
	Problems  []config.Problem `json:"problems"`
	Warnings  []string         `json:"warnings"`
}

func (a *app) checkConfig(path string) error {
	cfg, err := config.Load(path, os.Environ())
	if err == nil {
		if problems := a.checkFiles(cfg); len(problems) > 0 {
			err = &config.LoadError{Path: path, Err: problems}
		}
	}
	report := configReport{File: path, OK: err == nil, Problems: []config.Problem{}, Warnings: []string{}}
	var problems config.Errors
	switch {
	case errors.As(err, &problems):
		report.Problems = problems
	case err != nil:
		report.Problems = append(report.Problems, config.Problem{Place: path, Msg: err.Error()})
	}
	if cfg != nil {
		report.ServerURL = cfg.ServerURL.String()
		report.Warnings = append(report.Warnings, cfg.Warnings...)
	}
	if a.flags.output != formatTable {
		text, jsonErr := json.Marshal(report)
		if jsonErr != nil {
			return jsonErr
		}
		return errors.Join(a.encode(text), err)
	}
	for _, w := range report.Warnings {
		a.hint("warning: %s", w)
	}
	if err != nil {
		return err
	}
	if path == "" {
		path = "without a file"
	}
	fmt.Fprintf(a.out, "the configuration (%s) is good: clients reach the server at %s\n", path, cfg.ServerURL)
	return nil
}

// checkFiles returns what is wrong with the files that a configuration names.
func (a *app) checkFiles(cfg *config.Config) (problems config.Errors) {
	errors.As(cfg.Check(a.now()), &problems)
	file := cfg.Policy.Path
	if file == "" {
		return problems
	}
	src, err := readBounded(file, nil, maxPolicy)
	if err != nil {
		return problems // Check has told
	}
	var all policy.Errors
	if _, err := policy.Parse(src); errors.As(err, &all) {
		for _, e := range all {
			problems = append(problems, config.Problem{Place: file, Line: e.Line, Column: e.Column, Msg: e.Msg})
		}
	} else if err != nil {
		problems = append(problems, config.Problem{Place: file, Msg: err.Error()})
	}
	return problems
}
