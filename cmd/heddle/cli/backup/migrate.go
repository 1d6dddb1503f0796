package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"heddle/cmd/heddle/archive"
	"heddle/cmd/heddle/config"
	"heddle/control/tailnet"
	"heddle/db"

	"github.com/spf13/cobra"
)

func (t Tools) db() *cobra.Command {
	g := &cobra.Command{Use: "db", Short: "The database of the server", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	g.AddCommand(t.migrate())
	return g
}

// moved is what `db migrate` prints as JSON.
type moved struct {
	From string `json:"from"`
	To   string `json:"to"`
	Rows int    `json:"rows"`
}

func (t Tools) migrate() *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use:   "migrate --to DATABASE",
		Short: "Copy everything to another database, to use that from now on",
		Long: `Copy everything to another database, to use that from now on.

Stop the server first. DATABASE is a PostgreSQL URL, the path of a file that holds one, or
sqlite for the file heddle.db in data_dir. It must be empty. The database of the configuration
stays as it is; set or remove database.url afterwards, and start the server again.

The password need not be in the URL: it may stand in PGPASSWORD or in ~/.pgpass.`,
		Example: `  heddle db migrate --config /etc/heddle/config.yaml --to postgres://heddle@db.example.com/heddle
  heddle db migrate --to /etc/heddle/database.url
  heddle db migrate --to sqlite`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := t.load(cmd)
			if err != nil {
				return err
			}
			result, err := migrate(cmd.Context(), cfg, to)
			if err != nil {
				return t.Coded(err)
			}
			return show(cmd, result, func() {
				fmt.Fprintf(cmd.OutOrStdout(), "copied %d rows from %s to %s\n", result.Rows, result.From, result.To)
				next := "Now set database.url (or database.url_file) to it and start the server; remove the old file when all is well."
				if !cfg.Database.URL.IsZero() {
					next = "Now remove database.url and start the server."
				}
				fmt.Fprintln(cmd.ErrOrStderr(), next)
			})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "`DATABASE` to copy to")
	_ = cmd.MarkFlagRequired("to") // fails for a flag that does not exist
	return cmd
}

func migrate(ctx context.Context, cfg *config.Config, to string) (_ *moved, err error) {
	from := archive.Database(cfg)
	target, err := targetOf(cfg, to)
	if err != nil {
		return nil, err
	}
	if from.URL != "" {
		from.Dir = cfg.DataDir
		if target.URL == from.URL {
			return nil, tailnet.Errorf(tailnet.Invalid, "the configuration names this database already")
		}
	} else if _, err := os.Stat(from.Path); err != nil {
		return nil, &tailnet.Error{Code: tailnet.NotFound, Msg: fmt.Sprintf("there is no database at %s", from.Path), Err: err}
	}
	if from.URL != "" && target.Path != "" {
		from.Dir = "" // the lock of the directory goes with the file
	}
	source, err := db.Open(ctx, from)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	into, err := db.Open(ctx, target)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, into.Close()) }()
	rows, err := source.CopyTo(ctx, into)
	if err != nil {
		return nil, err
	}
	return &moved{From: source.String(), To: into.String(), Rows: rows}, nil
}

// targetOf understands the flag --to.
func targetOf(cfg *config.Config, to string) (db.Options, error) {
	switch {
	case to == "sqlite" && cfg.Database.URL.IsZero():
		return db.Options{}, tailnet.Errorf(tailnet.Invalid, "the server uses SQLite already")
	case to == "sqlite":
		cfg := *cfg
		cfg.Database = config.Database{}
		return archive.Database(&cfg), nil
	case strings.Contains(to, "://") || strings.Contains(to, "dbname="):
		return db.Options{URL: to}, nil
	}
	text, err := read(to)
	if err != nil {
		return db.Options{}, tailnet.Errorf(tailnet.Invalid, "--to takes a PostgreSQL URL, a file that holds one, or sqlite: %v", err)
	}
	return db.Options{URL: strings.TrimSpace(string(text))}, nil
}
