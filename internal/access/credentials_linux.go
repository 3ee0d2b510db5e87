package access

import (
	"errors"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

const supported = true

// maxGroups is the most supplementary groups that a process can have (NGROUPS_MAX, credentials(7)).
const maxGroups = 65536

// credentialsOf asks the system (SO_PEERCRED and SO_PEERGROUPS, unix(7)).
func credentialsOf(c net.Conn) (credentials, error) {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return credentials{}, errors.New("not a connection over a Unix socket")
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return credentials{}, err
	}
	var cred *unix.Ucred
	var groups []uint32
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		if cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); credErr == nil {
			groups = peerGroups(fd)
		}
	}); err != nil {
		return credentials{}, err
	}
	if credErr != nil {
		return credentials{}, fmt.Errorf("SO_PEERCRED: %w", credErr)
	}
	return credentials{pid: cred.Pid, uid: cred.Uid, gid: cred.Gid, groups: groups}, nil
}

// peerGroups returns none where the kernel is older than 4.13, which does not know them.
func peerGroups(fd uintptr) []uint32 {
	for n := 64; n <= maxGroups; n *= 32 {
		groups := make([]uint32, n)
		size := uint32(n * int(unsafe.Sizeof(groups[0])))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch errno {
		case 0:
			return groups[:size/uint32(unsafe.Sizeof(groups[0]))]
		case unix.ERANGE:
		default:
			return nil
		}
	}
	return nil
}
