package component

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// peerOf returns the process at the other end of a Unix connection (SO_PEERCRED): the one that dialed it, or, seen from
// there, the one that listens. It is not known when that process lives outside our PID namespace.
func peerOf(conn net.Conn) process {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return process{}
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return process{}
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil || credErr != nil || cred.Pid <= 0 {
		return process{}
	}
	return process{PID: int(cred.Pid), Start: processStart(int(cred.Pid))}
}

// processStart returns field 22, starttime, of /proc/PID/stat (proc_pid_stat(5)), or 0 if there is no such process.
func processStart(pid int) uint64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// Field 2 is the name in parentheses and may hold anything; field 3 follows the last of them.
	_, rest, ok := bytes.Cut(stat[max(bytes.LastIndexByte(stat, ')'), 0):], []byte(") "))
	fields := strings.Fields(string(rest))
	const starttime = 22 - 3
	if !ok || len(fields) <= starttime {
		return 0
	}
	start, err := strconv.ParseUint(fields[starttime], 10, 64)
	if err != nil {
		return 0
	}
	return start
}

func processName(pid int) string {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(name))
}

// privateFromBirth makes bind(2) create the socket's file with mode 0600 less the umask: on Linux the file gets the mode
// of the socket, so there is no instant at which others could connect.
func privateFromBirth(_, _ string, c syscall.RawConn) error {
	var chmodErr error
	if err := c.Control(func(fd uintptr) { chmodErr = unix.Fchmod(int(fd), socketMode) }); err != nil {
		return err
	}
	return chmodErr
}

// maxSocketPath is what sockaddr_un holds beside the NUL at its end (unix(7)).
const maxSocketPath = len(unix.RawSockaddrUnix{}.Path) - 1
