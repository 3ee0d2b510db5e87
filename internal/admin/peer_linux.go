package admin

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// peer names the process that listens at the other end of a Unix socket.
func peer(conn net.Conn) string {
	const unknown = "another process"
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return unknown
	}
	var cred *unix.Ucred
	if ctrlErr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); ctrlErr != nil || err != nil {
		return unknown
	}
	return fmt.Sprintf("process %d", cred.Pid)
}
