//go:build !linux

package databases

import "errors"

func disk(string) (available, size uint64, err error) { return 0, 0, errors.ErrUnsupported }
