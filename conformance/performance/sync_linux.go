package performance

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

func dataSync(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }

// forget asks the kernel to drop what it has in memory of a folder's files.
func forget(dir string) (err error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*"))
	for _, path := range paths {
		file, openErr := os.Open(path)
		if openErr != nil {
			continue // a socket
		}
		err = errors.Join(err, unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED), file.Close())
	}
	return err
}
