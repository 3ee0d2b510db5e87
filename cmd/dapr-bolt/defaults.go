package main

import (
	"errors"
	"path/filepath"
)

// defaultDataDir follows the XDG Base Directory Specification, which ignores relative paths.
func defaultDataDir(lookup func(string) (string, bool)) (string, error) {
	const name = "dapr-bolt"
	if dir, _ := lookup("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, name), nil
	}
	if home, _ := lookup("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "share", name), nil
	}
	return "", &usageError{errors.New("--data-dir has no default: neither XDG_DATA_HOME nor HOME holds an absolute path; name a directory")}
}
