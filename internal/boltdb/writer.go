package boltdb

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
)

// maxBatch bounds the functions in one transaction, and so the memory of its dirty pages.
const maxBatch = 1024

// maxBatchBytes bounds what they write, but for the last of them, in bytes.
const maxBatchBytes = 8 << 20

// smallRecord is how long a record may be, in bytes, for which room is made in the files where the disk has none.
const smallRecord = 64 << 10

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
	// deferred: nobody waits for it.
	deferred bool
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
	return db.submit(ctx, fn, false)
}

// UpdateDeferred is Update for writes that nobody waits for, such as acks: it waits up to Options.DeferredDelay for another
// commit to ride along with.
func (db *DB) UpdateDeferred(ctx context.Context, fn func(tx *Tx) error) error {
	return db.submit(ctx, fn, true)
}

func (db *DB) submit(ctx context.Context, fn func(tx *Tx) error, deferred bool) error {
	select {
	case <-db.stop:
		return ErrClosed
	default:
	}
	r := requests.Get().(*request)
	r.fn, r.deferred = fn, deferred
	select {
	case db.queue <- r:
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

// write is the file's one writer. The next batch forms in the queue while the last one is being synced.
func (db *DB) write() {
	defer close(db.stopped)
	// What bbolt reads of a damaged file can be a fault, which is fatal unless it is a panic.
	debug.SetPanicOnFault(true)
	db.batchTimer = time.NewTimer(db.opts.DeferredDelay)
	defer db.batchTimer.Stop()
	age := time.NewTicker(db.opts.checkpointEvery)
	defer age.Stop()
	var batch []*request
	for {
		clear(batch)
		batch = batch[:0]
		select {
		case r := <-db.queue:
			batch = db.gather(append(batch, r))
			db.decide(batch)
			// Those who were answered go first.
			runtime.Gosched()
		case task := <-db.tasks:
			task()
		case err := <-db.cp.done:
			db.logError(db.checkpointDone(err))
		case <-age.C:
			db.cp.resting = false
		case <-db.stop:
			for batch = db.drain(nil); len(batch) > 0; batch = db.drain(nil) {
				db.decide(batch)
			}
			return
		}
		db.keepUp()
	}
}

// keepUp does what commits make necessary, after their callers were answered.
func (db *DB) keepUp() {
	err := db.recoverUncertainCommit()
	if err == nil && db.due() {
		err = db.beginCheckpoint()
	}
	db.logError(err)
}

// logError logs what nobody else hears of.
func (db *DB) logError(err error) {
	if err != nil {
		db.log.Error("the database's log cannot be kept", "error", err)
	}
}

// do runs fn on the writer's goroutine.
func (db *DB) do(ctx context.Context, fn func() error) error {
	done := make(chan error, 1)
	select {
	case db.tasks <- func() { done <- fn() }:
		return <-done
	case <-ctx.Done():
		return ctx.Err()
	case <-db.stop:
		return ErrClosed
	}
}

// gather takes up what is waiting, and lets those who are about to come do so first. That waits for nobody but who is
// ready to run: a call that is alone is committed at once.
func (db *DB) gather(batch []*request) []*request {
	if batch[0].deferred && db.opts.DeferredDelay > 0 {
		batch = db.waitForBatch(batch)
	}
	for before := 0; before != len(batch) && len(batch) < maxBatch; {
		before = len(batch)
		runtime.Gosched()
		batch = db.drain(batch)
	}
	return batch
}

// waitForBatch gives deferred writes the chance to share their sync with one that somebody waits for.
func (db *DB) waitForBatch(batch []*request) []*request {
	db.batchTimer.Reset(db.opts.DeferredDelay)
	defer db.batchTimer.Stop()
	for len(batch) < maxBatch {
		select {
		case r := <-db.queue:
			if batch = append(batch, r); !r.deferred {
				return batch
			}
		case <-db.batchTimer.C:
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
		case r := <-db.queue:
			batch = append(batch, r)
		default:
			return batch
		}
	}
	return batch
}

// decide runs a batch, in one transaction if it can be, and again without the function that panicked or failed after
// writing, until none does.
func (db *DB) decide(batch []*request) {
	live := batch[:0]
	for _, r := range batch {
		if r.state.CompareAndSwap(queued, taken) {
			live = append(live, r)
		}
	}
	for len(live) > 0 {
		n, spoiler, err := db.tryCommit(live, 0)
		if spoiler >= 0 {
			live[spoiler].err = err
			live[spoiler].done <- struct{}{}
			live = append(live[:spoiler:spoiler], live[spoiler+1:]...)
			continue
		}
		for _, r := range live[:n] {
			// Who refused may have seen what its neighbours wrote, which is not to be.
			if err != nil {
				r.err = err
			}
			r.done <- struct{}{}
		}
		live = live[n:]
	}
}

// tryCommit returns how many of the batch's first functions were run, and the outcome for those that have none of their
// own; or the index of one that spoiled the transaction.
//
// Where the files cannot grow, small writes must still be possible, deletions most of all. A checkpoint or two make room in
// what the files have: at the beginning of the log's areas, and in pages that the checkpoint before has pinned.
func (db *DB) tryCommit(batch []*request, checkpoints int) (n, spoiler int, err error) {
	if err := db.recoverUncertainCommit(); err != nil {
		return len(batch), -1, err
	}
	if db.wal == nil {
		if err := db.startLog(); err != nil {
			return len(batch), -1, db.failed(err, 0)
		}
	}
	bolt, err := db.begin()
	if err != nil {
		return len(batch), -1, db.failed(err, 0)
	}
	db.rec.reset()
	tx := &Tx{tx: bolt, rec: &db.rec, buckets: map[*bbolt.Bucket]*Bucket{}}
	for i, r := range batch {
		if db.rec.payload() > maxBatchBytes {
			batch = batch[:i]
			break
		}
		if r.err = db.call(r.fn, tx); r.err == nil {
			continue
		}
		var dirty *dirtyError
		if errors.As(r.err, &dirty) {
			return 0, i, errors.Join(dirty.err, bolt.Rollback())
		}
	}
	for _, fn := range tx.finishing {
		if err := db.call(func(*Tx) error { return fn() }, tx); err != nil {
			return len(batch), -1, errors.Join(err, bolt.Rollback())
		}
	}
	if db.rec.ops == 0 {
		return len(batch), -1, bolt.Rollback()
	}
	if !db.wal.fits(db.rec.payload()) {
		if err := bolt.Rollback(); err != nil {
			return len(batch), -1, err
		}
		if record := padded(db.rec.payload()); record > db.wal.areaSize {
			return len(batch), -1, fmt.Errorf("a transaction takes %d bytes; allowed: %d", record, db.wal.areaSize)
		}
		if err := db.checkpointNow(); err != nil {
			return len(batch), -1, db.failed(err, 0)
		}
		return db.tryCommit(batch, checkpoints)
	}
	start := time.Now()
	err = db.persist(bolt)
	if noRoom(err) && !db.uncertain && db.rec.payload() <= smallRecord && checkpoints < 2 {
		if db.checkpointNow() == nil {
			return db.tryCommit(batch, checkpoints+1)
		}
	}
	if err != nil {
		return len(batch), -1, db.failed(err, int64(db.rec.payload()))
	}
	db.counters.count(func(s *Stats) { s.Commits++; s.Writes += uint64(len(batch)) })
	db.opts.Committed(time.Since(start), len(db.rec.b))
	for _, fn := range tx.committed {
		fn()
	}
	return len(batch), -1, nil
}

// persist makes a transaction last, and only then lets anybody see it: its record is synced, and then it is committed
// without a sync.
func (db *DB) persist(tx *bbolt.Tx) (err error) {
	// That there is no room must turn up here: a commit that has begun cannot simply be given up.
	leaves := int64(roomForSmall)
	if db.rec.payload() <= smallRecord {
		leaves = roomForCheckpoints
	}
	if err := db.reserve(recordPages(&db.rec, int64(db.bolt.Info().PageSize)), leaves); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	if db.rec.b, err = db.wal.append(db.rec.b); err != nil {
		err = errors.Join(fmt.Errorf("write to the log: %w", err), tx.Rollback())
	} else {
		db.cp.commits++
		db.cp.bytes += int64(len(db.rec.b))
		err = db.commit(tx, false)
	}
	if err == nil {
		db.wal.next(len(db.rec.b))
		return nil
	}
	// Rule 7: the functions are about to hear that they failed, so their record must not count, whatever happens next
	// (without this, TestPowerFailure fails). After a failed sync, the file is opened anew as well
	// (TestAFailedSyncIsNotTriedAgain).
	var wrote *notSynced
	if errors.As(err, &wrote) && db.wal.revoke() == nil {
		return err
	}
	db.uncertain = true
	if untrusted := db.recoverUncertainCommit(); untrusted != nil {
		db.logError(untrusted)
		return fmt.Errorf("%w: %w", ErrUnsure, err)
	}
	return err
}

// noRoom reports whether err says that a file cannot grow.
func noRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

// recordPages is what a transaction may take of the file, roughly, in bytes.
func recordPages(r *recorder, pageSize int64) int64 {
	return int64(r.payload())*9/8 + (2*int64(r.ops)+24)*pageSize
}

// begin starts a write transaction of bbolt.
func (db *DB) begin() (*bbolt.Tx, error) {
	tx, err := db.bolt.Begin(true)
	if err != nil {
		db.uncertain = true
		return nil, fmt.Errorf("begin transaction: %w", err)
	}
	db.fileSize = tx.Size()
	return tx, nil
}

// commit commits without a sync; list reports whether the list of free pages is written. If it fails, the file is
// uncertain: bbolt's memory is of no use any more, and the file is opened anew. Since there is room, which was made sure
// of before, that takes a disk that fails, or a full one on which a large value finds free pages, but not side by side.
// bbolt reads the whole file before it says so, and ends the process if a page is damaged, too; the next one recovers.
func (db *DB) commit(tx *bbolt.Tx, list bool) (err error) {
	id := uint64(tx.ID())
	db.committing.Lock()
	defer db.committing.Unlock()
	defer func() {
		// A damaged page is a panic to bbolt.
		if p := recover(); p != nil {
			err = errors.Join(db.panicked("in a commit", p), tx.Rollback())
		}
		if err != nil {
			err = fmt.Errorf("commit: %w", err)
			db.uncertain = true
			db.stuck.Store(&err)
		}
	}()
	db.bolt.NoFreelistSync = !list
	if err := tx.Commit(); err != nil {
		return err
	}
	db.visible.Store(id)
	return nil
}

// recoverUncertainCommit makes sure, before a transaction, that what is known in memory is what the file says: where it may
// not be, it opens the file anew. Until that works, every write fails; reads go on where nothing can be written.
func (db *DB) recoverUncertainCommit() error {
	if !db.uncertain {
		return nil
	}
	if err := db.recover(); err != nil {
		return db.failed(fmt.Errorf("after a failed commit: %w", err), 0)
	}
	db.uncertain = false
	return nil
}

// call answers a panic as a dirty error: what fn had written by then is unknown.
func (db *DB) call(fn func(tx *Tx) error, tx *Tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = Dirty(db.panicked("in a write function", p))
		}
	}()
	return fn(tx)
}
