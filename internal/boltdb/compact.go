package boltdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"go.etcd.io/bbolt"

	"github.com/dapr-bolt/dapr-bolt/internal/durable"
)

// compactInfix is in the name of the copy beside the file while Compact writes it.
const compactInfix = ".compact-"

// Compact gives the unused space of the database file at path back to the file system: it writes a copy beside it and
// puts that in its place in one step, with the same owner, group and permissions. An interrupted Compact leaves the file
// as it was; its copy is removed by the next Open or Compact. It returns the sizes in bytes. A copy that is not smaller is
// dropped: then they are the same.
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
	temp, err := os.CreateTemp(filepath.Dir(path), compactPrefix(path)+"*")
	if err != nil {
		return 0, 0, err
	}
	err = errors.Join(takeAfter(temp, info), temp.Close())
	if err == nil {
		err = copyInto(ctx, temp.Name(), db)
	}
	if err == nil {
		info, err = os.Stat(temp.Name())
	}
	if err != nil || info.Size() >= before {
		return before, before, errors.Join(err, os.Remove(temp.Name()))
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return 0, 0, errors.Join(err, os.Remove(temp.Name()))
	}
	return before, info.Size(), durable.SyncDir(filepath.Dir(path))
}

func compactPrefix(path string) string { return "." + filepath.Base(path) + compactInfix }

// takeAfter gives a file the owner, group and permissions of another one. That can be refused to whoever does not own it:
// then the service that does could not open the file.
func takeAfter(f *os.File, info os.FileInfo) error {
	if like, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := f.Chown(int(like.Uid), int(like.Gid)); err != nil {
			return fmt.Errorf("the copy must belong to user %d, group %d, as the file does: %w", like.Uid, like.Gid, err)
		}
	}
	return f.Chmod(info.Mode().Perm())
}

// removeCopies removes what a killed Compact has left beside the file, which is locked.
func removeCopies(path string) error {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), compactPrefix(path)) {
			errs = append(errs, os.Remove(filepath.Join(filepath.Dir(path), e.Name())))
		}
	}
	return errors.Join(errs...)
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
