package boltdb

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
)

// failure is a commit that failed, or a checkpoint.
type failure struct {
	err error
	// size is what the commit would have written, in bytes.
	size       int64
	checkpoint bool
}

// maxProbe bounds what Ready writes to find out whether there is room again, in bytes.
const maxProbe = 4 << 20

// Ready returns the error of a commit or a checkpoint that failed, until one as large succeeds, which it tries, or the first
// damage that a call has met since the file was opened, or that the file or its log is not at its path any more.
func (db *DB) Ready(ctx context.Context) error {
	if named, err := os.Stat(db.path); err != nil || !os.SameFile(*db.opened.Load(), named) {
		return fmt.Errorf("%s was removed or replaced: what is written from now on is lost when the process ends, unless dapr-bolt backup saves it", db.path)
	}
	if l := db.openedLog.Load(); l != nil {
		// Another log may have taken its place meanwhile.
		if named, err := os.Stat(db.path + logSuffix); (err != nil || !os.SameFile(*l, named)) && l == db.openedLog.Load() {
			return fmt.Errorf("%s was removed or replaced: stop the process, which brings everything into the database file; after a kill, that is refused", db.path+logSuffix)
		}
	}
	if damage := db.damage.Load(); damage != nil {
		return *damage
	}
	last := db.failure.Load()
	if last == nil {
		return db.View(func(*Tx) error { return nil })
	}
	if last.checkpoint {
		if err := db.do(ctx, db.checkpointNow); err != nil {
			return err
		}
	}
	probe := make([]byte, min(last.size, maxProbe))
	if err := db.Update(ctx, func(tx *Tx) error {
		return Dirty(tx.Bucket(bucketFormat).Put(keyWriteProbe, probe))
	}); err != nil {
		return err
	}
	db.failure.CompareAndSwap(last, nil)
	return db.Update(ctx, func(tx *Tx) error {
		return Dirty(tx.Bucket(bucketFormat).Delete(keyWriteProbe))
	})
}

// failed lets Ready say that a commit of so many bytes has failed.
func (db *DB) failed(err error, size int64) error {
	return db.failedWith(&failure{err: err, size: size})
}

func (db *DB) failedWith(f *failure) error {
	if last := db.failure.Load(); last != nil {
		f.size, f.checkpoint = max(f.size, last.size), f.checkpoint || last.checkpoint
	}
	db.failure.Store(f)
	return f.err
}

// panicked returns a panic, which a damaged page is to bbolt, as an error, and lets Ready say so if it is the first. Where it
// comes from code that calls bbolt, nothing tells it from a bug.
func (db *DB) panicked(where string, p any) error {
	db.log.Error("panic "+where, "panic", p, "stack", string(debug.Stack()))
	err := fmt.Errorf("%w: panic %s: %v", ErrDamaged, where, p)
	db.damage.CompareAndSwap(nil, &err)
	return err
}
