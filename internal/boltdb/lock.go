package boltdb

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// lockHolder names the process that holds the lock on the file at path, from Linux's /proc/locks (proc_locks(5)).
func lockHolder(path string) string {
	const unknown = "another process"
	info, err := os.Stat(path)
	if err != nil {
		return unknown
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return unknown
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return unknown
	}
	pid := lockOwner(locks, stat.Ino)
	if pid == "" {
		return unknown
	}
	name, err := os.ReadFile("/proc/" + pid + "/comm")
	if err != nil {
		return "process " + pid
	}
	return fmt.Sprintf("process %s (%s)", pid, bytes.TrimSpace(name))
}

// lockOwner finds the process id of the flock on inode in a listing such as
// "1: FLOCK  ADVISORY  WRITE 708 08:01:1310721 0 EOF".
func lockOwner(locks []byte, inode uint64) string {
	lines := bufio.NewScanner(bytes.NewReader(locks))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) >= 6 && f[1] == "FLOCK" && strings.HasSuffix(f[5], fmt.Sprintf(":%d", inode)) {
			return f[4]
		}
	}
	return ""
}
