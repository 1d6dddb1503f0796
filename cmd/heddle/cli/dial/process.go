package dial

import (
	"fmt"
	"net"

	"github.com/tailscale/peercred"
)

// Process returns the ID of the process that serves a unix socket of this machine.
func Process(socket string) (int, error) {
	conn, err := net.DialTimeout("unix", socket, dialTimeout)
	if err != nil {
		return 0, socketError(socket, err)
	}
	defer conn.Close()
	creds, err := peercred.Get(conn)
	if err != nil {
		return 0, err
	}
	pid, ok := creds.PID()
	if !ok {
		return 0, fmt.Errorf("this system does not tell which process serves %s", socket)
	}
	return pid, nil
}
