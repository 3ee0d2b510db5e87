package boltdb

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"syscall"

	"go.etcd.io/bbolt"
)

// failure is a commit that failed.
type failure struct {
	err error
	// size is what it would have written, in bytes.
	size int64
}

// maxProbe bounds what Ready writes to find out whether there is room again, in bytes.
const maxProbe = 4 << 20

// Ready says whether writes work: it returns the error of the last commit that failed, unless one that is as large has
// succeeded since, or does now.
func (db *DB) Ready(ctx context.Context) error {
	last := db.failure.Load()
	if last == nil {
		return db.View(func(*Tx) error { return nil })
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

func (db *DB) failed(err error, size int64) error {
	if last := db.failure.Load(); last != nil {
		size = max(size, last.size)
	}
	db.failure.Store(&failure{err, size})
	return err
}

func (db *DB) succeeded(size int64) {
	if last := db.failure.Load(); last != nil && size >= last.size {
		db.failure.CompareAndSwap(last, nil)
	}
}

// written is how much a transaction has written, in bytes.
func written(tx *bbolt.Tx) int64 {
	stats := tx.Stats()
	return stats.GetPageAlloc()
}

// commit commits, and answers a panic, which a damaged page is to bbolt, as an error.
func commit(tx *bbolt.Tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.Join(fmt.Errorf("commit: %w: %v\n%s", ErrDamaged, p, debug.Stack()), tx.Rollback())
		}
	}()
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", withCause(err))
	}
	return nil
}

// lostCause is an error whose text holds the text of the system's error, but which does not wrap it.
type lostCause struct {
	error
	cause syscall.Errno
}

func (e *lostCause) Unwrap() []error { return []error{e.error, e.cause} }

// withCause gives an error of bbolt, which drops some causes (https://github.com/etcd-io/bbolt/blob/v1.5.0/db.go, grow),
// its cause back, for callers that tell a full disk from other failures.
func withCause(err error) error {
	for _, cause := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if !errors.Is(err, cause) && strings.HasSuffix(err.Error(), cause.Error()) {
			return &lostCause{err, cause}
		}
	}
	return err
}

// distrust notes that a commit has failed with err. bbolt rolls it back, and most failures end there. But when the last
// step fails, which is the sync of the page that makes the transaction count, that page is there for every reader, and
// nobody knows whether it is on disk. Its functions are told that it failed, and so it must not count.
func (db *DB) distrust(transaction uint64, err error) {
	db.suspect = errors.Is(err, ErrDamaged)
	err = db.View(func(tx *Tx) error {
		if uint64(tx.tx.ID()) == transaction {
			db.suspect, db.doubtful = true, transaction
		}
		return nil
	})
	if err != nil {
		db.suspect = true
		db.log.Error("after a failed commit, the database cannot be read", "error", err)
	}
}

// trust makes sure, before a transaction, that what bbolt knows in memory is what the file says: where it may not be, it
// takes a doubtful transaction back and opens the file anew. Until that works, every write fails and reads go on.
func (db *DB) trust() error {
	if !db.suspect {
		return nil
	}
	if err := db.reopen(); err != nil {
		return db.failed(fmt.Errorf("after a failed commit: %w", err), 0)
	}
	db.suspect, db.doubtful = false, 0
	return nil
}

func (db *DB) reopen() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.openErr == nil {
		if db.doubtful != 0 {
			if err := forgetCommit(db.file, db.doubtful, db.bolt.Info().PageSize); err != nil {
				return fmt.Errorf("take back a transaction that may be on disk: %w", err)
			}
		}
		if err := db.bolt.Close(); err != nil {
			db.log.Warn("a database that is opened anew was not closed well", "error", err)
		}
	}
	db.openErr = db.open(context.Background())
	return db.openErr
}
