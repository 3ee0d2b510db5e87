package boltdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"go.etcd.io/bbolt"

	"github.com/dapr-bolt/dapr-bolt/internal/durable"
)

// copyStep bounds the bytes that one transaction of a copy holds in memory.
const copyStep = 16 << 20

// Compact gives the unused space of the database file at path back to the file system: it writes a copy beside it and
// puts that in its place in one step, with the same owner, group and permissions. An interrupted Compact leaves the file
// as it was. It returns the sizes in bytes. A copy that is not smaller is dropped: then they are the same.
//
// Errors: fs.ErrNotExist, ErrLocked (which names the process that has the file open), ErrFormat, also where Check would find
// a damaged page, ctx's if it ends before the copy takes the file's place, and the system's.
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
	if err := pagesSound(ctx, path); err != nil {
		return 0, 0, err
	}
	if before, err = db.Size(); err != nil {
		return 0, 0, err
	}
	err = makeNext(path, info, func(f *os.File) error { return copyInto(ctx, f.Name(), db) })
	if err != nil {
		return 0, 0, err
	}
	info, err = os.Stat(nextPath(path))
	if err != nil || info.Size() >= before {
		return before, before, errors.Join(err, os.Remove(nextPath(path)))
	}
	return before, info.Size(), putInPlace(path)
}

// pagesSound returns the first damage in the pages of the file at path. A copy of such a file would be sound, and nobody would
// learn what it lacks.
func pagesSound(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	var damage error
	_, err = checkPages(ctx, f, func(found error) {
		if damage == nil {
			damage = found
		}
	})
	return errors.Join(err, damage, f.Close())
}

// nextPath is where the file lies that is to take the place of the one at path, which is locked meanwhile. What a process
// leaves there that is killed, the next Open removes.
func nextPath(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".next")
}

// makeNext makes that file, which takes after the one whose place it takes.
func makeNext(path string, like os.FileInfo, fill func(f *os.File) error) error {
	f, err := os.OpenFile(nextPath(path), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	return fillCopy(f, func(f *os.File) error {
		if err := takeAfter(f, like); err != nil {
			return err
		}
		return fill(f)
	})
}

func putInPlace(path string) error {
	if err := os.Rename(nextPath(path), path); err != nil {
		return errors.Join(err, os.Remove(nextPath(path)))
	}
	return durable.SyncDir(filepath.Dir(path))
}

// fillCopy lets fill write to a new file, and syncs and closes it. It is gone if there is an error.
func fillCopy(f *os.File, fill func(f *os.File) error) error {
	err := fill(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
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

// belongLike gives a file that root has made to whom its folder belongs, who is to open it.
func belongLike(f *os.File, folder string) error {
	info, err := os.Stat(folder)
	if err != nil {
		return err
	}
	if like, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		return f.Chown(int(like.Uid), int(like.Gid))
	}
	return nil
}

// copyInto fills the empty file at path with what db holds. bbolt's copy cannot be broken off: ctx is heard before and after.
func copyInto(ctx context.Context, path string, db *DB) error {
	return db.View(func(*Tx) (err error) {
		if err := ctx.Err(); err != nil {
			return err
		}
		dst, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true, PageSize: db.bolt.Info().PageSize})
		if err != nil {
			return err
		}
		// Also when a page is damaged, which is a panic.
		defer func() { err = errors.Join(err, dst.Close(), ctx.Err()) }()
		return bbolt.Compact(dst, db.bolt, copyStep)
	})
}
