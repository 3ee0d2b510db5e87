//go:build !linux

package harness

import "syscall"

// ownProcessGroup keeps the terminal's Ctrl-C from the children, so that they end
// in the order of Harness.Close.
func ownProcessGroup(bool) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
