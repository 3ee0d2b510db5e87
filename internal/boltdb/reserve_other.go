//go:build !linux

package boltdb

import "os"

func allocate(*os.File, int64, int64) error { return nil }

func datasync(f *os.File) error { return f.Sync() }
