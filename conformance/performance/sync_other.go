//go:build !linux

package performance

import (
	"errors"
	"os"
)

func dataSync(f *os.File) error { return f.Sync() }

func forget(string) error { return errors.ErrUnsupported }
