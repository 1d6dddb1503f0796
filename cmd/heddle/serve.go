package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"heddle/api"
	"heddle/cmd/heddle/cli"
	"heddle/cmd/heddle/config"
	"heddle/cmd/heddle/serve"
	"heddle/cmd/heddle/serve/systemd"

	"github.com/spf13/cobra"
)

// serveCommand is `heddle serve`.
func serveCommand(version api.Version) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the server",
		Long: `Run the server until it is told to stop (SIGINT, SIGTERM). SIGHUP makes it load
its configuration anew, as heddle reload does.

Without a configuration file it serves plain HTTP on 127.0.0.1:8080 with an
embedded database, relay and STUN server, and prints how to join the first
device. See heddle config example for what can be set.`,
		Example: `  heddle serve
  heddle serve --config /etc/heddle/config.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path := cli.ConfigPath(cmd)
			cfg, err := config.Load(path, os.Environ())
			if err != nil {
				return err
			}
			level := new(slog.LevelVar)
			level.Set(cfg.Log.Level)
			return serve.Run(cmd.Context(), serve.Options{
				Config:  cfg,
				Version: version,
				Log:     newLog(cfg.Log.Format, level, cmd.ErrOrStderr()),
				Level:   level,
				Out:     cmd.OutOrStdout(),
				Command: commandLine(path, cfg),
				Load:    func() (*config.Config, error) { return config.Load(path, os.Environ()) },
				Systemd: systemd.New(os.Getenv),
			})
		},
	}
}

// newLog makes a log whose level can be changed at any time.
func newLog(format string, level slog.Leveler, to io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(to, opts))
	}
	return slog.New(slog.NewTextHandler(to, opts))
}

// commandLine is how the user calls this program, ready to paste into any
// shell: what came from variables of this one is spelled out.
func commandLine(path string, cfg *config.Config) string {
	name := os.Args[0]
	if strings.Contains(name, "/go-build") { // go run: the binary is gone afterwards
		name = "go run ./cmd/heddle"
	}
	_, dir := cfg.Set["data_dir"]
	_, socket := cfg.Set["unix_socket"]
	switch {
	case path != "":
		return fmt.Sprintf("%s --config %s", name, path)
	case dir || socket:
		return fmt.Sprintf("%s --socket %s", name, cfg.Listen.Socket)
	}
	return name
}
