// Command demo shows a mesh on one machine, without root: it starts a heddle
// server on loopback and four stock nodes in user space, approves the subnet
// route that one of them offers, and shows as a live table who reaches whom and how.
// It owns nothing that a server needs.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	once := flag.Bool("once", false, "stop when everybody reaches everybody; the default where the output is no terminal")
	limit := flag.Duration("limit", 2*time.Minute, "with -once: how long that may take")
	verbose := flag.Bool("v", false, "show what the nodes and the server log")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "Usage: go run ./cmd/demo [flags]\n\nStarts a heddle server and a mesh of four devices on loopback, and shows who\nreaches whom and how. Ctrl-C ends it and leaves nothing behind.\n\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "demo: unexpected argument %q\n", flag.Arg(0))
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	d := demo{out: os.Stdout, live: isTerminal(os.Stdout) && !*once, limit: *limit, verbose: *verbose}
	if err := d.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func isTerminal(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}
