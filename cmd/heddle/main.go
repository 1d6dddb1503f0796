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
)

func main() {
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the program at once.
	context.AfterFunc(ctx, stop)
	version, commit := cli.Version()
	serve := serveCommand(api.Version{Version: version, Commit: commit, MinClient: "v1.80"})
	more := append(backup.Commands(backup.Tools{Config: cli.ConfigPath, Version: version, Coded: cli.Coded}), serve, doctor.Command(),
		headscale.Command(headscale.Tools{Config: cli.ConfigPath, Version: version, Coded: cli.Coded}))
	return cli.Run(ctx, os.Args[1:], cli.Env{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, more...)
}
