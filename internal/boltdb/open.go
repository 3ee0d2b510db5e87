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
		if err := db.open(ctx, everything); err != nil {
			return err
		}
		opened, err := db.disk.Stat()
		if err == nil {
			var named os.FileInfo
			if named, err = os.Stat(db.path); err == nil && os.SameFile(opened, named) {
				return nil
			}
		}
		db.release()
		if err != nil {
			return fmt.Errorf("open database %s: %w", db.path, err)
		}
	}
}

// open opens the file, recovers it from its log up to a sequence if there is one, and makes sure that it can be used.
func (db *DB) open(ctx context.Context, last uint64) error {
	l, h, err := db.openBolt(ctx)
	if err == nil && l != nil {
		err = db.recovered(l, h, last)
	}
	if err != nil {
		return fmt.Errorf("open database %s: %w", db.path, err)
	}
	return nil
}

// recovered is recoverLog, whose panics, which damaged pages are to bbolt, are errors.
func (db *DB) recovered(l *wal, h *header, last uint64) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, p)
		}
		if err != nil {
			db.wal = l
			db.release()
		}
	}()
	return db.recoverLog(l, h, last)
}

// openBolt turns bbolt's errors, and the panics and faults with which it answers damaged files, into errors of this
// package. A file that is refused stays as it was.
func (db *DB) openBolt(ctx context.Context) (l *wal, h *header, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	var bolt *bbolt.DB
	var file *os.File
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
		if err != nil && l != nil {
			err = errors.Join(err, l.file.Close())
		}
	}()
	bolt, err = bbolt.Open(db.path, 0o600, &bbolt.Options{
		Timeout:         db.opts.LockTimeout,
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: mappingSize(),
		NoGrowSync:      true,
		// Not yet known to be ours, the file must stay as it is; with this, bbolt does not write a list that it lacks.
		NoFreelistSync: true,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			if file, err = db.lockAndInspect(ctx, name, flag, mode); err == nil {
				db.disk = db.opts.wrap(file)
				l, h, err = db.findLog()
			}
			if err == nil {
				err = db.warn(inspect(file))
			}
			if err == nil {
				err = db.warn(removeCopies(name), nil)
			}
			if err != nil && file != nil {
				err = errors.Join(err, file.Close())
				file = nil
			}
			return file, err
		},
	})
	switch {
	case errors.Is(err, fs.ErrPermission):
		return l, nil, fmt.Errorf("%w: it and its directory must belong to the user who runs dapr-bolt, and be writable", err)
	case errors.Is(err, unix.EROFS):
		return l, nil, fmt.Errorf("%w: a database that cannot be written cannot be served", err)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return l, nil, fmt.Errorf("%w: %w", ErrFormat, err)
	case err != nil:
		return l, nil, err
	}
	bolt.NoFreelistSync = false
	if db.incarnation, err = ensureFormat(bolt, FormatVersion, migrations, l != nil); err != nil {
		return l, nil, err
	}
	bolt.NoSync = true
	db.opts.opened(bolt)
	err = bolt.View(func(tx *bbolt.Tx) error {
		db.visible.Store(uint64(tx.ID()))
		db.fileSize, db.allocated = tx.Size(), tx.Size()
		return nil
	})
	db.bolt = bolt
	return l, h, err
}

// warn logs what can be lived with.
func (db *DB) warn(warning, err error) error {
	if warning != nil {
		db.log.Warn(warning.Error())
	}
	return err
}

// openFile opens a file beside the database's.
func (db *DB) openFile(path string, flag int) (file, error) {
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return db.opts.wrap(f), nil
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
	if err := lock(ctx, f, unix.LOCK_EX, db.opts.LockTimeout); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := nameNew(f, mode); err != nil {
		return nil, errors.Join(err, f.Close())
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

// lock waits until no other process has the file open or, with unix.LOCK_SH as how, has it open to write.
func lock(ctx context.Context, f *os.File, how int, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	again := time.NewTicker(lockPoll)
	defer again.Stop()
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
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
