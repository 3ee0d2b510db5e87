// Package durable makes new and changed names last. To sync a file is not to sync its name: after a power failure, a
// file that was created, linked or renamed may lie under its old name or none, unless its folder was synced.
package durable

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// SyncDir syncs the names in a folder to disk.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// WriteFile replaces what a file holds, or creates it, in one step, whatever the umask. It is on disk when WriteFile
// returns nil; before that, the file holds what it held.
func WriteFile(path string, data []byte, perm os.FileMode) error {
	if err := renameio.WriteFile(path, data, perm, renameio.IgnoreUmask()); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}
