package harness

import "syscall"

// ownProcessGroup keeps the terminal's Ctrl-C from the children, so that they end
// in the order of Harness.Close, and has the kernel end them if we are killed.
func ownProcessGroup(ownPIDs bool) *syscall.SysProcAttr {
	attributes := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if ownPIDs {
		attributes.Cloneflags = syscall.CLONE_NEWPID
	}
	return attributes
}
