// Command heddle is a control server for stock Tailscale clients, and its
// command line.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"heddle/api"
	"heddle/cmd/heddle/cli"
	"heddle/cmd/heddle/cli/backup"
	"heddle/cmd/heddle/cli/doctor"
	"heddle/cmd/heddle/cli/headscale"

	"github.com/spf13/cobra"
)

func main() {
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the program at once.
	context.AfterFunc(ctx, stop)
	return cli.Run(ctx, os.Args[1:], cli.Env{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, commands()...)
}

// commands are those that work without a server, or run it.
func commands() []*cobra.Command {
	version, commit := cli.Version()
	serve := serveCommand(api.Version{Version: version, Commit: commit, MinClient: "v1.80"})
	return append(backup.Commands(backup.Tools{Config: cli.ConfigPath, Version: version, Coded: cli.Coded}), serve, doctor.Command(),
		headscale.Command(headscale.Tools{Config: cli.ConfigPath, Version: version, Coded: cli.Coded}))
}
