//go:build linux

package lab

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Dial opens a connection from the host. A socket belongs to the namespace it was made in, so the
// test can use it like any other. addr must hold an IP address, not a name.
func (h *Host) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return nil, fmt.Errorf("lab: dial %s: %w", addr, err)
	}
	var conn net.Conn
	err := h.Enter(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// Listen opens a TCP listener on the host.
func (h *Host) Listen(addr string) (net.Listener, error) {
	var ln net.Listener
	err := h.Enter(func() (err error) {
		ln, err = net.Listen("tcp", addr)
		return err
	})
	return ln, err
}

// HTTP is a client whose connections leave from the host, one for each request.
func (h *Host) HTTP() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: h.Dial, DisableKeepAlives: true}}
}

// Enter runs fn on a thread inside the host's network namespace. Only what happens on fn's own
// goroutine is inside.
func (h *Host) Enter(fn func() error) error {
	result := make(chan error)
	go func() {
		// Never unlocked: the thread ends with this goroutine instead of going back to the pool
		// in the wrong namespace.
		runtime.LockOSThread()
		result <- func() error {
			ns, err := os.Open("/run/netns/" + h.namespace)
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("lab: enter %s: %w", h.Name, err)
			}
			return fn()
		}()
	}()
	return <-result
}
