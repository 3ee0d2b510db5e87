package statestore

import (
	"context"
	"time"
)

// Engine stores one bucket of state. Its methods may be called from any goroutine. Everything that an Engine is
// handed was checked by Store.
type Engine interface {
	// Get returns one Item per key, in order, all from one consistent snapshot that holds every Apply that has
	// returned. Keys that have expired by now are not Found. The sizes of the items (Item.Size) are at most room in all:
	// what would take more is not copied, and its Err is ErrNoRoom. An item that cannot be read has a DamagedError as its
	// Err; the error is for when nothing can be read. No key is given twice.
	Get(ctx context.Context, keys []string, room int, now time.Time) ([]Item, error)

	// Apply takes each transaction, in order, as one atomic step of its own, and returns the outcomes, one each, once all
	// that succeeded is on disk. Later transactions see the effect of earlier ones. They have at most MaxTransactionSize
	// writes in all.
	//
	// now is read when the decision is taken. A transaction whose idempotency key is remembered then succeeds and changes
	// nothing. Else every write is checked (see Write.CheckETag) against the state that the transaction finds; if one
	// fails, its error is the outcome, and the transaction leaves no trace. Else the writes take effect in order, together
	// with the idempotency key.
	//
	// The error is for when nothing was done, or when what was done is unknown.
	Apply(ctx context.Context, transactions []Transaction, now func() time.Time) ([]error, error)

	// Sweep removes up to limit keys and idempotency keys that have expired by now, the oldest first, and then what indexes
	// hold that have (see BuildIndexes). It returns how many it dealt with, and whether there may be more: it ends early
	// when their values are large. It is cheap when there is nothing to remove. A value that cannot be read is left in
	// place and reported by the error, beside the count, and will not be met again.
	Sweep(ctx context.Context, now time.Time, limit int) (swept int, more bool, err error)

	// View calls fn once with a consistent snapshot of what is live at now, which holds every Apply that has returned,
	// and returns fn's error. The Snapshot is valid until fn returns. Its methods return ctx's error soon after ctx ends.
	View(ctx context.Context, now time.Time, fn func(Snapshot) error) error

	// BuildIndexes takes one small step towards complete indexes on paths: it makes sure that there is an index on each,
	// complete or begun, that does not expire before until, and if any is not complete takes up to limit more keys into
	// one. From its beginning on, Apply and Sweep keep an index right. Once an index has expired, it is removed by Sweep.
	BuildIndexes(ctx context.Context, paths []string, until time.Time, limit int) (IndexProgress, error)

	// AddIdempotencyKeys remembers keys that another bucket remembered, at most copyPage of them, until they expire there. One
	// that is remembered already stays as it is.
	AddIdempotencyKeys(ctx context.Context, keys []IdempotencyKey) error

	Inspector
}

// Snapshot reads state as it was at one instant. A value that cannot be read ends a Scan or a Lookup with a DamagedError.
// What a visit function is shown is valid until it returns; it returns false to end the walk.
type Snapshot interface {
	// Get returns the key's Item, or one whose Err is ErrNoRoom if its Size is above room.
	Get(key string, room int) Item
	// Scan shows the keys after the one that is given, in the order of their bytes.
	Scan(after string, visit func(key, value []byte) bool) error
	// Indexes returns the paths that have a complete index, and for each whether it ever held a value with many keys
	// (IndexChange).
	Indexes() map[string]bool
	// Lookup shows what the complete index on path has in r: the IndexKeys of each value, in order, and under each of
	// them the keys after the one that is given, in order. It may show more index keys than a value has.
	Lookup(path string, r IndexRange, after string, visit func(indexKey, key, value []byte) bool) error
}

// IndexProgress is where building the indexes stands.
type IndexProgress struct {
	// Path of the index that the step was for; empty: there was nothing left to build.
	Path string
	// Keys that it has dealt with since its beginning.
	Keys uint64
	// Complete reports whether that was all of them.
	Complete bool
}
