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

const (
	// compactInfix is in the name of the copy beside the file while Compact writes it.
	compactInfix = ".compact-"
	// copyStep bounds the bytes that one transaction of a copy holds in memory.
	copyStep = 16 << 20
)

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
	db, err := Open(ctx, path, Options{})
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
	temp, err := makeCopy(path, compactPrefix(path)+"*", info, func(f *os.File) error { return copyInto(ctx, f.Name(), db) })
	if err != nil {
		return 0, 0, err
	}
	info, err = os.Stat(temp)
	if err != nil || info.Size() >= before {
		return before, before, errors.Join(err, os.Remove(temp))
	}
	if err := os.Rename(temp, path); err != nil {
		return 0, 0, errors.Join(err, os.Remove(temp))
	}
	return before, info.Size(), durable.SyncDir(filepath.Dir(path))
}

func compactPrefix(path string) string { return "." + filepath.Base(path) + compactInfix }

// makeCopy makes a file beside path, which takes after another one if like is not nil, lets fill write to it, and syncs it.
// Its name is made of the pattern. It is gone if there is an error.
func makeCopy(path, pattern string, like os.FileInfo, fill func(f *os.File) error) (temp string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), pattern)
	if err != nil {
		return "", err
	}
	if like != nil {
		err = takeAfter(f, like)
	}
	if err == nil {
		err = fill(f)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

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

// copyInto fills the empty file at path with what db holds.
func copyInto(ctx context.Context, path string, db *DB) error {
	return db.View(func(*Tx) (err error) {
		var file *os.File
		dst, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true, PageSize: db.bolt.Info().PageSize,
			OpenFile: func(name string, flag int, mode os.FileMode) (_ *os.File, err error) {
				file, err = os.OpenFile(name, flag, mode)
				return file, err
			}})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(context.Cause(ctx), err, dst.Close()) }()
		// bbolt's copy has no context: without its file it fails.
		defer context.AfterFunc(ctx, func() { _ = file.Close() })()
		return bbolt.Compact(dst, db.bolt, copyStep)
	})
}
