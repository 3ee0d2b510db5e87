package access

import (
	"errors"
	"fmt"
	"net"
	"unsafe"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

const supported = true

// maxGroups is the most supplementary groups that a process can have (NGROUPS_MAX, credentials(7)).
const maxGroups = 65536

// peerOf asks the system (SO_PEERCRED, SO_PEERGROUPS and SO_PEERPIDFD, unix(7)).
func peerOf(c net.Conn) (Peer, error) {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return Peer{}, errors.New("not a connection over a Unix socket")
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var cred *unix.Ucred
	var p Peer
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		if cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); credErr != nil {
			return
		}
		p.UID, p.GID, p.Groups = cred.Uid, cred.Gid, peerGroups(fd)
		if cred.Pid == 0 {
			p.Handle = peerHandle(fd)
		}
	}); err != nil {
		return Peer{}, err
	}
	if credErr != nil {
		return Peer{}, fmt.Errorf("SO_PEERCRED: %w", credErr)
	}
	if cred.Pid > 0 {
		p.PID, p.Start = int(cred.Pid), processStart(int(cred.Pid))
	}
	return p, nil
}

// peerHandle returns 0 where the kernel is older than 6.9: only since then have pidfds a file system of their own, with
// an inode for each process that no other one gets.
func peerHandle(fd uintptr) uint64 {
	pidfd, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err != nil {
		return 0
	}
	defer unix.Close(pidfd)
	var fs unix.Statfs_t
	var file unix.Stat_t
	if unix.Fstatfs(pidfd, &fs) != nil || fs.Type != unix.PID_FS_MAGIC || unix.Fstat(pidfd, &file) != nil {
		return 0
	}
	return file.Ino
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

// processStart returns when a process was started, as /proc says it, or 0 if there is no such process.
func processStart(pid int) uint64 {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return 0
	}
	stat, err := p.Stat()
	if err != nil {
		return 0
	}
	return stat.Starttime
}

func processName(pid int) string {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return ""
	}
	name, _ := p.Comm()
	return name
}
