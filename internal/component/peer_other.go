//go:build unix && !linux

package component

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// peerOf knows nobody: instances are then remembered by the component's name alone.
func peerOf(net.Conn) process { return process{} }

func processStart(int) uint64 { return 0 }

func processName(int) string { return "" }

// privateFromBirth has no means here: until the file's mode is set, the folder's permissions are what protects it.
func privateFromBirth(string, string, syscall.RawConn) error { return nil }

// maxSocketPath is what sockaddr_un holds beside the NUL at its end (unix(4)).
const maxSocketPath = len(unix.RawSockaddrUnix{}.Path) - 1
