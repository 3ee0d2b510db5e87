package boltdb

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// residentFileBytes is the process's resident memory that is backed by files, from /proc/self/statm (proc_pid_statm(5)).
func residentFileBytes() int64 {
	raw, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, resident, shared int64
	if _, err := fmt.Fscan(strings.NewReader(string(raw)), &size, &resident, &shared); err != nil {
		return 0
	}
	return shared * int64(os.Getpagesize())
}

// releasePages tells the system that the pages of a file mapping are not needed now. The mapping is read-only and
// shared, so that they hold nothing that the file does not (madvise(2), MADV_DONTNEED).
func releasePages(address uintptr, length int64) error {
	if _, _, errno := unix.Syscall(unix.SYS_MADVISE, address, uintptr(length), unix.MADV_DONTNEED); errno != 0 {
		return fmt.Errorf("madvise: %w", errno)
	}
	return nil
}
