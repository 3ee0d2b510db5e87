package boltdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/dapr-bolt/dapr-bolt/internal/durable"
)

// lockPoll is how often a file that another process holds is tried again.
const lockPoll = 10 * time.Millisecond

// openPath opens the file and makes sure that it is still the one that the path names. A lock belongs to a file, not to
// its name: whoever waited for the lock while Compact put a new file in its place would get the lock on the old one, and
// all that it then wrote would be gone.
func (db *DB) openPath(ctx context.Context) error {
	for {
		if err := db.open(ctx); err != nil {
			return err
		}
		opened, err := db.file.Stat()
		if err == nil {
			var named os.FileInfo
			if named, err = os.Stat(db.path); err == nil && os.SameFile(opened, named) {
				return nil
			}
		}
		if err := errors.Join(err, db.bolt.Close()); err != nil {
			return fmt.Errorf("open database %s: %w", db.path, err)
		}
	}
}

// open opens the file and makes sure that it can be used.
func (db *DB) open(ctx context.Context) error {
	bolt, file, err := db.openBolt(ctx)
	if err != nil {
		return fmt.Errorf("open database %s: %w", db.path, err)
	}
	db.bolt, db.file = bolt, file
	return nil
}

// openBolt turns bbolt's errors, and the panics and faults with which it answers damaged files, into errors of this
// package. A file that is refused stays as it was.
func (db *DB) openBolt(ctx context.Context) (bolt *bbolt.DB, file *os.File, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			// bbolt cannot be closed in the middle of its own opening. Its mapping of the file stays behind, which would
			// keep the lock.
			if bolt == nil && file != nil {
				_ = unix.Flock(int(file.Fd()), unix.LOCK_UN)
				_ = file.Close()
			}
			err = fmt.Errorf("%w: damaged: %v", ErrFormat, p)
		}
		if err != nil && bolt != nil {
			err = errors.Join(err, bolt.Close())
		}
	}()
	bolt, err = bbolt.Open(db.path, 0o600, &bbolt.Options{
		Timeout:         db.opts.LockTimeout,
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: mappingSize(),
		NoStatistics:    true,
		// Not yet known to be ours, the file must stay as it is; with this, bbolt does not write a list that it lacks.
		NoFreelistSync: true,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			file, err = db.lockAndInspect(ctx, name, flag, mode)
			return file, err
		},
	})
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, nil, fmt.Errorf("%w: it and its directory must belong to the user who runs dapr-bolt, and be writable", err)
	case errors.Is(err, unix.EROFS):
		return nil, nil, fmt.Errorf("%w: a database that cannot be written cannot be served", err)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, nil, fmt.Errorf("%w: %w", ErrFormat, err)
	case err != nil:
		return nil, nil, err
	}
	bolt.NoFreelistSync = false
	if db.incarnation, err = ensureFormat(bolt, FormatVersion, migrations); err != nil {
		return bolt, file, err
	}
	return bolt, file, db.spare.find(bolt)
}

// lockAndInspect opens the file as bbolt would, and looks at it while nobody else can write to it. bbolt then finds the
// lock taken by its own handle, which is as good as free.
func (db *DB) lockAndInspect(ctx context.Context, name string, flag int, mode os.FileMode) (*os.File, error) {
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: it is not a file", ErrFormat)
	}
	f, err := os.OpenFile(name, flag, mode)
	if err != nil {
		return nil, err
	}
	if err := lock(ctx, f, db.opts.LockTimeout); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	warning, err := inspect(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := nameNew(f, mode); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if warning != nil {
		db.log.Warn(warning.Error())
	}
	return f, nil
}

// nameNew makes the name of a new file last, and its mode what it should be, whatever the umask.
func nameNew(f *os.File, mode os.FileMode) error {
	info, err := f.Stat()
	if err != nil || info.Size() > 0 {
		return err
	}
	if info.Mode().Perm() != mode {
		if err := f.Chmod(mode); err != nil {
			return err
		}
	}
	return durable.SyncDir(filepath.Dir(f.Name()))
}

// lock waits until no other process has the file open.
func lock(ctx context.Context, f *os.File, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	again := time.NewTicker(lockPoll)
	defer again.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("lock: %w", err)
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("%w by %s", ErrLocked, lockHolder(f.Name()))
		}
	}
}
