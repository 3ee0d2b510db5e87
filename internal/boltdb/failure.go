package boltdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync/atomic"
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

// Ready reports whether writes work: it returns the error of the last commit that failed, unless one that is as large has
// succeeded since, or does now, or the first damage that a call has met.
func (db *DB) Ready(ctx context.Context) error {
	if damage := db.damage.Load(); damage != nil {
		return *damage
	}
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
	if errors.Is(err, ErrDamaged) {
		db.damage.CompareAndSwap(nil, &err)
	}
	if last := db.failure.Load(); last != nil {
		size = max(size, last.size)
	}
	db.failure.Store(&failure{err, size})
	return err
}

// panicked returns a panic, which a damaged page is to bbolt, as an error. Where it comes from code that calls bbolt,
// nothing tells it from a bug.
func (db *DB) panicked(where string, p any) error {
	db.log.Error("panic "+where, "panic", p, "stack", string(debug.Stack()))
	err := fmt.Errorf("%w: panic %s: %v", ErrDamaged, where, p)
	db.damage.CompareAndSwap(nil, &err)
	return err
}

func (db *DB) succeeded(size int64) {
	if last := db.failure.Load(); last != nil && size >= last.size {
		db.failure.CompareAndSwap(last, nil)
	}
}

// commitErrors makes a commit of bbolt fail right where the error is. bbolt would otherwise look for free pages in the
// whole file, which takes as long as reading it, and meets damage in a goroutine of its own, where that ends the process
// (https://github.com/etcd-io/bbolt/blob/v1.5.0/tx.go, rollback). It logs every error before that: to this logger.
type commitErrors struct {
	bbolt.DefaultLogger
	log        *slog.Logger
	committing atomic.Bool
}

func newCommitErrors(logger *slog.Logger) *commitErrors {
	return &commitErrors{log: logger, DefaultLogger: bbolt.DefaultLogger{Logger: log.New(io.Discard, "", 0)}}
}

// commitFailed is the panic that ends a commit.
type commitFailed struct{ err error }

// Errorf implements bbolt.Logger.
func (c *commitErrors) Errorf(format string, args ...any) {
	if !c.committing.CompareAndSwap(true, false) {
		return
	}
	panic(commitFailed{fmt.Errorf(strings.ReplaceAll(format, "%v", "%w"), args...)})
}

// commit commits, and answers a panic, which a damaged page is to bbolt, as an error. After an error, bbolt's memory is
// of no use any more: pages that the transaction took are neither used nor free.
func (c *commitErrors) commit(tx *bbolt.Tx) (err error) {
	defer func() {
		c.committing.Store(false)
		switch p := recover().(type) {
		case nil:
		case commitFailed:
			err = errors.Join(fmt.Errorf("commit: %w", withCause(p.err)), tx.Rollback())
		default:
			c.log.Error("panic in a commit", "panic", p, "stack", string(debug.Stack()))
			err = errors.Join(fmt.Errorf("commit: %w: %v", ErrDamaged, p), tx.Rollback())
		}
	}()
	c.committing.Store(true)
	return tx.Commit()
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
