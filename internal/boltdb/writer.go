package boltdb

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	bolterrors "go.etcd.io/bbolt/errors"
)

// maxBatch bounds the functions in one transaction, and so the memory of its dirty pages.
const maxBatch = 1024

// dirtyError marks an error that came after its function's first write.
type dirtyError struct{ err error }

func (e *dirtyError) Error() string { return e.err.Error() }
func (e *dirtyError) Unwrap() error { return e.err }

// Dirty marks err as having come after the function's first write, so that the transaction is rolled back and its
// neighbours are run again without the function. Dirty(nil) is nil.
func Dirty(err error) error {
	if err == nil {
		return nil
	}
	return &dirtyError{err}
}

// request states: the caller may leave only while the writer has not taken the request up.
const (
	queued int32 = iota
	taken
	abandoned
)

type request struct {
	fn  func(tx *Tx) error
	err error
	// done gets one value when err is the answer. From then on, the request is its caller's alone.
	done  chan struct{}
	state atomic.Int32
}

// requests are those that were answered, to be used again.
var requests = sync.Pool{New: func() any { return &request{done: make(chan struct{}, 1)} }}

// answer takes the answer out of a request that is done.
func (r *request) answer() error {
	err := r.err
	r.fn, r.err = nil, nil
	r.state.Store(queued)
	requests.Put(r)
	return err
}

// Update runs fn in a write transaction that it shares with whatever else is waiting, and returns once the commit is
// synced to disk.
//
// fn does all its checks before its first write: when it returns an error, it promises that it wrote nothing, or marks
// the error with Dirty. fn may run more than once and must then come to the same result; effects in memory belong into
// tx.OnCommit. fn runs on the writer's goroutine and must not call Update.
//
// When ctx ends before fn was started, fn never runs and ctx's error is returned; after that, Update sees it through.
func (db *DB) Update(ctx context.Context, fn func(tx *Tx) error) error {
	return db.submit(ctx, db.urgent, fn)
}

// UpdateLazily is Update for writes that nobody waits for, such as acks: it waits up to Options.LazyDelay for another
// commit to ride along with.
func (db *DB) UpdateLazily(ctx context.Context, fn func(tx *Tx) error) error {
	return db.submit(ctx, db.lazy, fn)
}

func (db *DB) submit(ctx context.Context, queue chan<- *request, fn func(tx *Tx) error) error {
	select {
	case <-db.stop:
		return ErrClosed
	default:
	}
	r := requests.Get().(*request)
	r.fn = fn
	select {
	case queue <- r:
	case <-ctx.Done():
		return ctx.Err()
	case <-db.stop:
		return ErrClosed
	}
	select {
	case <-r.done:
		return r.answer()
	case <-ctx.Done():
		if r.state.CompareAndSwap(queued, abandoned) {
			return ctx.Err()
		}
		<-r.done
		return r.answer()
	case <-db.stopped:
		// The writer may have answered just before it stopped, or have stopped before it saw the request.
		select {
		case <-r.done:
			return r.answer()
		default:
			return ErrClosed
		}
	}
}

// write is the file's one writer. The next batch forms in the queues while the last one is being synced.
func (db *DB) write() {
	defer close(db.stopped)
	// What bbolt reads of a damaged file can be a fault, which is fatal unless it is a panic.
	debug.SetPanicOnFault(true)
	db.patience = time.NewTimer(db.lazyDelay)
	defer db.patience.Stop()
	var batch []*request
	for {
		clear(batch)
		batch = batch[:0]
		select {
		case r := <-db.urgent:
			batch = append(batch, r)
		case r := <-db.lazy:
			batch = db.linger(append(batch, r))
		case <-db.stop:
			for batch = db.drain(nil); len(batch) > 0; batch = db.drain(nil) {
				db.commit(batch)
			}
			db.keepList()
			return
		}
		db.commit(db.gather(batch))
		// Those who were answered go first.
		runtime.Gosched()
		db.tendSpares()
	}
}

// gather takes up what is waiting, and lets those who are about to come do so first. That waits for nobody but who is
// ready to run: a call that is alone is committed at once.
func (db *DB) gather(batch []*request) []*request {
	for before := 0; before != len(batch) && len(batch) < maxBatch; {
		before = len(batch)
		runtime.Gosched()
		batch = db.drain(batch)
	}
	return batch
}

// linger gives a lazy write the chance to share its sync with one that somebody waits for.
func (db *DB) linger(batch []*request) []*request {
	if db.lazyDelay < 0 {
		return batch
	}
	db.patience.Reset(db.lazyDelay)
	defer db.patience.Stop()
	for len(batch) < maxBatch {
		select {
		case r := <-db.urgent:
			return append(batch, r)
		case r := <-db.lazy:
			batch = append(batch, r)
		case <-db.patience.C:
			return batch
		case <-db.stop:
			return batch
		}
	}
	return batch
}

func (db *DB) drain(batch []*request) []*request {
	for len(batch) < maxBatch {
		select {
		case r := <-db.urgent:
			batch = append(batch, r)
			continue
		default:
		}
		select {
		case r := <-db.lazy:
			batch = append(batch, r)
			continue
		default:
		}
		break
	}
	return batch
}

// commit runs a batch in one transaction, and again without the function that panicked or failed after writing, until
// none does.
func (db *DB) commit(batch []*request) {
	live := batch[:0]
	for _, r := range batch {
		if r.state.CompareAndSwap(queued, taken) {
			live = append(live, r)
		}
	}
	for len(live) > 0 {
		spoiler, err := db.tryCommit(live)
		if spoiler < 0 {
			for _, r := range live {
				// Who refused may have seen what its neighbours wrote, which is not to be.
				if err != nil {
					r.err = err
				}
				r.done <- struct{}{}
			}
			return
		}
		live[spoiler].err = err
		live[spoiler].done <- struct{}{}
		live = append(live[:spoiler:spoiler], live[spoiler+1:]...)
	}
}

// tryCommit returns the index of the request that spoiled the transaction, or -1 and the commit's outcome.
func (db *DB) tryCommit(batch []*request) (spoiler int, err error) {
	if err := db.trust(); err != nil {
		return -1, err
	}
	tx, err := db.bolt.Begin(true)
	if err != nil {
		db.suspect = errors.Is(err, bolterrors.ErrInvalidMapping)
		return -1, db.failed(fmt.Errorf("begin transaction: %w", err), 0)
	}
	shared := &Tx{tx: tx}
	wrote := false
	for i, r := range batch {
		if r.err = db.call(r.fn, shared); r.err == nil {
			wrote = true
			continue
		}
		var dirty *dirtyError
		if errors.As(r.err, &dirty) {
			return i, errors.Join(dirty.err, tx.Rollback())
		}
	}
	if !wrote {
		return -1, tx.Rollback()
	}
	id := uint64(tx.ID())
	db.listFree(tx)
	db.limitGrowth(tx, db.maxGrowth())
	err = commit(tx)
	if refused(err) {
		db.makeRoom(written(tx))
		return db.tryCommit(batch)
	}
	db.spare.ended(written(tx))
	if err != nil {
		db.distrust(id, err)
		return -1, db.failed(err, written(tx))
	}
	db.succeeded(written(tx))
	return -1, nil
}

// call answers a panic as a dirty error: what fn had written by then is unknown.
func (db *DB) call(fn func(tx *Tx) error, tx *Tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			db.log.Error("panic in a write function", "panic", p, "stack", string(debug.Stack()))
			err = Dirty(fmt.Errorf("panic in a write function: %v", p))
		}
	}()
	return fn(tx)
}
