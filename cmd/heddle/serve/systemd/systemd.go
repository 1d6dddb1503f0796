// Package systemd owns what a service tells systemd of itself (sd_notify): that it is
// ready, loads its configuration anew, stops, and lives. It refuses to know what the service does.
package systemd

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Notifier tells the service manager. The zero Notifier tells nobody.
type Notifier struct {
	socket   string
	watchdog time.Duration // within which a sign of life is expected; 0: none is
}

// New reads from the environment, by a function like os.Getenv, whether somebody wants to be told.
func New(getenv func(string) string) Notifier {
	n := Notifier{socket: getenv("NOTIFY_SOCKET")}
	usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
	if pid := getenv("WATCHDOG_PID"); err == nil && usec > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.watchdog = time.Duration(usec) * time.Microsecond
	}
	return n
}

// Ready tells that the service serves, at first or again.
func (n Notifier) Ready() error { return n.send("READY=1") }

// Reloading tells that the configuration is being loaded anew; Ready tells when that is done.
func (n Notifier) Reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return err
	}
	return n.send(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000))
}

// Stopping tells that the service stops.
func (n Notifier) Stopping() error { return n.send("STOPPING=1") }

// Run gives signs of life until ctx ends, as long as alive returns: a service that hangs is
// started again. alive must not wait for anything that is slow without being stuck.
func (n Notifier) Run(ctx context.Context, alive func()) error {
	if n.socket == "" || n.watchdog == 0 {
		return nil
	}
	tick := time.NewTicker(n.watchdog / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		alive()
		if err := n.send("WATCHDOG=1"); err != nil {
			return err
		}
	}
}

func (n Notifier) send(state string) error {
	if n.socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"}) // a name with @ is abstract
	if err != nil {
		return fmt.Errorf("tell systemd: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("tell systemd: %w", err)
	}
	return nil
}
