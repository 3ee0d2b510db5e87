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
)

// maxBatch bounds the functions in one transaction.
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
	if db.due() || db.uncertain && !db.cp.resting {
		db.logError(db.beginCheckpoint())
	}
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
// what the files have: at the beginning of the log's areas, and in pages that nobody needs after it.
func (db *DB) tryCommit(batch []*request, checkpoints int) (n, spoiler int, err error) {
	if err := db.prepareLog(); err != nil {
		return len(batch), -1, db.failed(err, 0)
	}
	if db.cp.done != nil && db.overlay.Load().bytes >= maxOverlay {
		db.logError(db.finishCheckpoint())
	}
	tx := db.writeTx(db.overlay.Load().copy(), db.wal.sequence+1, db.cp.frozen)
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
			return 0, i, dirty.err
		}
	}
	for _, fn := range tx.finishing {
		if err := db.call(func(*Tx) error { return fn() }, tx); err != nil {
			return len(batch), -1, err
		}
	}
	tx.writeCounters()
	if db.rec.ops == 0 {
		return len(batch), -1, nil
	}
	if record := padded(db.rec.payload()); record > db.wal.areaSize {
		// A log with larger areas takes the place of this one.
		err := db.endLog()
		if err == nil {
			err = db.startLog(record)
		}
		if err != nil {
			return len(batch), -1, db.failed(err, int64(db.rec.payload()))
		}
		return db.tryCommit(batch, checkpoints)
	}
	if !db.wal.fits(db.rec.payload()) {
		if err := db.beginCheckpoint(); err != nil {
			return len(batch), -1, err
		}
		return db.tryCommit(batch, checkpoints)
	}
	start := time.Now()
	err = db.persist(tx.overlay)
	if noRoom(err) && !db.unrevoked && db.rec.payload() <= smallRecord && checkpoints < 2 {
		area := db.wal.area
		if db.checkpointNow() == nil {
			if db.wal.area == area { // there was nothing to bring into the file
				db.wal.enter(1 - area)
			}
			return db.tryCommit(batch, checkpoints+1)
		}
	}
	if noRoom(err) && !db.unrevoked && len(batch) > 1 {
		// Nobody is refused for what another one writes.
		return db.tryCommit(batch[:len(batch)/2], checkpoints)
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

// prepareLog makes sure that there is a log, and that nothing is in it whose writers were told that it failed.
func (db *DB) prepareLog() error {
	if db.wal == nil {
		if err := db.recoverUncertain(); err != nil || db.wal != nil {
			return err
		}
		return db.startLog(db.opts.areaSize)
	}
	return db.revokeFailed()
}

// revokeFailed takes a record out of the log whose writers were told that it failed. Until that works, every write fails.
func (db *DB) revokeFailed() error {
	if !db.unrevoked {
		return nil
	}
	if err := db.wal.revoke(); err != nil {
		return fmt.Errorf("after a failed write to the log: %w", err)
	}
	db.unrevoked = false
	return nil
}

// writeTx is a transaction that changes what lies over the file, and begins its record. frozen is what a checkpoint brings
// into the file; nil: nothing.
func (db *DB) writeTx(o *overlay, sequence uint64, frozen *overlay) *Tx {
	db.rec.reset()
	tx := &Tx{rec: &db.rec, sequence: sequence, frozen: frozen, buckets: map[uint32]*Bucket{}, stored: db.stored, fills: db.fills}
	tx.start(db.base, db.names, o)
	tx.top.changed = true
	return tx
}

// persist makes a transaction last, and only then lets anybody see it: its record is synced.
func (db *DB) persist(o *overlay) (err error) {
	// That the file has no room for it must turn up here, not when a checkpoint brings it there.
	if db.rec.puts > 0 {
		leaves := int64(roomForSmall)
		if db.rec.payload() <= smallRecord {
			leaves = roomForCheckpoints
		}
		if err := db.reserve(o, leaves); err != nil {
			return err
		}
	}
	if db.rec.b, err = db.wal.append(db.rec.b); err == nil {
		db.overlay.Store(o)
		return nil
	}
	// The functions are about to hear that they failed, so their record must not count, whatever happens next (without this,
	// TestPowerFailure fails).
	err = fmt.Errorf("write to the log: %w", err)
	db.unrevoked = true
	if unsure := db.revokeFailed(); unsure != nil {
		db.logError(unsure)
		return fmt.Errorf("%w: %w", ErrUnsure, err)
	}
	return err
}

// noRoom reports whether err says that a file cannot grow.
func noRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
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
