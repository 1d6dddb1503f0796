// Command readers is many programs that read heddle's admin API at the same time, over and over, while a
// fleet of devices is connected: for measuring what that does to the devices. It knows nothing of
// heddle but paths of its API.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	url := flag.String("url", "http://127.0.0.1:18080", "the server")
	n := flag.Int("n", 1000, "readers")
	keys := flag.String("keys", "", "file with API keys, one a line: what one key may call is bounded")
	during := flag.Duration("for", time.Minute, "how long")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	ctx, cancel = context.WithTimeout(ctx, *during)
	defer cancel()
	secrets, err := lines(*keys)
	if err == nil && len(secrets) == 0 {
		err = fmt.Errorf("%s has no keys", *keys)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "readers:", err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(run(ctx, *url, *n, secrets))
}

// lines reads the lines of a file that are not empty.
func lines(name string) (list []string, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		if line := strings.TrimSpace(in.Text()); line != "" {
			list = append(list, line)
		}
	}
	return list, nil
}
