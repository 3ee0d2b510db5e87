package boltdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"

	"github.com/dapr-bolt/dapr-bolt/internal/durable"
)

// Compact gives the unused space of the database file at path back to the file system: it writes a copy beside it and
// puts that in its place in one step, with the same permissions. An interrupted Compact leaves the file as it was. It
// returns the sizes in bytes.
//
// Errors: fs.ErrNotExist, ErrLocked (which names the process that has the file open), ErrFormat, and the
// system's.
func Compact(ctx context.Context, path string) (before, after int64, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("compact database: %w", err)
		}
	}()
	// A name that points elsewhere must go on doing so.
	path, err = filepath.EvalSymlinks(path)
	if err != nil {
		return 0, 0, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return 0, 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, 0, fmt.Errorf("%s: %w: it is not a file", path, fs.ErrInvalid)
	}
	db, err := Open(ctx, path, Options{LockTimeout: lockPatience})
	if err != nil {
		return 0, 0, err
	}
	// The lock is held until the new file is in place, so that nobody writes to the old one meanwhile.
	defer func() { err = errors.Join(err, db.Close()) }()

	if err := db.do(ctx, db.endLog); err != nil {
		return 0, 0, err
	}
	if before, err = db.Size(); err != nil {
		return 0, 0, err
	}
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".compact-*")
	if err != nil {
		return 0, 0, err
	}
	if err := errors.Join(temp.Chmod(info.Mode().Perm()), temp.Close()); err != nil {
		return 0, 0, errors.Join(err, os.Remove(temp.Name()))
	}
	if err := copyInto(ctx, temp.Name(), db); err != nil {
		return 0, 0, errors.Join(err, os.Remove(temp.Name()))
	}
	if info, err = os.Stat(temp.Name()); err != nil {
		return 0, 0, err
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return 0, 0, errors.Join(err, os.Remove(temp.Name()))
	}
	return before, info.Size(), durable.SyncDir(filepath.Dir(path))
}

// copyInto fills the empty file at path with what db holds and syncs it.
func copyInto(ctx context.Context, path string, db *DB) (err error) {
	return db.View(func(tx *Tx) (err error) {
		dst, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true, PageSize: db.bolt.Info().PageSize})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, dst.Close()) }()
		if err := copyData(ctx, dst, tx.tx); err != nil {
			return err
		}
		return dst.Sync()
	})
}
