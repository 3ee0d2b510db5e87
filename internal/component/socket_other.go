//go:build unix && !linux

package component

import "syscall"

// privateFromBirth has no means here: until the file's mode is set, the folder's permissions are what protects it.
func privateFromBirth(string, string, syscall.RawConn) error { return nil }
