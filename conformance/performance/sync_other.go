//go:build !linux

package performance

import (
	"errors"
	"os"
)

func dataSync(f *os.File) error { return f.Sync() }

func forget(*os.File) error { return errors.ErrUnsupported }
