package harness

import "syscall"

// ownProcessGroup keeps the terminal's Ctrl-C from the children, so that they end
// in the order of Harness.Close, and has the kernel end them if we are killed.
func ownProcessGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
