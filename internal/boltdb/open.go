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

const (
	// lockTimeout is how long a process that is just letting go of the file is waited for.
	lockTimeout = time.Second
	// lockPoll is how often a file that another process holds is tried again.
	lockPoll = 10 * time.Millisecond
)

// open locks the file, opens it, and puts over it what its log holds if it was not closed cleanly. A file that is refused
// stays as it was.
func (db *DB) open(ctx context.Context) (err error) {
	var f *os.File
	// What bbolt and the system know to say of damaged pages is a panic, or a fault.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: damaged: %v", ErrFormat, p)
		}
		if err == nil {
			return
		}
		db.release()
		// bbolt cannot be closed in the middle of its own opening, and its mapping of the file stays behind, which would keep
		// the lock.
		_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
		_ = f.Close()
		switch {
		case errors.Is(err, fs.ErrPermission):
			err = fmt.Errorf("%w: it and its directory must belong to the user who runs dapr-bolt, and be writable", err)
		case errors.Is(err, unix.EROFS):
			err = fmt.Errorf("%w: a database that cannot be written cannot be served", err)
		}
		err = fmt.Errorf("open database %s: %w", db.path, err)
	}()
	if f, err = db.lockWhole(ctx); err != nil {
		return err
	}
	opened, err := f.Stat()
	if err != nil {
		return err
	}
	db.opened.Store(&opened)
	db.disk = db.opts.wrap(f)
	l, err := db.findLog()
	if err != nil {
		return err
	}
	warning, err := inspect(f)
	if err == nil {
		if warning != nil {
			db.log.Warn(warning.Error())
		}
		err = db.openBolt(f)
	}
	var state *logState
	if err == nil {
		err = db.bolt.View(func(tx *bbolt.Tx) (err error) {
			state, err = readLogState(tx)
			return err
		})
	}
	if err != nil {
		if l != nil {
			err = errors.Join(err, l.file.Close())
		}
		return err
	}
	if err := os.Remove(nextPath(db.path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		db.log.Warn(err.Error())
	}
	return db.recoverLog(l, state)
}

// openBolt opens f, which is locked, with bbolt: that then finds the lock taken by its own handle, which is as good as free.
// A format that this build does not read is refused.
func (db *DB) openBolt(f *os.File) (err error) {
	mapped := mappingSize()
	db.mapped = int64(mapped)
	db.bolt, err = bbolt.Open(db.path, 0o600, &bbolt.Options{
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: mapped,
		NoGrowSync:      true,
		// Not yet known to be ours, the file must stay as it is; with this, bbolt does not write a list that it lacks.
		NoFreelistSync: true,
		OpenFile:       func(string, int, os.FileMode) (*os.File, error) { return f, nil },
	})
	if errors.Is(err, bolterrors.ErrInvalid) || errors.Is(err, bolterrors.ErrChecksum) || errors.Is(err, bolterrors.ErrVersionMismatch) {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if err != nil {
		return err
	}
	db.bolt.NoFreelistSync = false
	db.opts.opened(db.bolt)
	return db.bolt.View(func(tx *bbolt.Tx) error {
		db.allocated = tx.Size()
		_, _, err := readFormat(tx)
		return err
	})
}

// bringUpToDate gives the file this build's format, once nothing is left that it may be refused for.
func (db *DB) bringUpToDate() error {
	incarnation, err := ensureFormat(db.bolt)
	if err == nil && db.incarnation == nil {
		db.incarnation = incarnation
	}
	return err
}

// release closes what is open, as it is.
func (db *DB) release() {
	if db.cp.done != nil {
		<-db.cp.done
		db.cp.done = nil
	}
	if db.base != nil {
		_ = db.base.Rollback()
		db.base = nil
	}
	if db.wal != nil {
		db.openedLog.Store(nil)
		_ = db.wal.file.Close()
		db.wal = nil
	}
	if db.bolt != nil {
		if err := db.bolt.Close(); err != nil {
			db.log.Warn("the database file could not be closed well", "error", err)
		}
		db.bolt = nil
	}
}

// openFile opens a file beside the database's.
func (db *DB) openFile(path string, flag int) (file, error) {
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return db.opts.wrap(f), nil
}

// lockWhole opens and locks the file. A new database takes the place of an empty file in one step: bbolt makes one in several
// writes, and what a power failure leaves of those is refused.
func (db *DB) lockWhole(ctx context.Context) (*os.File, error) {
	f, err := lockFile(ctx, db.path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return f, err
	}
	if _, err := os.Stat(db.path + logSuffix); info.Size() > 0 || err == nil {
		return f, nil // an empty file that has a log was a database
	}
	// A name that points elsewhere must go on doing so.
	path, err := filepath.EvalSymlinks(db.path)
	if err != nil {
		return f, err
	}
	err = makeNext(path, info, func(f *os.File) error {
		bolt, err := bbolt.Open(f.Name(), 0o600, &bbolt.Options{NoSync: true, FreelistType: bbolt.FreelistMapType})
		if err != nil {
			return err
		}
		_, err = ensureFormat(bolt)
		return errors.Join(err, bolt.Close())
	})
	if err == nil {
		err = putInPlace(path)
	}
	if err != nil {
		return f, err
	}
	_ = f.Close()
	return lockFile(ctx, db.path)
}

// lockFile opens the file at path, new if there is none, once no other process has it open. A lock belongs to a file, not to
// its name: whoever waited for it while Compact put a new file in its place would write to a file that is gone.
func lockFile(ctx context.Context, path string) (*os.File, error) {
	for {
		if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%w: it is not a file", ErrFormat)
		}
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := lock(ctx, f, unix.LOCK_EX); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		opened, err := f.Stat()
		if err == nil && opened.Size() == 0 {
			err = nameNew(f)
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if named, err := os.Stat(path); err == nil && os.SameFile(opened, named) {
			return f, nil
		}
		_ = f.Close()
	}
}

// nameNew makes the name of a new file last, and its mode what it should be, whatever the umask.
func nameNew(f *os.File) error {
	return errors.Join(f.Chmod(0o600), durable.SyncDir(filepath.Dir(f.Name())))
}

// lock waits until no other process has the file open or, with unix.LOCK_SH as how, has it open to write.
func lock(ctx context.Context, f *os.File, how int) error {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
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
