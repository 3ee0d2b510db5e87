package component

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// privateFromBirth makes bind(2) create the socket's file with mode 0600 less the umask: on Linux the file gets the mode
// of the socket, so there is no instant at which others could connect.
func privateFromBirth(_, _ string, c syscall.RawConn) error {
	var chmodErr error
	if err := c.Control(func(fd uintptr) { chmodErr = unix.Fchmod(int(fd), socketMode) }); err != nil {
		return err
	}
	return chmodErr
}
