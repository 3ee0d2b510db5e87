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

// Backup writes a consistent copy of the file to path, which must not exist, while reads and writes go on. The copy is
// synced and whole, without a log, before it has that name. It has an incarnation of its own. When ctx ends, so does the backup,
// and leaves nothing.
func (db *DB) Backup(ctx context.Context, path string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("back up database: %w", err)
		}
	}()
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".partial-*")
	if err != nil {
		return err
	}
	err = fillCopy(f, func(f *os.File) error {
		names, over, err := db.copyTo(ctx, f)
		if err != nil {
			return err
		}
		return makeOwn(f.Name(), names, over)
	})
	if err != nil {
		return err
	}
	// Unlike a rename, a link never replaces what is there. FAT, exFAT and network shares may have none.
	if err = db.opts.link(f.Name(), path); err == nil {
		err = os.Remove(f.Name())
	} else if _, there := os.Lstat(path); errors.Is(there, fs.ErrNotExist) {
		err = os.Rename(f.Name(), path)
	}
	if errors.Is(err, fs.ErrExist) {
		err = fmt.Errorf("%s exists; name a new file: %w", path, fs.ErrExist)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return durable.SyncDir(filepath.Dir(path))
}

// copyTo writes the file as it is, and returns what lies over it.
func (db *DB) copyTo(ctx context.Context, f *os.File) (names *names, over *overlay, err error) {
	err = db.viewFile(func(base *bbolt.Tx, o *overlay) error {
		names, over = db.names, o
		_, err := base.WriteTo(&backupWriter{ctx: ctx, file: f})
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx) // bbolt returns its text alone
		}
		return err
	})
	return names, over, err
}

// backupStep is how much of a backup is written between syncs, in bytes: the syncs of the log wait for what else the disk has
// to write.
const backupStep = 4 << 20

// backupWriter writes a backup until ctx ends.
type backupWriter struct {
	ctx      context.Context
	file     *os.File
	unsynced int
}

func (w *backupWriter) Write(p []byte) (n int, err error) {
	if err := context.Cause(w.ctx); err != nil {
		return 0, err
	}
	n, err = w.file.Write(p)
	if w.unsynced += n; err == nil && w.unsynced >= backupStep {
		w.unsynced = 0
		err = w.file.Sync()
	}
	return n, err
}

// makeOwn makes a copy a database of its own: without a log, but with what lay over the original, and with an incarnation that
// nobody else has, since whoever goes on with it may count what the original counts otherwise.
func makeOwn(path string, names *names, over *overlay) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, p)
		}
	}()
	bolt, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return err
	}
	err = over.apply(names, nil, checkpointStep, bolt.Update)
	if err == nil {
		err = bolt.Update(func(tx *bbolt.Tx) error {
			return errors.Join(tx.Bucket(bucketFormat).Delete(keyLog), newIncarnation(tx))
		})
	}
	return errors.Join(err, bolt.Close())
}
