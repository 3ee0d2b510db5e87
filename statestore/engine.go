package statestore

import (
	"context"
	"time"
)

// Engine stores one namespace of state. Its methods may be called from any goroutine. Everything that an Engine is
// handed was checked by Store; now is the caller's clock.
type Engine interface {
	// Get returns one Item per key, in order, all from one consistent snapshot that holds every Apply that has
	// returned. Keys that have ended by now are not Found. An item that cannot be read has an Err (DamagedError); the
	// error is for when nothing can be read.
	Get(ctx context.Context, keys []string, now time.Time) ([]Item, error)

	// Apply takes each unit, in order, as one atomic step of its own, and returns the units' outcomes, one each, once
	// all that succeeded is on disk. Later units see the effect of earlier ones.
	//
	// A unit whose idempotency key is remembered at now succeeds and changes nothing. Else every change is checked (see
	// Change.Check) against the state that the unit finds; if one fails, its error is the outcome, and the unit leaves
	// no trace. Else the changes take effect in order, together with the idempotency key.
	//
	// The error is for when nothing was done, or when what was done is unknown.
	Apply(ctx context.Context, units []Unit, now time.Time) ([]error, error)

	// Sweep removes up to limit keys and idempotency keys that have ended by now, the oldest first, and then what indexes
	// hold that have (see BuildIndexes), and returns how many it dealt with; fewer than limit means that no more have
	// ended. It is cheap when there is nothing to remove. A value that cannot be read is left in place and reported by
	// the error, beside the count, and will not be met again.
	Sweep(ctx context.Context, now time.Time, limit int) (int, error)

	// View calls fn once with a consistent snapshot of what is live at now, which holds every Apply that has returned,
	// and returns fn's error. The Snapshot is valid until fn returns. Its methods return ctx's error soon after ctx ends.
	View(ctx context.Context, now time.Time, fn func(Snapshot) error) error

	// BuildIndexes takes one small step towards complete indexes on paths: it makes sure that there is an index on each,
	// complete or begun, that does not end before until, and if any is not complete takes up to limit more keys into
	// one. From its beginning on, Apply and Sweep keep an index right. Once an index has ended, it is removed by Sweep.
	BuildIndexes(ctx context.Context, paths []string, until time.Time, limit int) (IndexProgress, error)
}

// Snapshot reads state as it was at one instant. A value that cannot be read ends a Scan or a Lookup with a DamagedError.
// What a visit function is shown is valid until it returns; it returns false to end the walk.
type Snapshot interface {
	// Get returns the key's Item.
	Get(key string) Item
	// Scan shows the keys after the one that is given, in the order of their bytes.
	Scan(after string, visit func(key, value []byte) bool) error
	// Indexes returns the paths that have a complete index, and for each whether it ever held a value with many keys
	// (IndexManyKeys).
	Indexes() (map[string]bool, error)
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
	// Complete says whether that was all of them.
	Complete bool
}

// Unit is what takes effect as a whole or not at all.
type Unit struct {
	Changes []Change
	// IdempotencyKey, unless empty, is remembered until IdempotencyEnd.
	IdempotencyKey string
	IdempotencyEnd time.Time
}

// Change is a checked Write, with times in place of durations.
type Change struct {
	Op          Op
	Key         string
	ETag        string
	FirstWrite  bool
	Value       []byte
	ContentType string
	// ExpiresAt is the instant from which the key is absent; zero: it stays.
	ExpiresAt time.Time
}

// Conditional says whether Check depends on what is stored.
func (c *Change) Conditional() bool { return c.ETag != "" || c.FirstWrite }

// Check returns an ETagMismatchError if the change must not take effect on a key whose present version has the ETag
// stored (empty: the key does not exist, or has ended).
func (c *Change) Check(stored string) error {
	switch {
	case c.ETag != "" && c.ETag != stored, c.ETag == "" && c.FirstWrite && stored != "":
		return &ETagMismatchError{Key: c.Key, ETag: c.ETag, Stored: stored}
	default:
		return nil
	}
}
